"""Every error raised on purpose. The command line prints these; anything else is our bug."""

from __future__ import annotations

import hashlib
import logging
import traceback
from collections.abc import Iterable
from difflib import get_close_matches
from heapq import nlargest
from pathlib import Path

OK = 0
FINISHED_WITH_PROBLEMS = 3
USAGE = 64
BUG = 70
IN_USE = 73
TEMPORARY = 75

LONGEST_LIST = 100
"""Names that an error message lists at most."""


class CohortvolError(Exception):
    """Something the user can act on: what is wrong, where, and what to do next."""

    exit_code = USAGE


class ConfigError(CohortvolError):
    """The configuration or the command line cannot be used."""


class ManifestError(CohortvolError):
    """The manifest cannot be used; the message lists every bad row."""


class TableError(CohortvolError):
    """A table does not have the form or the schema its name promises."""


class WithdrawalError(CohortvolError):
    """A list of people who withdrew names nobody who was ever known: nothing would be removed."""

    exit_code = FINISHED_WITH_PROBLEMS


class GeometryError(CohortvolError):
    """A grid or affine is unusable, or two grids that must be the same differ."""


class AccountingError(CohortvolError):
    """The states of the scans do not add up to the rows of the manifest: our bug."""

    exit_code = BUG


class UnknownLabelError(CohortvolError):
    """A label map holds a label index that the model's card does not name."""


class ModelError(CohortvolError):
    """A model folder is missing, incomplete, or not what its card says."""


class InstallationError(CohortvolError):
    """A program or package that cohortvol depends on is missing or broken."""


class OutputError(CohortvolError):
    """The output folder cannot be written."""


class InUseError(CohortvolError):
    """Another run is working in the output folder."""

    exit_code = IN_USE


class TemporaryError(CohortvolError):
    """The machine is at fault (no memory, no GPU, interrupted): run the same command again."""

    exit_code = TEMPORARY


class ScanError(CohortvolError):
    """One scan cannot be used; it becomes a row with this reason, and the cohort goes on.

    Parameters
    ----------
    reason : str
        Code from ``reasons.tsv``, such as ``SRC_TRUNCATED``.
    detail : str
        Numbers that show it, without anything that could identify a person.
    """

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
        self.detail = detail


class EstimateError(CohortvolError):
    """One number cannot be estimated from these rows; it becomes a null with this note.

    Parameters
    ----------
    reason : str
        Code such as ``ANA_TOO_FEW``.
    detail : str
        What is lacking.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


def fingerprint(error: BaseException) -> str:
    """Kind of an error and a hash of where it arose: equal for equal faults, without data."""
    places = "\n".join(f"{file}:{function}" for file, _, function in _frames(error))
    return f"{type(error).__name__} {hashlib.sha256(places.encode()).hexdigest()[:12]}"


def safe_traceback(error: BaseException) -> str:
    """Files, lines and functions that an error came through, and its fingerprint.

    Its text is left out, and so are the folders: they may hold a name or what a header said.
    """
    lines = [f"  {file}:{line} in {function}" for file, line, function in _frames(error)]
    return "\n".join([fingerprint(error), *lines])


def log_unforeseen(log: logging.Logger, scan_id: str, error: BaseException) -> str:
    """Log what nobody foresaw in one scan; its fingerprint. The text is for ``--verbose`` only."""
    log.error("%s: BUG_UNEXPECTED %s", scan_id, safe_traceback(error))
    log.debug("%s: in full", scan_id, exc_info=error)
    return fingerprint(error)


def _frames(error: BaseException) -> list[tuple[str, int, str]]:
    frames = traceback.extract_tb(error.__traceback__)
    return [(Path(frame.filename).name, frame.lineno or 0, frame.name) for frame in frames]


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """``; did you mean 'liver'?`` where a known name is near, otherwise the known names."""
    names = sorted(known)
    near = get_close_matches(name, _with_like_ends(name, names), n=1, cutoff=0.6)
    if near:
        return f"; did you mean {near[0]!r}?"
    if len(names) > LONGEST_LIST:
        return f"; known: {', '.join(names[:3])} and {len(names) - 3} more"
    return f"; known: {', '.join(names)}"


def _with_like_ends(name: str, names: list[str]) -> list[str]:
    """Of many names, those that begin and end most like this one; comparing all takes seconds."""
    if len(names) <= LONGEST_LIST:
        return names

    def characters_in_common(other: str) -> int:
        return _same_start(name, other) + _same_start(name[::-1], other[::-1])

    return nlargest(LONGEST_LIST, names, key=characters_in_common)


def _same_start(first: str, second: str) -> int:
    pairs = zip(first, second, strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(first), len(second)))

"""Every error raised on purpose. The command line prints these; anything else is our bug."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from heapq import nlargest

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
    """A table on disk does not have the schema its name promises."""


class GeometryError(CohortvolError):
    """A grid or affine is unusable, or two grids that must be the same differ."""


class AccountingError(CohortvolError):
    """The states of the scans do not add up to the rows of the manifest: our bug."""

    exit_code = BUG


class UnknownLabelError(CohortvolError):
    """A label map holds a label index that the model's card does not name."""


class ModelError(CohortvolError):
    """A model folder is missing, incomplete, or not what its card says."""


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

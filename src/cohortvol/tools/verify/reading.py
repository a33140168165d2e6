"""One file at a time: is it there, and is it the one that was written."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from cohortvol.errors import TableError
from cohortvol.store import of_scans
from cohortvol.store.files import DIGESTS, digest_of, json_text, sha256_of
from cohortvol.store.records import RECORDS, Digests, read_record, words_of
from cohortvol.store.schemas import Column
from cohortvol.store.tables import read_as_written
from cohortvol.tools.verify.places import Problem, problem

_LINE = re.compile(r"([0-9a-f]{64})  (\S.*)")


class Folder:
    """A results folder that is looked through: what was read, and what was wrong with it.

    Parameters
    ----------
    results : Path
        The folder.
    deep : bool
        Read every byte of images and label maps, not their sizes alone.
    """

    def __init__(self, results: Path, *, deep: bool = False) -> None:
        self.results = results
        self.deep = deep
        self.problems: list[Problem] = []
        self.n_files = 0
        self._digests = Digests(results)
        self.n_bytes = 0

    def report(self, path: str, kind: str, what: str) -> None:
        self.problems.append(problem(path, kind, what))

    def is_there(self, path: str) -> bool:
        """Whether a file that must be there is; counts it."""
        try:
            size = of_scans.size(self.results / path)
        except (FileNotFoundError, NotADirectoryError):
            self.report(path, "missing", "is not there")
            return False
        self.n_files += 1
        self.n_bytes += size
        return True

    def table(self, path: str, columns: dict[str, Column]) -> pa.Table | None:
        """A table that must be there and whole; None where it is not."""
        if not self.is_there(path):
            return None
        try:
            return read_as_written(self.results / path, columns)
        except TableError as error:
            cause = error.__cause__
            if isinstance(cause, PermissionError):
                raise
            words = str(error).partition(": ")[2].removesuffix("; delete it and run again")
            kind = "damaged" if words.startswith("damaged") else "out of date"
            self.report(path, kind, words.removeprefix("damaged table ").strip("()"))
            return None

    def json(self, path: str) -> dict[str, Any] | None:
        """A JSON object that must be there, written as `commit_json` writes it."""
        if not self.is_there(path):
            return None
        try:
            text = of_scans.read(self.results / path).decode()
            value = json.loads(text)
            as_written = json_text(value)
        except ValueError:
            self.report(path, "damaged", "is no JSON")
            return None
        if not isinstance(value, dict) or text != as_written:
            self.report(path, "damaged", "is not as it was written")
            return None
        return value

    def bytes_of(self, path: str, n_bytes: int | None, sha256: str) -> None:
        """A file that must have this size, and with `deep` this content."""
        if not self.is_there(path):
            return
        size = of_scans.size(self.results / path)
        if n_bytes is not None and size != n_bytes:
            self.report(path, "damaged", f"has {size} bytes, not {n_bytes}")
        elif self.deep and of_scans.digest(self.results / path) != sha256:
            self.report(path, "damaged", "its bytes are not those that were written")

    def made_of(self, path: str, record: str, **sources: str | Sequence[str]) -> None:
        """A file that must have been made of these as they are now, by its record if it has one.

        Parameters
        ----------
        path : str
            The file.
        record : str
            Its record, below `RECORDS`.
        **sources
            Files by what they are to it, as `cohortvol.workflow.flow` names its inputs.
        """
        found = read_record(self.results / RECORDS / record)
        known = found.inputs if found is not None else {}
        for role, files in sources.items():
            now = self._digests.of([files] if isinstance(files, str) else files)
            if known.get(role, now) != now:
                self.report(path, "out of date", f"was made of another {words_of(role)}")
                return

    def listed(self, folder: str, last: str) -> dict[str, str]:
        """Digest of every file that a stage lists in ``files.sha256``, each compared with it.

        Parameters
        ----------
        folder : str
            Where the list is, relative to the results folder; empty for the folder itself.
        last : str
            Name at the end of the list.
        """
        path = os.path.join(folder, DIGESTS)
        if not self.is_there(path):
            return {}
        try:
            lines = (self.results / path).read_bytes().decode().split("\n")
            names, digests = zip(*map(_entry, lines[:-1]), strict=True)
            if lines[-1] or names[-1] != last or [*names[:-1]] != sorted(names[:-1]):
                raise ValueError(path)
        except ValueError:
            self.report(path, "damaged", "is no list of digests")
            return {}
        for name, digest in zip(names, digests, strict=True):
            place = os.path.normpath(os.path.join(folder, name))
            if self.is_there(place) and sha256_of(self.results / place) != digest:
                self.report(place, "damaged", f"is not the file that {path} lists")
        return dict(zip(names, digests, strict=True))


def _entry(line: str) -> tuple[str, str]:
    found = _LINE.fullmatch(line)
    if found is None:
        raise ValueError(line)
    return found[2], found[1]


def receipt_is_whole(receipt: dict[str, Any]) -> bool:
    """Whether a receipt is the one that was written: it holds the digest of all else in it.

    Receipts of earlier commits have none; every name in them must then be known.
    """
    rest = dict(receipt)
    own = rest.pop("receipt_sha256", None)
    if own is None:
        return not set(rest) - _OLD_RECEIPT
    return bool(own == digest_of(rest))


_OLD_RECEIPT = set(
    "attempts detail host image_sha256 label_map label_map_bytes label_map_sha256 model profile "
    "reason scan_id seconds seconds_network segmentation_key started_utc state versions "
    "softmax_labels expected_ratio spread_ratio".split()
)

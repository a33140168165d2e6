"""What a file of a results folder is, by its place, and what must go to have it made again."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath

from cohortvol.store.files import DIGESTS
from cohortvol.store.records import RECORDS

INDEX = "manifest/index.tsv"

_RECEIPT = re.compile(r"(?P<scan>[^.]+)(_dseg\.nii\.gz|\.json)")

NO_RESULTS = (
    re.compile(r"(.*/)?logs/.*"),
    re.compile(r"(.*/)?\.in-use"),
    re.compile(r"(.*/)?\.[^/]*\.tmp"),
    re.compile(r"segment/[^/]+/[0-9]+/[^/]+\.started\.json"),
    re.compile(r"(.*/)?[0-9]+\.resources\.json"),
    re.compile(rf"{RECORDS}/.*"),
)
"""Files that hold no results, so that none of them can be damaged: logs, locks, what a killed
writer left behind, the marks of scans at work, what each job took, and the records of what files
were made of, without which they are made again."""


@dataclass(frozen=True)
class Problem:
    """One file that is not as it should be.

    Attributes
    ----------
    path : str
        Relative to the results folder.
    kind : str
        ``damaged``, ``missing``, ``out of date`` or ``contradicts``.
    what : str
        What is wrong, with numbers.
    effect : str
        What becomes of it.
    remake : tuple of str
        Files that must go so that the next run makes this one again; empty where the next run
        does so by itself, or where it cannot.
    """

    path: str
    kind: str
    what: str
    effect: str
    remake: tuple[str, ...]


def problem(path: str, kind: str, what: str) -> Problem:
    """A problem with the file at this place, with what becomes of it."""
    return Problem(path, kind, what, effect_of(path), tuple(remake_of(path)))


def remake_of(path: str) -> list[str]:
    """Files to delete so that the next run makes the one at `path` again, and no more than needed.

    A table is enough. A label map lies beside no table of its own, so that its receipt and the
    table of its shard go. The same table goes with rows that stand for label maps not kept. A file
    that a stage lists in ``files.sha256`` goes with that list.
    """
    parts = PurePosixPath(path).parts
    match parts:
        case ("manifest", *_) | ("private", "ids.csv") | ("private", "images" | "label_maps", _):
            return _once(path, INDEX)
        case ("private", "withdrawn.json"):
            return [path]
        case ("private", *_):
            return []  # nothing but a backup brings a salt back
        case ("ingest", "series", name):
            return [path, f"ingest/{name}"]
        case ("ingest", shard, _):
            return [path, f"ingest/{shard}.parquet"]
        case ("measure", model, "kept", *_, name):
            return [path, f"segment/{model}/{name}", f"measure/{model}/{name}"]
        case ("segment", model, shard, name):
            of_scan = [f"segment/{model}/{shard}/{other}" for other in _same_scan(name)]
            return [*of_scan, f"segment/{model}/{shard}.parquet"]
        case ("analyse" | "report", *_):
            return _once(path, f"{parts[0]}/{DIGESTS}")
        case ("contact_sheet.csv",):
            return [path, f"report/{DIGESTS}"]
        case (_,):
            return _once(path, DIGESTS)
    return [path]


def effect_of(path: str) -> str:
    """What the next run does when these files have gone."""
    match PurePosixPath(path).parts:
        case ("manifest", *_) | ("private", "ids.csv") | ("private", "images" | "label_maps", _):
            return "made again from the manifest; no scan changes its shard"
        case ("private", "withdrawn.json"):
            return "begun anew by the next removal; who was removed before is known no more"
        case ("private", *_):
            return "cannot be made again: restore it from a backup"
        case ("ingest", *_):
            return "the shard is read again; nothing is segmented"
        case ("segment", _, _, "dseg.tsv") | ("segment", _, _):
            return "made again from the receipts; nothing is segmented"
        case ("segment", *_):
            return "this scan is segmented again"
        case ("measure", _, "kept", *_):
            return "scans of the shard whose label map was not kept are segmented again"
        case ("measure", *_):
            return "the shard is measured again"
        case ("agreement", *_):
            return "the shard is compared again"
        case ("analyse" | "report" as stage, *_):
            return f"{stage} runs again"
        case ("contact_sheet.csv",):
            return "report runs again"
    return "assemble runs again"


def holds_no_results(path: str) -> bool:
    """Whether a file may be damaged, or go, without any result being lost."""
    return any(pattern.fullmatch(path) for pattern in NO_RESULTS)


def _same_scan(name: str) -> Iterator[str]:
    """A label map and its receipt stand and fall together."""
    of_scan = _RECEIPT.fullmatch(name)
    if of_scan is None:
        yield name
    else:
        yield from (f"{of_scan['scan']}_dseg.nii.gz", f"{of_scan['scan']}.json")


def _once(*paths: str) -> list[str]:
    return list(dict.fromkeys(paths))

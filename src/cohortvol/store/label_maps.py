"""Label maps that were made elsewhere: which files a path of the manifest stands for.

It is the path of one file; of a folder with one file per structure, called after it; or of such
files with a ``*`` where the name of the structure stands.
"""

from __future__ import annotations

import os
from bisect import bisect_left
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from cohortvol.store.files import digest_of, sha256_of

ENDS = (".nii.gz", ".nii")
STRUCTURE = "*"
"""Stands for the name of a structure in a path."""

_FOLDERS_KNOWN = 4


def files_of(path: str) -> list[tuple[str, Path]]:
    """The files of a label map, each with the name of its structure, in the order of their names.

    One file that holds all structures has no name. Files whose names begin with a point are none,
    nor are those that do not end in ``.nii`` or ``.nii.gz``.

    Raises
    ------
    OSError
        If a folder cannot be listed.
    """
    if STRUCTURE not in path:
        if not os.path.isdir(path):
            return [("", Path(path))] if os.path.exists(path) else []
        return [
            (name.removesuffix(end), Path(path, name))
            for name in sorted(os.listdir(path))
            for end in ENDS
            if name.endswith(end) and name[0] != "."
        ]
    head, tail = path.split(STRUCTURE, 1)
    folder, start = os.path.split(head)
    end, slash, below = tail.partition("/")
    if not os.path.isdir(folder):
        return []
    names = _listed(folder, os.stat(folder).st_mtime_ns)
    found = []
    for name in names[bisect_left(names, start) :]:
        if not name.startswith(start):
            break
        place = Path(folder, f"{name}{slash}{below}")
        if len(name) > len(start) + len(end) and name.endswith(end) and place.is_file():
            found.append((name[len(start) : len(name) - len(end)], place))
    return found


def facts_of(path: str) -> tuple[int | None, int | None]:
    """Size in bytes of all files of a label map, and their latest modification time in ns.

    Two Nones where there are none.
    """
    try:
        facts = [os.stat(file) for _, file in files_of(path)]
    except OSError:
        return None, None
    if not facts:
        return None, None
    return sum(fact.st_size for fact in facts), max(fact.st_mtime_ns for fact in facts)


def digest_of_files(path: str) -> str | None:
    """sha256 of a label map as it is now; None where there is none.

    Raises
    ------
    OSError
        If it cannot be read.
    """
    return digest([(name, sha256_of(file)) for name, file in files_of(path)])


def digest(files: Sequence[tuple[str, str]]) -> str | None:
    """sha256 of a label map from those of its files, each with the name of its structure."""
    if not files:
        return None
    name, sha256 = files[0]
    return sha256 if name == "" else digest_of(sorted(files))


@lru_cache(_FOLDERS_KNOWN)
def _listed(folder: str, at: int) -> list[str]:
    """Names in a folder, sorted; one that holds the files of all scans is listed once."""
    return sorted(os.listdir(folder))

"""What is on the disk at every moment at which a process may die: a model of a file system.

`record` runs an action and keeps, before each of its system calls and in the middle of each write,
what a reader sees and what is on the disk for good. `Moment.remains` gives what may be left there:

- after a kill: all that was written;
- after a power cut: what was synced, and of the rest any part. Names that a folder got, gave or
  lost since it was last synced are kept or forgotten each on its own, and bytes of a file that were
  not synced are there, gone, or cut in half. This is more than file systems of today forget.
"""

from __future__ import annotations

import builtins
import io
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any
from unittest import mock

Tree = dict[str, bytes | None]
"""Content of every file by its path relative to the root; None for a folder."""

Change = dict[str, int | None]
"""Names that one call gave or took at once: path to number of the file, None for gone."""

MOST_NAMES_IN_DOUBT = 6


@dataclass(frozen=True)
class Moment:
    """Just before a call: what readers see, and what a power cut leaves.

    Attributes
    ----------
    call : str
        Which call comes next; ``end`` after the last.
    seen : Tree
    kept : dict of str to int
        Names that are on the disk for good, with the number of the file.
    folders : set of str
        Those that are on the disk for good.
    in_doubt : tuple of Change
        What was done since to folders that were not synced.
    synced, written : dict of int to bytes
        Content of each file at its last sync, and now.
    """

    call: str
    seen: Tree
    kept: dict[str, int]
    folders: frozenset[str]
    in_doubt: tuple[Change, ...]
    synced: dict[int, bytes]
    written: dict[int, bytes]

    def remains(self) -> Iterator[tuple[str, Tree]]:
        """What may be left, each with how it came to that."""
        yield "killed", self.seen
        assert len(self.in_doubt) <= MOST_NAMES_IN_DOUBT, self.in_doubt
        found: list[Tree] = []
        for chosen in product((False, True), repeat=len(self.in_doubt)):
            names: Change = dict(self.kept)
            for change, is_kept in zip(self.in_doubt, chosen, strict=True):
                if is_kept:
                    names.update(change)
            for how in ("gone", "half", "there"):
                tree: Tree = dict.fromkeys(self.folders)
                for path, number in names.items():
                    if number is None or not self._has_folder(path, names):
                        continue
                    tree[path] = None if number < 0 else self._left_of(number, how)
                if tree not in found:
                    found.append(tree)
                    yield f"power cut, names {[*map(int, chosen)]}, unsynced bytes {how}", tree

    def _has_folder(self, path: str, names: Change) -> bool:
        return all(
            str(parent) in self.folders or names.get(str(parent)) == FOLDER
            for parent in Path(path).parents
        )

    def _left_of(self, number: int, how: str) -> bytes:
        synced, written = self.synced.get(number, b""), self.written[number]
        if how == "there" or synced == written:
            return written
        if how == "gone":
            return synced
        kept = len(synced) if written.startswith(synced) else 0  # bytes were added to a file
        return written[: kept + (len(written) - kept) // 2]


FOLDER = -1
"""Stands for a folder among the numbers of files."""


@dataclass
class _Disk:
    root: Path
    moments: list[Moment] = field(default_factory=list)
    names: dict[str, int] = field(default_factory=dict)
    kept: dict[str, int] = field(default_factory=dict)
    folders: set[str] = field(default_factory=set)
    in_doubt: list[Change] = field(default_factory=list)
    synced: dict[int, bytes] = field(default_factory=dict)
    written: dict[int, bytes] = field(default_factory=dict)
    next_number: int = 1

    def start(self) -> None:
        """All that is there now is on the disk for good."""
        for path, content in tree_of(self.root).items():
            if content is None:
                self.folders.add(path)
            else:
                number = self.new_file(content)
                self.names[path] = self.kept[path] = number
                self.synced[number] = content

    def new_file(self, content: bytes = b"") -> int:
        number, self.next_number = self.next_number, self.next_number + 1
        self.written[number] = content
        return number

    def before(self, call: str) -> None:
        """Remember what is there now."""
        self.moments.append(
            Moment(
                call,
                tree_of(self.root),
                dict(self.kept),
                frozenset(self.folders),
                tuple(self.in_doubt),
                dict(self.synced),
                dict(self.written),
            )
        )

    def change(self, names: Change) -> None:
        self.in_doubt.append(names)
        for path, number in names.items():
            if number is None:
                self.names.pop(path, None)
            else:
                self.names[path] = number

    def sync_folder(self, folder: str) -> None:
        """Names in this folder are on the disk for good now."""
        left = []
        for change in self.in_doubt:
            if any(str(Path(path).parent) != folder for path in change):
                left.append(change)
                continue
            for path, number in change.items():
                if number == FOLDER:
                    self.folders.add(path)
                elif number is None:
                    self.kept.pop(path, None)
                else:
                    self.kept[path] = number
        self.in_doubt = left

    def inside(self, path: Any) -> str | None:
        """Path relative to the root; None where it lies elsewhere."""
        if isinstance(path, int):
            return None
        absolute = Path(os.path.abspath(path))
        return str(absolute.relative_to(self.root)) if absolute.is_relative_to(self.root) else None


class _Stream(io.FileIO):
    """A file without a buffer, so that every write is a call of its own."""

    def __init__(self, disk: _Disk, path: str, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._disk, self._path = disk, path

    def write(self, content: Any) -> int:
        content = bytes(content)
        self._disk.before(f"write {self._path}")
        half = len(content) // 2
        self._write(content[:half])
        self._disk.before(f"half written {self._path}")
        self._write(content[half:])
        return len(content)

    def truncate(self, size: int | None = None) -> int:
        self._disk.before(f"truncate {self._path}")
        left = super().truncate(size)
        number = self._disk.names[self._path]
        self._disk.written[number] = self._disk.written[number][:left].ljust(left, b"\0")
        return left

    def _write(self, content: bytes) -> None:
        super().write(content)
        number = self._disk.names[self._path]
        self._disk.written[number] += content


@contextmanager
def _watched(disk: _Disk) -> Iterator[None]:
    real = {name: getattr(os, name) for name in ("open", "fsync", "replace", "link", "unlink")}
    real_mkdir, real_open = os.mkdir, builtins.open

    def os_open(path: Any, flags: int, *rest: Any, **options: Any) -> int:
        place = disk.inside(path)
        is_new = place is not None and bool(flags & os.O_CREAT) and not os.path.exists(path)
        if is_new:
            disk.before(f"create {place}")
        handle: int = real["open"](path, flags, *rest, **options)
        if is_new:
            disk.change({str(place): disk.new_file()})
        elif place is not None and flags & os.O_TRUNC:
            disk.written[disk.names[place]] = b""
        return handle

    def open_file(path: Any, mode: str = "r", *rest: Any, **options: Any) -> Any:
        place = disk.inside(path)
        if place is None or "b" not in mode or not set(mode) & set("wxa+"):
            return real_open(path, mode, *rest, **options)
        opener = options.get("opener", os_open)
        return _Stream(disk, place, path, mode.replace("b", ""), opener=opener)

    def fsync(handle: int) -> None:
        place = disk.inside(os.readlink(f"/proc/self/fd/{handle}"))
        if place is None:
            return real["fsync"](handle)
        disk.before(f"fsync {place}")
        if disk.names.get(place, FOLDER) != FOLDER:
            number = disk.names[place]
            disk.synced[number] = disk.written[number]
        else:
            disk.sync_folder(place)
        return None

    def replace(source: Any, target: Any) -> None:
        old, new = disk.inside(source), disk.inside(target)
        disk.before(f"replace {new}")
        real["replace"](source, target)
        disk.change({str(new): disk.names[str(old)], str(old): None})

    def link(source: Any, target: Any) -> None:
        old, new = disk.inside(source), disk.inside(target)
        disk.before(f"link {new}")
        real["link"](source, target)
        disk.change({str(new): disk.names[str(old)]})

    def unlink(path: Any, **options: Any) -> None:
        place = disk.inside(path)
        if place is None or place not in disk.names:
            return real["unlink"](path, **options)
        disk.before(f"unlink {place}")
        real["unlink"](path, **options)
        return disk.change({place: None})

    def mkdir(path: Any, *rest: Any, **options: Any) -> None:
        place = disk.inside(path)
        if place is not None:
            disk.before(f"mkdir {place}")
        real_mkdir(path, *rest, **options)
        if place is not None:
            disk.change({place: FOLDER})

    calls = {"open": os_open, "fsync": fsync, "replace": replace, "link": link}
    calls |= {"unlink": unlink, "mkdir": mkdir}
    with mock.patch.multiple(os, **calls), mock.patch.object(builtins, "open", open_file):
        yield


def record(root: Path, action: Callable[[], Any]) -> list[Moment]:
    """Every moment of an action that changes files below `root`, in order; the last is its end."""
    disk = _Disk(Path(os.path.abspath(root)))
    disk.start()
    with _watched(disk):
        action()
    disk.before("end")
    return disk.moments


def tree_of(root: Path) -> Tree:
    """All files and folders below `root`."""
    found: Tree = {".": None}
    for folder, folders, files in os.walk(root):
        for name in (*folders, *files):
            path = Path(folder, name)
            found[str(path.relative_to(root))] = path.read_bytes() if name in files else None
    return found


def restore(tree: Tree, root: Path) -> Path:
    """Make a new folder that holds what is left."""
    root.mkdir(parents=True)
    for path, content in sorted(tree.items()):
        place = root / path
        if content is None:
            place.mkdir(parents=True, exist_ok=True)
        else:
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(content)
    return root

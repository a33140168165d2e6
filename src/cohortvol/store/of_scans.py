"""Files of single scans in the folder of a shard: each by itself, or all in one pack.

Whoever reads one asks here, by the path that it has or would have by itself, and need not know
which it is. `Files` and `Packed` write; each takes over what the other left.
"""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from cohortvol.store.files import commit_bytes, read_object, remove, sha256_of, sweep
from cohortvol.store.locks import IN_USE, lock
from cohortvol.store.pack import append, read_contents, read_member, rewrite
from cohortvol.store.storage import of_ours, sync_folder

PACK = "packed.tar"
LABEL_MAP, RECEIPT, MARK = "_dseg.nii.gz", ".json", ".started.json"
"""How names end, behind the scan_id. A mark, of a scan that is at work, is never packed."""


# --- reading


def read(path: Path) -> bytes:
    """The bytes of a file.

    Raises
    ------
    FileNotFoundError
        If it is neither there nor in the pack beside it.
    """
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return read_member(path.with_name(PACK), path.name)


def size(path: Path) -> int:
    """Its number of bytes.

    Raises
    ------
    FileNotFoundError
        As `read`.
    """
    try:
        return path.stat().st_size
    except FileNotFoundError:
        member = read_contents(path.with_name(PACK)).members.get(path.name)
        if member is None:
            raise
        return member.n_bytes


def exists(path: Path) -> bool:
    """Whether it is there, in either way."""
    return path.exists() or path.name in read_contents(path.with_name(PACK)).members


def digest(path: Path) -> str:
    """Its sha256, in hex.

    Raises
    ------
    FileNotFoundError
        As `read`.
    """
    try:
        return sha256_of(path)
    except FileNotFoundError:
        return hashlib.sha256(read_member(path.with_name(PACK), path.name)).hexdigest()


def receipt(folder: Path, scan_id: str) -> dict[str, Any] | None:
    """The receipt of a scan, or None where there is none that parses; raises as `read_object`."""
    return read_object(folder / f"{scan_id}{RECEIPT}", read)


def place(path: Path) -> str:
    """Where it lies, for people: its path, or the pack and its name in there."""
    pack = path.with_name(PACK)
    is_packed = not path.exists() and path.name in read_contents(pack).members
    return f"{pack}: {path.name}" if is_packed else str(path)


def receipts(folder: Path) -> dict[str, float]:
    """When each receipt in the folder of a shard was written, s since the epoch, by scan_id."""
    packed = read_contents(folder / PACK).members
    found = {name: float(member.written_s) for name, member in packed.items()}
    found |= _by_themselves(folder)
    return {
        name.removesuffix(RECEIPT): at_s for name, at_s in found.items() if name.endswith(RECEIPT)
    }


def _by_themselves(folder: Path) -> dict[str, float]:
    found = {}
    with suppress(FileNotFoundError), os.scandir(folder) as entries:
        for entry in entries:
            if _is_of_scan(entry.name):
                with suppress(FileNotFoundError):
                    found[entry.name] = entry.stat().st_mtime
    return found


def _is_of_scan(name: str) -> bool:
    return name.endswith((LABEL_MAP, RECEIPT)) and not name.endswith(MARK) and name[0] != "."


# --- removing


def discard(paths: Iterable[Path]) -> int:
    """Remove files, with every byte of them; the number of those that were there.

    Raises
    ------
    InUseError
        If a worker is adding to their pack.
    """
    names_in: defaultdict[Path, set[str]] = defaultdict(set)
    n_gone = 0
    for path in paths:
        if os.path.lexists(path):
            path.unlink()
            n_gone += 1
        else:
            names_in[path.parent].add(path.name)
    return n_gone + sum(take_out(folder, names.__contains__) for folder, names in names_in.items())


def take_out(folder: Path, goes: Callable[[str], bool]) -> int:
    """Take files out of the pack of a shard, with every byte that is or was of them, and what
    killed writers left of it; the number of files.

    Raises
    ------
    InUseError
        If a worker is adding to it.
    """
    pack = folder / PACK
    left = [*folder.glob(f".{PACK}.*.tmp")]
    if not (left or pack.exists()):
        return 0
    refusal = f"{folder.name}: {{owner}} is working on this shard\n  Run the same command again."
    with lock(folder / IN_USE, refusal):
        found = read_contents(pack)
        gone = [name for name in found.ever if goes(name)]
        if gone or not found.is_whole:
            rewrite(pack, lambda name: not goes(name))
        for path in left:
            path.unlink(missing_ok=True)
    return len(gone)


# --- writing, by the one worker that holds the shard


class Files:
    """Each file by itself."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def commit(self, name: str, content: bytes) -> str:
        """Write a file, complete or not at all; sha256 of its bytes, in hex."""
        return commit_bytes(self.folder / name, content)

    def remove(self, name: str) -> None:
        """Remove a file for good, if it is there."""
        remove(self.folder / name)

    def sweep(self) -> None:
        """Remove what killed writers left, and take over what was packed."""
        sweep(self.folder)
        pack = self.folder / PACK
        for name, member in read_contents(pack).members.items():
            final = self.folder / name
            if not final.exists():
                commit_bytes(final, read_member(pack, name))
                os.utime(final, (member.written_s, member.written_s))
        remove(pack)


class Packed:
    """All files in one `PACK`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._pack = folder / PACK

    def commit(self, name: str, content: bytes) -> str:
        """See `Files.commit`."""
        return append(self._pack, name, content)

    def remove(self, name: str) -> None:
        """See `Files.remove`."""
        if name in read_contents(self._pack).members:
            append(self._pack, name, b"")
        remove(self.folder / name)

    def sweep(self) -> None:
        """Remove what killed writers left and files long replaced; take over what lies beside."""
        sweep(self.folder)
        beside = of_ours(self.folder, lambda: _by_themselves(self.folder))
        for name, at_s in beside.items():
            append(self._pack, name, (self.folder / name).read_bytes(), at_s)
        for name in beside:
            (self.folder / name).unlink()
        if beside:
            sync_folder(self.folder)
        found = read_contents(self._pack)
        if not found.is_whole or found.waste_bytes > found.end // 2:
            rewrite(self._pack)


STORES: Mapping[str, type[Files] | type[Packed]] = {"files": Files, "packed": Packed}
"""What the setting ``store`` may be."""

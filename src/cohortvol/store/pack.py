"""An archive that grows: a tar file to which one whole member after the other is added.

It is what ``tar`` reads (pax), without the empty blocks of an end. A later member takes the place
of an earlier one of the same name, and one without bytes says that there is none any more. Bytes
behind the last whole member are what a killed writer left: nobody reads them, and the next member
goes over them. One process at a time writes, any number may read.
"""

from __future__ import annotations

import errno
import hashlib
import io
import os
import tarfile
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO, NamedTuple, TypeVar

from cohortvol.store.files import commit, commit_bytes, remove
from cohortvol.store.storage import explained, of_ours, patiently

BLOCK_BYTES = tarfile.BLOCKSIZE
PACKS_REMEMBERED = 8

T = TypeVar("T")

_one_writer = threading.Lock()


class Member(NamedTuple):
    """Where the bytes of a file lie in a pack, and when it was written, s since the epoch."""

    at: int
    n_bytes: int
    written_s: int


@dataclass(frozen=True)
class Contents:
    """What a pack holds.

    Attributes
    ----------
    members : mapping of str to Member
        Files that are there, by name.
    ever : frozenset of str
        Names of which it holds bytes, also of files that were replaced or removed.
    end : int
        Where the next member goes.
    is_whole : bool
        Whether nothing lies behind that.
    """

    members: Mapping[str, Member]
    ever: frozenset[str]
    end: int
    is_whole: bool

    @property
    def waste_bytes(self) -> int:
        """Bytes of files that are not there any more."""
        return self.end - sum(
            BLOCK_BYTES + _whole_blocks(one.n_bytes) for one in self.members.values()
        )


def read_contents(pack: Path) -> Contents:
    """What a pack holds; nothing where there is none."""
    try:
        return of_ours(pack, lambda: _read(pack, _contents_of))
    except FileNotFoundError:
        return Contents({}, frozenset(), 0, is_whole=True)


def read_member(pack: Path, name: str) -> bytes:
    """The bytes of a file in a pack.

    Raises
    ------
    FileNotFoundError
        If it holds none of this name, or is not there.
    """

    def read(stream: BinaryIO) -> bytes:
        member = _contents_of(stream).members.get(name)
        if member is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(pack / name))
        stream.seek(member.at)
        return stream.read(member.n_bytes)

    return _read(pack, read)


def append(pack: Path, name: str, content: bytes, written_s: float | None = None) -> str:
    """Add a file to a pack, in place of one of its name; sha256 of the file, in hex.

    When this returns it is on the disk; whatever kills the process or the machine before, it is
    there as a whole or not at all. No content removes the file.

    Raises
    ------
    OutputError, TemporaryError
        As `cohortvol.store.files.commit`.
    """
    at_s = int(time.time() if written_s is None else written_s)
    with _one_writer, explained(pack):
        patiently(partial(_append, pack, name, content, at_s))
    return hashlib.sha256(content).hexdigest()


def rewrite(pack: Path, keeps: Callable[[str], bool] = lambda name: True) -> None:
    """Write a pack anew with those of its files that are to stay, and no byte of any other.

    To be called where nobody else writes.
    """
    found = read_contents(pack)
    staying = {name: member for name, member in found.members.items() if keeps(name)}

    def write(new: BinaryIO) -> None:
        with open(pack, "rb") as old:
            for name, member in staying.items():
                old.seek(member.at)
                new.write(_packed(name, old.read(member.n_bytes), member.written_s))

    if staying:
        commit(pack, write)
    else:
        remove(pack)


def _read(pack: Path, read: Callable[[BinaryIO], T]) -> T:
    with open(pack, "rb") as stream:
        return read(stream)


def _append(pack: Path, name: str, content: bytes, written_s: int) -> None:
    if not pack.exists():
        commit_bytes(pack, b"")
    with open(pack, "r+b") as stream:
        found = _contents_of(stream)
        if os.fstat(stream.fileno()).st_size != found.end:
            stream.truncate(found.end)
        stream.seek(found.end)
        packed = _packed(name, content, written_s)
        stream.write(packed)
        stream.flush()
        os.fsync(stream.fileno())
        members = {one: member for one, member in found.members.items() if one != name}
        end = found.end + len(packed)
        if content:
            at = end - _whole_blocks(len(content))
            members[name] = Member(at, len(content), written_s)
        _remember(stream, Contents(members, found.ever | {name}, end, is_whole=True))


def _packed(name: str, content: bytes, written_s: int) -> bytes:
    header = tarfile.TarInfo(name)
    header.size, header.mtime = len(content), written_s
    start = header.tobuf(tarfile.PAX_FORMAT)
    return start + content.ljust(_whole_blocks(len(content)), b"\0")


def _whole_blocks(n_bytes: int) -> int:
    return -(-n_bytes // BLOCK_BYTES) * BLOCK_BYTES


_known: dict[tuple[int, ...], Contents] = {}
"""What packs hold, by the version of the file: a reader of all its members looks once."""


def _contents_of(stream: BinaryIO) -> Contents:
    found = _known.get(_version(stream))
    return _remember(stream, _scanned(stream)) if found is None else found


def _scanned(stream: BinaryIO) -> Contents:
    """From the headers. A damaged one costs its file, and no other."""
    size = stream.seek(0, io.SEEK_END)
    stream.seek(0)
    members: dict[str, Member] = {}
    ever: set[str] = set()
    end = 0
    with (
        suppress(tarfile.TarError),
        tarfile.open(fileobj=stream, mode="r:", ignore_zeros=True) as archive,
    ):
        for one in archive:
            if one.offset_data + one.size > size:
                break
            end = one.offset_data + _whole_blocks(one.size)
            ever.add(one.name)
            members.pop(one.name, None)
            if one.size:
                members[one.name] = Member(one.offset_data, one.size, int(one.mtime))
    return Contents(members, frozenset(ever), end, is_whole=size <= end)


def _remember(stream: BinaryIO, contents: Contents) -> Contents:
    while len(_known) >= PACKS_REMEMBERED:
        _known.pop(next(iter(_known)), None)
    _known[_version(stream)] = contents
    return contents


def _version(stream: BinaryIO) -> tuple[int, ...]:
    facts = os.fstat(stream.fileno())
    return facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns

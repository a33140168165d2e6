"""Members of a zip or tar, none trusted: counted, measured and judged before any is used.

A zip has a directory, so that all of it is judged first. A tar is a stream: each member is judged
as it comes, and what was read before a bad one is of no use to anybody.
"""

from __future__ import annotations

import errno
import gzip
import io
import os
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, NamedTuple

from cohortvol.errors import ScanError
from cohortvol.stages.ingest.rules import Rules
from cohortvol.store.archives import ZIP_DAMAGE, is_special, leads_out

CHUNK = 1 << 20
"""Bytes that are unpacked at a time."""

_GZIP, _ZIP, _EMPTY_ZIP, _ENTRY = b"\x1f\x8b", b"PK\x03\x04", b"PK\x05\x06", b"PK\x01\x02"
_ENDS: dict[str, tuple[str, ...]] = {"zip": (".zip",), "gzip": (".gz", ".tgz"), "": (".tar",)}
_POINTER = b"version https://git-lfs"
_ENTRY_BYTES = 640  # of the directory of a zip, for a member
_END_BYTES = 1 << 17  # of a zip in which its end is looked for
_BETWEEN_BYTES = 1 << 16  # of a tar between two members: names, and what is told of them
_LONGEST_NAME = 1024
_FREE_BYTES = 1 << 20  # unpacked, that no ratio forbids
_BLOCK = tarfile.BLOCKSIZE
_ENCRYPTED = 0x1
_PACKINGS = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}


class Member(NamedTuple):
    """A file in an archive; `read` gives at most so many of the bytes that follow."""

    name: str
    n_bytes: int
    read: Callable[[int], bytes]


def members_of(path: Path, rules: Rules) -> Iterator[Member]:
    """Files of a zip or tar in its order; each can be read until the next is asked for.

    Parameters
    ----------
    path : Path
        Ends as `cohortvol.store.archives.ENDS`.
    rules : Rules
        ``max_archive_...``.

    Raises
    ------
    ScanError
        ``SRC_ARCHIVE_UNSAFE``, ``SRC_ARCHIVE_DOUBLED``, ``SRC_ARCHIVE_ENCRYPTED``,
        ``SRC_ARCHIVE_LIMIT`` or ``SRC_ARCHIVE_CORRUPT``; ``SRC_TRUNCATED`` and
        ``SRC_GZIP_CORRUPT``; ``SRC_EMPTY``, ``SRC_EXT_MISMATCH``, ``SRC_PERMISSION`` and
        ``SRC_CHANGED`` of the archive as a file.
    """
    with _opened(path) as stream:
        head = stream.read(len(_POINTER))
        stream.seek(0)
        if head.startswith(_POINTER):
            raise ScanError("SRC_POINTER_FILE", "a text that points to the content")
        kind = "zip" if head[:4] in (_ZIP, _EMPTY_ZIP) else "gzip" if head[:2] == _GZIP else ""
        if not path.name.lower().endswith(_ENDS[kind]):
            raise ScanError("SRC_EXT_MISMATCH", f"content is {kind or 'neither zip nor gzip'}")
        yield from (_zipped if kind == "zip" else _tarred)(stream, rules)


@contextmanager
def _opened(path: Path) -> Iterator[io.FileIO]:
    try:
        stream = io.FileIO(path)
    except PermissionError:
        raise ScanError("SRC_PERMISSION") from None
    except FileNotFoundError:
        raise ScanError("SRC_CHANGED", "the archive went away") from None
    with stream:
        before = os.fstat(stream.fileno())
        if not before.st_size:
            raise ScanError("SRC_EMPTY")
        yield stream
        after = os.fstat(stream.fileno())
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        raise ScanError("SRC_CHANGED", f"{before.st_size} to {after.st_size} bytes while read")


class _Register:
    """What was seen of an archive so far, held to the limits."""

    def __init__(self, stream: io.FileIO, rules: Rules) -> None:
        self._rules = rules
        self._n_packed = os.fstat(stream.fileno()).st_size
        self._most = min(
            rules.max_archive_bytes,
            _FREE_BYTES + int(rules.max_archive_ratio * self._n_packed),
        )
        self._names: set[str] = set()
        self._n_members = 0

    def enter(self, name: str, is_plain: bool) -> None:
        """A member, be it a file or a folder."""
        self._n_members += 1
        if self._n_members > self._rules.max_archive_members:
            raise _too_many(self._rules)
        where = f"member {self._n_members}"
        if len(name) > _LONGEST_NAME:
            raise ScanError("SRC_ARCHIVE_CORRUPT", f"{where} has a name of {len(name)} characters")
        if leads_out(name):
            raise ScanError("SRC_ARCHIVE_UNSAFE", f"the path of {where} leads out")
        if not is_plain:
            raise ScanError("SRC_ARCHIVE_UNSAFE", f"{where} is neither a file nor a folder")
        same = str(PurePosixPath(name.replace("\\", "/")))
        if same in self._names:
            raise ScanError("SRC_ARCHIVE_DOUBLED", f"{where} is called as one before")
        self._names.add(same)

    def check_bytes(self, n_bytes: int) -> None:
        """So many were unpacked, or will be."""
        if n_bytes > self._most:
            detail = f"over {self._most} bytes unpacked, of {self._n_packed} packed"
            raise ScanError("SRC_ARCHIVE_LIMIT", detail)


def _too_many(rules: Rules) -> ScanError:
    return ScanError("SRC_ARCHIVE_LIMIT", f"over {rules.max_archive_members} members")


# --- zip


class _Bounded:
    """A file of which no larger directory is read than one of so many members.

    Attributes
    ----------
    is_lifted : bool
        Whether the directory was read, so that what follows are members.
    """

    def __init__(self, stream: io.FileIO, rules: Rules) -> None:
        self._stream, self._rules = stream, rules
        self.tell, self.seekable = stream.tell, stream.seekable
        self.is_lifted = False

    def seek(self, at: int, whence: int = os.SEEK_SET) -> int:
        try:
            return self._stream.seek(at, whence)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            raise zipfile.BadZipFile("a place before the file") from None

    def read(self, n: int = -1) -> bytes:
        if self.is_lifted:
            return self._stream.read(n)
        most = _END_BYTES + _ENTRY_BYTES * self._rules.max_archive_members
        piece = self._stream.read(min(n, most + 1) if n >= 0 else most + 1)
        if len(piece) > most or piece.count(_ENTRY) > self._rules.max_archive_members:
            raise _too_many(self._rules)
        return piece


def _zipped(stream: io.FileIO, rules: Rules) -> Iterator[Member]:
    bounded = _Bounded(stream, rules)
    try:
        archive = zipfile.ZipFile(bounded)
    except ZIP_DAMAGE:
        raise ScanError("SRC_TRUNCATED", "no sound directory at the end of the zip") from None
    bounded.is_lifted = True
    with archive:
        infos = archive.infolist()
        _check_directory(infos, _Register(stream, rules))
        for info in infos:
            if not info.is_dir():
                with _sound(archive, info) as member:
                    yield Member(info.filename, info.file_size, _guarded(member.read))


def _check_directory(infos: list[zipfile.ZipInfo], register: _Register) -> None:
    for info in infos:
        register.enter(info.orig_filename, not is_special(info))
    if any(info.flag_bits & _ENCRYPTED for info in infos):
        raise ScanError("SRC_ARCHIVE_ENCRYPTED")
    if any(info.compress_type not in _PACKINGS for info in infos):
        raise ScanError("SRC_UNSUPPORTED_FORMAT", "a member that is packed otherwise than deflated")
    register.check_bytes(sum(info.file_size for info in infos))


def _guarded(read: Callable[[int], bytes]) -> Callable[[int], bytes]:
    def guarded(n: int) -> bytes:
        try:
            return read(n)
        except ZIP_DAMAGE as error:
            raise ScanError("SRC_ARCHIVE_CORRUPT", f"a member: {type(error).__name__}") from None

    return guarded


@contextmanager
def _sound(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Iterator[IO[bytes]]:
    try:
        member = archive.open(info)
    except ZIP_DAMAGE as error:
        raise ScanError("SRC_ARCHIVE_CORRUPT", f"a member: {type(error).__name__}") from None
    with member:
        yield member


# --- tar


class _Unpacked:
    """Bytes of a tar as they come, held to the limits.

    Attributes
    ----------
    n_bytes : int
        How many came.
    n_filled : int
        How many, up to the last that is not 0.
    has_ended : bool
        Whether there are no more.
    n_allowed : int
        How many may come before somebody allows more.
    """

    def __init__(self, read: Callable[[int], bytes], register: _Register) -> None:
        self._read, self._register = read, register
        self.n_bytes = self.n_filled = self.n_allowed = 0
        self.has_ended = False

    def read(self, n: int) -> bytes:
        try:
            piece = self._read(n)
        except EOFError:
            raise ScanError("SRC_TRUNCATED", f"after {self.n_bytes} unpacked bytes") from None
        except (gzip.BadGzipFile, zlib.error):
            raise ScanError("SRC_GZIP_CORRUPT", f"after {self.n_bytes} unpacked bytes") from None
        if filled := len(piece.rstrip(b"\0")):
            self.n_filled = self.n_bytes + filled
        self.n_bytes += len(piece)
        self.has_ended = not piece
        self.n_allowed -= len(piece)
        self._register.check_bytes(self.n_bytes)
        if self.n_allowed < 0:
            detail = f"over {_BETWEEN_BYTES} bytes between two members"
            raise ScanError("SRC_ARCHIVE_CORRUPT", detail)
        return piece


def _tarred(stream: io.FileIO, rules: Rules) -> Iterator[Member]:
    register = _Register(stream, rules)
    is_packed = stream.read(len(_GZIP)) == _GZIP
    stream.seek(0)
    read = gzip.GzipFile(fileobj=stream).read if is_packed else stream.read
    unpacked = _Unpacked(read, register)
    end = 0
    with _explained(unpacked):
        unpacked.n_allowed = _BETWEEN_BYTES
        archive = tarfile.open(fileobj=unpacked, mode="r|")  # type: ignore[call-overload]
    while (info := _next(archive, unpacked)) is not None:
        register.enter(info.name, (info.isreg() or info.isdir()) and not info.issparse())
        end = info.offset_data
        if info.isreg():
            end += -(-info.size // _BLOCK) * _BLOCK
            content = _reader(archive, info, unpacked)
            yield Member(info.name, info.size, content)
            while content(CHUNK):
                pass
    unpacked.n_allowed = rules.max_archive_bytes
    while unpacked.read(CHUNK):
        pass
    if unpacked.n_bytes < end + _BLOCK:
        raise ScanError("SRC_TRUNCATED", f"no end of the tar after {unpacked.n_bytes} bytes")
    if unpacked.n_filled > end:
        raise ScanError("SRC_ARCHIVE_CORRUPT", f"no member of the tar at byte {end}")


def _next(archive: tarfile.TarFile, unpacked: _Unpacked) -> tarfile.TarInfo | None:
    with _explained(unpacked):
        unpacked.n_allowed = _BETWEEN_BYTES
        info = archive.next()
        archive.members.clear()  # type: ignore[attr-defined]  # it would remember every one
        archive.pax_headers = {}
        if info is not None and info.size < 0:
            raise tarfile.ReadError
    return info


def _reader(
    archive: tarfile.TarFile, info: tarfile.TarInfo, unpacked: _Unpacked
) -> Callable[[int], bytes]:
    with _explained(unpacked):
        member = archive.extractfile(info)

    def read(n: int) -> bytes:
        unpacked.n_allowed = n + _BETWEEN_BYTES
        with _explained(unpacked):
            return member.read(n) if member else b""

    return read


@contextmanager
def _explained(unpacked: _Unpacked) -> Iterator[None]:
    try:
        yield
    except (tarfile.TarError, ArithmeticError, LookupError, ValueError):
        reason = "SRC_TRUNCATED" if unpacked.has_ended else "SRC_ARCHIVE_CORRUPT"
        raise ScanError(reason, f"a tar of {unpacked.n_bytes} bytes, unpacked") from None

"""Bytes off the disk: all of them, once, against every checksum they carry."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cohortvol.errors import ScanError
from cohortvol.store.files import inflate
from cohortvol.store.storage import of_scan

HEAD_BYTES = 544
"""First bytes that hold a whole NIfTI-1 or NIfTI-2 header."""

_GZIP = b"\x1f\x8b"
_FIRST_BYTES = 1 << 16  # hold the head also when packed
_PACKED_CHUNK = 1 << 18
_UNPACKED_CHUNK = 1 << 22
_MAX_EXTRA = 1 << 26  # bytes after the last voxel that are still read, to reach the checksum

_SIZEOF_HDR = {size.to_bytes(4, order) for size in (348, 540) for order in ("little", "big")}
_OTHER_FORMATS = {
    b"PK\x03\x04": "zip",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"NRRD": "NRRD",
    b"ObjectType": "MetaImage",
    b"\x89HDF": "HDF5",
}


_NO_SUCH_PATH = {
    errno.ENOENT: "",
    errno.ENOTDIR: "",
    errno.ELOOP: "links that lead in a circle",
    errno.ENAMETOOLONG: "path or name too long for the file system",
}
"""Errors of a path at which there is no file, with what is worth saying."""


@dataclass(frozen=True)
class Source:
    """The content of an image file, complete and unpacked.

    Parameters
    ----------
    content : (n,) uint8 array
        Header, extensions and voxels, as many bytes as the header promises.
    n_bytes : int
        Size of the file.
    sha256 : str
        Of the file's bytes, in hex.
    has_extra : bool
        Whether bytes follow the last voxel.
    """

    content: np.ndarray
    n_bytes: int
    sha256: str
    has_extra: bool


def read_source(
    path: Path, content_size: Callable[[bytes], int], allow_roots: tuple[str, ...] = ()
) -> Source:
    """Read all bytes of a ``.nii`` or ``.nii.gz`` file once.

    Every gzip member is unpacked to its end, which verifies its CRC and length. What is
    kept is bounded by what the header promises, and what is unpacked by little more.

    Parameters
    ----------
    path : Path
        The image.
    content_size : callable
        Takes the first bytes, unpacked, and returns how many the header promises in all.
        What it raises yields to damage found in the packed bytes, as that is the cause,
        except ``IMG_TOO_LARGE``, after which nothing more is read.
    allow_roots : tuple of str
        Folders in which the file must lie, links followed; empty for anywhere.

    Raises
    ------
    ScanError
        ``SRC_...``, ``IO_READ_ERROR``, or what `content_size` raised.
    TemporaryError
        If the storage fails, and not for this file alone.
    """

    def read() -> Source:
        check_place(path, allow_roots)
        if path.is_dir():
            raise ScanError("SRC_UNSUPPORTED_FORMAT", "a folder")
        return _read_once(path, content_size)

    return of_scan(path, read)


def check_place(path: Path, allow_roots: tuple[str, ...]) -> None:
    """Refuse what is not a file or folder that may be read, before opening it.

    Raises
    ------
    ScanError
        ``SRC_...``.
    """
    try:
        if path.is_symlink() and not path.exists():
            if "annex/objects/" in os.readlink(path):
                raise ScanError("SRC_POINTER_FILE", "git-annex link without its content")
            raise ScanError("SRC_BROKEN_LINK")
        mode = path.stat().st_mode
    except PermissionError:
        raise ScanError("SRC_PERMISSION") from None
    except OSError as error:
        if error.errno not in _NO_SUCH_PATH:
            raise
        raise ScanError("SRC_MISSING", _NO_SUCH_PATH[error.errno]) from None
    except ValueError:  # a null character
        raise ScanError("SRC_MISSING", "no path that any file can have") from None
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise ScanError("SRC_NOT_REGULAR", f"file type {stat.filemode(mode)[0]}")
    if not is_inside(path, allow_roots):
        raise ScanError("SRC_OUTSIDE_ROOT")


def is_inside(path: Path, allow_roots: tuple[str, ...]) -> bool:
    """Whether a file lies in one of these folders, links followed; True where there are none."""
    real = path.resolve()
    return not allow_roots or any(real.is_relative_to(Path(root).resolve()) for root in allow_roots)


def _read_once(path: Path, content_size: Callable[[bytes], int]) -> Source:
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except PermissionError:
        raise ScanError("SRC_PERMISSION") from None
    with open(handle, "rb", buffering=0) as stream:
        before = os.fstat(handle)
        if before.st_size == 0:
            raise ScanError("SRC_EMPTY")
        first = stream.read(_FIRST_BYTES)
        is_packed = first.startswith(_GZIP)
        head = _unpacked_head(first) if is_packed else first[:HEAD_BYTES]
        _check_kind(path.name.lower(), head, is_packed)
        size, fault = _promised(content_size, head)
        if before.st_size > size + _MAX_EXTRA:
            raise fault or _too_long(before.st_size, size)
        stream.seek(0)
        data = stream.read()
        after = os.fstat(handle)
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        raise ScanError("SRC_CHANGED", f"{before.st_size} to {after.st_size} bytes while read")

    if is_packed:
        content, n_content, has_padding = _unpack(data, size, fault)
    else:
        content, n_content, has_padding = np.frombuffer(data, np.uint8), len(data), False
    if fault:
        raise fault
    if n_content < size:
        raise ScanError("SRC_TRUNCATED", f"{n_content} of {size} bytes")
    return Source(
        content=content[:size],
        n_bytes=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
        has_extra=has_padding or n_content > size,
    )


def _promised(content_size: Callable[[bytes], int], head: bytes) -> tuple[int, ScanError | None]:
    """Bytes that the header promises, or 0 with what is wrong in it."""
    try:
        return content_size(head), None
    except ScanError as error:
        if error.reason == "IMG_TOO_LARGE":
            raise
        return 0, error


def _too_long(found: int, promised: int) -> ScanError:
    return ScanError("IMG_TOO_LARGE", f"over {found} bytes where the header promises {promised}")


def _check_kind(name: str, head: bytes, is_packed: bool) -> None:
    """Refuse content that is no NIfTI, or not packed as the name says."""
    is_nifti = head[:4] in _SIZEOF_HDR or head[344:347] in (b"n+1", b"ni1")
    if is_packed and name.endswith(".nii"):
        raise ScanError("SRC_EXT_MISMATCH", "content is gzip, as of a .nii.gz file")
    if is_nifti and not is_packed and name.endswith(".nii.gz"):
        raise ScanError("SRC_EXT_MISMATCH", "content is not gzip, as of a .nii file")
    if not is_nifti:
        raise _not_nifti(head)
    if not name.endswith((".nii", ".nii.gz")):
        raise ScanError("SRC_UNSUPPORTED_FORMAT", "the name ends neither in .nii nor in .nii.gz")


def _not_nifti(head: bytes) -> ScanError:
    if head.startswith(b"version https://git-lfs") or b"annex/objects/" in head:
        return ScanError("SRC_POINTER_FILE", "a text that points to the content")
    for mark, kind in _OTHER_FORMATS.items():
        if head.startswith(mark):
            return ScanError("SRC_UNSUPPORTED_FORMAT", f"content is {kind}")
    if not any(head):
        return ScanError("SRC_TRUNCATED", "the file begins with zeros only")
    return ScanError("SRC_NOT_NIFTI", f"first bytes {head[:16].hex(' ')}")


def _unpacked_head(first: bytes) -> bytes:
    try:
        head = bytes(inflate.decompressobj(wbits=31).decompress(first, HEAD_BYTES))
    except (inflate.error, zlib.error) as error:
        raise ScanError("SRC_GZIP_CORRUPT", f"at the beginning: {error}") from None
    if not head:
        raise ScanError("SRC_TRUNCATED", "the packed data end before any content")
    return head


def _unpack(data: bytes, size: int, fault: ScanError | None) -> tuple[np.ndarray, int, bool]:
    """The first `size` bytes of all gzip members, how many there were, and whether zeros follow.

    zlib and isal compare CRC and length at the end of each member.
    """
    content = np.empty(size, np.uint8)
    total = position = 0
    while True:
        member = inflate.decompressobj(wbits=31)
        pending = b""
        while not member.eof:
            if not pending:
                pending = data[position : position + _PACKED_CHUNK]
                position += len(pending)
            try:
                piece = member.decompress(pending, _UNPACKED_CHUNK)
            except (inflate.error, zlib.error) as error:
                detail = f"after {total} unpacked bytes: {error}"
                raise ScanError("SRC_GZIP_CORRUPT", detail) from None
            if not piece and not pending and not member.eof:
                promised = f" of {size}" if size else ""
                raise ScanError(
                    "SRC_TRUNCATED",
                    f"{len(data)} packed bytes end after {total}{promised} unpacked bytes",
                )
            kept = content[total : total + len(piece)]
            kept[:] = np.frombuffer(piece, np.uint8, len(kept))
            total += len(piece)
            if total > size + _MAX_EXTRA:
                raise fault or _too_long(total, size)
            pending = member.unconsumed_tail
        position -= len(member.unused_data)
        if not data.startswith(_GZIP, position):
            if data[position:].strip(b"\0"):
                raise ScanError("SRC_GZIP_CORRUPT", f"garbage after {total} unpacked bytes")
            return content, total, position < len(data)

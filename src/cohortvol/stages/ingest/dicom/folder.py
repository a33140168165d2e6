"""Files of a DICOM folder: which are images, and what became of every other one."""

from __future__ import annotations

import hashlib
import io
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal

import pydicom
from pydicom.dataset import Dataset
from pydicom.pixels.utils import get_expected_length
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian, ImplicitVRLittleEndian

from cohortvol.errors import ScanError
from cohortvol.stages.ingest.archive import Archive, File
from cohortvol.stages.ingest.dicom.frames import (
    NATIVE,
    PARSER_ERRORS,
    Frame,
    count,
    frames_of,
    series_of,
)
from cohortvol.stages.ingest.rules import Rules
from cohortvol.stages.ingest.source import check_place
from cohortvol.store.storage import is_fault, of_scan, patiently

_MAGIC_AT, _MAGIC = 128, b"DICM"
_HEAD = _MAGIC_AT + len(_MAGIC)
_ORDERS: tuple[Literal["little", "big"], ...] = ("little", "big")
_BARE = re.compile(rb"[\x02\x08]\x00.\x00", re.DOTALL)
"""First element of DICOM without its preamble: group 2 or 8, little endian."""

_PIXELS = {
    group.to_bytes(2, order) + element.to_bytes(2, order)
    for group, element in ((0x7FE0, 0x0010), (0x7FE0, 0x0009), (0x7FE0, 0x0008))  # integers, floats
    for order in _ORDERS
}
_FRAGMENT, _END_OF_FRAGMENTS = b"\xfe\xff\x00\xe0", b"\xfe\xff\xdd\xe0"
_UNDEFINED = 0xFFFFFFFF
_STANDARD = "1.2.840.10008."
_META = 1 << 12  # bytes that hold the transfer syntax
_MEDIA_DIRECTORY = "1.2.840.10008.1.3.10"
_BESIDE_IMAGES = re.compile(
    r"^\.|^(dicomdir|lockfile|version|license|readme|thumbs\.db)$"
    r"|\.(txt|json|xml|csv|tsv|md|html?|xlsx?|ods|docx?|pdf|png|jpe?g|nii|nii\.gz|bval|bvec|log|ini|exe)$",
    re.IGNORECASE,
)
"""Names of files that lie beside images and, unless they begin as DICOM does, are none; any other
file must be DICOM."""


@dataclass(frozen=True)
class Damaged:
    """A file that should be an image and cannot be used as one.

    Attributes
    ----------
    error : ScanError
        What is wrong with it.
    series : str or None
        As in `Frame`; None where that cannot be read either.
    """

    path: Path
    error: ScanError
    series: str | None


@dataclass
class Folder:
    """What became of every file of a folder: images, damaged ones, and those that are no images.

    Attributes
    ----------
    frames : list of Frame
        Of every image that could be read; files of equal bytes once, and so are images that have
        one identifier, pixels and place and differ in what else their headers say.
    damaged : list of Damaged
        Files that may have been images.
    copies : Counter of Path
        Further files of the same bytes or image, of those of which there are any.
    n_other : int
        DICOM objects that are no images: reports, presentation states, raw data, directories.
    n_foreign : int
        Files that are no DICOM, by their names and their first bytes.
    """

    frames: list[Frame] = field(default_factory=list)
    damaged: list[Damaged] = field(default_factory=list)
    copies: Counter[Path] = field(default_factory=Counter)
    n_other: int = 0
    n_foreign: int = 0


def read_folder(source: Path | Archive, rules: Rules) -> Folder:
    """Every file of a folder or an archive, or one file, accounted for.

    Raises
    ------
    ScanError
        ``SRC_EMPTY`` without any DICOM, ``IMG_TOO_LARGE``, ``IO_READ_ERROR`` and ``SRC_...``.
    """
    found = Folder()
    seen: dict[bytes, Path] = {}
    for file in _in_folder(source, rules) if isinstance(source, Path) else source.files(_HEAD):
        path = file.path
        if _BESIDE_IMAGES.search(file.name):
            head = file.head()
            if not (has_mark(head) or _BARE.match(head)):
                found.n_foreign += 1
                continue
        content = file.content()
        digest = hashlib.sha256(content).digest()
        first = seen.setdefault(digest, path)
        if first is not path:
            found.copies[first] += 1
            continue
        series: str | None = None
        try:
            header, n_read = _header(content)
            if _is_other(header, content[n_read : n_read + 12]):
                found.n_other += 1
                continue
            series = series_of(header)
            pixels = _checked_pixels(header, content, n_read)
            frames = list(frames_of(path, header, pixels))
            first = seen.setdefault(_identity(header, frames, pixels), path)
            if first is path:
                found.frames += frames
            else:
                found.copies[first] += 1
        except ScanError as error:
            found.damaged.append(Damaged(path, error, series))
        except PARSER_ERRORS as error:
            unread = ScanError("DCM_UNREADABLE_FILE", type(error).__name__)
            found.damaged.append(Damaged(path, unread, series))
    if not (found.frames or found.damaged or found.n_other):
        raise ScanError("SRC_EMPTY", "a folder without DICOM files")
    return found


def first_bytes(path: Path) -> bytes:
    """As many as tell DICOM from anything else; none of what is no file, or cannot be read."""

    def read() -> bytes:
        if not path.is_file():  # opening a pipe would wait for ever
            return b""
        with open(path, "rb") as stream:
            return stream.read(_HEAD)

    try:
        return patiently(read)
    except OSError:  # whoever reads all of it is to complain
        return b""


def has_mark(head: bytes) -> bool:
    """Whether these first bytes of a file bear the mark of DICOM (PS3.10 7.1)."""
    return head[_MAGIC_AT:] == _MAGIC


def _in_folder(source: Path, rules: Rules) -> Iterator[File]:
    for path in of_scan(source, lambda: _files(source)):
        yield File(path, path.name, partial(first_bytes, path), partial(_content, path, rules))


def _files(source: Path) -> list[Path]:
    """A file, or every one of a folder, in the order of their names."""
    if source.is_file():
        return [source]
    found: list[Path] = []

    def refuse(error: OSError) -> None:  # a folder left out would be slices left out
        if is_fault(error):
            raise error
        raise ScanError("SRC_PERMISSION", "a folder that may not be read") from error

    for place, folders, names in os.walk(source, onerror=refuse):
        folders.sort()
        found += [Path(place) / name for name in sorted(names)]
    return found


def _content(path: Path, rules: Rules) -> bytes:
    """Bytes of a file that is one, lies where it may, and is no larger than an image can be."""
    check_place(path, rules.allow_roots)
    rules.check_file(path.stat().st_size)
    try:
        return of_scan(path, path.read_bytes)
    except PermissionError:
        raise ScanError("SRC_PERMISSION") from None
    except FileNotFoundError:
        raise ScanError("SRC_CHANGED", "a file went away") from None


def _header(content: bytes) -> tuple[Dataset, int]:
    """Header of a DICOM file without its pixels, and where it ends."""
    if not content:
        raise ScanError("DCM_UNREADABLE_FILE", "an empty file")
    if DeflatedExplicitVRLittleEndian.encode() in content[:_META]:
        raise ScanError("DCM_UNREADABLE_FILE", "deflated as a whole")  # of a size without a bound
    stream = io.BytesIO(content)
    is_bare = _BARE.match(content) is not None
    header = pydicom.dcmread(stream, stop_before_pixels=True, force=is_bare)
    return header, stream.tell()


def _identity(header: Dataset, frames: Sequence[Frame], pixels: Sequence[memoryview]) -> bytes:
    """Digest of what makes an image this one; what an archive adds when it sends it is no part."""
    of_pixels = str(header.group_dataset(0x0028))
    said = [str(header.get("SOPInstanceUID")), of_pixels, *(frame.identity for frame in frames)]
    digest = hashlib.sha256(repr(said).encode())
    for piece in pixels:
        digest.update(piece)
    return digest.digest()


def _is_other(header: Dataset, following: bytes) -> bool:
    """Whether this is a sound object of a class that has no pixels.

    An image that lost its header is none: its class is that of an image, or there is no class. Raw
    data may have a matrix like an image's and an element for pixels in which there are none.
    """
    stored = str(header.file_meta.get("MediaStorageSOPClassUID", ""))
    if stored == _MEDIA_DIRECTORY and "DirectoryRecordSequence" in header:
        return True
    named = UID(str(header.get("SOPClassUID", "")))
    is_implicit, _ = header.original_encoding
    has_pixels = following[:4] in _PIXELS and any(following[4 if is_implicit else 8 :][:4])
    if has_pixels or not named or stored not in ("", named):
        return False
    if named.startswith(_STANDARD):
        return named.type == "SOP Class" and "Image" not in named.keyword
    return "Rows" not in header  # vendors keep raw data in classes of their own


def _checked_pixels(header: Dataset, content: bytes, start: int) -> list[memoryview]:
    """Plain pixels of a file, or the fragments of packed ones.

    A file that ends before its pixels do, or has more or fewer than its header says, is refused.
    """
    if content[start : start + 4] not in _PIXELS:
        raise ScanError("DCM_UNREADABLE_FILE", "a header without pixels")
    is_implicit, is_little = header.original_encoding
    start += 4 if is_implicit else 8  # after the tag, and a type of two letters with two zeros
    length = int.from_bytes(content[start : start + 4], "little" if is_little else "big")
    start += 4
    if header.file_meta.get("TransferSyntaxUID", ImplicitVRLittleEndian) not in NATIVE:
        return _fragments(header, content, start, length)
    promised = get_expected_length(header)
    found = min(length, len(content) - start)
    if found < promised or length == _UNDEFINED:
        raise ScanError("SRC_TRUNCATED", f"{found} of {promised} bytes of pixels")
    if found > promised + promised % 2:
        detail = f"{found} bytes of pixels, where the header promises {promised}"
        raise ScanError("DCM_UNREADABLE_FILE", detail)
    return [memoryview(content)[start : start + promised]]


def _fragments(header: Dataset, content: bytes, start: int, length: int) -> list[memoryview]:
    """Fragments of packed pixels, followed to their end (PS3.5 A.4)."""
    view, at, items = memoryview(content), start, []
    while content[at : at + 4] == _FRAGMENT:
        end = at + 8 + int.from_bytes(content[at + 4 : at + 8], "little")
        items.append(view[at + 8 : end])
        at = end
    if length != _UNDEFINED or content[at : at + 4] != _END_OF_FRAGMENTS:
        raise ScanError("SRC_TRUNCATED", f"packed pixels without an end, {len(content)} bytes")
    n_frames = count(header, "NumberOfFrames")
    if len(items) - 1 < n_frames:  # the first lists the others
        detail = f"{len(items) - 1} fragments of {n_frames} frames"
        raise ScanError("DCM_UNREADABLE_FILE", detail)
    return items[1:]

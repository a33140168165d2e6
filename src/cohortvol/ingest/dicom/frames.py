"""DICOM files to frames: what is read of a header, and no more than that.

Names, dates of birth, institutions and free text are not kept. Descriptions of series are looked
at to tell one kind of image from another, and forgotten.
"""

from __future__ import annotations

import hashlib
import io
import logging
import os
import re
import struct
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pydicom
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.pixels.utils import get_expected_length
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RLELossless,
)

from cohortvol.errors import ScanError
from cohortvol.ingest.dicom.rle import rows_come_out
from cohortvol.ingest.rules import Rules
from cohortvol.ingest.source import check_place
from cohortvol.storage import is_fault, of_scan, patiently

# What pydicom would say of a value that is not as it should be holds the value.
pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE
logging.getLogger("pydicom").setLevel(logging.CRITICAL)

NATIVE = {ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian}
_MAGIC_AT, _MAGIC = 128, b"DICM"
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

_PARSER_ERRORS = (
    ArithmeticError, AttributeError, EOFError, InvalidDicomError, LookupError, NotImplementedError,
    RecursionError, TypeError, ValueError, struct.error,
)  # fmt: skip
"""What pydicom raises of damaged bytes, and when a value is asked for that it has not read yet."""
_MAX_BYTES_PER_VOXEL = 8
_MAX_HEADER = 1 << 26  # bytes of a file that are no voxels
_META = 1 << 12  # bytes that hold the transfer syntax
_MEDIA_DIRECTORY = "1.2.840.10008.1.3.10"
_BESIDE_IMAGES = re.compile(
    r"^\.|^(dicomdir|lockfile|version|license|readme|thumbs\.db)$"
    r"|\.(txt|json|xml|csv|tsv|md|html?|pdf|png|jpe?g|nii|nii\.gz|bval|bvec|log|ini|exe)$",
    re.IGNORECASE,
)
"""Names of files that lie beside images and, unless they begin as DICOM does, are none; any other
file must be DICOM."""

DIXON_PARTS = {
    "water": ("W", "WATER"),
    "fat": ("F", "FAT"),
    "in_phase": ("IP", "IN_PHASE", "INPHASE"),
    "opposed_phase": ("OP", "OPP_PHASE", "OUT_PHASE", "OPPOSED", "OPPOSED_PHASE"),
}
_DIXON_WORDS = {
    "water": r"water|(^|[_\s])w$",
    "fat": r"\bfat\b(?!.*(sat|supp))|(^|[_\s])f$",
    "in_phase": r"in[ _-]?phase|(^|[_\s])in$|(^|[_\s])ip$",
    "opposed_phase": r"opp|out[ _-]?(of[ _-]?)?phase|(^|[_\s])op$",
}
_METHOD = re.compile(r"dixon|flex|ideal", re.IGNORECASE)
_SIGNALS = {
    "phase": {"P", "PHASE", "PHASE MAP"},
    "real": {"R", "REAL"},
    "imaginary": {"I", "IMAGINARY"},
}


@dataclass(frozen=True)
class Plane:
    """Where a frame lies, in DICOM's LPS+ axes, mm.

    Attributes
    ----------
    position_mm : (3,) array
        Centre of the first voxel.
    row_axis, column_axis : (3,) array
        Directions in which columns and rows count.
    """

    position_mm: np.ndarray
    row_axis: np.ndarray
    column_axis: np.ndarray

    @property
    def normal(self) -> np.ndarray:
        """Direction at right angles to the plane."""
        return np.cross(self.row_axis, self.column_axis)

    @property
    def along_mm(self) -> float:
        """Place along the normal."""
        return float(self.position_mm @ self.normal)

    def turn(self, decimals: int) -> tuple[float, ...]:
        """Both axes, rounded, to compare by."""
        axes = np.concatenate([self.row_axis, self.column_axis])
        return tuple(np.round(axes, decimals) + 0.0)  # -0 is 0


@dataclass(frozen=True)
class Frame:
    """One image of a file: its only one, or one of many.

    Attributes
    ----------
    path : Path
        File that holds it.
    index : int
        Its place in the file, from 0.
    series : str
        12 hex digits for the SeriesInstanceUID, which itself is not kept.
    plane : Plane or None
        None where the header does not say.
    spacing_mm : (2,) array or None
        Between rows, and between columns.
    slope, intercept : float
        Stored value to grey value.
    stored_ends : (2,) tuple of int or None
        Smallest and largest stored value of the file, where its pixels are plain integers.
    rows_come_out : bool
        Whether packed rows end where they should, which is looked at in RLE alone.
    facts : Dataset
        Header of the file without its pixels.
    """

    path: Path
    index: int
    series: str
    rows: int
    columns: int
    plane: Plane | None
    spacing_mm: np.ndarray | None
    slope: float
    intercept: float
    echo_time_ms: float | None
    image_type: tuple[str, ...]
    temporal_position: int | None
    stored_ends: tuple[int, int] | None
    rows_come_out: bool
    facts: Dataset

    def told(self, name: str) -> Any:
        """A value of the header; None also where it cannot be read."""
        try:
            return self.facts.get(name)
        except _PARSER_ERRORS:
            return None

    @property
    def signal(self) -> str:
        """``magnitude``, ``phase``, ``real`` or ``imaginary``."""
        values = set(self.image_type[2:])  # after ORIGINAL or DERIVED, and PRIMARY or SECONDARY
        letters = {piece for value in values for piece in value.split("_") if len(piece) == 1}
        for signal, tokens in _SIGNALS.items():
            if (values | letters) & tokens:
                return signal
        return "magnitude"

    @property
    def dixon(self) -> str | None:
        """Part of a Dixon acquisition: a key of `DIXON_PARTS`, or None."""
        return self._dixon_of_its_type or _part_named(self._description)

    @property
    def declared_dixon(self) -> str | None:
        """`dixon`, unless only a description tells it that does not speak of Dixon."""
        return self._dixon_of_its_type or dixon_named(self._description)

    @property
    def _dixon_of_its_type(self) -> str | None:
        values = set(self.image_type[2:])
        return next((part for part, tokens in DIXON_PARTS.items() if values & set(tokens)), None)

    @property
    def _description(self) -> str:
        return str(self.facts.get("SeriesDescription", ""))


def dixon_named(description: str) -> str | None:
    """Part of a Dixon acquisition that a text names: a key of `DIXON_PARTS`, or None.

    It must name the method too: "fat" alone may stand for anything that is done to fat.
    """
    words = re.sub(r"[^A-Za-z]+", " ", description).strip()
    return _part_named(words) if _METHOD.search(words) else None


def _part_named(description: str) -> str | None:
    text = description.lower()
    return next((part for part, words in _DIXON_WORDS.items() if re.search(words, text)), None)


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
        Of every image that could be read; files of equal bytes once.
    damaged : list of Damaged
        Files that may have been images.
    copies : Counter of Path
        Further files of the same bytes, of those of which there are any.
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


def read_folder(source: Path, rules: Rules) -> Folder:
    """Every file of a folder, or one file, accounted for.

    Raises
    ------
    ScanError
        ``SRC_EMPTY`` without any DICOM, ``IMG_TOO_LARGE``, ``IO_READ_ERROR`` and ``SRC_...``.
    """
    found = Folder()
    seen: dict[bytes, Path] = {}
    for path in of_scan(source, lambda: _files(source)):
        if _BESIDE_IMAGES.search(path.name):
            head = first_bytes(path)
            if not (has_mark(head) or _BARE.match(head)):
                found.n_foreign += 1
                continue
        content = _content(path, rules)
        digest = hashlib.sha256(content).digest()
        first = seen.setdefault(digest, path)
        if first is not path:
            found.copies[first] += 1
            continue
        series: str | None = None
        try:
            header, n_read = _header(content)
            if _is_other(header, content[n_read : n_read + 4]):
                found.n_other += 1
                continue
            series = _series_of(header)
            pixels = _checked_pixels(header, content, n_read)
            found.frames += list(_frames_of(path, header, pixels))
        except ScanError as error:
            found.damaged.append(Damaged(path, error, series))
        except _PARSER_ERRORS as error:
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
            return stream.read(_MAGIC_AT + len(_MAGIC))

    try:
        return patiently(read)
    except OSError:  # whoever reads all of it is to complain
        return b""


def has_mark(head: bytes) -> bool:
    """Whether these first bytes of a file bear the mark of DICOM (PS3.10 7.1)."""
    return head[_MAGIC_AT:] == _MAGIC


def _series_of(header: Dataset) -> str:
    """12 hex digits for the series of a file."""
    return _short_hash(str(header.get("SeriesInstanceUID", "")))


def _short_hash(text: str) -> str:
    """12 hex digits that stand for an identifier."""
    return hashlib.sha256(text.encode()).hexdigest()[:12]


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
    n_bytes, most = path.stat().st_size, rules.max_voxels * _MAX_BYTES_PER_VOXEL + _MAX_HEADER
    if n_bytes > most:
        raise ScanError("IMG_TOO_LARGE", f"a file of {n_bytes} bytes, over {most}")
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
    header = pydicom.dcmread(stream, stop_before_pixels=True)
    return header, stream.tell()


def _is_other(header: Dataset, next_tag: bytes) -> bool:
    """Whether this is a sound object of a class that has no pixels.

    An image that lost its header is none: its class is that of an image, or there is no class.
    """
    stored = str(header.file_meta.get("MediaStorageSOPClassUID", ""))
    if stored == _MEDIA_DIRECTORY and "DirectoryRecordSequence" in header:
        return True
    named = UID(str(header.get("SOPClassUID", "")))
    if next_tag in _PIXELS or not named or stored not in ("", named):
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
    n_frames = _count(header, "NumberOfFrames")
    if len(items) - 1 < n_frames:  # the first lists the others
        detail = f"{len(items) - 1} fragments of {n_frames} frames"
        raise ScanError("DCM_UNREADABLE_FILE", detail)
    return items[1:]


def _stored_ends(header: Dataset, pixels: memoryview) -> tuple[int, int] | None:
    if header.BitsAllocated not in (8, 16, 32) or not pixels:
        return None
    _, is_little = header.original_encoding
    kind = "i" if header.get("PixelRepresentation") else "u"
    stored = np.frombuffer(pixels, f"{'<' if is_little else '>'}{kind}{header.BitsAllocated // 8}")
    return int(stored.min()), int(stored.max())


def _frames_of(path: Path, header: Dataset, pixels: Sequence[memoryview]) -> Iterator[Frame]:
    series = _series_of(header)
    rows, columns = int(header.Rows), int(header.get("Columns", 0))
    syntax = header.file_meta.get("TransferSyntaxUID", ImplicitVRLittleEndian)
    stored_ends = _stored_ends(header, pixels[0]) if syntax in NATIVE else None
    come_out = syntax != RLELossless or all(rows_come_out(one, rows, columns) for one in pixels)
    shared = next(iter(header.get("SharedFunctionalGroupsSequence", [])), Dataset())
    each = header.get("PerFrameFunctionalGroupsSequence")
    n_frames = _count(header, "NumberOfFrames")
    if each is not None and len(each) != n_frames:
        raise ScanError("DCM_UNREADABLE_FILE", f"{len(each)} descriptions of {n_frames} frames")
    for index in range(n_frames):
        own = Dataset() if each is None else each[index]
        places = (own, shared, header)
        yield Frame(
            path=path,
            index=index,
            series=series,
            rows=rows,
            columns=columns,
            plane=_plane(places),
            spacing_mm=_numbers(_found(places, "PixelMeasuresSequence", "PixelSpacing"), 2),
            slope=_number(_found(places, "PixelValueTransformationSequence", "RescaleSlope"), 1.0),
            intercept=_number(
                _found(places, "PixelValueTransformationSequence", "RescaleIntercept"), 0.0
            ),
            echo_time_ms=_echo_time_ms(places),
            image_type=_image_type(places, header),
            temporal_position=_temporal_position(places, header),
            stored_ends=stored_ends,
            rows_come_out=come_out,
            facts=header,
        )


def _plane(places: tuple[Dataset, ...]) -> Plane | None:
    position = _numbers(_found(places, "PlanePositionSequence", "ImagePositionPatient"), 3)
    axes = _numbers(_found(places, "PlaneOrientationSequence", "ImageOrientationPatient"), 6)
    if position is None or axes is None:
        return None
    return Plane(position, axes[:3], axes[3:])


def _count(header: Dataset, name: str) -> int:
    return int(header.get(name) or 1)


def _found(places: tuple[Dataset, ...], sequence: str, name: str) -> Any:
    """An element of a functional group of the frame, else of all frames, else of the file."""
    for place in places:
        for item in place.get(sequence) or []:
            if item.get(name) is not None:
                return item.get(name)
    return places[-1].get(name)


def _numbers(value: Any, n: int) -> np.ndarray | None:
    try:
        numbers = np.array([float(one) for one in value])
    except (TypeError, ValueError):
        return None
    return numbers if numbers.shape == (n,) and np.isfinite(numbers).all() else None


def _number(value: Any, default: float) -> float:
    return default if value is None or value == "" else float(value)


def _echo_time_ms(places: tuple[Dataset, ...]) -> float | None:
    value = _found(places, "MREchoSequence", "EffectiveEchoTime") or places[-1].get("EchoTime")
    return None if value in (None, "") else round(float(value), 3)


def _image_type(places: tuple[Dataset, ...], header: Dataset) -> tuple[str, ...]:
    value = _found(places[:2], "MRImageFrameTypeSequence", "FrameType")
    value = value or header.get("ImageType") or ()
    return tuple(str(one).upper() for one in ([value] if isinstance(value, str) else value))


def _temporal_position(places: tuple[Dataset, ...], header: Dataset) -> int | None:
    value = _found(places[:2], "FrameContentSequence", "TemporalPositionIndex")
    value = value or header.get("TemporalPositionIdentifier")
    return None if value in (None, "") else int(value)

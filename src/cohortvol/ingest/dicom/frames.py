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
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.dataset import Dataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from cohortvol.errors import ScanError
from cohortvol.ingest.rules import Rules
from cohortvol.ingest.source import check_place
from cohortvol.storage import is_fault, of_scan

# What pydicom would say of a value that is not as it should be holds the value.
pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE
logging.getLogger("pydicom").setLevel(logging.CRITICAL)

NATIVE = {ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian}
_END_OF_FRAGMENTS = b"\xfe\xff\xdd\xe0"
_MAX_BYTES_PER_VOXEL = 8
_MAX_HEADER = 1 << 26  # bytes of a file that are no voxels
_META = 1 << 12  # bytes that hold the transfer syntax
_MEDIA_DIRECTORY = "1.2.840.10008.1.3.10"
_BESIDE_IMAGES = re.compile(
    r"^\.|^(dicomdir|lockfile|version|license|readme|thumbs\.db)$"
    r"|\.(txt|json|xml|csv|tsv|md|html?|pdf|png|jpe?g|nii|nii\.gz|bval|bvec|log|ini|exe)$",
    re.IGNORECASE,
)
"""Names of files that lie beside images and are none; any other file must be DICOM."""

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
    facts : Dataset
        Header of the file without its pixels; read by `series` and dropped.
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
    facts: Dataset

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


def read_frames(source: Path, rules: Rules) -> tuple[list[Frame], list[str]]:
    """Every frame of a file or below a folder, and ``W_...`` codes.

    Raises
    ------
    ScanError
        ``SRC_EMPTY`` without any file, ``DCM_UNREADABLE_FILE``, ``IMG_TOO_LARGE``,
        ``IO_READ_ERROR`` and ``SRC_...``.
    """
    frames: list[Frame] = []
    seen: set[bytes] = set()
    codes: set[str] = set()
    for path in of_scan(source, lambda: _files(source)):
        content = _content(path, rules)
        header = _header(content)
        if header is None:
            continue
        digest = hashlib.sha256(content).digest()
        if digest in seen:
            codes.add("W_DUPLICATE_FILE")
            continue
        seen.add(digest)
        frames += _frames_of(path, header)
    if not seen:
        raise ScanError("SRC_EMPTY", "a folder without DICOM files")
    return frames, sorted(codes)


def _short_hash(text: str) -> str:
    """12 hex digits that stand for an identifier."""
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _files(source: Path) -> list[Path]:
    """A file, or every one of a folder that may be an image, in the order of their names."""
    if source.is_file():
        return [source]
    found = []

    def refuse(error: OSError) -> None:  # a folder left out would be slices left out
        if is_fault(error):
            raise error
        raise ScanError("SRC_PERMISSION", "a folder that may not be read") from error

    for place, folders, names in os.walk(source, onerror=refuse):
        folders.sort()
        found += [Path(place) / name for name in sorted(names) if not _BESIDE_IMAGES.search(name)]
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


def _header(content: bytes) -> Dataset | None:
    """Header of an image that is complete; None for DICOM that is no image."""
    if not content:
        raise ScanError("DCM_UNREADABLE_FILE", "an empty file")
    if DeflatedExplicitVRLittleEndian.encode() in content[:_META]:
        raise ScanError("DCM_UNREADABLE_FILE", "deflated as a whole")  # of a size without a bound
    stream = io.BytesIO(content)
    try:
        header = pydicom.dcmread(stream, stop_before_pixels=True)
    except Exception as error:  # pydicom raises what its parser met
        raise ScanError("DCM_UNREADABLE_FILE", type(error).__name__) from None
    if str(header.get("SOPClassUID", "")) == _MEDIA_DIRECTORY or "Rows" not in header:
        return None
    _check_complete(header, content[stream.tell() :])
    return header


def _check_complete(header: Dataset, pixels: bytes) -> None:
    """Refuse a file that ends before its pixels do."""
    if header.file_meta.get("TransferSyntaxUID", ImplicitVRLittleEndian) in NATIVE:
        n_bits = _count(header, "NumberOfFrames") * header.get("BitsAllocated", 8)
        n_bits *= header.Rows * header.get("Columns", 0) * header.get("SamplesPerPixel", 1)
        if len(pixels) < n_bits // 8:
            raise ScanError("SRC_TRUNCATED", f"{len(pixels)} of {n_bits // 8} bytes of pixels")
    elif _END_OF_FRAGMENTS not in pixels[-4096:]:
        raise ScanError("SRC_TRUNCATED", f"packed pixels without an end, {len(pixels)} bytes")


def _frames_of(path: Path, header: Dataset) -> Iterator[Frame]:
    series = _short_hash(str(header.get("SeriesInstanceUID", "")))
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
            rows=int(header.Rows),
            columns=int(header.get("Columns", 0)),
            plane=_plane(places),
            spacing_mm=_numbers(_found(places, "PixelMeasuresSequence", "PixelSpacing"), 2),
            slope=_number(_found(places, "PixelValueTransformationSequence", "RescaleSlope"), 1.0),
            intercept=_number(
                _found(places, "PixelValueTransformationSequence", "RescaleIntercept"), 0.0
            ),
            echo_time_ms=_echo_time_ms(places),
            image_type=_image_type(places, header),
            temporal_position=_temporal_position(places, header),
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

"""DICOM files to frames: what is read of a header, and no more than that.

Names, dates of birth, institutions and free text are not kept. Descriptions of series are looked
at to tell one kind of image from another, and forgotten.
"""

from __future__ import annotations

import hashlib
import logging
import re
import struct
from collections.abc import Hashable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.uid import (
    JPEG2000,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    RLELossless,
)

from cohortvol.errors import ScanError
from cohortvol.stages.ingest.dicom.jpeg2000 import packets_hold
from cohortvol.stages.ingest.dicom.rle import rows_come_out

# What pydicom would say of a value that is not as it should be holds the value.
pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE
logging.getLogger("pydicom").setLevel(logging.CRITICAL)

NATIVE = {ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian}

PARSER_ERRORS = (
    ArithmeticError, AttributeError, EOFError, InvalidDicomError, LookupError, NotImplementedError,
    RecursionError, TypeError, ValueError, struct.error,
)  # fmt: skip
"""What pydicom raises of damaged bytes, and when a value is asked for that it has not read yet."""

DIXON_PARTS = {
    "fat_fraction": ("FF", "FAT_FRACTION", "PDFF"),
    "water": ("W", "WATER"),
    "fat": ("F", "FAT"),
    "in_phase": ("IP", "IN_PHASE", "INPHASE"),
    "opposed_phase": ("OP", "OPP_PHASE", "OUT_PHASE", "OPPOSED", "OPPOSED_PHASE"),
}
_DIXON_WORDS = {
    "fat_fraction": r"fat[ _-]?frac|pdff|(^|[_\s])ff$",
    "water": r"water|(^|[_\s])w$",
    "fat": r"\bfat\b(?!.*(sat|supp))|(^|[_\s])f$",
    "in_phase": r"in[ _-]?phase|(^|[_\s])in$|(^|[_\s])ip$",
    "opposed_phase": r"opp|out[ _-]?(of[ _-]?)?phase|(^|[_\s])op$",
}
_METHOD = re.compile(r"dixon|flex|ideal|pdff|gre tra (in|opp|f|w)$", re.IGNORECASE)
"""Words that speak of the method; the last is how NAKO calls its parts, 3D_GRE_TRA_W."""

_SIGNALS = {
    "phase": {"P", "PHASE", "PHASE MAP"},
    "real": {"R", "REAL"},
    "imaginary": {"I", "IMAGINARY"},
}

_CONVERTED = (
    "UnassignedPerFrameConvertedAttributesSequence",
    "UnassignedSharedConvertedAttributesSequence",
)
"""Where a Legacy Converted Enhanced image keeps what its classic images said."""

_GE, _GE_COMPONENT = "GEMS_PARM_01", 0x2F
_GE_COMPONENTS = {0: "MAGNITUDE", 1: "PHASE", 2: "REAL", 3: "IMAGINARY"}


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
    in_stack : (str, int) tuple
        StackID of a frame of many and its place in that stack; empty and 0 where none is told.
    stored_ends : (2,) tuple of int or None
        Smallest and largest stored value of the file, where its pixels are plain integers.
    packing_holds : bool
        Whether packed pixels can be such, which is looked at in RLE and JPEG 2000.
    component : str
        Part of a complex signal that an attribute of its own tells, such as ``PHASE``; empty where
        none does.
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
    in_stack: tuple[str, int]
    stored_ends: tuple[int, int] | None
    packing_holds: bool
    component: str
    facts: Dataset

    @property
    def identity(self) -> tuple[Hashable, ...]:
        """What two files of one image say alike."""
        plane, spacing_mm = self.plane, self.spacing_mm
        place = None if plane is None else (*plane.position_mm, *plane.row_axis, *plane.column_axis)
        size = None if spacing_mm is None else tuple(spacing_mm)
        kind = (self.image_type, self.signal, self.echo_time_ms, self.temporal_position)
        return self.series, place, size, kind, self.slope, self.intercept

    def told(self, name: str) -> Any:
        """A value of the header; None also where it cannot be read."""
        try:
            return self.facts.get(name)
        except PARSER_ERRORS:
            return None

    @property
    def signal(self) -> str:
        """``magnitude``, ``phase``, ``real`` or ``imaginary``."""
        values = set(self.image_type[2:])  # after ORIGINAL or DERIVED, and PRIMARY or SECONDARY
        letters = {piece for value in values for piece in value.split("_") if len(piece) == 1}
        for signal, tokens in _SIGNALS.items():
            if (values | letters | {self.component}) & tokens:
                return signal
        return "magnitude"

    @property
    def dixon(self) -> str | None:
        """Part of a Dixon acquisition: a key of `DIXON_PARTS`, or None."""
        return dixon_of_type(self.image_type) or _part_named(self._description)

    @property
    def declared_dixon(self) -> str | None:
        """`dixon`, unless only a description tells it that does not speak of Dixon."""
        return dixon_of_type(self.image_type) or dixon_named(self._description)

    @property
    def _description(self) -> str:
        return str(self.facts.get("SeriesDescription", ""))


def dixon_of_type(image_type: Sequence[str]) -> str | None:
    """Part of a Dixon acquisition that an ImageType tells: a key of `DIXON_PARTS`, or None."""
    values = set(image_type[2:])
    return next((part for part, tokens in DIXON_PARTS.items() if values & set(tokens)), None)


def dixon_named(description: str) -> str | None:
    """Part of a Dixon acquisition that a text names: a key of `DIXON_PARTS`, or None.

    It must name the method too: "fat" alone may stand for anything that is done to fat.
    """
    words = re.sub(r"[^A-Za-z]+", " ", description).strip()
    return _part_named(words) if _METHOD.search(words) else None


def _part_named(description: str) -> str | None:
    text = description.lower()
    return next((part for part, words in _DIXON_WORDS.items() if re.search(words, text)), None)


def series_of(header: Dataset) -> str:
    """12 hex digits for the series of a file."""
    return _short_hash(str(header.get("SeriesInstanceUID", "")))


def _short_hash(text: str) -> str:
    """12 hex digits that stand for an identifier."""
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _stored_ends(header: Dataset, pixels: memoryview) -> tuple[int, int] | None:
    if header.BitsAllocated not in (8, 16, 32) or not pixels:
        return None
    _, is_little = header.original_encoding
    kind = "i" if header.get("PixelRepresentation") else "u"
    stored = np.frombuffer(pixels, f"{'<' if is_little else '>'}{kind}{header.BitsAllocated // 8}")
    return int(stored.min()), int(stored.max())


def _packing_holds(frame: memoryview, syntax: str, rows: int, columns: int) -> bool:
    if syntax == RLELossless:
        return rows_come_out(frame, rows, columns)
    return syntax not in (JPEG2000, JPEG2000Lossless) or packets_hold(frame)


def frames_of(path: Path, header: Dataset, pixels: Sequence[memoryview]) -> Iterator[Frame]:
    series = series_of(header)
    rows, columns = int(header.Rows), int(header.get("Columns", 0))
    syntax = header.file_meta.get("TransferSyntaxUID", ImplicitVRLittleEndian)
    stored_ends = _stored_ends(header, pixels[0]) if syntax in NATIVE else None
    holds = all(_packing_holds(one, syntax, rows, columns) for one in pixels)
    shared = next(iter(header.get("SharedFunctionalGroupsSequence", [])), Dataset())
    each = header.get("PerFrameFunctionalGroupsSequence")
    n_frames = count(header, "NumberOfFrames")
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
            in_stack=_in_stack(places),
            stored_ends=stored_ends,
            packing_holds=holds,
            component=_component(places),
            facts=header,
        )


def _plane(places: tuple[Dataset, ...]) -> Plane | None:
    position = _numbers(_found(places, "PlanePositionSequence", "ImagePositionPatient"), 3)
    axes = _numbers(_found(places, "PlaneOrientationSequence", "ImageOrientationPatient"), 6)
    if position is None or axes is None:
        return None
    return Plane(position, axes[:3], axes[3:])


def count(header: Dataset, name: str) -> int:
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
    value = _found(places, "MREchoSequence", "EffectiveEchoTime")
    for sequence in _CONVERTED:
        value = value or _found(places, sequence, "EchoTime")
    return None if value in (None, "") else round(float(value), 3)


def _image_type(places: tuple[Dataset, ...], header: Dataset) -> tuple[str, ...]:
    value = _found(places[:2], "MRImageFrameTypeSequence", "FrameType")
    value = value or header.get("ImageType") or ()
    return tuple(str(one).upper() for one in ([value] if isinstance(value, str) else value))


def _component(places: tuple[Dataset, ...]) -> str:
    """Of the standard's ComplexImageComponent, else of what GE writes in its place."""
    value = _found(places, "MRImageFrameTypeSequence", "ComplexImageComponent")
    if value in (None, ""):
        with suppress(*PARSER_ERRORS):
            number = int(places[-1].private_block(0x0043, _GE)[_GE_COMPONENT].value)
            value = _GE_COMPONENTS[number]
    return str(value or "").upper()


def _temporal_position(places: tuple[Dataset, ...], header: Dataset) -> int | None:
    value = _found(places[:2], "FrameContentSequence", "TemporalPositionIndex")
    value = value or header.get("TemporalPositionIdentifier")
    return None if value in (None, "") else int(value)


def _in_stack(places: tuple[Dataset, ...]) -> tuple[str, int]:
    stack, position = (
        _found(places[:2], "FrameContentSequence", name)
        for name in ("StackID", "InStackPositionNumber")
    )
    return str(stack or ""), int(position or 0)

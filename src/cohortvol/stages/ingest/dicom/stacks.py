"""Frames to stacks, and a stack to a grid that is proven before anything is converted."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from cohortvol.errors import ScanError
from cohortvol.stages.ingest.dicom.frames import Frame, Plane

SAME_POSITION_MM = 0.01
MAX_TILT = 1e-3  # tangent of the angle between the stacking direction and the normal
MAX_STEP_ERROR = 0.02  # of the step between slices
ROUNDED_MM = 0.1  # to which some programs round positions
MIN_GAP = 1.5  # steps, from which a slice is missing
MAX_ASIDE = 0.1  # of a pixel, of a slice beside the line that the others lie on
SAME_AXES = 1e-3  # cosine, and length of a unit axis
SAME_SPACING = 1e-4  # relative
MAX_LOST = 0.25  # of the images of a series that damage explains; beyond, it was made like this

_ASKED = (
    "Modality", "SOPClassUID", "SeriesDescription", "ProtocolName", "SequenceName",
    "BurnedInAnnotation", "ContrastBolusAgent", "NumberOfFrames", "ImagesInAcquisition",
    "LongitudinalTemporalInformationModified", "PatientAge", "PatientSex", "AcquisitionDate",
    "SeriesDate", "StudyDate", "Manufacturer", "ManufacturerModelName", "MagneticFieldStrength",
    "ScanningSequence", "EchoPulseSequence",
)  # fmt: skip
"""What a header is asked for a whole stack; one damaged file must not speak for the others."""

_PIXELS = (
    "SamplesPerPixel", "PhotometricInterpretation", "BitsAllocated", "BitsStored", "HighBit",
    "PixelRepresentation",
)  # fmt: skip
"""What must be the same in all files, as a converter asks one of them for all."""

_TIMES = ("AcquisitionNumber", "TriggerTime", "AcquisitionTime")
"""What tells the phases of a dynamic series apart that has no positions in time."""

_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True)
class Stack:
    """Frames that may be one volume: of one series, echo, kind, time, orientation and matrix.

    Attributes
    ----------
    phase, n_phases : int
        Which one this is, in the order of time, of those alike in all but their time.
    """

    frames: tuple[Frame, ...]
    phase: int = 1
    n_phases: int = 1

    @property
    def first(self) -> Frame:
        """A frame whose header says what most of them say."""
        return self.frames[0]

    @property
    def n_positions(self) -> int:
        """Number of planes; frames at one place count once."""
        planes = (frame.plane for frame in self.frames)
        return len({round(plane.along_mm / SAME_POSITION_MM) for plane in planes if plane})

    @property
    def orientation(self) -> str | None:
        """``sagittal``, ``coronal`` or ``axial``, whichever the slices are nearest to."""
        if self.first.plane is None:
            return None
        nearest = int(np.abs(self.first.plane.normal).argmax())
        return ("sagittal", "coronal", "axial")[nearest]


@dataclass(frozen=True)
class Volume:
    """Frames in order of their positions, on a grid that was checked.

    Attributes
    ----------
    affine : (4, 4) array
        Column, row, slice to RAS+ mm (PS3.3 C.7.6.2.1.1). The distance of slices is that of their
        positions, never SliceThickness.
    is_rounded : bool
        Positions are on this grid as far as they can be, rounded to `ROUNDED_MM`.
    """

    frames: tuple[Frame, ...]
    affine: np.ndarray
    is_rounded: bool

    @property
    def shape(self) -> tuple[int, int, int]:
        """Columns, rows, slices."""
        return self.frames[0].columns, self.frames[0].rows, len(self.frames)


def stacks_of(frames: Sequence[Frame]) -> list[Stack]:
    """Frames by series, echo, image type, time, orientation and matrix; the largest first."""
    groups = defaultdict(list)
    for frame in frames:
        turn = None if frame.plane is None else frame.plane.turn(decimals=2)
        kind = (frame.image_type, frame.signal, frame.echo_time_ms)
        groups[frame.series, kind, turn, frame.rows, frame.columns].append(frame)
    stacks = [
        Stack(_spokesman_first(frames), phase, len(phases))
        for phases in map(_phases, groups.values())
        for phase, frames in enumerate(phases, start=1)
    ]
    alike = defaultdict(list)
    for stack in stacks:
        alike[_but_for_time(stack)].append(stack)
    numbered = [stack for group in alike.values() for stack in _over_series(group)]
    return sorted(numbered, key=lambda stack: (-len(stack.frames), stack.first.path.name))


def _but_for_time(stack: Stack) -> Hashable:
    """What the phases of a dynamic acquisition have in common where each is a series of its own.

    Numbers in descriptions may count the phases. A stack that has phases, or no places, is alone.
    """
    first = stack.first
    if stack.n_phases > 1 or first.plane is None or first.spacing_mm is None:
        return id(stack)
    told = [str(first.told(name) or "") for name in ("SeriesDescription", "ProtocolName")]
    kind = (first.image_type, first.signal, first.echo_time_ms, first.told("FrameOfReferenceUID"))
    places = sorted(tuple(f.plane.position_mm.round(1)) for f in stack.frames if f.plane)
    size = (first.rows, first.columns, *first.spacing_mm.round(3), first.plane.turn(decimals=2))
    return (*kind, *(re.sub(r"\d+", "", words) for words in told), *size, *places)


def _over_series(stacks: Sequence[Stack]) -> Sequence[Stack]:
    """Stacks alike but for series and time as phases, if each was acquired at a time of its own."""
    begun = {when: stack for stack in stacks if (when := _begun(stack)) is not None}
    if len(begun) < len(stacks) or len(stacks) == 1:
        return stacks
    return [
        replace(begun[when], phase=phase, n_phases=len(begun))
        for phase, when in enumerate(sorted(begun), start=1)
    ]


def _begun(stack: Stack) -> float | None:
    """When the first of its frames was acquired, in an order of its own."""
    said = (f.told("AcquisitionTime") or f.told("AcquisitionDateTime") for f in stack.frames)
    times = [time for time in map(_in_order, said) if time is not None]
    return min(times, default=None)


def _phases(frames: Sequence[Frame]) -> list[list[Frame]]:
    """The frames by time: by the position in time that they tell, else, where several lie at one
    place, by the number or the time of the acquisition if that leaves one at each.
    """
    numbered = _by([frame.temporal_position for frame in frames], frames)
    if len(numbered) > 1 or _one_at_each_place(frames):
        return numbered
    for name in _TIMES:
        phases = _by([_in_order(frame.told(name)) for frame in frames], frames)
        if all(len(phase) > 1 and _one_at_each_place(phase) for phase in phases):
            return phases
    return [list(frames)]


def _by(values: Sequence[float | None], frames: Sequence[Frame]) -> list[list[Frame]]:
    """Frames with one value each, in the order of the values; none is the first."""
    found = defaultdict(list)
    for value, frame in zip(values, frames, strict=True):
        found[-np.inf if value is None else value].append(frame)
    return [found[value] for value in sorted(found)]


def _in_order(value: object) -> float | None:
    """A number, or a time of day as DICOM writes it, in an order of its own."""
    try:
        number = float(str(value))
    except ValueError:
        return None
    return number if np.isfinite(number) else None


def _one_at_each_place(frames: Sequence[Frame]) -> bool:
    planes = [frame.plane for frame in frames if frame.plane is not None]
    places = {round(plane.along_mm / SAME_POSITION_MM) for plane in planes}
    return len(places) == len(planes)


def _spokesman_first(frames: Sequence[Frame]) -> tuple[Frame, ...]:
    """The frames, first of them one that says what most of them say."""
    said = [_said(frame, _ASKED) for frame in frames]
    spokesman = frames[said.index(Counter(said).most_common(1)[0][0])]
    return spokesman, *(frame for frame in frames if frame is not spokesman)


def _said(frame: Frame, names: Sequence[str]) -> tuple[Hashable, ...]:
    """Values as they are stored, not parsed: thousands of files are asked."""
    elements = (frame.facts.get_item(name) for name in names)
    return tuple(None if element is None else str(element.value) for element in elements)


def ordered(stack: Stack) -> Volume:
    """The stack as a volume, sorted by position and never by name or number.

    Raises
    ------
    ScanError
        ``GEO_NO_XFORM``, ``GEO_PIXDIM``, ``IMG_RGB``, ``IMG_TOO_FEW_SLICES``,
        ``DCM_UNREADABLE_FILE`` where slices contradict each other, ``DCM_DUPLICATE_POSITION``,
        ``DCM_TILT``, ``DCM_MISSING_SLICE`` or ``DCM_SPACING_IRREGULAR``.
    """
    placed = [(frame.plane, frame) for frame in stack.frames if frame.plane is not None]
    if len(placed) < len(stack.frames):
        raise ScanError("GEO_NO_XFORM", "no position or orientation of the slices")
    spacing_mm = stack.first.spacing_mm
    if spacing_mm is None or not (spacing_mm > 0).all():
        raise ScanError("GEO_PIXDIM", "no PixelSpacing above 0")
    if stack.first.facts.get("SamplesPerPixel", 1) != 1:
        raise ScanError("IMG_RGB")
    if len(placed) == 1:
        raise ScanError("IMG_TOO_FEW_SLICES", "1 slice")
    placed.sort(key=lambda pair: pair[0].along_mm)
    planes = [plane for plane, _ in placed]
    _check_agreement([frame for _, frame in placed], planes)
    is_rounded = _check_steps(planes)
    _check_line(planes, MAX_ASIDE * float(spacing_mm.min()))
    affine = np.eye(4)
    affine[:3, 0] = planes[0].row_axis * spacing_mm[1]
    affine[:3, 1] = planes[0].column_axis * spacing_mm[0]
    affine[:3, 2] = (planes[-1].position_mm - planes[0].position_mm) / (len(planes) - 1)
    affine[:3, 3] = planes[0].position_mm
    return Volume(tuple(frame for _, frame in placed), _LPS_TO_RAS @ affine, is_rounded)


def _check_agreement(frames: Sequence[Frame], planes: Sequence[Plane]) -> None:
    """The slices agree on what holds for the whole volume: pixels, their distances, the axes."""
    for name in _PIXELS:
        values = Counter(str(frame.told(name)) for frame in frames)
        _all_agree(name, values.most_common(1)[0][1], len(frames))
    spacings = np.array([[0, 0] if f.spacing_mm is None else f.spacing_mm for f in frames])
    usual = np.median(spacings, axis=0)
    equal = (np.abs(spacings - usual) <= SAME_SPACING * usual).all(axis=1)
    _all_agree("PixelSpacing", int(equal.sum()), len(frames))
    axes = np.array([[plane.row_axis, plane.column_axis] for plane in planes])
    equal = (np.abs(axes - np.median(axes, axis=0)) <= SAME_AXES).all(axis=(1, 2))
    _all_agree("ImageOrientationPatient", int(equal.sum()), len(frames))
    if np.abs(axes[0] @ axes[0].T - np.eye(2)).max() > SAME_AXES:
        detail = "ImageOrientationPatient is not two axes of length 1 at right angles"
        raise ScanError("DCM_UNREADABLE_FILE", detail)


def _all_agree(name: str, n_equal: int, n: int) -> None:
    if n_equal < n:
        detail = f"{n - n_equal} of {n} slices have another {name} than the others"
        raise ScanError("DCM_UNREADABLE_FILE", detail)


def _check_line(planes: Sequence[Plane], most_mm: float) -> None:
    """No slice lies beside the line from the first to the last."""
    positions = np.array([plane.position_mm for plane in planes])
    along = positions[-1] - positions[0]
    away = positions - positions[0]
    aside = away - np.outer(away @ along, along) / (along @ along)
    distance_mm = float(np.linalg.norm(aside, axis=1).max())
    if distance_mm > most_mm:
        raise ScanError("DCM_SPACING_IRREGULAR", f"a slice lies {distance_mm:.2f} mm aside")


def _check_steps(planes: Sequence[Plane]) -> bool:
    """Whether steps are equal but for the rounding of positions; ScanError where they are not."""
    along = np.array([plane.along_mm for plane in planes])
    steps = np.diff(along)
    n_doubled = int((steps < SAME_POSITION_MM).sum())
    if n_doubled:
        raise ScanError(
            "DCM_DUPLICATE_POSITION", f"{n_doubled + 1} or more of {len(along)} slices at one place"
        )
    moved = planes[-1].position_mm - planes[0].position_mm
    sideways = moved - (along[-1] - along[0]) * planes[0].normal
    tilt = float(np.linalg.norm(sideways) / (along[-1] - along[0]))
    if tilt > MAX_TILT:
        raise ScanError("DCM_TILT", f"{np.degrees(np.arctan(tilt)):.2f} degrees")
    usual = float(np.median(steps))
    gaps = np.round(steps / usual)
    whole = np.abs(steps - gaps * usual) <= 2 * MAX_STEP_ERROR * usual
    if (steps > MIN_GAP * usual).any() and whole.all():
        n_missing = int((gaps - 1).sum())
        raise ScanError("DCM_MISSING_SLICE", f"{n_missing} missing between {len(along)} slices")
    is_even = np.abs(steps - usual).max() <= MAX_STEP_ERROR * usual
    if not is_even and not _are_rounded(planes):
        raise ScanError(
            "DCM_SPACING_IRREGULAR", f"steps of {steps.min():.3f} to {steps.max():.3f} mm"
        )
    return not is_even


def _are_rounded(planes: Sequence[Plane]) -> bool:
    """Whether positions are rounded, and lie as near the grid of first and last as such can.

    Each is off by half a unit at the most, and so are the ends.
    """
    positions = np.array([plane.position_mm for plane in planes])
    units = positions / ROUNDED_MM
    even = np.linspace(positions[0], positions[-1], len(positions))
    return bool(
        np.allclose(units, np.round(units), rtol=0, atol=1e-4)
        and np.abs(positions - even).max() < ROUNDED_MM * (1 + 1e-6)
    )

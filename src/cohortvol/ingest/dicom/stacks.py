"""Frames to stacks, and a stack to a grid that is proven before anything is converted."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cohortvol.errors import ScanError
from cohortvol.ingest.dicom.frames import Frame, Plane

SAME_POSITION_MM = 0.01
MAX_TILT = 1e-3  # tangent of the angle between the stacking direction and the normal
MAX_STEP_ERROR = 0.02  # of the step between slices
MIN_GAP = 1.5  # steps, from which a slice is missing

_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True)
class Stack:
    """Frames that may be one volume: of one series, echo, kind, time, orientation and matrix."""

    frames: tuple[Frame, ...]

    @property
    def first(self) -> Frame:
        """Any frame; what is asked of it holds for all."""
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
    """

    frames: tuple[Frame, ...]
    affine: np.ndarray

    @property
    def shape(self) -> tuple[int, int, int]:
        """Columns, rows, slices."""
        return self.frames[0].columns, self.frames[0].rows, len(self.frames)


def stacks_of(frames: Sequence[Frame]) -> list[Stack]:
    """Frames by series, echo, image type, time, orientation and matrix; the largest first."""
    groups = defaultdict(list)
    for frame in frames:
        turn = None if frame.plane is None else frame.plane.turn(decimals=2)
        kind = (frame.image_type, frame.echo_time_ms, frame.temporal_position)
        groups[frame.series, kind, turn, frame.rows, frame.columns].append(frame)
    stacks = [Stack(tuple(group)) for group in groups.values()]
    return sorted(stacks, key=lambda stack: (-len(stack.frames), stack.first.path.name))


def ordered(stack: Stack) -> Volume:
    """The stack as a volume, sorted by position and never by name or number.

    Raises
    ------
    ScanError
        ``GEO_NO_XFORM``, ``GEO_PIXDIM``, ``IMG_RGB``, ``IMG_TOO_FEW_SLICES``,
        ``DCM_DUPLICATE_POSITION``, ``DCM_TILT``, ``DCM_MISSING_SLICE`` or
        ``DCM_SPACING_IRREGULAR``.
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
    _check_steps(planes)
    affine = np.eye(4)
    affine[:3, 0] = planes[0].row_axis * spacing_mm[1]
    affine[:3, 1] = planes[0].column_axis * spacing_mm[0]
    affine[:3, 2] = (planes[-1].position_mm - planes[0].position_mm) / (len(planes) - 1)
    affine[:3, 3] = planes[0].position_mm
    return Volume(tuple(frame for _, frame in placed), _LPS_TO_RAS @ affine)


def _check_steps(planes: Sequence[Plane]) -> None:
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
    if np.abs(steps - usual).max() > MAX_STEP_ERROR * usual:
        raise ScanError(
            "DCM_SPACING_IRREGULAR", f"steps of {steps.min():.3f} to {steps.max():.3f} mm"
        )

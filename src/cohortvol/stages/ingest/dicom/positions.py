"""Which stacks are one body in several table positions, by what headers say of place and kind."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import combinations, pairwise
from typing import Any

import numpy as np

from cohortvol.errors import ScanError
from cohortvol.stages.ingest.dicom.frames import Frame
from cohortvol.stages.ingest.dicom.stacks import SAME_AXES, SAME_SPACING, Stack, ordered

MOST_OVERLAP = 0.6  # of the shorter station; beyond, one place was imaged twice
LONGEST_GAP = 1.0  # of the longest station, so that one at most is missing
SAME_TIME_MS = 0.1  # of two echoes
_LEAST_SLICES = 2
_MOST_ASIDE = 0.1  # of the width of an image, by which stations may lie beside each other


@dataclass(frozen=True)
class _Extent:
    """A stack with the heights, mm, of its outer faces along its normal."""

    stack: Stack
    low: float
    high: float

    @property
    def length(self) -> float:
        return self.high - self.low

    def overlap(self, other: _Extent) -> float:
        """Length in common, mm; below 0 what lies between the two."""
        return min(self.high, other.high) - max(self.low, other.low)


def stations_in(stack: Stack) -> tuple[Stack, ...]:
    """The stack divided where its places turn back, or where frames of one file say that another
    stack begins; as it is where that makes no regular volumes.

    Frames are taken in the order of their numbers, in which they were acquired, those of several
    stacks in theirs. Only a stack that is no regular volume is divided, and never at a mere jump
    ahead: that is a missing slice.
    """
    is_one = len({frame.in_stack[0] for frame in stack.frames}) == 1
    frames = sorted(stack.frames, key=_number if is_one else lambda frame: frame.in_stack)
    along = np.array([frame.plane.along_mm for frame in frames if frame.plane])
    if len(along) < len(frames) or len(along) < 2 * _LEAST_SLICES or _is_regular(stack):
        return (stack,)
    steps = np.diff(along)
    turns = steps * np.median(steps) <= 0
    begins = np.array([a.in_stack[0] != b.in_stack[0] for a, b in pairwise(frames)])
    breaks = np.flatnonzero(turns | begins) + 1
    bounds = pairwise([0, *breaks, len(frames)])
    runs = tuple(Stack(tuple(frames[first:last])) for first, last in bounds)
    return runs if all(map(_is_regular, runs)) else (stack,)


def _is_regular(stack: Stack) -> bool:
    try:
        ordered(stack)
    except ScanError:
        return False
    return True


def _number(frame: Frame) -> tuple[int, int]:
    with suppress(TypeError, ValueError):
        return int(frame.told("InstanceNumber")), frame.index
    return 0, frame.index


def one_body(stacks: Sequence[Stack]) -> tuple[Stack, ...] | None:
    """Stacks in the order of their places, if these are what a body in several positions has.

    Returns
    -------
    tuple of Stack, or None
        None where they are no stations of each other: of another kind, orientation or pixel
        spacing, or all at one place.

    Raises
    ------
    ScanError
        ``DCM_STATIONS_UNCLEAR`` where some are stations and something speaks against a body:
        a station that is there twice, two people or frames of reference, too long a gap.
    """
    extents = _extents(stacks)
    if extents is None or len(extents) < 2:
        return None
    first, *others = (extent.stack for extent in extents)
    if not all(_alike(first.first, other.first) for other in others):
        return None
    twice = [pair for pair in combinations(extents, 2) if _is_twice(*pair)]
    if len(twice) == len(extents) * (len(extents) - 1) // 2:
        return None  # phases, echoes or reconstructions of one place
    if twice:
        a, b = twice[0]
        raise _unclear(f"a station is there twice, {_where(a)} and {_where(b)}")
    for name, what in (("PatientID", "people"), ("FrameOfReferenceUID", "frames of reference")):
        n_values = len({str(extent.stack.first.told(name) or "") for extent in extents})
        if n_values > 1:
            raise _unclear(f"stations of {n_values} {what}")
    longest = max(extent.length for extent in extents)
    for a, b in pairwise(extents):
        if -a.overlap(b) > LONGEST_GAP * longest:
            raise _unclear(f"{-a.overlap(b):.0f} mm lie between {_where(a)} and {_where(b)}")
    return tuple(extent.stack for extent in extents)


def check_contrasts(chosen: Sequence[Stack], others: Iterable[Stack]) -> None:
    """Raise where another contrast of the acquisition has a station that the chosen one lacks.

    Raises
    ------
    ScanError
        ``DCM_STATION_MISSING``.
    """
    have = _extents(chosen)
    part = chosen[0].first.dixon
    if have is None or part is None:
        return
    for other in others:
        theirs = _extents([other])
        if theirs is None or other.first.dixon in (None, part) or not _on_axes(chosen[0], other):
            continue
        if not any(_is_twice(theirs[0], one) for one in have):
            told = f"{other.first.dixon} has a station {_where(theirs[0])}, {part} has none there"
            raise ScanError("DCM_STATION_MISSING", told)


def check_number(n: int, wanted: str | int) -> None:
    """Raise ``DCM_STATIONS_UNCLEAR`` where stations are refused, ``DCM_STATION_MISSING`` where
    there are fewer or more than asked for."""
    if n > 1 and wanted == "refuse":
        raise _unclear(f"{n} stations, and ingest.stations is refuse")
    if isinstance(wanted, int) and n != wanted:
        raise ScanError("DCM_STATION_MISSING", f"{n} stations, of {wanted}")


def _unclear(detail: str) -> ScanError:
    return ScanError("DCM_STATIONS_UNCLEAR", detail)


def _where(extent: _Extent) -> str:
    return f"from {extent.low:.0f} to {extent.high:.0f} mm"


def _is_twice(a: _Extent, b: _Extent) -> bool:
    return a.overlap(b) > MOST_OVERLAP * min(a.length, b.length)


def _extents(stacks: Sequence[Stack]) -> list[_Extent] | None:
    """In the order of their places; None if one has no places, or has not the axes of the first."""
    extents = []
    for stack in stacks:
        if not all(frame.plane for frame in stack.frames) or not _on_axes(stacks[0], stack):
            return None
        along = sorted({frame.plane.along_mm for frame in stack.frames if frame.plane})
        if len(along) < _LEAST_SLICES:
            return None
        half = float(np.median(np.diff(along))) / 2
        extents.append(_Extent(stack, along[0] - half, along[-1] + half))
    return sorted(extents, key=lambda extent: extent.low)


def _on_axes(one: Stack, other: Stack) -> bool:
    """Whether planes are parallel, of one pixel spacing, and columns go on in each other."""
    a, b = one.first, other.first
    if a.plane is None or b.plane is None or a.spacing_mm is None or b.spacing_mm is None:
        return False
    turned = np.abs(np.array(a.plane.turn(6)) - b.plane.turn(6)).max()
    away = b.plane.position_mm - a.plane.position_mm
    aside = np.abs([away @ a.plane.row_axis, away @ a.plane.column_axis])
    extent = a.spacing_mm[::-1] * (a.columns, a.rows)
    return bool(
        turned <= SAME_AXES
        and np.allclose(a.spacing_mm, b.spacing_mm, rtol=SAME_SPACING)
        and (aside < _MOST_ASIDE * extent).all()
    )


_KIND: tuple[Callable[[Frame], Any], ...] = (
    lambda frame: frame.image_type,
    lambda frame: frame.told("Modality"),
    lambda frame: str(frame.told("ScanningSequence")),
    lambda frame: frame.dixon,
    lambda frame: bool(str(frame.told("ContrastBolusAgent") or "").strip()),
    lambda frame: frame.temporal_position,
)


def _alike(a: Frame, b: Frame) -> bool:
    apart = (a.echo_time_ms or 0.0) - (b.echo_time_ms or 0.0)
    return abs(apart) <= SAME_TIME_MS and all(value(a) == value(b) for value in _KIND)

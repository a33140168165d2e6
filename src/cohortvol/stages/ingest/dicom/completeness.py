"""Every file of a folder accounted for, and no slice of the scan among those left out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset

from cohortvol.errors import ScanError
from cohortvol.stages.ingest.dicom.choice import Choice
from cohortvol.stages.ingest.dicom.folder import Folder
from cohortvol.stages.ingest.dicom.frames import Frame
from cohortvol.stages.ingest.dicom.stacks import MAX_LOST, SAME_AXES, SAME_SPACING, Stack, Volume
from cohortvol.store.keys import is_hidden

WITHIN = 0.5  # steps beyond an end that are still its slice
REACH = 1.5  # steps beyond an end, within which a slice that was left out goes on
_TOO_SMALL = {"IMG_TOO_FEW_SLICES", "DCM_NOT_WANTED"}
"""Reasons that say nothing of the kind of a stack: one slice of the scan may get them."""

_PHILIPS, _N_SLICES = "Philips Imaging DD 001", 0x18


def account(folder: Folder) -> list[dict[str, Any]]:
    """Rows of the table SERIES, without ``scan_id``, for the files that are in no stack."""
    kinds: Counter[tuple[str, str | None]] = Counter()
    kinds["DCM_NO_IMAGE", None] = folder.n_other
    kinds["DCM_FOREIGN_FILE", None] = folder.n_foreign
    kinds["W_DUPLICATE_FILE", None] = folder.copies.total()
    kinds.update((one.error.reason, one.series) for one in folder.damaged)
    return [
        {"series": series, "n_images": n, "chosen": False, "reason": reason}
        for (reason, series), n in kinds.items()
        if n
    ]


def check_damage(folder: Folder, choice: Choice) -> None:
    """Refuse a folder with a damaged file that may be a slice of the scan.

    It is of another series where its header can be read to the end, intact files are of that series
    too, and they are another kind of image.

    Raises
    ------
    ScanError
        ``DCM_UNREADABLE_FILE`` or ``SRC_TRUNCATED``, whichever the first such file has.
    """
    kinds: dict[str, set[str | None]] = {}
    for row in choice.series:
        kinds.setdefault(row["series"], set()).add(row["reason"])
    elsewhere = {
        series
        for series, reasons in kinds.items()
        if not reasons & {None, "DCM_AMBIGUOUS_SERIES", "IMG_TOO_FEW_SLICES"}
    }
    suspects = [one for one in folder.damaged if one.series not in elsewhere]
    if suspects:
        first = suspects[0]
        n = len(folder.frames) + len(folder.damaged)
        named = "" if is_hidden(first.path) else f"{first.path.name}: "
        detail = named + first.error.detail
        more = f"{detail}; {len(suspects)} damaged among {n} images" if n > 1 else detail
        raise ScanError(first.error.reason, more)


def check_complete(
    volumes: Sequence[Volume], stacks: Sequence[Stack], folder: Folder, choice: Choice
) -> list[str]:
    """Whether a slice of the scan lies elsewhere in the folder, or is not there at all.

    Parameters
    ----------
    volumes : sequence of Volume
        The scan, or each of its stations.
    stacks, folder, choice
        All that was found.

    Returns
    -------
    list of str
        ``DCM_COUNT_UNUSUAL`` where the number of slices is in doubt, ``W_DUPLICATE_FILE``.

    Raises
    ------
    ScanError
        ``DCM_MISSING_SLICE`` if a slice that goes on with the stack was left out of it;
        ``DCM_DUPLICATE_POSITION`` if an instance of the scan has two contents;
        ``DCM_UNREADABLE_FILE`` if the pixels of some are not what the header says.
    """
    of_series: dict[str, list[Frame]] = {}
    for stack in choice.chosen:
        of_series.setdefault(stack.first.series, []).extend(stack.frames)
    taken = {(frame.path, frame.index) for frames in of_series.values() for frame in frames}
    others = [
        frame
        for stack in stacks
        for frame in stack.frames
        if (frame.path, frame.index) not in taken
    ]
    n_in_series = Counter(frame.series for frame in others)
    left_out = [
        frame
        for frame in others
        if any(_goes_on(frame, one, n_in_series) for one in volumes)
        and not any(_is_within(frame, one) for one in volumes)
    ]
    codes: list[str] = []
    for frames in of_series.values():
        chosen = Stack(tuple(frames))
        _check_instances(chosen, others)
        _check_pixels(chosen)
        codes += _doubts(chosen, others, folder, choice)
    if left_out:
        detail = f"{len(left_out)} slices that go on with the stack have other headers"
        raise ScanError("DCM_MISSING_SLICE", detail)
    return list(dict.fromkeys(codes))


def _doubts(chosen: Stack, others: Sequence[Frame], folder: Folder, choice: Choice) -> list[str]:
    """``W_DUPLICATE_FILE`` and ``DCM_COUNT_UNUSUAL`` of the frames of one series."""
    n_in_series = Counter(frame.series for frame in others)
    are_copied = any(frame.path in folder.copies for frame in chosen.frames)
    codes = ["W_DUPLICATE_FILE"] if are_copied else []
    proven = _promised(chosen, n_in_series[chosen.first.series])
    in_doubt = (
        not proven
        if proven is not None
        else _copied_in_part(chosen, folder.copies)
        or _has_a_lone_image(choice, n_in_series)
        or _numbers_are_missing(chosen, others)
    )
    return [*codes, "DCM_COUNT_UNUSUAL"] if in_doubt else codes


def _check_instances(chosen: Stack, others: Iterable[Frame]) -> None:
    """No other file has the instance UID of a slice: copies of equal bytes were set apart before.

    UIDs that most files share were written by a program that makes none of its own.
    """
    uids = {
        frame.path: str(frame.told("SOPInstanceUID") or frame.path)
        for frame in (*chosen.frames, *others)
    }
    n_files = Counter(uids.values())
    paths = {frame.path for frame in chosen.frames}
    doubled = sum(n_files[uids[path]] > 1 for path in paths)
    if 0 < doubled <= MAX_LOST * len(paths):
        detail = f"{doubled} of {len(paths)} images have a second content under their UID"
        raise ScanError("DCM_DUPLICATE_POSITION", detail)


def _check_pixels(chosen: Stack) -> None:
    """Where the pixels of most slices keep to a rule, those of the others were changed."""
    for name, holds in _PIXEL_RULES.items():
        n_broken = sum(not holds(frame) for frame in chosen.frames)
        if 0 < n_broken <= MAX_LOST * len(chosen.frames):
            detail = f"the pixels of {n_broken} of {len(chosen.frames)} slices break {name}"
            raise ScanError("DCM_UNREADABLE_FILE", detail)


def _keeps_to_its_bits(frame: Frame) -> bool:
    if frame.stored_ends is None:
        return True
    low, high = frame.stored_ends
    span = 1 << int(frame.told("BitsStored") or 0)
    least, most = (-span // 2, span // 2) if frame.told("PixelRepresentation") else (0, span)
    return least <= low and high < most


def _has_its_end(frame: Frame, name: str, end: int) -> bool:
    return frame.stored_ends is None or frame.told(name) in (None, frame.stored_ends[end])


_PIXEL_RULES: dict[str, Callable[[Frame], bool]] = {
    "BitsStored": _keeps_to_its_bits,
    "SmallestImagePixelValue": lambda frame: _has_its_end(frame, "SmallestImagePixelValue", 0),
    "LargestImagePixelValue": lambda frame: _has_its_end(frame, "LargestImagePixelValue", 1),
    "their packing": lambda frame: frame.packing_holds,
}


def _goes_on(frame: Frame, volume: Volume, n_in_series: Counter[str]) -> bool:
    """Whether a frame lies where the next slice would.

    One of the same series, of whatever echo, kind or time, or that has lost its position; or one
    that is alone in its series, on the same axes and pixels.
    """
    first, beyond = volume.frames[0], _beyond(frame, volume)
    if beyond is None:
        return frame.series == first.series
    if frame.series != first.series and not (
        n_in_series[frame.series] == 1 and _on_its_axes(frame, first)
    ):
        return False
    return WITHIN < beyond < REACH


def _is_within(frame: Frame, volume: Volume) -> bool:
    """Whether a volume has a slice there, so that none is missing: the next station of a body."""
    beyond = _beyond(frame, volume)
    return beyond is not None and beyond <= WITHIN


def _beyond(frame: Frame, volume: Volume) -> float | None:
    """Steps from the nearer end of a volume to a frame, below 0 inside; None where places lack."""
    first, last = volume.frames[0].plane, volume.frames[-1].plane
    if frame.plane is None or first is None or last is None:
        return None
    ends = [float(one.position_mm @ first.normal) for one in (first, last)]
    step = (ends[1] - ends[0]) / (len(volume.frames) - 1)
    place = float(frame.plane.position_mm @ first.normal)
    return max(ends[0] - place, place - ends[1]) / step


def _on_its_axes(frame: Frame, first: Frame) -> bool:
    if frame.plane is None or first.plane is None:
        return False
    if frame.spacing_mm is None or first.spacing_mm is None:
        return False
    axes, expected = frame.plane.turn(decimals=6), first.plane.turn(decimals=6)
    return (
        (frame.rows, frame.columns) == (first.rows, first.columns)
        and np.allclose(axes, expected, rtol=0, atol=SAME_AXES)
        and np.allclose(frame.spacing_mm, first.spacing_mm, rtol=SAME_SPACING)
    )


def _promised(chosen: Stack, n_others_in_series: int) -> bool | None:
    """Whether there are as many slices as a header promises; None where none does."""
    n = len(chosen.frames)
    facts = chosen.first.facts
    if int(facts.get("NumberOfFrames") or 1) > 1:
        return None  # of a file of many frames they have been counted
    images = _whole(facts.get("ImagesInAcquisition"))
    if images is not None:
        return images in (n, n + n_others_in_series)
    slices = _whole(_n_slices_philips(facts))
    return None if slices is None else slices == chosen.n_positions


def _n_slices_philips(facts: Dataset) -> Any:
    try:
        return facts.private_block(0x2001, _PHILIPS)[_N_SLICES].value
    except KeyError:
        return None


def _whole(value: Any) -> int | None:
    try:
        return int(value) or None
    except (TypeError, ValueError):
        return None


def _copied_in_part(chosen: Stack, copies: Counter[Path]) -> bool:
    """Whether some files of the scan are there more often than others.

    Whoever copies a folder copies all of it; one file that is there twice may stand in the place
    of another slice.
    """
    return len({copies[frame.path] for frame in chosen.frames}) > 1


def _has_a_lone_image(choice: Choice, n_in_series: Counter[str]) -> bool:
    """Whether there is one image of another series that is no other kind of image."""
    return any(
        row["reason"] in _TOO_SMALL and n_in_series[row["series"]] == 1 for row in choice.series
    )


def _numbers_are_missing(chosen: Stack, others: Iterable[Frame]) -> bool:
    """Whether a few of the numbers from 1 to the highest are missing in the series.

    A series whose numbers start far from 1, or of which most are missing, was cut on purpose or
    numbered in another way; numbers that repeat count something else.
    """
    series = [frame for frame in others if frame.series == chosen.first.series]
    files = {frame.path: frame for frame in (*chosen.frames, *series)}
    numbers = [_whole(frame.told("InstanceNumber")) for frame in files.values()]
    known = [number for number in numbers if number is not None]
    if len(known) < len(files) or len(set(known)) < len(known):
        return False
    n_missing = max(known) - len(known)
    return 0 < n_missing <= MAX_LOST * len(known)

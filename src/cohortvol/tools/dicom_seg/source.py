"""The images that a label map was made of, found again in their DICOM folder, slice by slice."""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.sequence import Sequence
from pydicom.uid import generate_uid

from cohortvol.errors import ScanError
from cohortvol.store.archives import is_archive

MAX_AHEAD, MAX_ASIDE = 0.25, 0.15
"""How far a corner of a slice may lie from where the label map has it: along the stack, as a share
of the step, since ingest lets steps vary a little; and beside it, as a share of a pixel."""
_CONVERTED = (
    "UnassignedPerFrameConvertedAttributesSequence",
    "UnassignedSharedConvertedAttributesSequence",
)
_RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
_NEEDED = ("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "StudyID",
           "AccessionNumber", "StudyDate", "StudyTime", "ReferringPhysicianName")  # fmt: skip
"""What every object of a study has, be it empty; de-identified images may lack it."""
_UNREADABLE = (
    InvalidDicomError, ArithmeticError, AttributeError, EOFError, LookupError,
    NotImplementedError, TypeError, ValueError,
)  # fmt: skip


@dataclass(frozen=True)
class Chosen:
    """What ingest says of the series it took: a row of ``ingest/series/<shard>``."""

    series: str
    image_type: str
    echo_time_ms: float | None


@dataclass(frozen=True)
class Slices:
    """Images of a scan on the grid of its label map.

    Attributes
    ----------
    images : list of Dataset
        Headers: one for each slice, or the one of a file that holds them all.
    positions_mm : (K, 3) array
        Centre of the first voxel of each slice, in DICOM's LPS+ axes, as its header says.
    axes : (6,) array
        ImageOrientationPatient.
    spacing_mm : (2,) array
        Between rows, and between columns.
    thickness_mm, step_mm : float
        SliceThickness, and the distance of slices.
    """

    images: list[Dataset]
    positions_mm: np.ndarray
    axes: np.ndarray
    spacing_mm: np.ndarray
    thickness_mm: float
    step_mm: float


@dataclass(frozen=True)
class _Frame:
    image: Dataset
    position_mm: np.ndarray
    axes: np.ndarray
    spacing_mm: np.ndarray
    thickness_mm: float | None
    echo_time_ms: float | None
    image_type: str
    time: int | None


def find_slices(
    folder: Path, chosen: Chosen, shape: tuple[int, int, int], affine: np.ndarray
) -> Slices:
    """The images of a label map.

    Parameters
    ----------
    folder : Path
        What the manifest names: a folder, looked through to its depths, or a file.
    shape : (3,) tuple of int
        Columns, rows and slices of the label map.
    affine : (4, 4) array
        Its voxels to RAS+ mm.

    Raises
    ------
    ScanError
        ``SRC_MISSING``, ``SRC_PERMISSION``; ``DCM_MISSING_SLICE`` or ``DCM_AMBIGUOUS_SERIES`` where
        there are fewer or more images than slices; ``SRC_UNSUPPORTED_FORMAT`` of an archive;
        ``SRC_CHANGED`` where they lie elsewhere;
        ``DCM_NO_UID`` where nothing can refer to them.
    """
    if not folder.exists():
        raise ScanError("SRC_MISSING")
    if is_archive(folder):
        raise ScanError("SRC_UNSUPPORTED_FORMAT", "an archive, whose images cannot be referred to")
    groups: dict[int | None, list[_Frame]] = defaultdict(list)
    seen = set()
    for path in _files(folder):
        image = _header(path, chosen.series)
        for frame in [] if image is None else _frames(image):
            same = frame.image.get("SOPInstanceUID"), frame.time, tuple(frame.position_mm)
            if _fits(frame, chosen, shape) and same not in seen:  # a file may be there twice
                seen.add(same)
                groups[frame.time].append(frame)
    if not groups:
        raise ScanError("SRC_MISSING", "no image of the series that was segmented")
    whole = [frames for frames in groups.values() if len(frames) == shape[2]]
    if len(whole) != 1:
        n = max(map(len, groups.values()))
        code = "DCM_MISSING_SLICE" if n < shape[2] else "DCM_AMBIGUOUS_SERIES"
        raise ScanError(code, f"{n} images of {shape[2]} slices")
    return _on_the_grid(whole[0], shape, affine)


def _files(folder: Path) -> Iterator[Path]:
    if not folder.is_dir():
        yield folder
        return

    def refuse(error: OSError) -> None:
        raise ScanError("SRC_PERMISSION", "a folder that may not be read") from error

    for place, folders, names in os.walk(folder, onerror=refuse):
        folders.sort()
        yield from (Path(place) / name for name in sorted(names))


def _header(path: Path, series: str) -> Dataset | None:
    """Header of an image of a series, given as 12 hex digits of the hash of its UID."""
    if not path.is_file():
        return None
    try:
        image = pydicom.dcmread(path, stop_before_pixels=True, force=True)
        uid = str(image.get("SeriesInstanceUID", ""))
        if hashlib.sha256(uid.encode()).hexdigest()[:12] != series or "Rows" not in image:
            return None
    except PermissionError:
        raise ScanError("SRC_PERMISSION") from None
    except _UNREADABLE:
        return None
    return image


def _frames(image: Dataset) -> Iterator[_Frame]:
    shared = next(iter(image.get("SharedFunctionalGroupsSequence", [])), Dataset())
    for own in image.get("PerFrameFunctionalGroupsSequence") or [Dataset()]:
        places = (own, shared)
        position = _found(image, places, "PlanePositionSequence", "ImagePositionPatient")
        axes = _found(image, places, "PlaneOrientationSequence", "ImageOrientationPatient")
        spacing = _found(image, places, "PixelMeasuresSequence", "PixelSpacing")
        if None in (position, axes, spacing):
            continue
        thickness = _found(image, places, "PixelMeasuresSequence", "SliceThickness")
        echo = _found(image, places, "MREchoSequence", "EffectiveEchoTime")
        for sequence in _CONVERTED:
            echo = echo or _found(image, places, sequence, "EchoTime")
        kind = _found(image, places, "MRImageFrameTypeSequence", "FrameType")
        kind = kind or image.get("ImageType") or ()
        time = _found(image, places, "FrameContentSequence", "TemporalPositionIndex")
        time = time or image.get("TemporalPositionIdentifier")
        yield _Frame(
            image=image,
            position_mm=np.array(position, float),
            axes=np.array(axes, float),
            spacing_mm=np.array(spacing, float),
            thickness_mm=None if thickness in (None, "") else float(thickness),
            echo_time_ms=None if echo in (None, "") else round(float(echo), 3),
            image_type="\\".join([kind] if isinstance(kind, str) else map(str, kind)).upper(),
            time=None if time in (None, "") else int(time),
        )


def _found(image: Dataset, places: tuple[Dataset, ...], sequence: str, name: str) -> Any:
    """An element of a functional group of the frame, else of all frames, else of the file."""
    for place in places:
        for item in place.get(sequence) or []:
            if item.get(name) is not None:
                return item.get(name)
    return image.get(name)


def _fits(frame: _Frame, chosen: Chosen, shape: tuple[int, int, int]) -> bool:
    return (
        frame.image_type == chosen.image_type
        and frame.echo_time_ms == chosen.echo_time_ms
        and (frame.image.Columns, frame.image.Rows) == shape[:2]
    )


def _on_the_grid(frames: list[_Frame], shape: tuple[int, int, int], affine: np.ndarray) -> Slices:
    """The frames in the order of the slices, if every one lies where the label map has it."""
    to_lps = _RAS_TO_LPS @ affine
    along = to_lps[:3, 2] / np.linalg.norm(to_lps[:3, 2])
    frames = sorted(frames, key=lambda frame: float(frame.position_mm @ along))
    step_mm, pixel_mm = np.linalg.norm(to_lps[:3, 2]), np.linalg.norm(to_lps[:3, :2], axis=0).min()
    i, j = shape[0] - 1, shape[1] - 1
    for k, frame in enumerate(frames):
        for column, row in ((0, 0), (i, 0), (0, j)):
            found = frame.position_mm + column * frame.spacing_mm[1] * frame.axes[:3]
            found = found + row * frame.spacing_mm[0] * frame.axes[3:]
            away = found - (to_lps @ [column, row, k, 1])[:3]
            ahead = float(away @ along)
            aside = float(np.linalg.norm(away - ahead * along))
            if abs(ahead) > MAX_AHEAD * step_mm or aside > MAX_ASIDE * pixel_mm:
                detail = f"slice {k} lies {np.linalg.norm(away):.2f} mm elsewhere"
                raise ScanError("SRC_CHANGED", detail)
    positions = np.array([frame.position_mm for frame in frames])
    first = frames[0]
    images = [frame.image for frame in frames]
    return Slices(
        images=_referable(images, float(step_mm)),
        positions_mm=positions,
        axes=first.axes,
        spacing_mm=first.spacing_mm,
        thickness_mm=first.thickness_mm or float(step_mm),
        step_mm=float(step_mm),
    )


def _referable(images: list[Dataset], step_mm: float) -> list[Dataset]:
    """Headers with all that objects take over from the images they refer to.

    Images that say of no frame of reference are given one of their series, those without a
    thickness the distance of slices, and all of them the axes of the first, from which they differ
    by rounding; a file that says of each of its frames how it is turned, and how large its pixels
    are, says it of all.
    """
    if all(image is images[0] for image in images):
        images = images[:1]
    names = ("StudyInstanceUID", "SeriesInstanceUID", "SOPClassUID", "SOPInstanceUID")
    instances = {str(image.get("SOPInstanceUID")) for image in images}
    if len(instances) < len(images) or not all(
        image.get(name) for image in images for name in names
    ):
        raise ScanError("DCM_NO_UID")
    for image in images:
        for name in _NEEDED:
            if name not in image:
                setattr(image, name, "")
        if image.get("SliceThickness") in (None, ""):
            image.SliceThickness = step_mm
        if not image.get("FrameOfReferenceUID"):
            series = str(image.SeriesInstanceUID)
            image.FrameOfReferenceUID = generate_uid(entropy_srcs=["frame of reference", series])
        if each := image.get("PerFrameFunctionalGroupsSequence"):
            shared = image.get("SharedFunctionalGroupsSequence") or Sequence([Dataset()])
            for name in ("PixelMeasuresSequence", "PlaneOrientationSequence"):
                if name not in shared[0]:
                    setattr(shared[0], name, each[0][name].value)
            image.SharedFunctionalGroupsSequence = shared
        else:
            image.ImageOrientationPatient = images[0].ImageOrientationPatient
    return images

"""Cases of the CHAOS challenge as they are given out: DICOM slices, labels as PNG slices.

A case is a folder with ``DICOM_anon`` and ``Ground``; of MR, one for each sequence. The n-th PNG
in the order of the numbers in its name is the n-th DICOM image in the order of its InstanceNumber:
on the CT of the challenge's own evaluation the names, the numbers and the places along the normal
of the slices all give one order (which a reader checks here), and its published distances come
out. The grid is that of the places of the slices, never of SliceThickness, which is another number.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pydicom
from matplotlib.image import imread

from cohortvol.errors import ScanError
from cohortvol.tools.evaluate.labels import LabelMap, vocabulary

DICOM, GROUND = "DICOM_anon", "Ground"
_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
_UNEVEN_MM = 0.1
_MR_GREYS, _CT_GREYS = {63, 126, 189, 252}, {255}


def dicom_folder(case: Path) -> Path:
    """The folder of one series: of T1-DUAL, which has two on one grid, the in-phase one."""
    in_phase = case / DICOM / "InPhase"
    return in_phase if in_phase.is_dir() else case / DICOM


def read_grid(folder: Path) -> tuple[np.ndarray, list[Path]]:
    """Affine of a series, voxel to RAS+ mm for (column, row, slice), and its files in order.

    Raises
    ------
    ScanError
        If a slice cannot be read or says nothing about its place, or the slices are not parallel
        and evenly spaced.
    """
    slices = []
    for path in sorted(folder.iterdir()):
        try:
            header = pydicom.dcmread(path, stop_before_pixels=True)
            place = np.array(header.ImagePositionPatient, dtype=float)
            axes = np.array(header.ImageOrientationPatient, dtype=float)
            spacing = np.array(header.PixelSpacing, dtype=float)
            slices.append((int(header.InstanceNumber), path, place, axes, spacing))
        except (OSError, pydicom.errors.InvalidDicomError, AttributeError, TypeError) as error:
            raise ScanError(
                "EVAL_UNREADABLE", f"{path.name}: no DICOM slice with a place"
            ) from error
    if len(slices) < 2:
        raise ScanError("EVAL_UNREADABLE", f"{folder.name}: {len(slices)} DICOM slices")
    slices.sort(key=lambda one: one[0])
    places = np.array([one[2] for one in slices])
    axes, spacing = slices[0][3], slices[0][4]
    step = (places[-1] - places[0]) / (len(places) - 1)
    off_mm = np.abs(places - (places[0] + np.outer(np.arange(len(places)), step))).max()
    turned = max(np.abs(one[3] - axes).max() for one in slices)
    if off_mm > _UNEVEN_MM or turned > 1e-4 or not step.any():
        raise ScanError(
            "EVAL_UNREADABLE", f"{folder.name}: slices in order of InstanceNumber are uneven"
        )
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1] = axes[:3] * spacing[1], axes[3:] * spacing[0]
    affine[:3, 2], affine[:3, 3] = step, places[0]
    return _LPS_TO_RAS @ affine, [one[1] for one in slices]


def read_expert(case: Path) -> LabelMap:
    """Labels of the expert on the grid of the DICOM series."""
    affine, files = read_grid(dicom_folder(case))
    grey = read_slices(case / GROUND, len(files))
    return _labelled(grey, affine)


def read_model(folder: Path, expert: LabelMap) -> LabelMap:
    """A submission as PNG slices, which has the grid of the expert's by the challenge's rule."""
    grey = read_slices(folder, expert.voxels.shape[2])
    if tuple(expert.labels) == ("liver",):
        # The challenge's evaluation of CT takes every grey but 0 for liver.
        return LabelMap((grey > 0).astype(np.uint8), expert.affine, {"liver": 1})
    return _labelled(grey, expert.affine)


def read_slices(folder: Path, n_slices: int) -> np.ndarray:
    """Grey values of PNG slices in the order of the numbers in their names, (column, row, slice).

    Raises
    ------
    ScanError
        If there are not as many as `n_slices`, or one cannot be read.
    """
    files = sorted(folder.glob("*.png"), key=_number_in_name)
    if len(files) != n_slices:
        raise ScanError("EVAL_OTHER_GRID", f"{len(files)} PNG slices for {n_slices} of DICOM")
    planes: list[np.ndarray] = []
    for path in files:
        try:
            plane = imread(path)
        except (OSError, ValueError, SyntaxError) as error:
            raise ScanError("EVAL_UNREADABLE", f"{path.name}: {type(error).__name__}") from error
        if plane.ndim != 2 or (planes and plane.shape != planes[0].shape):
            raise ScanError("EVAL_UNREADABLE", f"{path.name}: no grey slice like the others")
        planes.append(np.round(plane * 255).astype(np.uint8))  # matplotlib gives 0 to 1
    return np.stack(planes).transpose(2, 1, 0)


def _number_in_name(path: Path) -> tuple[int, str]:
    numbers = re.findall(r"\d+", path.stem)
    return (int(numbers[-1]) if numbers else 0, path.name)


def _labelled(grey: np.ndarray, affine: np.ndarray) -> LabelMap:
    """Names for the greys: by what they are, never by their rank, as an organ may be missing."""
    greys = set(np.unique(grey).tolist()) - {0}
    if greys <= _MR_GREYS:
        return LabelMap(grey, affine, vocabulary("chaos_mr_grey"))
    if greys <= _CT_GREYS:
        return LabelMap(grey, affine, vocabulary("chaos_ct_grey"))
    raise ScanError("EVAL_NO_NAMES", f"grey values {sorted(greys)[:8]} are not those of CHAOS")


def read_grey(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Grey values of a series, (column, row, slice), and its affine."""
    affine, files = read_grid(folder)
    planes = [np.asarray(pydicom.dcmread(path).pixel_array, dtype=np.float32) for path in files]
    return np.stack(planes).transpose(2, 1, 0), affine

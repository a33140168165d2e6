"""Folders of subjects with one file per structure, as the TotalSegmentator data sets are given out.

``s0001/mri.nii.gz`` (or ``ct.nii.gz``) beside ``s0001/segmentations/liver.nii.gz`` and so on, and
``meta.csv`` above them, which says who is for training and who is for testing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np

from cohortvol.anatomy.geometry import check_same_grid
from cohortvol.errors import LONGEST_LIST, GeometryError, TableError
from cohortvol.store.text_table import read_text_table

MASKS = "segmentations"
META = "meta.csv"
IMAGES = {"MR": "mri.nii.gz", "CT": "ct.nii.gz"}
TEST = "test"
SPLITS = ("train", "val", TEST)


class MaskError(GeometryError):
    """Masks of one scan that cannot be put into one label map."""


@dataclass(frozen=True)
class Subject:
    """A row of ``meta.csv``: the folder, the person and the part of the official split."""

    folder: str
    person: str | None
    split: str


@dataclass(frozen=True)
class Merged:
    """Masks of one scan as one label map.

    Attributes
    ----------
    voxels : (I, J, K) array of uint8 or uint16
        Label indices; 0 is background.
    affine : (4, 4) float array
        Voxel indices to RAS+ millimetres.
    n_overlapping : int
        Voxels that more than one label claimed.
    """

    voxels: np.ndarray
    affine: np.ndarray
    n_overlapping: int


def read_split(folder: Path) -> list[Subject]:
    """Rows of ``meta.csv``: ``image_id``, ``split`` and, where given, ``subject_id``.

    The publisher's file is separated by semicolons; commas will do too. Numbers such as ``s0001``
    are of one data set alone, so that `Subject.person` is None where no ``subject_id`` says more.

    Raises
    ------
    TableError
        If it is missing, lacks a column, names a folder twice, or holds another split than
        `SPLITS`.
    """
    path = folder / META
    table = read_text_table(
        path,
        f"It says who is for testing, in the columns image_id and split ({', '.join(SPLITS)}); "
        "nobody is trained on without it.",
        also_delimiter=";",
    )
    lacking = [name for name in ("image_id", "split") if name not in table.columns]
    if lacking:
        raise TableError(
            f"{path}: columns missing: {', '.join(lacking)}; it has {', '.join(table.columns)}"
        )
    subjects = [
        Subject(row["image_id"].strip(), row.get("subject_id", "").strip() or None, row["split"])
        for row in table.rows
    ]
    wrong = [
        f"  line {line}: {one.folder or 'no image_id'}, split {one.split!r}"
        for line, one in zip(table.lines, subjects, strict=True)
        if one.split not in SPLITS or not one.folder
    ]
    if wrong:
        raise TableError(
            "\n".join(
                [f"{path}: {len(wrong)} rows without an image_id or a split of "
                 f"{', '.join(SPLITS)}", *wrong[:LONGEST_LIST]]
            )
        )  # fmt: skip
    names = [one.folder for one in subjects]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise TableError(f"{path}: stand twice: {', '.join(twice[:LONGEST_LIST])}")
    return subjects


def mask_files(masks: Path) -> dict[str, Path]:
    """The masks in a folder by name, such as ``liver``; hidden files are none."""
    return {
        path.name.removesuffix(".nii.gz"): path
        for path in sorted(masks.glob("*.nii.gz"))
        if not path.name.startswith(".")
    }


def merge_masks(masks: Path, index: Mapping[str, int]) -> Merged:
    """One label map of some masks of a folder; where two labels claim a voxel, the higher wins.

    So does the publisher's own conversion, whose later structures write over earlier ones. Masks
    of one label are united. A mask without any voxel is a structure that is not in the scan.

    Parameters
    ----------
    masks : Path
        Folder of ``<name>.nii.gz``.
    index : mapping of str to int
        Name of each mask to use to its label index, 1 or more.

    Raises
    ------
    MaskError
        If one is missing, is no mask, or lies on another grid than the others.
    """
    voxels, affine, first, n_overlapping = None, np.eye(4), "", 0
    kind = np.uint8 if max(index.values(), default=0) < 2**8 else np.uint16
    for name, label in sorted(index.items(), key=lambda item: (item[1], item[0])):
        inside, of_mask = _read_mask(masks / f"{name}.nii.gz")
        if voxels is None:
            voxels, affine, first = np.zeros(inside.shape, kind), of_mask, name
        check_same_grid(
            (voxels.shape, affine), (inside.shape, of_mask), (f"{first}.nii.gz", f"{name}.nii.gz")
        )
        before = voxels[inside]
        n_overlapping += int(((before > 0) & (before != label)).sum())
        voxels[inside] = label
    if voxels is None:
        raise MaskError(f"{masks}: no mask is asked for")
    return Merged(voxels, affine, n_overlapping)


def _read_mask(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Where a mask is, (I, J, K) booleans, and its affine."""
    if not path.is_file():
        raise MaskError(f"{path.parent.name}/{path.name} is missing")
    image = nib.Nifti1Image.from_filename(path)
    voxels = np.asarray(image.dataobj)
    inside = voxels != 0
    values = voxels[inside]
    if len(values) and (values != values[0]).any():
        found = ", ".join(f"{one:g}" for one in np.unique(values)[:5])
        raise MaskError(f"{path.name}: is no mask; beside 0 it holds {found}")
    return inside, np.asarray(image.affine)

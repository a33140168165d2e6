"""On which axes a trained nnU-Net wants a scan, and how its training images are stored."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

import nibabel as nib
from nibabel.filebasedimages import ImageFileError

from cohortvol.anatomy.geometry import orientation
from cohortvol.errors import ModelError
from cohortvol.models.card import AS_STORED, AXES, plans_files
from cohortvol.models.files import read_object, shown
from cohortvol.models.part import Part

MOST_LOOKED_AT = 200
"""Label maps of a validation, of which the headers are read."""
READERS = {
    "NibabelIOWithReorient": "RAS",
    "SimpleITKIOWithReorient": "RAS",
    "NibabelIO": AS_STORED,
    "SimpleITKIO": AS_STORED,
}
"""Axes on which nnU-Net's readers hand an image on, by their names in the plans."""


def axes_wanted(folder: Path, parts: Sequence[Part]) -> str:
    """What ``dataset.json`` of all parts says, as TPTBox has it, or else what their readers do.

    Raises
    ------
    ModelError
        If that is not known, not the same of all, or nothing that a card can say.
    """
    datasets = [read_object(folder / plans_files(part)[1]) for part in parts]
    said = {"".join(map(str, dataset.get("orientation") or ())) for dataset in datasets}
    if said == {""}:
        return _of_readers(folder, parts)
    found = only_one(said)
    if found not in AXES:
        raise ModelError(
            f"dataset.json names the axes {', '.join(map(shown, sorted(said)))} for the network; "
            f"this version knows {', '.join(AXES)}"
        )
    return str(found)


def _of_readers(folder: Path, parts: Sequence[Part]) -> str:
    """What the readers that the plans of all parts name do with an image.

    Raises
    ------
    ModelError
        If one is not known, or they do not do the same.
    """
    readers = {
        str(read_object(folder / plans_files(part)[0]).get("image_reader_writer")) for part in parts
    }
    axes = {READERS.get(reader) for reader in readers}
    found = only_one(axes)
    if found is None:
        raise ModelError(
            f"plans.json names the reader {', '.join(map(shown, sorted(readers)))}: on which axes "
            "the network wants a scan does not follow\n"
            "  Say it with --orientation RAS, LPS or as-stored."
        )
    return found


def only_one(values: Collection[str | None]) -> str | None:
    return next(iter(values)) if len(values) == 1 else None


def axes_of_training_images(trained: Path) -> str | None:
    """Axes of the label maps that nnU-Net wrote in its validation, if they are all of one kind."""
    found = set()
    for path in islice(sorted(trained.glob("fold_*/validation/*.nii.gz")), MOST_LOOKED_AT):
        with suppress(OSError, ImageFileError, ValueError):
            image: Any = nib.load(path)
            found.add(orientation(image.affine))
    return only_one(found)

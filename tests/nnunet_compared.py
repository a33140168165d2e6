"""Our labels beside those that nnunetv2 made of the same scans with the same networks."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import nibabel as nib
import numpy as np

from cohortvol.models.card import Card
from cohortvol.models.networks import Source, import_nnunet
from cohortvol.models.postprocessing import read_postprocessing
from cohortvol.stages.segment import Segmenter
from nnunet_trained import Chosen

PROFILES = {"nnunet": "predicted", "nnunet-nomirror": "unmirrored"}
"""Ours to nnU-Net's passes."""


class Compared(NamedTuple):
    """Voxels of one scan, those that differ, and how many labels nnU-Net found."""

    n_voxels: int
    n_differ: int
    n_labels: int


def imported(chosen: Chosen, folder: Path, out: Path, keeps_largest: bool = False) -> Card:
    """The model folder of what nnU-Net left below `folder`."""
    steps = read_postprocessing(chosen.postprocessing(folder)) if keeps_largest else ()
    sources = [
        Source(
            one.results(folder),
            part=f"network_{number}",
            folds=one.folds.split(),
            keep_largest=steps,
        )
        for number, one in enumerate(chosen.members)
    ]
    return import_nnunet(
        sources,
        out,
        model_id=out.name,
        licence="test",
        checkpoint=chosen.members[0].checkpoint,
        ensemble=len(sources) > 1,
    )


def compared(card: Card, profile: str, scans: Path, expected: Path) -> dict[str, Compared]:
    """Every scan of which nnU-Net left a label map in `expected`, by its name.

    Regions, which lie in layers, are brought into one map again: the last of them has most.
    """
    # As many threads as nnU-Net's program took: with others sums are rounded otherwise, and of two
    # labels that are as likely the other may win.
    segmenter = Segmenter.load(card.folder, profile, "cpu", threads=1)
    found = {}
    for path in sorted(expected.glob("*.nii.gz")):
        name = path.name.removesuffix(".nii.gz")
        images = [
            nib.load(scans / f"{name}_{channel:04}.nii.gz")
            for channel in range(max(1, len(card.channels)))
        ]
        grey = [image.get_fdata(dtype=np.float32) for image in images]
        scan = np.stack(grey, axis=-1) if len(grey) > 1 else grey[0]
        labels, _ = segmenter.segment(scan, images[0].affine)
        own_map = labels if labels.ndim == 3 else labels.max(axis=-1)
        theirs = np.asarray(nib.load(path).dataobj)
        n_differ = int(np.count_nonzero(own_map != theirs))
        found[name] = Compared(theirs.size, n_differ, len(np.unique(theirs)))
    return found

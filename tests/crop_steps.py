"""A model of two parts, of which one sees a box, and its labels by the libraries themselves."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from scipy import ndimage

from cohortvol.models.networks import Source, import_nnunet

SPACING, OF_THE_BOX, MARGIN_MM = [3.0, 3.0, 4.0], [1.5, 1.7, 3.1], 7.0
OBLIQUE = nib.affines.from_matvec([[-1.9, 0.2, 0.1], [0.2, 0.3, 3.8], [0.1, -2.2, 0.3]], [3, 4, 5])
OF_THE_NETWORK = 2
"""Label of the spleen in the first network."""


def model_of(trained: Path, folder: Path, whole: int = 0) -> Path:
    """The spleen, of which fold `whole` finds little; of fold 1 two structures in a box around."""
    sources = [
        Source(trained, "whole", [str(whole)], drop=["liver", "kidney_left"]),
        Source(
            trained, "box", ["1"], drop=["spleen"], layer=1, tile_step=0.5,
            rename={"liver": "pancreas", "kidney_left": "stomach"},
            crop=("spleen",), margin_mm=MARGIN_MM, spacing_mm=(1.5, 1.7, 3.1),
        ),
    ]  # fmt: skip
    return import_nnunet(
        sources, folder / "cropping", model_id="cropping",
        licence="test", orientation="RAS", spacing_mm=(3.0, 3.0, 4.0),
        profiles=("ts218", "fast", "nnunet-nomirror"),
    ).folder  # fmt: skip


def steps(
    trained: Path,
    fold: int,
    channels: Sequence[nib.Nifti1Image],
    spacing: Sequence[float],
    step: float,
) -> np.ndarray:
    """TotalSegmentator's, for each channel: canonical axes, zoom, integers; then nnU-Net, and the
    nearest label back.
    """
    predictor = nnUNetPredictor(
        use_mirroring=False, device=torch.device("cpu"), allow_tqdm=False, tile_step_size=step
    )
    predictor.initialize_from_trained_model_folder(str(trained), (fold,))
    canonical = [nib.as_closest_canonical(one) for one in channels]
    zooms = np.array(canonical[0].header.get_zooms()) / spacing
    zoomed = [
        ndimage.zoom(one.get_fdata(), zooms, order=1, mode="nearest").astype(np.int32)
        for one in canonical
    ]
    there = predictor.predict_single_npy_array(
        np.stack([one.transpose(2, 1, 0).astype(np.float32) for one in zoomed]),
        {"spacing": spacing[::-1]},
    ).transpose(2, 1, 0)
    factors = np.array(canonical[0].shape) / there.shape
    back = ndimage.zoom(there, factors, order=0, mode="nearest")
    turn = nib.orientations.ornt_transform(
        nib.io_orientation(canonical[0].affine), nib.io_orientation(channels[0].affine)
    )
    return nib.apply_orientation(back, turn)


def by_its_steps(
    trained: Path, channels: Sequence[np.ndarray], affine: np.ndarray, whole: int = 0
) -> tuple[np.ndarray, tuple[slice, ...]]:
    """Label map of the model, and the box, by the libraries that TotalSegmentator uses."""
    images = [nib.Nifti1Image(one.astype(float), affine) for one in channels]
    shape = images[0].shape
    spleen = steps(trained, whole, images, SPACING, 0.8) == OF_THE_NETWORK
    margin = (np.full(3, MARGIN_MM) / images[0].header.get_zooms()).astype(int)
    box = tuple(
        slice(max(0, places.min() - more), min(n, places.max() + 1 + more))
        for places, more, n in zip(np.nonzero(spleen), margin, shape, strict=True)
    )
    there = images[0].slicer[box].affine
    inside = [nib.Nifti1Image(one[box].astype(np.int32), there, dtype=np.int32) for one in channels]
    expected = np.zeros((*shape, 2), np.uint8)
    expected[..., 0] = spleen
    expected[(*box, 1)] = np.array([0, 2, 0, 3])[steps(trained, 1, inside, OF_THE_BOX, 0.5)]
    return expected, box

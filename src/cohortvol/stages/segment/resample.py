"""Resampling as products with small matrices, one axis after the other, on any device.

A spline is linear in the grey values and acts on each axis by itself, so what scipy does along an
axis is a matrix: scipy's own result for the unit vectors. The products give scipy's values up to
rounding, many times faster, and on a GPU where there is one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from nnunetv2.preprocessing.resampling.default_resampling import determine_do_sep_z_and_axis
from scipy import ndimage


def zoom_on_device(image: torch.Tensor, shape: Sequence[int], order: int) -> torch.Tensor:
    """``scipy.ndimage.zoom(mode="nearest")``: first and last voxel centres on each other.

    Parameters
    ----------
    image : (i, j, k) float tensor
    shape : tuple of three int
        Of the result.
    order : int
        Of the spline.
    """
    for axis in range(3):
        image = _along(image, axis, shape[axis], order, grid_mode=False)
    return image


def resize_on_device(
    image: torch.Tensor,
    shape: Sequence[int],
    spacing_mm: Sequence[float],
    new_spacing_mm: Sequence[float],
    rule: Mapping[str, Any],
) -> torch.Tensor:
    """nnU-Net's ``resample_data_or_seg_to_shape`` of grey values or of the logits of one label.

    Parameters
    ----------
    image : (i, j, k) float tensor
    shape : tuple of three int
        Of the result.
    spacing_mm, new_spacing_mm : three float
        Of the image and of the result; where one axis is much coarser than the others it is
        resampled by itself.
    rule : mapping
        ``order``, ``order_z`` and ``force_separate_z`` of the plans.

    Notes
    -----
    Edges of the grids are laid on each other, and a spline does not leave the range of the values
    it was given: ``skimage.transform.resize``.
    """
    separate, alone = determine_do_sep_z_and_axis(
        rule["force_separate_z"], spacing_mm, new_spacing_mm
    )
    axes = [axis for axis in range(3) if not (separate and axis == alone)]
    resized = image
    for axis in axes:
        resized = _along(resized, axis, shape[axis], rule["order"], grid_mode=True)
    if rule["order"] > 1:
        resized = resized.clamp(image.amin(axes, keepdim=True), image.amax(axes, keepdim=True))
    if separate:
        resized = _along(resized, alone, shape[alone], rule["order_z"], grid_mode=True)
    return resized


def _along(image: torch.Tensor, axis: int, n_to: int, order: int, grid_mode: bool) -> torch.Tensor:
    n_from = image.shape[axis]
    if n_from == n_to:
        return image
    if order == 0:
        centres = (np.arange(n_to) + 0.5) * n_from / n_to - 0.5
        nearest = np.clip(np.floor(centres + 0.5), 0, n_from - 1).astype(np.int64)
        return image.index_select(axis, torch.from_numpy(nearest).to(image.device))
    matrix = _matrix(n_from, n_to, order, grid_mode).to(image.device)
    product: torch.Tensor = torch.tensordot(image, matrix, dims=([axis], [1]))
    return product.movedim(-1, axis)


@lru_cache(maxsize=64)
def _matrix(n_from: int, n_to: int, order: int, grid_mode: bool) -> torch.Tensor:
    """(n_to, n_from) float32: column i is what becomes of a 1 at voxel i."""
    columns = [
        ndimage.zoom(unit, n_to / n_from, order=order, mode="nearest", grid_mode=grid_mode)
        for unit in np.eye(n_from)
    ]
    return torch.from_numpy(np.stack(columns, axis=1)).float()

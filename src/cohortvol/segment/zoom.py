"""TotalSegmentator's way to a fixed spacing and back: a spline zoom, then the nearest label.

The zoom lays the first and the last voxel centre of both grids on each other. So the true spacing
of the zoomed grid is not quite the nominal one: volumes are counted on the scan's own grid, never
here.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage

from cohortvol.segment.resample import zoom_on_device


@dataclass(frozen=True)
class Zoomed:
    """A scan on the grid of the network.

    Attributes
    ----------
    data : (x, y, z) array
    spacing_mm : (3,) array
        Nominal voxel edges of `data`.
    """

    data: np.ndarray
    spacing_mm: np.ndarray


def zoom(
    data: np.ndarray, spacing_mm: np.ndarray, target_mm: np.ndarray, order: int, truncate: bool
) -> Zoomed:
    """Spline interpolation to a fixed spacing.

    Parameters
    ----------
    data : (x, y, z) float64 array
        The scan in the axis order of the network.
    spacing_mm, target_mm : (3,) arrays
        Voxel edges now, and wanted.
    order : int
        Of the spline, 1 or 3.
    truncate : bool
        Cut the fraction off every grey value, as upstream's cast to int32 does.

    Notes
    -----
    Rule of ``change_spacing(order=..., dtype=np.int32)`` of TotalSegmentator 2.18, down to the
    float32 spacing that a NIfTI header holds; a scan that has the spacing already is not touched,
    nor truncated.
    """
    spacing = spacing_mm.astype(np.float32)
    factors = spacing / target_mm
    if np.array_equal(spacing, target_mm):
        return Zoomed(data, spacing.astype(float))
    zoomed = ndimage.zoom(data, factors, mode="nearest", order=order)
    if truncate:
        zoomed = zoomed.astype(np.int32)
    return Zoomed(zoomed, (spacing_mm / factors).astype(np.float32).astype(float))


def zoom_fast(
    data: np.ndarray,
    spacing_mm: np.ndarray,
    target_mm: np.ndarray,
    order: int,
    device: torch.device,
) -> tuple[torch.Tensor, np.ndarray]:
    """`zoom` on a device in float32, nothing cut off; (x, y, z) tensor and spacing."""
    spacing = spacing_mm.astype(np.float32)
    factors = spacing / target_mm
    image = torch.from_numpy(np.ascontiguousarray(data)).to(device, torch.float32)
    shape = [round(n * factor) for n, factor in zip(image.shape, factors, strict=True)]
    return zoom_on_device(image, shape, order), spacing_mm / factors


def nearest(labels: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Labels on a grid of another shape: of the nearest voxel centre.

    Equal to ``scipy.ndimage.zoom(labels, ..., order=0, mode="nearest")``, by indexing.
    """
    for axis, (n_from, n_to) in enumerate(zip(labels.shape, shape, strict=True)):
        if n_from != n_to:
            labels = labels.take(_nearest_index(n_from, n_to), axis)
    return labels


def _nearest_index(n_from: int, n_to: int) -> np.ndarray:
    step = (n_from - 1) / (n_to - 1) if n_to > 1 else 1.0
    return np.asarray(np.floor(np.arange(n_to) * step + 0.5), dtype=np.intp)

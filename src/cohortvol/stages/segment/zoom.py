"""TotalSegmentator's way to a fixed spacing and back: a spline zoom, then the nearest label.

The zoom lays the first and the last voxel centre of both grids on each other. So the true spacing
of the zoomed grid is not quite the nominal one: volumes are counted on the scan's own grid, never
here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage

from cohortvol.stages.segment.resample import zoom_on_device


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
    if order == 1:
        zoomed = linear(data, zoomed_shape(data.shape, factors))
    else:
        zoomed = ndimage.zoom(data, factors, mode="nearest", order=order)
    if truncate:
        zoomed = zoomed.astype(np.int32)
    return Zoomed(zoomed, (spacing_mm / factors).astype(np.float32).astype(float))


def zoom_fast(
    data: np.ndarray,
    spacing_mm: np.ndarray,
    target_mm: np.ndarray,
    order: int,
    clear_rim: bool,
    device: torch.device,
) -> tuple[torch.Tensor, np.ndarray]:
    """`zoom` on a device in float32; (x, y, z) tensor and spacing.

    With `clear_rim`, and where a scan has whole numbers only, what a cast to int32 would make 0 is
    0 here too. It decides where the box of voxels that are not 0 begins.
    """
    spacing = spacing_mm.astype(np.float32)
    factors = spacing / target_mm
    image = torch.from_numpy(np.ascontiguousarray(data)).to(device, torch.float32)
    zoomed = zoom_on_device(image, zoomed_shape(image.shape, factors), order)
    if clear_rim and torch.equal(image, image.round()):
        zoomed = zoomed.where(zoomed.abs() >= 1, 0.0)
    return zoomed, spacing_mm / factors


def zoomed_shape(shape: Sequence[int], factors: np.ndarray) -> list[int]:
    """Voxels along each axis after a zoom, rounded as scipy does."""
    return [round(n * factor) for n, factor in zip(shape, factors, strict=True)]


def linear(data: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Values between voxel centres, on a grid of another shape.

    Equal bit for bit to ``scipy.ndimage.zoom(data, ..., order=1, mode="nearest")``, in a quarter of
    its time: the same products in float64, added in the same order, for a plane at a time.

    Parameters
    ----------
    data : (x, y, z) array of finite values
    shape : sequence of 3 int
        Voxels wanted along each axis.

    Returns
    -------
    (x, y, z) array of the type of `data`, x first in memory
    """
    x, y, z = map(_neighbours, data.shape, shape)
    zoomed = np.empty(shape, data.dtype, order="F")

    def in_plane(index: int) -> list[np.ndarray]:
        """The four neighbours in one plane of `data`, weighted along x, then along y."""
        plane = data[:, :, index].T.astype(np.float64)
        along_x = [plane.take(at, axis=1) * weight for at, weight in x]
        return [
            columns.take(at, axis=0) * weight[:, np.newaxis]
            for columns in along_x
            for at, weight in y
        ]

    held: dict[int, list[np.ndarray]] = {}
    for index in range(shape[2]):
        pair = [(at[index], weight[index]) for at, weight in z if weight[index]]
        held = {plane: held.get(plane) or in_plane(plane) for plane, _ in pair}
        total = np.zeros((shape[1], shape[0]))
        for neighbour in range(4):
            for plane, weight in pair:
                total += held[plane][neighbour] * weight
        zoomed[:, :, index] = total.T
    return zoomed


def _neighbours(n_from: int, n_to: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Index and weight of the voxel before and of the one after each place of the wanted grid."""
    at = np.arange(n_to) * _step(n_from, n_to)
    before = np.floor(at).astype(np.intp)
    weight = 1.0 - (at - before)
    return [(before, weight), (np.minimum(before + 1, n_from - 1), 1.0 - weight)]


def nearest(labels: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Labels on a grid of another shape: of the nearest voxel centre.

    Equal to ``scipy.ndimage.zoom(labels, ..., order=0, mode="nearest")``, by indexing.
    """
    for axis, (n_from, n_to) in enumerate(zip(labels.shape, shape, strict=True)):
        if n_from != n_to:
            labels = labels.take(_nearest_index(n_from, n_to), axis)
    return labels


def _nearest_index(n_from: int, n_to: int) -> np.ndarray:
    return np.asarray(np.floor(np.arange(n_to) * _step(n_from, n_to) + 0.5), dtype=np.intp)


def _step(n_from: int, n_to: int) -> float:
    """Voxels from one place of the wanted grid to the next, the ends laid on each other."""
    return (n_from - 1) / (n_to - 1) if n_to > 1 else 1.0

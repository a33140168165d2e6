"""Grids: shape with affine, voxel to RAS+ millimetres."""

from __future__ import annotations

import nibabel as nib
import numpy as np

from cohortvol.errors import GeometryError

FACES = ("LR", "PA", "IS")
"""Letters of the low and the high end of each RAS+ axis."""


def voxel_volume_ml(affine: np.ndarray) -> float:
    """Volume of one voxel in mL: ``|det(affine[:3, :3])| / 1000``.

    The determinant holds for rotated, flipped and sheared grids, where the product of the
    header zooms does not (same rule as ``nibabel.affines.voxel_sizes`` on an orthogonal grid).

    Raises
    ------
    GeometryError
        If the affine is not finite or spans no volume.
    """
    volume = abs(float(np.linalg.det(np.asarray(affine, dtype=float)[:3, :3]))) / 1000.0
    if not np.isfinite(volume) or volume == 0.0:
        raise GeometryError("the affine spans no volume; its first three columns are dependent")
    return volume


def spacing_mm(affine: np.ndarray) -> np.ndarray:
    """Voxel edge lengths in mm along the three array axes, shape (3,)."""
    return np.asarray(nib.affines.voxel_sizes(affine))


def orientation(affine: np.ndarray) -> str:
    """Axis codes of the array axes, such as ``LAS``: the direction in which each one grows."""
    return "".join(nib.aff2axcodes(affine))


def check_same_grid(
    first: tuple[tuple[int, ...], np.ndarray],
    second: tuple[tuple[int, ...], np.ndarray],
    names: tuple[str, str] = ("scan", "label map"),
) -> None:
    """Raise unless two (shape, affine) pairs are the same grid, to 1e-3 mm.

    Raises
    ------
    GeometryError
        With both grids in the message.
    """
    same_shape = tuple(first[0]) == tuple(second[0])
    if same_shape and np.allclose(first[1], second[1], rtol=0, atol=1e-3):
        return
    lines = [f"the {names[0]} and the {names[1]} are on different grids"]
    for name, (shape, affine) in zip(names, (first, second), strict=True):
        size = " x ".join(f"{edge:.3f}" for edge in spacing_mm(affine))
        lines.append(f"  {name:<10} {tuple(shape)} voxels of {size} mm, {orientation(affine)}")
    raise GeometryError("\n".join(lines))


def to_axes(data: np.ndarray, affine: np.ndarray, axes: str) -> tuple[np.ndarray, np.ndarray]:
    """Flip and permute the array axes to those nearest to `axes`, such as ``RAS`` or ``LPS``.

    No resampling: every voxel keeps its value and its place in space, so an oblique grid
    stays oblique. `from_axes` undoes it.
    """
    here = nib.orientations.io_orientation(affine)
    transform = nib.orientations.ornt_transform(here, nib.orientations.axcodes2ornt(tuple(axes)))
    moved = nib.orientations.apply_orientation(data, transform)
    return moved, affine @ nib.orientations.inv_ornt_aff(transform, data.shape)


def from_axes(data: np.ndarray, affine: np.ndarray, axes: str) -> np.ndarray:
    """Bring an array on the `axes` version of a grid back to the axes of `affine`."""
    here = nib.orientations.io_orientation(affine)
    back = nib.orientations.ornt_transform(nib.orientations.axcodes2ornt(tuple(axes)), here)
    return np.asarray(nib.orientations.apply_orientation(data, back))


def to_ras(data: np.ndarray, affine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`to_axes` for the RAS+ order."""
    return to_axes(data, affine, "RAS")

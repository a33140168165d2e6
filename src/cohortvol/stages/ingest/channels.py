"""Several images of one scan, such as the parts of a Dixon acquisition, as one image.

They must lie on one grid, be different images, and be what their channels are called.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, product
from pathlib import Path
from typing import Any

import numpy as np

from cohortvol.anatomy.geometry import orientation, spacing_mm
from cohortvol.anatomy.nifti import nifti_gz
from cohortvol.errors import ScanError
from cohortvol.models.channels import dixon_part

_APART = 0.1  # of the shortest voxel edge, that corners of two grids may lie apart
_CANCELLED = 0.3  # grey value of an opposed phase, of that in phase, where fat and water cancel
_LEAST_SHARE = 1e-3  # of the voxels of the body, in which they do at their borders
_CLEARLY = 20  # times as many the other way round


@dataclass(frozen=True)
class Grid:
    """Number of voxels along each axis, and the affine of their indices to RAS+ mm."""

    shape: tuple[int, ...]
    affine: np.ndarray

    def is_that_of(self, other: Grid) -> bool:
        """Whether no corner lies further from that of the other than a tenth of a voxel edge."""
        if self.shape != other.shape:
            return False
        ends = product(*((0, n - 1) for n in self.shape))
        corners = np.array([[*corner, 1] for corner in ends])
        apart = np.linalg.norm((corners @ (self.affine - other.affine).T)[:, :3], axis=1)
        return bool(apart.max() <= _APART * spacing_mm(self.affine).min())

    def __str__(self) -> str:
        size = " x ".join(f"{edge:.3f}" for edge in spacing_mm(self.affine))
        i, j, k = self.shape
        x, y, z = self.affine[:3, 3]
        turn = orientation(self.affine)
        return f"{i} x {j} x {k} of {size} mm, {turn} from {x:.1f} {y:.1f} {z:.1f}"


@dataclass(frozen=True)
class Grey:
    """An image that passed its checks.

    Attributes
    ----------
    voxels : (K, J, I) array
        As stored, in the order of the file.
    slope, intercept : float
        Grey value = slope x voxel + intercept.
    affine : (4, 4) float array
        Voxel indices to RAS+ mm.
    """

    voxels: np.ndarray
    slope: float
    intercept: float
    affine: np.ndarray

    @property
    def grid(self) -> Grid:
        return Grid(self.voxels.shape[::-1], self.affine)

    @property
    def is_plain(self) -> bool:
        """Whether float32 holds its grey values as they are stored."""
        return self.voxels.dtype.itemsize <= 2 and (self.slope, self.intercept) == (1.0, 0.0)

    def values(self) -> np.ndarray:
        """(I, J, K) grey values: as stored where that is plain, else as float32."""
        grey = self.voxels.T
        if not self.is_plain:
            grey = (grey.astype(float) * self.slope + self.intercept).astype(np.float32)
        return grey.astype(grey.dtype.newbyteorder("="), copy=False)


def together(channels: Mapping[str, Grey], digests: Sequence[str]) -> bytes:
    """A NIfTI file of (I, J, K, channel) voxels.

    Parameters
    ----------
    channels : mapping of str to Grey
        By name, in the order of the model.
    digests : sequence of str
        Of the grey values of each.

    Raises
    ------
    ScanError
        ``IMG_CHANNEL_GRID``, ``IMG_CHANNEL_SAME`` or ``IMG_CHANNEL_SWAPPED``.
    """
    (first_name, first), *others = channels.items()
    for name, one in others:
        if not one.grid.is_that_of(first.grid):
            raise ScanError("IMG_CHANNEL_GRID", f"{first_name} {first.grid}; {name} {one.grid}")
    for (a, of_a), (b, of_b) in combinations(zip(channels, digests, strict=True), 2):
        if of_a == of_b:
            raise ScanError("IMG_CHANNEL_SAME", f"{a} and {b} hold the same grey values")
    values = {name: one.values() for name, one in channels.items()}
    _check_phases({part: values[name] for name in values if (part := dixon_part(name))})
    return nifti_gz(np.stack([*values.values()], axis=-1), first.affine)


def check_declared(name: str, declared: str | None) -> None:
    """Raise ScanError where the header or the sidecar of a channel says that it is another part."""
    part = dixon_part(name)
    if part and declared and part != declared:
        raise ScanError("IMG_CHANNEL_SWAPPED", f"the header of {name} says {declared}")


def digest_of_channels(digests: Sequence[str]) -> str:
    """sha256 that stands for the grey values of all channels."""
    return hashlib.sha256("".join(digests).encode()).hexdigest()


def in_one(listed: Sequence[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Rows of one folder that was looked through several times: chosen where it was once."""
    rows = [list(of_stack) for of_stack in zip(*filter(None, listed), strict=True)]
    return [max(of_stack, key=lambda row: bool(row.get("chosen"))) for of_stack in rows]


def _check_phases(parts: Mapping[str, np.ndarray]) -> None:
    """In phase and opposed phase: fat and water cancel in the opposed one alone.

    At every border of the two, a rim is dark in opposed phase and bright in phase, whatever the
    sequence. Where nearly all such voxels are the other way round, the images have changed places;
    a liver that iron makes dark in the later, in-phase echo leaves the rim what it is.
    """
    if not {"in_phase", "opposed_phase"} <= set(parts):
        return
    one, other = (parts[name].astype(np.float32) for name in ("in_phase", "opposed_phase"))
    brighter = np.maximum(one, other)
    body = brighter > brighter.mean(dtype=np.float64)
    n_right = np.count_nonzero(body & (other < _CANCELLED * one))
    n_wrong = np.count_nonzero(body & (one < _CANCELLED * other))
    if n_wrong > max(_CLEARLY * n_right, _LEAST_SHARE * np.count_nonzero(body)):
        raise ScanError(
            "IMG_CHANNEL_SWAPPED",
            f"fat and water cancel in {n_wrong} voxels of in_phase, {n_right} of opposed_phase",
        )


def missing(names: Sequence[str], images: Sequence[Path | None]) -> str:
    """Which channels have no image, in words."""
    gone = [
        f"{name} (image_{n})" if n > 1 else f"{name} (image)"
        for n, name in enumerate(names, start=1)
        if n > len(images) or not images[n - 1]
    ]
    return f"no image of {', '.join(gone)}"

"""How far a body moved between two images that show a part of it twice, as two breath-holds do."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

FARTHEST_MM = 14.0
_COARSE_MM = 4.0  # between the voxels that are compared, across the slices
_TRIES_MM = 2.0  # between the places tried along the slices
_LEAST_SLICES = 2  # in common, from which two images can be compared
_BETTER = 0.75  # of what two images differ by where nothing moved, that is left where something did
_NOTABLE_MM = 3.0  # along the slices; two images that differ more than by that moved, or more
_ROUNDS = 12
_SETTLED = 0.01  # voxels


@dataclass(frozen=True)
class Movement:
    """What fits the common part best.

    Attributes
    ----------
    shift_mm : (3,) float array or None
        Along the axes of the grid; 0 where the two show one thing as they lie. None where they do
        not and no shift fits clearly better, as of a body that moved by more than is shown twice.
    likeness : float
        Correlation of the grey values, that shift taken into account.
    """

    shift_mm: np.ndarray | None
    likeness: float

    @property
    def distance_mm(self) -> float | None:
        return None if self.shift_mm is None else float(np.linalg.norm(self.shift_mm))


def movement(
    fixed: np.ndarray, moving: np.ndarray, offset: int, edges_mm: np.ndarray
) -> Movement | None:
    """How far the content of `moving` lies from where `fixed` has it.

    Places along the slices are tried one after another, and the best is refined along all axes by
    least squares (Lucas and Kanade). Where none fits, the two moved if they are less alike than
    `fixed` and itself, moved by `_NOTABLE_MM`.

    Parameters
    ----------
    fixed, moving : (I, J, K) and (I, J, L) arrays
        Of one brightness, on one grid.
    offset : int
        Slice of `fixed` at which `moving` begins.
    edges_mm : (3,) array
        Of the voxels.

    Returns
    -------
    Movement or None
        None where fewer than two slices are in common, or these hold nothing.
    """
    if fixed.shape[2] - offset < _LEAST_SLICES:
        return None
    reach = int(np.ceil(FARTHEST_MM / edges_mm[2]))
    first = max(0, offset - reach)
    fixed = _coarse(fixed[:, :, first:], edges_mm)
    moving = _coarse(moving[:, :, : fixed.shape[2] + first - offset + reach], edges_mm)
    stride = _strides(edges_mm)
    edges = edges_mm * stride
    origin = np.array([0.0, 0.0, float(first - offset)])  # of `fixed`, in voxels of `moving`
    still = _likeness(fixed, moving, origin)
    if still is None:
        return None
    tries = np.arange(-FARTHEST_MM, FARTHEST_MM + _TRIES_MM / 2, _TRIES_MM) / edges[2]
    along = [_likeness(fixed, moving, origin + np.array([0, 0, one])) for one in tries]
    best = tries[int(np.argmax([-1 if one is None else one for one in along]))]
    like, found = still, np.zeros(3)
    for begin in (0.0, float(best)):
        shift = _settled(fixed, moving, origin, begin)
        there = _likeness(fixed, moving, origin + shift)
        if there is not None and there > like:
            like, found = there, shift
    if 1 - like <= _BETTER * (1 - still):
        return Movement(found * edges, like)
    beside = np.array([0.0, 0.0, np.ceil(_NOTABLE_MM / edges[2])])
    moved_a_little = _likeness(fixed, fixed, beside)
    is_still = moved_a_little is None or still >= moved_a_little
    return Movement(np.zeros(3) if is_still else None, still)


def _strides(edges_mm: np.ndarray) -> np.ndarray:
    across = np.maximum(1, np.rint(_COARSE_MM / edges_mm[:2]))
    return np.array([*across, 1.0])


def _coarse(image: np.ndarray, edges_mm: np.ndarray) -> np.ndarray:
    """Smoothed and thinned out across the slices."""
    i, j, _ = (int(n) for n in _strides(edges_mm))
    sigma = [*(_COARSE_MM / 2 / edges_mm[:2]), 0]
    smooth: np.ndarray = ndimage.gaussian_filter(image.astype(np.float32), sigma)
    return smooth[i // 2 :: i, j // 2 :: j]


def _common(fixed: np.ndarray, moving: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Slices of `fixed` that `moving` shows too, if the first of `fixed` lies at `at` there."""
    places = np.arange(fixed.shape[2]) + at[2]
    return np.flatnonzero((places >= 0) & (places <= moving.shape[2] - 1))


def _read_at(moving: np.ndarray, at: np.ndarray, slices: np.ndarray) -> np.ndarray:
    """`moving`, linearly interpolated, where the voxels of these slices of `fixed` lie."""
    for axis, first in enumerate(at):
        places = slices if axis == 2 else np.arange(moving.shape[axis])
        whole = int(np.floor(first))
        share = np.float32(first - whole)
        low, high = (
            moving.take(np.clip(places + whole + n, 0, moving.shape[axis] - 1), axis=axis)
            for n in (0, 1)
        )
        moving = low * (1 - share) + high * share
    return moving


def _likeness(fixed: np.ndarray, moving: np.ndarray, at: np.ndarray) -> float | None:
    """Correlation of what the two show both; None where that is too little, or nothing."""
    slices = _common(fixed, moving, at)
    if len(slices) < _LEAST_SLICES:
        return None
    here, there = fixed[:, :, slices], _read_at(moving, at, slices)
    here, there = here - here.mean(), there - there.mean()
    spread = float(np.linalg.norm(here) * np.linalg.norm(there))
    return float(np.vdot(here, there)) / spread if spread > 0 else None


def _settled(fixed: np.ndarray, moving: np.ndarray, origin: np.ndarray, begin: float) -> np.ndarray:
    """The shift, voxels, at which least squares come to rest."""
    shift = np.array([0.0, 0.0, begin])
    slopes = np.gradient(moving)
    for _ in range(_ROUNDS):
        at = origin + shift
        slices = _common(fixed, moving, at)
        if len(slices) < _LEAST_SLICES:
            break
        away = (fixed[:, :, slices] - _read_at(moving, at, slices)).ravel()
        steep = np.stack([_read_at(slope, at, slices).ravel() for slope in slopes])
        step = np.linalg.lstsq(steep @ steep.T, steep @ away, rcond=1e-6)[0]
        shift = shift + np.clip(step, -1, 1)
        if np.abs(step).max() < _SETTLED:
            break
    return shift

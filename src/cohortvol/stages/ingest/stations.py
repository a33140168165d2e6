"""One body in several table positions, put together on one grid.

Stations overlap, or follow one another, along their third axis. In an overlap each counts by the
distance to its own end, so that no step is left where one ends; before that, what a station is
brighter than the next is taken out, and how far the body moved between the two breath-holds is
measured. Nothing is moved: a shift is a number for whoever reads the volumes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from cohortvol.anatomy.geometry import spacing_mm
from cohortvol.errors import GeometryError
from cohortvol.stages.ingest.breath import Movement, movement

SAME_GAIN = 0.02  # relative; grey values nearer than that stay as they are stored
_ON_GRID = 1e-3  # voxels beside a voxel of the grid, within which a station lies on it
_ASKEW = 0.1  # voxels that a corner may lie off, for axes that are not quite parallel
_BODY = 0.25  # of the 98th percentile of the grey values, from which a voxel is body


@dataclass(frozen=True)
class Seam:
    """Where a station meets the next.

    Attributes
    ----------
    overlap_mm : float
        Length that both show; below 0 the length that neither does.
    gain : float or None
        Grey values of the next station by those of this one; None without an overlap.
    movement : Movement or None
        Of the next station against this one; None where the overlap does not tell.
    """

    overlap_mm: float
    gain: float | None
    movement: Movement | None


@dataclass(frozen=True)
class Composed:
    """The whole body.

    Attributes
    ----------
    voxels : (I, J, K) array
        Whole numbers where all stations hold such, else float32; 0 in the gaps.
    affine : (4, 4) float array
        Voxel indices to RAS+ mm.
    order : tuple of int
        Which of the stations given is which along the third axis.
    spans : tuple of (int, int)
        First and last slice of each, in this order.
    gains : tuple of float
        What the grey values of each were multiplied by.
    seams : tuple of Seam
        One fewer than stations.
    """

    voxels: np.ndarray
    affine: np.ndarray
    order: tuple[int, ...]
    spans: tuple[tuple[int, int], ...]
    gains: tuple[float, ...]
    seams: tuple[Seam, ...]


@dataclass(frozen=True)
class _Placed:
    """A station in voxel coordinates of the common grid: ``scale * index + start``."""

    voxels: np.ndarray
    scale: np.ndarray
    start: np.ndarray

    def at(self, axis: int, places: np.ndarray) -> np.ndarray:
        """Own indices of places along an axis of the grid."""
        own: np.ndarray = (places - self.start[axis]) / self.scale[axis]
        return own

    @property
    def ends(self) -> tuple[np.ndarray, np.ndarray]:
        """Outer faces of the first and the last voxels."""
        half = self.scale / 2
        return self.start - half, self.start + self.scale * (np.array(self.voxels.shape) - 1) + half


def compose(
    stations: Sequence[tuple[np.ndarray, np.ndarray]], *, keep_values: bool = False
) -> Composed:
    """Put stations together on the grid of the one with the thinnest slices.

    Along the first two axes only what all of them show is kept, so that no voxel but those of a gap
    is made up. A station that does not lie on the grid is interpolated linearly.

    Parameters
    ----------
    stations : sequence of ((I, J, K) array, (4, 4) float array)
        Grey values, and voxel indices to RAS+ mm. The axes are parallel, and slices follow one
        another along the third.
    keep_values : bool
        Leave what one station is brighter than the next, as of values that have a unit.

    Raises
    ------
    GeometryError
        If there are none, axes are not parallel, or some two have no column in common.
    """
    if not stations:
        raise GeometryError("no stations to put together")
    steps = [spacing_mm(affine)[2] for _, affine in stations]
    grid = stations[int(np.argmin(steps))][1]
    placed = [_placed(voxels, affine, grid) for voxels, affine in stations]
    order = sorted(range(len(placed)), key=lambda n: placed[n].ends[0][2])
    placed = [placed[n] for n in order]
    start, shape = _common(placed)
    cut = [_in_plane(one, start, shape) for one in placed]
    covered = [_covered(one, start[2], shape[2]) for one in placed]
    seams = tuple(
        _seam(*pair, covers, start[2], spacing_mm(grid))
        for pair, covers in zip(pairwise(cut), pairwise(covered), strict=True)
    )
    gains = _gains([1.0 if keep_values else seam.gain for seam in seams])
    voxels = _blended(cut, covered, gains, start[2], shape)
    affine = grid.copy()
    affine[:3, 3] = (grid @ [*start, 1.0])[:3]
    spans = tuple((int(slices[0]), int(slices[-1])) for slices in covered)
    return Composed(voxels, affine, tuple(order), spans, gains, seams)


def _placed(voxels: np.ndarray, affine: np.ndarray, grid: np.ndarray) -> _Placed:
    to_grid = np.linalg.inv(grid) @ affine
    scale = np.diag(to_grid)[:3]
    askew = np.abs(to_grid[:3, :3] - np.diag(scale)) @ (np.array(voxels.shape) - 1.0)
    if voxels.ndim != 3 or (scale <= 0).any() or askew.max() > _ASKEW:
        raise GeometryError(f"the axes of two stations are not parallel: {askew.max():.2f} voxels")
    return _Placed(voxels, scale, to_grid[:3, 3])


def _common(placed: Sequence[_Placed]) -> tuple[np.ndarray, tuple[int, int, int]]:
    """First voxel of the common grid and its shape: all slices, and the columns all have."""
    low, high = (np.array([one.ends[n] for one in placed]) for n in (0, 1))
    low = np.array([*low[:, :2].max(axis=0), low[:, 2].min()])
    high = np.array([*high[:, :2].min(axis=0), high[:, 2].max()])
    start = np.ceil(low + 0.5 - _ON_GRID)
    i, j, k = (int(n) for n in np.floor(high - 0.5 + _ON_GRID) - start + 1)
    if min(i, j, k) < 1:
        raise GeometryError("two stations have no column of voxels in common")
    return start, (i, j, k)


def _in_plane(one: _Placed, start: np.ndarray, shape: tuple[int, int, int]) -> _Placed:
    """The station on the columns of the grid, with its own slices."""
    voxels = one.voxels
    for axis in (0, 1):
        voxels = _along(voxels, axis, one.at(axis, start[axis] + np.arange(shape[axis])))
    return _Placed(voxels, one.scale, np.array([0.0, 0.0, one.start[2]]))


def _along(voxels: np.ndarray, axis: int, places: np.ndarray) -> np.ndarray:
    """Linear interpolation along an axis; beyond the outermost centres their values."""
    places = np.clip(places, 0, voxels.shape[axis] - 1)
    if (np.abs(places - np.rint(places)) <= _ON_GRID).all():
        return np.asarray(voxels.take(np.rint(places).astype(int), axis=axis))
    low = np.minimum(places.astype(int), voxels.shape[axis] - 2)
    share = (places - low).reshape([-1 if n == axis else 1 for n in range(3)]).astype(np.float32)
    below, above = (voxels.take(low + n, axis=axis) for n in (0, 1))
    return np.asarray(below * (1 - share) + above * share)


def _covered(one: _Placed, start: float, n_slices: int) -> np.ndarray:
    """Slices of the grid whose centres lie in the station."""
    at = one.at(2, start + np.arange(n_slices))
    inside = (at >= -0.5 - _ON_GRID) & (at <= one.voxels.shape[2] - 0.5 + _ON_GRID)
    return np.flatnonzero(inside)


def _seam(
    lower: _Placed,
    upper: _Placed,
    covered: tuple[np.ndarray, np.ndarray],
    start: float,
    edges_mm: np.ndarray,
) -> Seam:
    overlap_mm = float((lower.ends[1] - upper.ends[0])[2] * edges_mm[2])
    both = np.intersect1d(*covered)
    if not both.size:
        return Seam(overlap_mm, None, None)
    below, above = (_along(one.voxels, 2, one.at(2, start + both)) for one in (lower, upper))
    gain = _gain(below, above)
    around = [
        _along(one.voxels, 2, one.at(2, start + slices))
        for one, slices in zip((lower, upper), covered, strict=True)
    ]
    offset = int(covered[1][0] - covered[0][0])
    return Seam(overlap_mm, gain, movement(around[0], around[1] / (gain or 1.0), offset, edges_mm))


def _gain(below: np.ndarray, above: np.ndarray) -> float | None:
    """Grey values of `above` by those of `below`, on the same voxels; None where there is no body.

    The median over the body, as some of it moved.
    """
    floors = [_BODY * np.percentile(one, 98) for one in (below, above)]
    body = (below > max(floors[0], 0)) & (above > max(floors[1], 0))
    if not body.any():
        return None
    return float(np.exp(np.median(np.log(above[body].astype(float) / below[body]))))


def _gains(of_seams: Sequence[float | None]) -> tuple[float, ...]:
    """What each station is multiplied by; of those that hang together the middle one keeps its
    grey values, and all do where they differ by less than `SAME_GAIN`."""
    gains: list[float] = []
    linked = [1.0]
    for gain in [*of_seams, None]:
        if gain is not None:
            same = abs(gain - 1) <= SAME_GAIN
            linked.append(linked[-1] if same else linked[-1] / gain)
            continue
        gains += [one / linked[len(linked) // 2] for one in linked]
        linked = [1.0]
    return tuple(gains)


def _blended(
    cut: Sequence[_Placed],
    covered: Sequence[np.ndarray],
    gains: Sequence[float],
    start: float,
    shape: tuple[int, int, int],
) -> np.ndarray:
    """Every slice from the stations that show it, by the distance to the end of each."""
    total, weights = np.zeros(shape, np.float32), np.zeros(shape[2], np.float32)
    for one, slices, gain in zip(cut, covered, gains, strict=True):
        at = one.at(2, start + slices)
        to_end = np.minimum(at + 0.5, one.voxels.shape[2] - 0.5 - at) * one.scale[2]
        weight = np.maximum(to_end, _ON_GRID).astype(np.float32)
        total[:, :, slices] += _along(one.voxels, 2, at) * (weight * np.float32(gain))
        weights[slices] += weight
    voxels = total / np.where(weights > 0, weights, 1)
    kind = np.result_type(*(one.voxels.dtype for one in cut))
    if kind.kind not in "iu":
        return voxels
    ends = np.iinfo(kind)
    return np.clip(np.rint(voxels), ends.min, ends.max).astype(kind)

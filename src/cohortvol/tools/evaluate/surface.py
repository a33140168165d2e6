"""Surfaces of masks, and how far apart two of them are.

Two kinds of surface, since the published figures use both:

- *elements*: the triangles that marching cubes lays between the voxel centres, one set for each of
  the 256 ways in which 2 x 2 x 2 neighbours can be inside or outside; each set weighs as much as
  its area. As in DeepMind's surface-distance 0.1 (Nikolov et al. 2018, arXiv 1809.04430), which
  the normalised surface Dice of TotalSegmentator and of its MRI study is computed with.
- *border voxels*: the voxels of a mask with a face neighbour outside it, all of one weight; a face
  at the edge of the image is no border. As in the evaluation of the CHAOS challenge.
"""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from scipy.spatial import cKDTree

ELEMENTS = Path(__file__).with_name("surface_elements.tsv")


@dataclass(frozen=True)
class Distances:
    """From every part of one surface to the nearest part of the other.

    Attributes
    ----------
    mm : (N,) float array
        Distances, mm.
    weight : (N,) float array
        Area of each part, mm2, or 1.
    """

    mm: np.ndarray
    weight: np.ndarray

    def share_within(self, tolerance_mm: float) -> tuple[float, float]:
        """Weight no further than a tolerance, and all weight."""
        return float(self.weight[self.mm <= tolerance_mm].sum()), float(self.weight.sum())

    def percentile(self, percent: float) -> float:
        """The distance, mm, up to which this percentage of the surface lies."""
        order = np.argsort(self.mm, kind="stable")
        reached = np.cumsum(self.weight[order]) / self.weight.sum()
        place = int(np.searchsorted(reached, percent / 100.0))
        return float(self.mm[order[min(place, len(order) - 1)]])


@cache
def _triangles() -> tuple[tuple[int, np.ndarray], ...]:
    """Neighbourhood code to the area vectors of its triangles, in eighths of a voxel face.

    The table holds the neighbourhoods with at most four voxels inside; the surface between
    inside and outside is the same when the two are exchanged.
    """
    with open(ELEMENTS, encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream, delimiter="\t"))
    table = []
    for row in rows:
        vectors = np.array([list(map(int, one.split(","))) for one in row["triangles"].split()])
        table.append((int(row["corners"], 2), vectors))
    return tuple(table)


def element_areas_mm2(spacing_mm: np.ndarray) -> np.ndarray:
    """Area of the surface inside each of the 256 neighbourhoods, mm2, shape (256,).

    Parameters
    ----------
    spacing_mm : (3,) float array
        Voxel edges along the three array axes, mm.
    """
    faces_mm2 = np.prod(spacing_mm) / np.asarray(spacing_mm, dtype=float)
    areas = np.zeros(256)
    for code, vectors in _triangles():
        area = np.linalg.norm(vectors / 8.0 * faces_mm2, axis=1).sum()
        areas[code] = areas[255 - code] = area
    return areas


def neighbourhood_codes(mask: np.ndarray) -> np.ndarray:
    """Which of each 2 x 2 x 2 neighbours are inside, as 8 bits; outside the array is outside.

    Parameters
    ----------
    mask : (I, J, K) boolean array

    Returns
    -------
    (I + 1, J + 1, K + 1) uint8 array
        The first voxel of a neighbourhood is the highest bit, the last axis changing fastest.
    """
    padded = np.pad(mask, 1).view(np.uint8)
    pairs = (padded[:, :, :-1] << 1) | padded[:, :, 1:]
    squares = (pairs[:, :-1] << 2) | pairs[:, 1:]
    return np.asarray((squares[:-1] << 4) | squares[1:])


def element_distances(
    first: np.ndarray, second: np.ndarray, spacing_mm: np.ndarray
) -> tuple[Distances, Distances]:
    """Distances between the surface elements of two masks, from the first and from the second.

    Parameters
    ----------
    first, second : (I, J, K) boolean array
        Masks on one grid that are not empty. What lies outside the arrays counts as outside.
    spacing_mm : (3,) float array
        Voxel edges along the three array axes, mm.
    """
    areas = element_areas_mm2(spacing_mm)
    codes = [neighbourhood_codes(mask) for mask in (first, second)]
    # 1 to 254 hold a surface; 0 becomes 255 in uint8.
    surfaces = [(code - np.uint8(1)) < 254 for code in codes]

    def area_at(which: int, at: np.ndarray) -> np.ndarray:
        return np.asarray(areas[codes[which].ravel()[at]])

    return _between(surfaces, spacing_mm, area_at)


def border_distances(
    first: np.ndarray, second: np.ndarray, spacing_mm: np.ndarray
) -> tuple[Distances, Distances]:
    """Distances between the border voxels of two masks, from the first and from the second.

    Parameters
    ----------
    first, second : (I, J, K) boolean array
        Masks on one grid. The edge of the arrays counts as the edge of the image.
    spacing_mm : (3,) float array
        Voxel edges along the three array axes, mm.

    Returns
    -------
    tuple of Distances
        Empty where one mask has no border, as it fills the image or is empty.
    """
    borders = [_border(mask) for mask in (first, second)]
    return _between(borders, spacing_mm, lambda _, at: np.ones(len(at)))


def _border(mask: np.ndarray) -> np.ndarray:
    """Voxels with a face neighbour outside the mask; beyond the array is inside."""
    deep = mask.copy()
    for axis in range(3):
        here, there = np.moveaxis(deep, axis, 0), np.moveaxis(mask, axis, 0)
        here[1:] &= there[:-1]
        here[:-1] &= there[1:]
    return np.asarray(mask & ~deep)


def _between(
    surfaces: list[np.ndarray],
    spacing_mm: np.ndarray,
    weight_at: Callable[[int, np.ndarray], np.ndarray],
) -> tuple[Distances, Distances]:
    places = [np.flatnonzero(surface) for surface in surfaces]
    weights = [weight_at(which, at) for which, at in enumerate(places)]
    shape = surfaces[0].shape
    points = [np.column_stack(np.unravel_index(at, shape)) for at in places]
    found = []
    for here, there in ((0, 1), (1, 0)):
        mm = np.zeros(len(places[here]))
        if not len(places[there]):
            found.append(Distances(np.zeros(0), np.zeros(0)))
            continue
        apart = ~surfaces[there].ravel()[places[here]]  # the others lie on both, 0 mm apart
        mm[apart] = _nearest_mm(points[here][apart], points[there], spacing_mm)
        found.append(Distances(mm, weights[here]))
    return found[0], found[1]


def _nearest_mm(points: np.ndarray, others: np.ndarray, spacing_mm: np.ndarray) -> np.ndarray:
    """Distance of each voxel index to the nearest of others, mm.

    Taken from the steps between the two and not from their coordinates, whose rounding could
    push a distance over a tolerance that it equals.
    """
    if not len(points):
        return np.zeros(0)
    tree = cKDTree(others * spacing_mm, balanced_tree=False, compact_nodes=False)
    _, nearest = tree.query(points * spacing_mm)
    return np.asarray(np.sqrt((((points - others[nearest]) * spacing_mm) ** 2).sum(axis=1)))

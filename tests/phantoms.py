"""Small asymmetric anisotropic phantoms, with answers worked out by hand."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import permutations, product

import nibabel as nib
import numpy as np

SPACING_MM = (1.25, 1.5, 3.0)  # a mixed-up axis changes every answer
VOXEL_ML = 0.005625  # 1.25 x 1.5 x 3.0 = 5.625 mm3

ANISOTROPIC = np.array(
    [
        [1.25, 0.0, 0.0, -7.5],
        [0.0, 1.5, 0.0, 4.0],
        [0.0, 0.0, 3.0, -100.0],
        [0.0, 0.0, 0.0, 1.0],
    ]
)
"""RAS+ grid of `SPACING_MM`: the first axis grows to the right."""

STRUCTURES = {1: "liver", 2: "spleen", 3: "kidney_left", 4: "kidney_right", 7: "pancreas"}


def abdomen() -> np.ndarray:
    """Label map (12, 10, 9) of `STRUCTURES`: right is high i, front is high j, head is high k.

    ============  ===========================  ========  ==================================
    structure     place                        n_voxels  what is special
    ============  ===========================  ========  ==================================
    liver         i 7-10, j 3-7, k 4-8              100  reaches S over 4 x 5 voxel faces
    spleen        i 1-2, j 1-3, k 5-7                18  nothing
    kidney_left   i 0-1, j 5-6, k 0-2                12  reaches L (2 x 3 faces), I (2 x 2)
    kidney_right  i 7-8, j 1-2, k 1-3, and apart     14  two components, 12 + 2 voxels
    pancreas      nowhere                             -  absent
    ============  ===========================  ========  ==================================
    """
    label_map = np.zeros((12, 10, 9), dtype=np.uint8)
    label_map[7:11, 3:8, 4:9] = 1
    label_map[1:3, 1:4, 5:8] = 2
    label_map[0:2, 5:7, 0:3] = 3
    label_map[7:9, 1:3, 1:4] = 4
    label_map[10, 8, 2:4] = 4
    return label_map


def ramp() -> np.ndarray:
    """Image on the grid of `abdomen` whose value is 100 + 10 i, in 16-bit integers."""
    return np.broadcast_to(100 + 10 * np.arange(12)[:, None, None], (12, 10, 9)).astype(np.int16)


def stored_in_every_order(
    data: np.ndarray, affine: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The same voxels in the same place, in each of the 48 orders of a 3D array's axes."""
    for axes, flips in product(permutations(range(3)), product((1, -1), repeat=3)):
        orders = np.array([[axes.index(axis), flips[axes.index(axis)]] for axis in range(3)])
        moved = nib.orientations.apply_orientation(data, orders)
        yield moved, affine @ nib.orientations.inv_ornt_aff(orders, data.shape)


def tilted(affine: np.ndarray, degrees: float = 20.0) -> np.ndarray:
    """The grid turned about the left-right axis, so that it is oblique."""
    angle = np.deg2rad(degrees)
    turn = np.eye(4)
    turn[1:3, 1:3] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    return turn @ affine

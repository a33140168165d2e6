"""How far two label maps agree: the Dice coefficient of each structure."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np


def dice_by_structure(
    first: np.ndarray,
    first_labels: Mapping[str, int],
    second: np.ndarray,
    second_labels: Mapping[str, int],
) -> dict[str, float]:
    """Dice of every structure that both label maps have a label for, in the order of the first.

    ``2 |A and B| / (|A| + |B|)`` of the voxels: 1 for the same voxels, 0 where they share none
    (so also where one holds nothing), NaN where neither holds any, as then nothing is compared.

    Parameters
    ----------
    first, second : (I, J, K) or (I, J, K, layers) integer array
        Label maps on one grid; a label stands in one layer only.
    first_labels, second_labels : mapping of str to int
        Structure to label index.
    """
    grid = first.shape[:3]
    layers = [np.moveaxis(labels.reshape(*grid, -1), -1, 0) for labels in (first, second)]
    n_labels = [1 + max(labels.values(), default=0) for labels in (first_labels, second_labels)]
    both = np.zeros(n_labels, dtype=np.int64)
    sizes = [np.zeros(n, dtype=np.int64) for n in n_labels]
    for of_first in layers[0]:
        sizes[0] += _counts(of_first, n_labels[0])
        for of_second in layers[1]:
            both += _joint_counts(of_first, of_second, n_labels)
    for of_second in layers[1]:
        sizes[1] += _counts(of_second, n_labels[1])
    dice = {}
    for structure, label in first_labels.items():
        if structure in second_labels:
            other = second_labels[structure]
            size = int(sizes[0][label] + sizes[1][other])
            dice[structure] = 2 * int(both[label, other]) / size if size else float("nan")
    return dice


def _counts(labels: np.ndarray, n_labels: int) -> np.ndarray:
    """Voxels by label; labels that nobody asked for are left out."""
    return np.bincount(labels.ravel(), minlength=n_labels)[:n_labels]


def _joint_counts(first: np.ndarray, second: np.ndarray, n_labels: list[int]) -> np.ndarray:
    """Voxels by pair of labels, where both are labels that were asked for."""
    known = (first > 0) & (second > 0) & (first < n_labels[0]) & (second < n_labels[1])
    pairs = first[known].astype(np.int64) * n_labels[1] + second[known]
    return np.bincount(pairs, minlength=n_labels[0] * n_labels[1]).reshape(n_labels)

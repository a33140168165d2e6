"""How far two label maps agree: the Dice coefficient of each structure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Overlap:
    """Voxels of one structure in two label maps: of the first, of the second, and of both."""

    n_first: int
    n_second: int
    n_both: int

    @property
    def dice(self) -> float:
        """``2 |A and B| / (|A| + |B|)``: 1 for the same voxels, 0 where they share none (so also
        where one holds nothing), NaN where neither holds any, as then nothing is compared.
        """
        size = self.n_first + self.n_second
        return 2 * self.n_both / size if size else float("nan")


def dice_by_structure(
    first: np.ndarray,
    first_labels: Mapping[str, int],
    second: np.ndarray,
    second_labels: Mapping[str, int],
) -> dict[str, float]:
    """`Overlap.dice` of every structure of `overlap_by_structure`."""
    overlaps = overlap_by_structure(first, first_labels, second, second_labels)
    return {structure: overlap.dice for structure, overlap in overlaps.items()}


def overlap_by_structure(
    first: np.ndarray,
    first_labels: Mapping[str, int],
    second: np.ndarray,
    second_labels: Mapping[str, int],
) -> dict[str, Overlap]:
    """Overlap of every structure that both label maps have a label for, in the first's order.

    Parameters
    ----------
    first, second : (I, J, K) or (I, J, K, layers) integer array
        Label maps on one grid; a label stands in one layer only.
    first_labels, second_labels : mapping of str to int
        Structure to label index.
    """
    layers = [layers_of(labels) for labels in (first, second)]
    n_labels = [1 + max(labels.values(), default=0) for labels in (first_labels, second_labels)]
    both = np.zeros(n_labels, dtype=np.int64)
    sizes = [np.zeros(n, dtype=np.int64) for n in n_labels]
    for of_first in layers[0]:
        sizes[0] += _counts(of_first, n_labels[0])
        for of_second in layers[1]:
            both += _joint_counts(of_first, of_second, n_labels)
    for of_second in layers[1]:
        sizes[1] += _counts(of_second, n_labels[1])
    return {
        structure: Overlap(
            int(sizes[0][label]),
            int(sizes[1][second_labels[structure]]),
            int(both[label, second_labels[structure]]),
        )
        for structure, label in first_labels.items()
        if structure in second_labels
    }


def layers_of(labels: np.ndarray) -> np.ndarray:
    """The layers of a label map, (layers, I, J, K); of most there is one."""
    return np.moveaxis(labels.reshape(*labels.shape[:3], -1), -1, 0)


def _counts(labels: np.ndarray, n_labels: int) -> np.ndarray:
    """Voxels by label; labels that nobody asked for are left out."""
    return np.bincount(labels.ravel(), minlength=n_labels)[:n_labels]


def _joint_counts(first: np.ndarray, second: np.ndarray, n_labels: list[int]) -> np.ndarray:
    """Voxels by pair of labels, where both are labels that were asked for."""
    known = (first > 0) & (second > 0) & (first < n_labels[0]) & (second < n_labels[1])
    pairs = first[known].astype(np.int64) * n_labels[1] + second[known]
    return np.bincount(pairs, minlength=n_labels[0] * n_labels[1]).reshape(n_labels)

"""How sure a network is of the size of what it found: sums over its softmax.

A label map says which structure has most of a voxel. The softmax says how much of it, as the
network sees it: added up it is the volume to be expected, also where a voxel is shared, and
p (1 - p) added up is how far the volume moves if all doubtful voxels err to the same side.
Of a network trained by regions, p is the sigmoid of each region's own output.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TypedDict

import numpy as np
import torch

from cohortvol.models.networks.regions import Regions

SURELY_BACKGROUND = 1e-4
"""A voxel counts as background where every structure has less than this share of what that has; of
regions, where each is less likely than this."""

_PIECE_ON_CPU = 2**18
_PIECE_ON_GPU = 2**26


class Ratios(TypedDict):
    """What is kept of a scan; the names are those of columns of the segment table.

    Ratios, and not sums, so that they hold for the voxels counted on any other grid.
    """

    softmax_labels: list[int]
    expected_ratio: list[float]
    spread_ratio: list[float]


class Softness:
    """Sums over the softmax of one network's logits, a slab of the image at a time.

    Parameters
    ----------
    n_labels : int
        Outputs of the network.
    regions : Regions, optional
        What the outputs are, where they are no labels.

    Attributes
    ----------
    counted : (n_labels,) int64 tensor
        Voxels in which the label has the greatest logit; not kept for background. Of a region, its
        voxels in nnU-Net's map.
    expected : (n_labels,) float64 tensor
        Sum of p, the label's softmax.
    spread : (n_labels,) float64 tensor
        Sum of p (1 - p). Independent voxels would give its square root; but the errors of a
        segmentation are neighbours, on one side of one border.
    """

    def __init__(self, n_labels: int, regions: Regions | None = None) -> None:
        self._regions = regions
        self.counted = torch.zeros(n_labels, dtype=torch.int64)
        self.expected = torch.zeros(n_labels, dtype=torch.float64)
        self.spread = torch.zeros(n_labels, dtype=torch.float64)

    def add(self, logits: torch.Tensor) -> None:
        """Count (n_labels, ...) logits, whose first label is background unless they are regions."""
        n_labels = len(logits)
        flat = logits.reshape(n_labels, -1)
        size = (_PIECE_ON_GPU if logits.is_cuda else _PIECE_ON_CPU) // n_labels
        for piece in torch.split(flat, max(size, 1), dim=1):
            values = piece.float()
            if self._regions is None:
                in_doubt = values[1:].amax(0) > values[0] + math.log(SURELY_BACKGROUND)
                values = values[:, in_doubt]
                share = values.softmax(0)
                counted = torch.bincount(values.argmax(0), minlength=n_labels)
            else:
                values = values[:, torch.sigmoid(values.amax(0)) > SURELY_BACKGROUND]
                share = values.sigmoid()
                counted = self._regions.inside(self._regions.label_map(values)).sum(1)
            self.counted += counted.cpu()
            self.expected += share.sum(1, dtype=torch.float64).cpu()
            self.spread += (share * (1 - share)).sum(1, dtype=torch.float64).cpu()


def ratios(parts: Iterable[tuple[Softness, np.ndarray]]) -> Ratios:
    """Expected volume and spread of every structure that was found, as shares of its voxels.

    Parameters
    ----------
    parts : iterable of (Softness, (n_labels,) integer array)
        Sums of each network of a model, and the model's label for each label of the network;
        0 is what the model leaves out. Labels that several networks share are added up: what
        the later of two networks takes from the earlier one is not looked at.
    """
    sums: dict[int, np.ndarray] = {}
    for softness, to_global in parts:
        rows = np.stack([softness.counted, softness.expected, softness.spread], axis=1)
        for label, row in zip(to_global.tolist(), rows, strict=True):
            if label:
                sums[label] = sums.get(label, 0.0) + row
    found = {label: row for label, row in sorted(sums.items()) if row[0]}
    return {
        "softmax_labels": list(found),
        "expected_ratio": [round(float(row[1] / row[0]), 6) for row in found.values()],
        "spread_ratio": [round(float(row[2] / row[0]), 6) for row in found.values()],
    }

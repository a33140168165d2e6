"""Parts that see a box of a scan, around structures that earlier parts found.

Rule of TotalSegmentator 2.18 for its tasks on a crop (reference: python_api.py, cropping.py): the
box of the labels on the scan's own grid and a margin cut to whole voxels; its grey values cut to
integers before they are zoomed, and again after.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from cohortvol.models.inference import Profile
from cohortvol.models.networks.softness import Softness
from cohortvol.stages.segment.nnunet import Box, Output, Preprocessed
from cohortvol.stages.segment.parts import PartRunner
from cohortvol.stages.segment.zoom import nearest


@dataclass(frozen=True)
class Crop:
    """A box of a scan, and what a part said of it.

    Attributes
    ----------
    part : PartRunner
    box : tuple of three slices
        Where it lies in the scan, z y x in the model's axis order.
    source : Preprocessed
    output : array or tensor
        See `Said.on_host`.
    softness : Softness
    """

    part: PartRunner
    box: Box
    source: Preprocessed
    output: Output
    softness: Softness

    def put_into(self, layers: Mapping[int, np.ndarray]) -> None:
        """Write the part's labels over those of the layers, (z, y, x) each on the scan's grid."""
        found = self.part.labels(self.output, self.source)
        for layer, table in self.part.to_layers.items():
            there = layers[layer][self.box]
            labels = nearest(table[found], there.shape)
            np.copyto(there, labels, where=labels != 0, casting="same_kind")


def kept_for_boxes(data: np.ndarray, profile: Profile) -> np.ndarray:
    """Grey values of a scan of which boxes will be seen; cut to integers where the profile cuts."""
    return data.astype(np.int32) if profile.truncate else data


def box_around(
    part: PartRunner, layers: Mapping[int, np.ndarray], spacing_zyx_mm: Iterable[float]
) -> Box | None:
    """The box that a part sees; None where none of the structures was found.

    Parameters
    ----------
    part : PartRunner
    layers : mapping of int to (z, y, x) array
        What the parts before found, on the scan's grid.
    spacing_zyx_mm : three float
        Voxel edges of that grid.
    """
    inside: np.ndarray | None = None
    for layer, labels in part.around.items():
        here = np.isin(layers[layer], labels)
        inside = here if inside is None else inside | here
    if inside is None:
        return None
    ends = []
    for axis, edge_mm in enumerate(spacing_zyx_mm):
        (found,) = np.nonzero(inside.any(tuple({0, 1, 2} - {axis})))
        if not len(found):
            return None
        # As float32, which is what the header of a NIfTI file holds.
        margin = int(part.margin_mm / float(np.float32(edge_mm)))
        start, stop = int(found[0]) - margin, int(found[-1]) + 1 + margin
        ends.append(slice(max(0, start), min(inside.shape[axis], stop)))
    z, y, x = ends
    return z, y, x

"""Networks trained by regions: what their outputs say, and the one label map nnU-Net makes of it.

Each output stands for a region by itself, and may be true where others are. nnU-Net writes the
regions one after another into a label map, in the order of ``regions_class_order``; a region is
then every voxel whose label is one of its own, which is how nnU-Net evaluates it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import torch

from cohortvol.models.files import regions_of
from cohortvol.models.networks.build import Network


@dataclass(frozen=True)
class Regions:
    """The regions of a network, in the order of its outputs.

    Attributes
    ----------
    labels : tuple of tuple of int
        Labels of nnU-Net's map of which each region is made.
    written : tuple of int
        The label that each region writes there.
    """

    labels: tuple[tuple[int, ...], ...]
    written: tuple[int, ...]

    @classmethod
    def of(cls, network: Network) -> Regions | None:
        """Those of a network; None where it was trained by labels."""
        labels = tuple(regions_of(network.dataset).values())
        return cls(labels, tuple(network.dataset["regions_class_order"])) if labels else None

    @property
    def greatest(self) -> int:
        """The greatest label of the map."""
        return max(self.written)

    def label_map(self, logits: Iterable[torch.Tensor]) -> torch.Tensor:
        """nnU-Net's map from the logits of every region, (...) each: uint8, or int32 if need be.

        Rule and rounding of nnU-Net's ``LabelManager`` (nnunetv2 2.8): a region is where the
        sigmoid of its logit, in float32, is above one half.
        """
        return self.written_where(torch.sigmoid(one.float()) for one in logits)

    def written_where(self, probabilities: Iterable[torch.Tensor]) -> torch.Tensor:
        """As `label_map`, from the probability of every region."""
        found: torch.Tensor | None = None
        for label, one in zip(self.written, probabilities, strict=True):
            if found is None:
                dtype = torch.uint8 if self.greatest < 256 else torch.int32
                found = torch.zeros(one.shape, dtype=dtype, device=one.device)
            found.masked_fill_(one > 0.5, label)
        if found is None:
            raise ValueError("no regions")
        return found

    def inside(self, label_map: torch.Tensor) -> torch.Tensor:
        """(n_regions, ...) bool: which voxels of nnU-Net's map are of each region."""
        return self._members.to(label_map.device)[:, label_map.long()]

    @cached_property
    def _members(self) -> torch.Tensor:
        """(n_regions, greatest label + 1) bool."""
        members = torch.zeros((len(self.labels), self.greatest + 1), dtype=torch.bool)
        for region, labels in zip(members, self.labels, strict=True):
            region[[label for label in labels if label <= self.greatest]] = True
        return members

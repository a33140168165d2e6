"""Parts of a model that need one another: the stages of a cascade, the networks of an ensemble."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from cohortvol.models.networks.softness import Softness
from cohortvol.stages.segment.nnunet import Output, Preprocessed
from cohortvol.stages.segment.parts import PartRunner, Said

_VALUES_AT_A_TIME = 2**22


@dataclass(frozen=True)
class Heard:
    """A part that sees the whole scan, what it was given, and what it said."""

    part: PartRunner
    source: Preprocessed
    said: Said

    def label_map(self) -> np.ndarray:
        """nnU-Net's map of what the part was given, (z, y, x), which the next stage sees."""
        return self.part.network.labels(self.said.on_host(), self.source)


@dataclass(frozen=True)
class Spoken:
    """What a part gives to the label map: its labels, or logits that are still to be resampled."""

    part: PartRunner
    source: Preprocessed
    output: Output


def average(members: Sequence[Heard], keeps_softmax: bool) -> Said:
    """What the networks of an ensemble say together, in the axes of the last one.

    Rule and rounding of ``nnUNetv2_ensemble`` (nnunetv2 2.8): probabilities of every network on
    the scan's grid, in float32, added in this order and divided by their number; the first label
    that has the most of it, or the regions above one half. A few planes at a time, so that logits
    alone, in half precision, are held of the whole scan.

    Parameters
    ----------
    members : sequence of Heard
        Each with its logits.
    keeps_softmax : bool
        Add up how sure they are together.
    """
    for member in members:
        member.said.on_host()  # none of them may have failed
    last = members[-1]
    regions = last.part.network.regions
    logits = [member.part.network.logits(member.said.output, member.source) for member in members]
    softness = Softness(last.part.network.n_labels, regions)
    n_labels, n_planes, *in_plane = logits[0].shape
    step = max(1, _VALUES_AT_A_TIME // (n_labels * int(np.prod(in_plane))))
    found = []
    for first in range(0, n_planes, step):
        values = [one[:, first : first + step].float() for one in logits]
        mean, *others = (v.softmax(0) if regions is None else v.sigmoid() for v in values)
        for share in others:
            mean += share
        mean /= len(members)
        found.append(_first_of_greatest(mean) if regions is None else regions.written_where(mean))
        if keeps_softmax:  # of which the softmax, or the sigmoid, is the mean again
            softness.add(torch.log(mean) if regions is None else torch.logit(mean))
    in_own_axes = last.part.network.in_own_axes(torch.cat(found))
    return Said(
        output=in_own_axes,
        n_not_finite=torch.zeros((), dtype=torch.int64),
        n_logits=sum(member.said.n_logits for member in members),
        softness=softness,
    )


def _first_of_greatest(shares: torch.Tensor) -> torch.Tensor:
    """(n_labels, ...) to the label of the greatest share; the first where several are."""
    labels = torch.from_numpy(shares.numpy().argmax(0))
    return labels.to(torch.uint8 if len(shares) <= 256 else torch.int32)

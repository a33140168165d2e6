"""In what numbers the networks of profile `fast` work on a CPU."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence

import torch

from cohortvol.compute.processor import multiplies_bfloat16
from cohortvol.models.networks import (
    ChannelsLastUNet,
    LoadedPart,
    can_be_channels_last,
    canary_patch,
)

LOG = logging.getLogger(__name__)

TOLERANCE = 0.05
"""Root mean square of what bfloat16 changes of a label's logits, as a share of their spread."""


def precision_on_cpu(parts: Sequence[LoadedPart], flags: Collection[str]) -> torch.dtype:
    """bfloat16 where the processor multiplies it and the networks bear it, else float32.

    Parameters
    ----------
    parts : sequence of LoadedPart
        All of a model, on the CPU: they work in one precision.
    flags : collection of str
        See `cohortvol.compute.processor.flags`.
    """
    modules = [module for loaded in parts for module in loaded.modules]
    if not multiplies_bfloat16(flags) or not all(map(can_be_channels_last, modules)):
        return torch.float32
    with torch.inference_mode():
        moved = max(map(_moved_by_bfloat16, parts))
    if moved <= TOLERANCE:
        return torch.bfloat16
    LOG.warning(
        "this processor multiplies bfloat16, but on the canary it moves logits by %.3g of their "
        "spread, %.3g is allowed: the networks run in float32",
        moved,
        TOLERANCE,
    )
    return torch.float32


def _moved_by_bfloat16(loaded: LoadedPart) -> float:
    """The most of all labels and folds; see `TOLERANCE`. Infinite where a logit is not finite."""
    patch = canary_patch(loaded.network)
    most = 0.0
    for module in loaded.modules:
        expected = module(patch)[0].flatten(1)
        found = ChannelsLastUNet(module, torch.bfloat16)(patch)[0].flatten(1)
        shares = (found - expected).square().mean(1).sqrt() / expected.std(1).clamp(min=1e-3)
        most = max(most, float(shares.nan_to_num(torch.inf).max()))
    return most

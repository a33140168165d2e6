"""Whether a network says on this machine what it said when it was imported."""

from __future__ import annotations

import numpy as np
import torch

from cohortvol.errors import TemporaryError
from cohortvol.models.networks import LoadedPart, canary_of, canary_patch

CANARY_TOLERANCE = 0.05


def check_canary(loaded: LoadedPart, device: torch.device) -> None:
    """Raise unless every network says about the canary patch what the card has of it.

    A tolerance of `CANARY_TOLERANCE` times the spread of the logits leaves room for half precision
    and other kernels, not for a wrong weight.
    """
    patch = canary_patch(loaded.network).to(device)
    for fold, module in zip(loaded.part.folds, loaded.modules, strict=True):
        if fold not in loaded.part.canary:
            continue
        expected = np.asarray(loaded.part.canary[fold])
        with torch.autocast("cuda", enabled=device.type == "cuda"):
            found = np.asarray(canary_of(module(patch)))
        apart = np.abs(found - expected).max()
        allowed = CANARY_TOLERANCE * max(float(expected[:, 1].max()), 1e-3)
        if not apart <= allowed:
            raise TemporaryError(
                f"part {loaded.part.name}, fold {fold}: the network gives other logits on {device} "
                f"than when it was imported (ENV_CANARY)\n"
                f"  They are {apart:.3g} apart, {allowed:.3g} is allowed.\n"
                "  The GPU, its driver or the memory is broken, or the weights were changed.\n"
                "  Check `cohortvol models verify`; if it is the machine, run on another one."
            )

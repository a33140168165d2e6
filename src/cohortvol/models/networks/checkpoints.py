"""Checkpoints of nnU-Net, read without running code in them, and what trained them."""

from __future__ import annotations

import _codecs
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy._core.multiarray import scalar

from cohortvol.errors import ModelError
from cohortvol.models.files import (
    problems,
    schema,
    shown,
)

# What nnU-Net stores beside tensors: numpy scalars in its log, under names of numpy 1 and 2.
SAFE_GLOBALS: list[Any] = [
    (scalar, "numpy.core.multiarray.scalar"),
    scalar,
    np.dtype,
    np.dtypes.Float64DType,
    np.dtypes.Float32DType,
    _codecs.encode,
]
CHECKPOINT = re.compile(r"[A-Za-z0-9_]{1,64}\.pth")


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Contents of a checkpoint, of which only plain data, tensors and `SAFE_GLOBALS` are let in."""
    try:
        with torch.serialization.safe_globals(SAFE_GLOBALS):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ModelError(
            f"{path}: refused, it holds more than tensors and numpy scalars\n"
            "  A checkpoint is a program; this one could run code of its own. Retrain it, or "
            "save its network_weights with nnU-Net again."
        ) from error
    except MemoryError:
        raise
    except Exception as error:  # whatever torch's unpickler meets in a file that is damaged
        raise ModelError(
            f"{path}: damaged checkpoint (MOD_CORRUPT): {type(error).__name__}: "
            f"{shown(str(error), 200)}"
        ) from error
    wanted = {"network_weights": dict, "init_args": dict, "trainer_name": str}
    missing = [
        key
        for key, kind in wanted.items()
        if not isinstance(content, dict) or not isinstance(content.get(key), kind)
    ]
    if missing:
        raise ModelError(f"{path}: no checkpoint of nnU-Net v2, it lacks {', '.join(missing)}")
    weights = content["network_weights"]
    if not all(
        isinstance(name, str) and isinstance(value, torch.Tensor) and not value.is_sparse
        for name, value in weights.items()
    ):
        raise ModelError(f"{path}: no checkpoint of nnU-Net v2, its weights are no arrays by name")
    return {**content, "network_weights": {_plain(name): value for name, value in weights.items()}}


def _plain(name: str) -> str:
    """Name of a weight without what torch.compile or distributed training put before it."""
    return name.removeprefix("module.").removeprefix("_orig_mod.")


def one_training(checkpoints: Mapping[str, Mapping[str, Any]]) -> tuple[str, str]:
    """Configuration and trainer of the checkpoints of all folds, which must be one training."""
    trainings = {
        (str(content["init_args"].get("configuration")), content["trainer_name"])
        for content in checkpoints.values()
    }
    if len(trainings) != 1:
        raise ModelError(f"the folds come from different trainings: {sorted(trainings)}")
    configuration, trainer = trainings.pop()
    for name in (configuration, trainer):
        if problems(name, schema("card")["$defs"]["word"]):
            raise ModelError(f"a checkpoint names the training {shown(name)!r}, which is no name")
    return configuration, trainer


def mirror_axes_of(checkpoints: Mapping[str, Mapping[str, Any]], n_axes: int) -> tuple[int, ...]:
    """Axes along which nnU-Net would mirror a patch, which must be the same of all folds.

    Raises
    ------
    ModelError
        If they differ, or are no axes of a patch with so many.
    """
    said = [content.get("inference_allowed_mirroring_axes") for content in checkpoints.values()]
    found = [tuple(one) if isinstance(one, list | tuple) else () for one in said]
    if any(one != found[0] for one in found):
        raise ModelError(f"the folds were trained for mirroring along other axes: {found}")
    if len(set(found[0])) < len(found[0]) or not set(found[0]) <= set(range(n_axes)):
        raise ModelError(f"a checkpoint allows mirroring along {shown(str(found[0]))}")
    return found[0]

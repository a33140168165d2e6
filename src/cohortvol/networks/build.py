"""Networks of a model folder: built from plans by an allow-list, weights from safetensors."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from cohortvol.errors import ModelError
from cohortvol.models import PARTS, Card, Part, weights_file

# nnU-Net looks up by name whatever a plans.json names; only these names are let through.
_UNETS = "dynamic_network_architectures.architectures.unet"
ARCHITECTURES = {
    f"{_UNETS}.PlainConvUNet": f"{_UNETS}.PlainConvUNet",
    f"{_UNETS}.ResidualEncoderUNet": f"{_UNETS}.ResidualEncoderUNet",
    # Where nnU-Net still looks for it when plans are older than its version 2.4.
    "dynamic_network_architectures.architectures.residual_unet.ResidualEncoderUNet": (
        f"{_UNETS}.ResidualEncoderUNet"
    ),
}
"""Class named in the plans, to the class that is built."""
OPERATIONS = {
    *(f"torch.nn.modules.conv.Conv{n}d" for n in (2, 3)),
    *(f"torch.nn.Conv{n}d" for n in (2, 3)),
    *(f"torch.nn.modules.instancenorm.InstanceNorm{n}d" for n in (2, 3)),
    *(f"torch.nn.InstanceNorm{n}d" for n in (2, 3)),
    *(f"torch.nn.modules.dropout.Dropout{n}d" for n in (2, 3)),
    "torch.nn.LeakyReLU",
    "torch.nn.modules.activation.LeakyReLU",
    "torch.nn.ReLU",
    "torch.nn.modules.activation.ReLU",
}
IMPORTED_ARGUMENTS = {"conv_op", "norm_op", "dropout_op", "nonlin"}
PREPROCESSORS = {"DefaultPreprocessor"}
RESAMPLERS = {
    "resample_data_or_seg_to_shape",
    "resample_torch_fornnunet",
    "resample_torch_simple",
    "no_resampling_hack",
}
NORMALIZATIONS = {
    "ZScoreNormalization",
    "CTNormalization",
    "NoNormalization",
    "RescaleTo01Normalization",
    "RGBTo01Normalization",
}
LABEL_MANAGERS = {"LabelManager"}

Weights = dict[str, torch.Tensor]


@dataclass
class Network:
    """An nnU-Net as built from its plans, with what nnU-Net's predictor wants beside it."""

    module: nn.Module
    plans_manager: PlansManager
    configuration_manager: ConfigurationManager
    dataset: dict[str, Any]


@dataclass
class LoadedPart:
    """One part of a model, ready for inference: a network with its weights for each fold."""

    part: Part
    network: Network
    modules: list[nn.Module]


def build(plans: dict[str, Any], configuration: str, dataset: dict[str, Any]) -> Network:
    """Build the network that an nnU-Net plans file describes, without weights.

    Parameters
    ----------
    plans, dataset : dict
        Contents of ``plans.json`` and ``dataset.json``.
    configuration : str
        Such as ``3d_fullres``.

    Raises
    ------
    ModelError
        If the plans name a class outside the allow-list, or ask for what is not supported:
        a cascade, regions, or more than one input channel.
    """
    try:
        manager = PlansManager(plans)
        settings = manager.get_configuration(configuration)
        _check_names(plans, settings)
        _check_supported(settings, dataset)
        label_manager = manager.get_label_manager(dataset)
        module = get_network_from_plans(
            ARCHITECTURES[settings.network_arch_class_name],
            settings.network_arch_init_kwargs,
            settings.network_arch_init_kwargs_req_import,
            determine_num_input_channels(manager, settings, dataset),
            label_manager.num_segmentation_heads,
            allow_init=False,
            deep_supervision=False,
        )
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError, AssertionError) as error:
        raise ModelError(
            f"plans.json and dataset.json describe no network for configuration "
            f"{configuration!r} ({type(error).__name__}: {error})"
        ) from error
    module.eval()
    return Network(module, manager, settings, dataset)


def _check_names(plans: Mapping[str, Any], settings: ConfigurationManager) -> None:
    def refuse(what: str, name: Any, allowed: Collection[str]) -> None:
        raise ModelError(
            f"plans.json names the {what} {name!r}, which is not allowed\n"
            f"  allowed: {', '.join(sorted(allowed))}"
        )

    if settings.network_arch_class_name not in ARCHITECTURES:
        refuse("architecture", settings.network_arch_class_name, ARCHITECTURES)
    for argument in settings.network_arch_init_kwargs_req_import:
        if argument not in IMPORTED_ARGUMENTS:
            refuse("imported argument", argument, IMPORTED_ARGUMENTS)
        operation = settings.network_arch_init_kwargs.get(argument)
        if operation is not None and operation not in OPERATIONS:
            refuse("operation", operation, OPERATIONS)
    if settings.preprocessor_name not in PREPROCESSORS:
        refuse("preprocessor", settings.preprocessor_name, PREPROCESSORS)
    for step in ("resampling_fn_data", "resampling_fn_seg", "resampling_fn_probabilities"):
        if settings.configuration[step] not in RESAMPLERS:
            refuse(step, settings.configuration[step], RESAMPLERS)
    for scheme in settings.normalization_schemes:
        if scheme not in NORMALIZATIONS:
            refuse("normalization", scheme, NORMALIZATIONS)
    manager = plans.get("label_manager", "LabelManager")
    if manager not in LABEL_MANAGERS:
        refuse("label manager", manager, LABEL_MANAGERS)


def _check_supported(settings: ConfigurationManager, dataset: Mapping[str, Any]) -> None:
    if settings.previous_stage_name is not None:
        raise ModelError("plans.json describes a cascade; import its full-resolution model alone")
    channels = dataset.get("channel_names", dataset.get("modality", {}))
    if len(channels) != 1:
        raise ModelError(f"dataset.json has {len(channels)} input channels; a scan has one")
    local_labels(dataset)


def local_labels(dataset: Mapping[str, Any]) -> dict[int, str]:
    """Label index to name from ``dataset.json``, in label order, without background.

    Raises
    ------
    ModelError
        If the labels are not 1, 2, ..., or are regions, which overlap and fit in no label map.
    """
    labels: dict[int, str] = {}
    for name, index in dataset["labels"].items():
        if isinstance(index, (list, tuple)):
            raise ModelError("dataset.json has region-based labels; they overlap, so no label map")
        if name not in ("background", "ignore"):
            labels[int(index)] = str(name)
    if sorted(labels) != list(range(1, len(labels) + 1)):
        raise ModelError(f"dataset.json has labels {sorted(labels)}; they must be 1, 2, ...")
    return dict(sorted(labels.items()))


def own_weights(module: nn.Module, state: Mapping[str, torch.Tensor]) -> Weights:
    """The weights of a state dict under one name each.

    nnU-Net's U-Nets hold most tensors under several names (``decoder.encoder...``,
    ``all_modules...``), so a state dict repeats them.

    Raises
    ------
    ModelError
        If names or shapes are not the network's, a repeated tensor differs from its twin,
        or a value is not finite.
    """
    names = owner_of_each_name(module)
    check_names_and_shapes(module.state_dict(), state)
    weights: Weights = {}
    for name, owner in names.items():
        tensor = state[name].detach()
        if owner not in weights:
            weights[owner] = tensor.clone().contiguous()
        elif not torch.equal(weights[owner], tensor):
            raise ModelError(f"weights {name} and {owner} are one tensor and differ")
    check_finite(weights)
    return weights


def owner_of_each_name(module: nn.Module) -> dict[str, str]:
    """Every name of the state dict to the first name of the same tensor."""
    first: dict[int, str] = {}
    state = module.state_dict(keep_vars=True)
    return {name: first.setdefault(id(tensor), name) for name, tensor in state.items()}


def check_names_and_shapes(
    expected: Mapping[str, torch.Tensor], found: Mapping[str, torch.Tensor]
) -> None:
    """Raise ModelError unless two state dicts have the same names and shapes."""
    missing = sorted(set(expected) - set(found))
    extra = sorted(set(found) - set(expected))
    lines = []
    if missing:
        lines.append(f"{len(missing)} weights missing, first {missing[0]}")
    if extra:
        lines.append(f"{len(extra)} weights unknown, first {extra[0]}")
    lines += [
        f"{name} has shape {tuple(found[name].shape)}, the plans want {tuple(tensor.shape)}"
        for name, tensor in expected.items()
        if name in found and found[name].shape != tensor.shape
    ][:3]
    if lines:
        raise ModelError(
            "the weights do not fit the network of plans.json\n"
            + "\n".join(f"  {line}" for line in lines)
        )


def check_finite(weights: Mapping[str, torch.Tensor]) -> None:
    """Raise ModelError if any weight is NaN or infinite."""
    for name, tensor in weights.items():
        if not torch.isfinite(tensor).all():
            raise ModelError(
                f"weights {name} hold NaN or infinite values (MOD_CORRUPT): a damaged training run"
            )


def read_weights(path: Path, module: nn.Module) -> Weights:
    """Full state dict for a network from the safetensors file of one fold.

    Raises
    ------
    ModelError
        If the file is damaged, or does not fit the network, or holds a value not finite.
    """
    try:
        stored = load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise ModelError(f"{path}: damaged weights (MOD_CORRUPT): {error}") from error
    names = owner_of_each_name(module)
    own = {name: tensor for name, tensor in module.state_dict().items() if names[name] == name}
    try:
        check_names_and_shapes(own, stored)
        check_finite(stored)
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from error
    return {name: stored[owner] for name, owner in names.items()}


def load_part(card: Card, part: Part) -> LoadedPart:
    """Build one part of a model and read the weights of all its folds."""
    folder = card.folder / PARTS / part.name
    plans, dataset = read_json(folder / "plans.json"), read_json(folder / "dataset.json")
    with torch.device("meta"):  # no weights are drawn that the file's would replace
        network = build(plans, part.configuration, dataset)
    strangers = set(part.labels) - set(local_labels(network.dataset))
    if strangers:
        raise ModelError(
            f"model {card.id}, part {part.name}: the card has labels {sorted(strangers)}, "
            "dataset.json has not (MOD_LABELMAP)"
        )
    modules = []
    for fold in part.folds:
        weights = read_weights(card.folder / weights_file(part, fold), network.module)
        module = deepcopy(network.module)
        module.load_state_dict(weights, strict=True, assign=True)
        modules.append(module)
    return LoadedPart(part, network, modules)


def canary_patch(network: Network) -> torch.Tensor:
    """A small fixed patch for a network, (1, 1, [z,] y, x): the same bits on every machine."""
    strides = np.prod(network.configuration_manager.pool_op_kernel_sizes, axis=0)
    shape = np.minimum(network.configuration_manager.patch_size, 2 * strides)
    waves = np.sin(0.001 * np.arange(np.prod(shape), dtype=np.float64) ** 1.5)
    return torch.from_numpy(waves.astype(np.float32).reshape(1, 1, *map(int, shape)))


def canary_of(logits: torch.Tensor) -> list[list[float]]:
    """Mean and standard deviation of every label's logits, see `cohortvol.models.Canary`."""
    flat = logits[0].double().flatten(1)
    pairs = torch.stack([flat.mean(1), flat.std(1)], dim=1).tolist()
    return [[round(mean, 6), round(sd, 6)] for mean, sd in pairs]


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file of a model, or ModelError."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: cannot be read ({error})") from error
    if not isinstance(value, dict):
        raise ModelError(f"{path}: not a JSON object")
    return value

"""Networks of a model folder: built from plans by an allow-list, weights from safetensors."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import nn

from cohortvol.errors import ModelError
from cohortvol.models.allowed import ARCHITECTURES, RESAMPLING, check_names
from cohortvol.models.card import Card, weights_file
from cohortvol.models.channels import channels_of
from cohortvol.models.files import check_dataset, check_plans, inside, shown
from cohortvol.models.folders import read_plans
from cohortvol.models.part import Part

NEEDED = (
    *("patch_size", "spacing", "normalization_schemes", "use_mask_for_norm", "preprocessor_name"),
    *RESAMPLING,
    *(f"{step}_kwargs" for step in RESAMPLING),
)
"""Settings of a configuration that inference reads."""
INTENSITIES = ("mean", "std", "percentile_00_5", "percentile_99_5")
"""What CTNormalization reads of a channel."""

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
    """Build the network that an nnU-Net plans file describes, without weights and their memory.

    Its tensors are on torch's device ``meta``: they have shapes alone.

    Parameters
    ----------
    plans, dataset : dict
        Contents of ``plans.json`` and ``dataset.json``.
    configuration : str
        Such as ``3d_fullres``.

    Raises
    ------
    ModelError
        If the plans are out of bounds, name a class outside the allow-list, or do not fit
        ``dataset.json``.
    """
    check_plans(plans)
    check_dataset(dataset)
    try:
        manager = PlansManager(plans)
        settings = manager.get_configuration(configuration)
        missing = [name for name in NEEDED if name not in settings.configuration]
        if missing:
            raise ModelError(f"plans.json lacks {', '.join(missing)} of the configuration")
        check_names(
            plans,
            settings.configuration,
            settings.network_arch_class_name,
            settings.network_arch_init_kwargs,
            settings.network_arch_init_kwargs_req_import,
        )
        _check_supported(settings, dataset)
        _check_sizes(settings)
        _check_steps(manager, settings)
        label_manager = manager.get_label_manager(dataset)
        with torch.device("meta"):
            module = get_network_from_plans(
                ARCHITECTURES[settings.network_arch_class_name],
                settings.network_arch_init_kwargs,
                settings.network_arch_init_kwargs_req_import,
                determine_num_input_channels(manager, settings, dataset),
                label_manager.num_segmentation_heads,
                allow_init=False,
                deep_supervision=False,
            )
    except (
        *(ArithmeticError, AssertionError, AttributeError, LookupError),
        *(RuntimeError, TypeError, ValueError),
    ) as error:
        raise ModelError(
            f"plans.json and dataset.json describe no network for configuration "
            f"{shown(configuration)!r} ({type(error).__name__}: {shown(str(error), 200)})"
        ) from error
    module.eval()
    return Network(module, manager, settings, dataset)


def _check_supported(settings: ConfigurationManager, dataset: Mapping[str, Any]) -> None:
    n_channels = max(1, len(channels_of(dataset)))
    for name in ("normalization_schemes", "use_mask_for_norm"):
        if len(getattr(settings, name)) != n_channels:
            raise ModelError(
                f"dataset.json has {n_channels} channels, plans.json {name} for "
                f"{len(getattr(settings, name))}"
            )


def _check_sizes(settings: ConfigurationManager) -> None:
    """Refuse a network in which a patch would not come out in the size that it went in."""
    patch, spacing = settings.patch_size, settings.spacing
    convolution = settings.network_arch_init_kwargs["conv_op"]
    if len(spacing) != len(patch) or not convolution.endswith(f"{len(patch)}d"):
        raise ModelError(
            f"plans.json has a patch of {len(patch)} axes, a spacing of {len(spacing)} and the "
            f"operation {convolution}"
        )
    strides = total_strides(settings)
    if np.any(np.asarray(patch) % strides):
        raise ModelError(
            f"plans.json has a patch of {' x '.join(map(str, patch))} voxels, which strides of "
            f"{' x '.join(map(str, strides))} do not divide"
        )
    for kernel in settings.network_arch_init_kwargs["kernel_sizes"]:
        if np.any(np.asarray(kernel) % 2 == 0):
            raise ModelError(f"plans.json has a kernel of {kernel}; sizes must be odd")


def total_strides(settings: ConfigurationManager) -> np.ndarray:
    """How many voxels of the input one of the last stage stands for, along each axis."""
    strides = np.asarray(settings.pool_op_kernel_sizes)
    if strides.ndim < 2:
        strides = strides.reshape(-1, 1)
    n_stages = settings.network_arch_init_kwargs["n_stages"]
    product: np.ndarray = np.broadcast_to(strides, (n_stages, len(settings.patch_size))).prod(0)
    return product


def _check_steps(manager: PlansManager, settings: ConfigurationManager) -> None:
    """Refuse settings that what is done before and after the network does not have."""
    for step in RESAMPLING:
        inspect.signature(getattr(settings, step))  # ValueError where it has no such argument
    for channel, scheme in enumerate(settings.normalization_schemes):
        if scheme != "CTNormalization":
            continue
        known = manager.foreground_intensity_properties_per_channel[str(channel)]
        missing = [name for name in INTENSITIES if name not in known]
        if missing:
            raise ModelError(f"plans.json lacks {', '.join(missing)} of the grey values")


def own_weights(module: nn.Module, state: Mapping[str, torch.Tensor]) -> Weights:
    """The weights of a state dict under one name each.

    nnU-Net's U-Nets hold most tensors under several names (``decoder.encoder...``,
    ``all_modules...``), so a state dict repeats them.

    Raises
    ------
    ModelError
        If names, shapes or types are not the network's, a repeated tensor differs from its twin,
        or a value is not finite.
    """
    names = owner_of_each_name(module)
    check_arrays(arrays_of(module.state_dict()), arrays_of(state))
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


Arrays = Mapping[str, tuple[tuple[int, ...], str]]
"""Name to shape and type."""


def arrays_of(state: Mapping[str, torch.Tensor]) -> Arrays:
    """Shape and type, such as ``float32``, of every tensor."""
    return {
        name: (tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."))
        for name, tensor in state.items()
    }


def check_arrays(expected: Arrays, found: Arrays) -> None:
    """Raise ModelError unless names, shapes and types are those of the network."""
    missing = sorted(set(expected) - set(found))
    extra = sorted(set(found) - set(expected))
    lines = []
    if missing:
        lines.append(f"{len(missing)} weights missing, first {missing[0]}")
    if extra:
        lines.append(f"{len(extra)} weights unknown, first {shown(extra[0], 100)}")
    for name in sorted(set(expected) & set(found)):
        (shape, dtype), (own_shape, own_dtype) = expected[name], found[name]
        if own_shape != shape:
            lines.append(f"{name} has shape {own_shape}, the plans want {shape}")
        elif own_dtype != dtype:
            lines.append(f"{name} is of {own_dtype}, nnU-Net's are of {dtype}")
    if lines:
        raise ModelError(
            "the weights do not fit the network of plans.json (MOD_CORRUPT)\n"
            + "\n".join(f"  {line}" for line in lines[:4])
        )


def check_finite(weights: Mapping[str, torch.Tensor]) -> None:
    """Raise ModelError if any weight is NaN or infinite."""
    for name, tensor in weights.items():
        if not torch.isfinite(tensor).all():
            raise ModelError(
                f"weights {name} hold NaN or infinite values (MOD_CORRUPT): a damaged training run"
            )


_TYPES = {"F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64"}


def arrays_in(path: Path) -> Arrays:
    """Shape and type of every array of a safetensors file, read from its header alone.

    Raises
    ------
    ModelError
        If the file is damaged.
    """
    try:
        with safe_open(path, framework="pt") as stored:
            slices = {name: stored.get_slice(name) for name in stored.keys()}
            return {
                name: (tuple(one.get_shape()), _TYPES.get(one.get_dtype(), one.get_dtype()))
                for name, one in slices.items()
            }
    except (SafetensorError, OSError, ValueError) as error:
        why = shown(str(error), 200)
        raise ModelError(f"{path}: damaged weights (MOD_CORRUPT): {why}") from error


def read_weights(path: Path, module: nn.Module) -> Weights:
    """Full state dict for a network from the safetensors file of one fold.

    Its header is compared with the network before anything else of it is read.

    Raises
    ------
    ModelError
        If the file is damaged, or does not fit the network, or holds a value not finite.
    """
    names = owner_of_each_name(module)
    own = {name: tensor for name, tensor in module.state_dict().items() if names[name] == name}
    found = arrays_in(path)
    try:
        check_arrays(arrays_of(own), found)
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from error
    try:
        stored = load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        why = shown(str(error), 200)
        raise ModelError(f"{path}: damaged weights (MOD_CORRUPT): {why}") from error
    try:
        check_finite(stored)
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from error
    return {name: stored[owner] for name, owner in names.items()}


def described(card: Card, part: Part) -> Network:
    """The network of a part by its plans, after these were checked; see `build`."""
    plans, dataset = read_plans(card, part)
    try:
        return build(plans, part.configuration, dataset)
    except ModelError as error:
        raise ModelError(f"model {card.id}, part {part.name}: {error}") from error


def check(card: Card) -> None:
    """Raise ModelError unless the arrays of every file of a model fit its plans, and are finite."""
    for part in card.parts:
        network = described(card, part)
        for fold in part.folds:
            read_weights(inside(card.folder, weights_file(part, fold)), network.module)


def load_part(card: Card, part: Part) -> LoadedPart:
    """Build one part of a model and read the weights of all its folds."""
    network = described(card, part)
    modules = []
    for fold in part.folds:
        weights = read_weights(inside(card.folder, weights_file(part, fold)), network.module)
        module = deepcopy(network.module)
        module.load_state_dict(weights, strict=True, assign=True)
        modules.append(module)
    return LoadedPart(part, network, modules)


def canary_patch(network: Network) -> torch.Tensor:
    """A small fixed patch for a network, (1, channels, [z,] y, x): equal bits on every machine."""
    settings = network.configuration_manager
    n_channels = determine_num_input_channels(network.plans_manager, settings, network.dataset)
    shape = [n_channels, *np.minimum(settings.patch_size, 2 * total_strides(settings))]
    waves = np.sin(0.001 * np.arange(np.prod(shape), dtype=np.float64) ** 1.5)
    return torch.from_numpy(waves.astype(np.float32).reshape(1, *map(int, shape)))


def canary_of(logits: torch.Tensor) -> list[list[float]]:
    """Mean and standard deviation of every label's logits, see `cohortvol.models.part.Canary`."""
    flat = logits[0].double().flatten(1)
    pairs = torch.stack([flat.mean(1), flat.std(1)], dim=1).tolist()
    return [[round(mean, 6), round(sd, 6)] for mean, sd in pairs]

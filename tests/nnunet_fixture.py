"""A tiny nnU-Net v2 results folder: real plans, a real network, random weights."""

from __future__ import annotations

import json
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from cohortvol.models.card import Card
from cohortvol.models.networks import Source, import_nnunet

LABELS = {"background": 0, "liver": 1, "spleen": 2, "kidney_left": 3}
TRAINER = "nnUNetTrainer__nnUNetPlans__3d_fullres"

DATASET: dict[str, Any] = {
    "channel_names": {"0": "MR"},
    "labels": LABELS,
    "numTraining": 2,
    "file_ending": ".nii.gz",
}

_RESAMPLE = {"is_seg": False, "order": 3, "order_z": 0, "force_separate_z": None}
_CONV, _NORM = "torch.nn.modules.conv.Conv3d", "torch.nn.modules.instancenorm.InstanceNorm3d"

PLANS: dict[str, Any] = {
    "dataset_name": "Dataset001_Tiny",
    "plans_name": "nnUNetPlans",
    "original_median_spacing_after_transp": [4.0, 2.0, 2.0],
    "original_median_shape_after_transp": [16, 32, 32],
    "image_reader_writer": "SimpleITKIO",
    "transpose_forward": [0, 1, 2],
    "transpose_backward": [0, 1, 2],
    "configurations": {
        "3d_fullres": {
            "data_identifier": "nnUNetPlans_3d_fullres",
            "preprocessor_name": "DefaultPreprocessor",
            "batch_size": 2,
            "patch_size": [16, 24, 24],
            "median_image_size_in_voxels": [16.0, 32.0, 32.0],
            "spacing": [4.0, 2.0, 2.0],
            "normalization_schemes": ["ZScoreNormalization"],
            "use_mask_for_norm": [False],
            "resampling_fn_data": "resample_data_or_seg_to_shape",
            "resampling_fn_seg": "resample_data_or_seg_to_shape",
            "resampling_fn_data_kwargs": _RESAMPLE,
            "resampling_fn_seg_kwargs": {**_RESAMPLE, "is_seg": True, "order": 1},
            "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
            "resampling_fn_probabilities_kwargs": {**_RESAMPLE, "order": 1},
            "architecture": {
                "network_class_name": "dynamic_network_architectures.architectures.unet"
                ".PlainConvUNet",
                "arch_kwargs": {
                    "n_stages": 3,
                    "features_per_stage": [4, 8, 8],
                    "conv_op": _CONV,
                    "kernel_sizes": [[3, 3, 3]] * 3,
                    "strides": [[1, 1, 1], [2, 2, 2], [2, 2, 2]],
                    "n_conv_per_stage": [1, 1, 1],
                    "n_conv_per_stage_decoder": [1, 1],
                    "conv_bias": True,
                    "norm_op": _NORM,
                    "norm_op_kwargs": {"eps": 1e-05, "affine": True},
                    "dropout_op": None,
                    "dropout_op_kwargs": None,
                    "nonlin": "torch.nn.LeakyReLU",
                    "nonlin_kwargs": {"inplace": True},
                },
                "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
            },
            "batch_dice": False,
        }
    },
    "experiment_planner_used": "ExperimentPlanner",
    "label_manager": "LabelManager",
    "foreground_intensity_properties_per_channel": {
        "0": {"max": 1.0, "mean": 0.5, "median": 0.5, "min": 0.0, "std": 0.2,
              "percentile_00_5": 0.0, "percentile_99_5": 1.0}
    },
}  # fmt: skip


def network(
    seed: int = 0, plans: dict[str, Any] = PLANS, n_labels: int = len(LABELS)
) -> torch.nn.Module:
    """The network of plans as nnU-Net builds it for training, with random weights."""
    settings = PlansManager(plans).get_configuration("3d_fullres")
    torch.manual_seed(seed)
    return get_network_from_plans(
        settings.network_arch_class_name.replace(".residual_unet.", ".unet."),  # since it moved
        settings.network_arch_init_kwargs,
        settings.network_arch_init_kwargs_req_import,
        len(settings.normalization_schemes),
        n_labels,
        allow_init=True,
        deep_supervision=True,
    )


def checkpoint(module: torch.nn.Module, fold: int = 0) -> dict[str, Any]:
    """What nnUNetTrainer.save_checkpoint stores, numpy scalars in the log included."""
    optimizer = torch.optim.SGD(module.parameters(), 1e-2, momentum=0.99, nesterov=True)
    return {
        "network_weights": module.state_dict(),
        "optimizer_state": optimizer.state_dict(),
        "grad_scaler_state": None,
        "logging": {
            "mean_fg_dice": [np.float64(0.5)],
            "ema_fg_dice": [np.float64(0.5)],
            "dice_per_class_or_region": [[np.float64(0.4), np.float32(0.6)]],
            "train_losses": [np.float32(-0.3)],
            "lrs": [0.01],
        },
        "_best_ema": np.float64(0.5),
        "current_epoch": 1,
        "init_args": {
            "plans": PLANS,
            "configuration": "3d_fullres",
            "fold": fold,
            "dataset_json": DATASET,
            "device": torch.device("cpu"),
        },
        "trainer_name": "nnUNetTrainer",
        "inference_allowed_mirroring_axes": None,
    }


def write_results(
    folder: Path, plans: dict[str, Any], dataset: dict[str, Any], folds: int, **changes: Any
) -> None:
    """``plans.json``, ``dataset.json`` and folds in a folder; `changes` are the checkpoints'."""
    folder.mkdir(parents=True)
    (folder / "plans.json").write_text(json.dumps(plans))
    (folder / "dataset.json").write_text(json.dumps(dataset))
    for fold in range(folds):
        place = folder / f"fold_{fold}"
        place.mkdir()
        module = network(fold, plans, len(dataset["labels"]))
        torch.save(checkpoint(module, fold) | changes, place / "checkpoint_final.pth")


def of_channels(folder: Path, names: Sequence[str], folds: int = 1) -> Path:
    """A results folder whose network sees several images of a scan, of these names."""
    plans = deepcopy(PLANS)
    plans["configurations"]["3d_fullres"] |= {
        "normalization_schemes": ["ZScoreNormalization"] * len(names),
        "use_mask_for_norm": [False] * len(names),
    }
    known = plans["foreground_intensity_properties_per_channel"]
    known |= {str(n): known["0"] for n in range(len(names))}
    named = {"channel_names": {str(n): name for n, name in enumerate(names)}}
    write_results(folder, plans, DATASET | named, folds)
    return folder


def results_folder(parent: Path, folds: int = 1, plans: dict[str, Any] = PLANS) -> Path:
    """``Dataset001_Tiny/<trainer>`` below `parent`, as nnU-Net leaves it after training."""
    folder = parent / "Dataset001_Tiny" / TRAINER
    write_results(folder, plans, DATASET, folds)
    return folder


def imported(trained: Path, out: Path, **options: Any) -> Card:
    """A model folder of what `results_folder` makes; options as of `Source`."""
    source = Source(trained, **options)
    return import_nnunet([source], out, model_id=out.name, licence="CC-BY-SA-4.0")

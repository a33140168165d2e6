"""Weights folders of exactly the publishers' layout, with small networks of random weights.

Folder names, the old plans format and the keys of the checkpoint are TotalSegmentator's; the
network is built by nnU-Net itself from the plans.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

TRAINER = "nnUNetTrainer_2000epochs_NoMirroring"
_RESAMPLE = {"is_seg": False, "order": 3, "order_z": 0, "force_separate_z": None}
_INTENSITIES = {
    "max": 1.0, "mean": 0.5, "median": 0.5, "min": 0.0, "std": 0.2,
    "percentile_00_5": 0.0, "percentile_99_5": 1.0,
}  # fmt: skip


def old_plans(name: str, spacing_mm: float, settings: Mapping[str, Any]) -> dict[str, Any]:
    """plans.json as nnU-Net wrote it before its version 2.4, with some settings replaced."""
    return {
        "dataset_name": name,
        "plans_name": "nnUNetPlans",
        "original_median_spacing_after_transp": [spacing_mm] * 3,
        "original_median_shape_after_transp": [100, 150, 150],
        "image_reader_writer": "NibabelIOWithReorient",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "configurations": {
            "3d_fullres": {
                "data_identifier": "nnUNetPlans_3d_fullres",
                "preprocessor_name": "DefaultPreprocessor",
                "batch_size": 2,
                "patch_size": [16, 24, 24],
                "median_image_size_in_voxels": [100, 150, 150],
                "spacing": [spacing_mm] * 3,
                "normalization_schemes": ["ZScoreNormalization"],
                "use_mask_for_norm": [False],
                "UNet_class_name": "PlainConvUNet",
                "UNet_base_num_features": 2,
                "n_conv_per_stage_encoder": [2, 2, 2],
                "n_conv_per_stage_decoder": [2, 2],
                "num_pool_per_axis": [1, 2, 2],
                "pool_op_kernel_sizes": [[1, 1, 1], [2, 2, 2], [1, 2, 2]],
                "conv_kernel_sizes": [[3, 3, 3]] * 3,
                "unet_max_num_features": 8,
                "resampling_fn_data": "resample_data_or_seg_to_shape",
                "resampling_fn_seg": "resample_data_or_seg_to_shape",
                "resampling_fn_data_kwargs": _RESAMPLE,
                "resampling_fn_seg_kwargs": {**_RESAMPLE, "is_seg": True, "order": 1},
                "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
                "resampling_fn_probabilities_kwargs": {**_RESAMPLE, "order": 1},
                "batch_dice": True,
                **settings,
            }
        },
        "experiment_planner_used": "ExperimentPlanner",
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {"0": _INTENSITIES},
    }


def weights_folder(
    parent: Path,
    name: str,
    labels: Mapping[int, str],
    spacing_mm: float = 1.5,
    folds: int = 1,
    settings: Mapping[str, Any] | None = None,
    trainer: str = TRAINER,
) -> Path:
    """``<name>/<trainer>__nnUNetPlans__3d_fullres/fold_N/checkpoint_final.pth`` below `parent`.

    `settings` replace some of the plans'; `trainer` is the one that the checkpoint names.
    """
    folder = parent / name / f"{TRAINER}__nnUNetPlans__3d_fullres"
    plans = old_plans(name, spacing_mm, settings or {})
    dataset = {
        "channel_names": {"0": "MRI"},
        "labels": {"background": 0, **{label: index for index, label in labels.items()}},
        "numTraining": 1088,
        "file_ending": ".nii.gz",
    }
    for fold in range(folds):
        (folder / f"fold_{fold}").mkdir(parents=True)
        checkpoint = {
            "network_weights": _network(json.loads(json.dumps(plans)), len(labels), fold),
            "optimizer_state": {},
            "grad_scaler_state": None,
            "logging": {},
            "_best_ema": None,
            "current_epoch": 2000,
            "init_args": {"configuration": "3d_fullres"},
            "trainer_name": trainer,
            "inference_allowed_mirroring_axes": None,
        }
        torch.save(checkpoint, folder / f"fold_{fold}" / "checkpoint_final.pth")
    (folder / "plans.json").write_text(json.dumps(plans))
    (folder / "dataset.json").write_text(json.dumps(dataset))
    return parent / name


def _network(plans: dict[str, Any], n_structures: int, seed: int) -> dict[str, torch.Tensor]:
    settings = PlansManager(plans).get_configuration("3d_fullres")
    torch.manual_seed(seed)
    module = get_network_from_plans(
        settings.network_arch_class_name,
        settings.network_arch_init_kwargs,
        settings.network_arch_init_kwargs_req_import,
        1,
        n_structures + 1,
        allow_init=True,
        deep_supervision=True,
    )
    return dict(module.state_dict())

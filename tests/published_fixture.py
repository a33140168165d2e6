"""Weights folders of exactly the publishers' layout, with small networks of random weights.

Folder names, the old plans format and the keys of the checkpoint are TotalSegmentator's; the
network is built by nnU-Net itself from the plans.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nnunet_fixture

TRAINER = "nnUNetTrainer_2000epochs_NoMirroring"

OLD_ARCHITECTURE: dict[str, Any] = {
    "UNet_class_name": "PlainConvUNet",
    "UNet_base_num_features": 2,
    "n_conv_per_stage_encoder": [2, 2, 2],
    "n_conv_per_stage_decoder": [2, 2],
    "num_pool_per_axis": [1, 2, 2],
    "pool_op_kernel_sizes": [[1, 1, 1], [2, 2, 2], [1, 2, 2]],
    "conv_kernel_sizes": [[3, 3, 3]] * 3,
    "unet_max_num_features": 8,
}
"""A network in the words of plans.json from before nnU-Net's version 2.4."""


def old_plans(name: str, spacing_mm: float, settings: Mapping[str, Any]) -> dict[str, Any]:
    """plans.json as nnU-Net wrote it before its version 2.4, with some settings replaced."""
    now = nnunet_fixture.PLANS["configurations"]["3d_fullres"]
    kept = {key: value for key, value in now.items() if key != "architecture"}
    configuration = {**kept, "spacing": [spacing_mm] * 3, **OLD_ARCHITECTURE, **settings}
    return {
        **nnunet_fixture.PLANS,
        "dataset_name": name,
        "image_reader_writer": "NibabelIOWithReorient",
        "configurations": {"3d_fullres": configuration},
    }


def weights_folder(
    parent: Path,
    name: str,
    labels: Mapping[int, str],
    spacing_mm: float = 1.5,
    folds: int = 1,
    settings: Mapping[str, Any] | None = None,
    trainer: str = TRAINER,
    of_folder: str = TRAINER,
    mirror_axes: Sequence[int] | None = None,
) -> Path:
    """``<name>/<of_folder>__nnUNetPlans__3d_fullres/fold_N/checkpoint_final.pth`` below `parent`.

    `settings` replace some of the plans'; `trainer` is the one that the checkpoint names, with the
    axes along which its training lets patches be mirrored.
    """
    indices = {"background": 0, **{label: index for index, label in labels.items()}}
    nnunet_fixture.write_results(
        parent / name / f"{of_folder}__nnUNetPlans__3d_fullres",
        old_plans(name, spacing_mm, settings or {}),
        {**nnunet_fixture.DATASET, "labels": indices},
        folds,
        trainer_name=trainer,
        inference_allowed_mirroring_axes=mirror_axes,
        logging={},
        _best_ema=None,
    )
    return parent / name

"""Known models with random weights, as networks of the published size or smaller ones."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from cohortvol.models.catalogue import load
from side_by_side_scans import program

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from published_fixture import TRAINER, weights_folder

LITTLE_LOGIT = 0.0025
TINY = {
    "patch_size": [96, 112, 112],
    "UNet_base_num_features": 4,
    "unet_max_num_features": 4,
    "n_conv_per_stage_encoder": [2] * 5,
    "n_conv_per_stage_decoder": [2] * 4,
    "num_pool_per_axis": [4, 4, 4],
    "pool_op_kernel_sizes": [[1, 1, 1], *[[2, 2, 2]] * 4],
    "conv_kernel_sizes": [[3, 3, 3]] * 5,
}
SMALL = {**TINY, "patch_size": [48, 64, 64]}
FULL_3MM = {**TINY, "UNet_base_num_features": 32, "unet_max_num_features": 320}
FULL_15MM = {
    **FULL_3MM,
    "patch_size": [112, 160, 128],
    "n_conv_per_stage_encoder": [2] * 6,
    "n_conv_per_stage_decoder": [2] * 5,
    "num_pool_per_axis": [4, 5, 5],
    "pool_op_kernel_sizes": [[1, 1, 1], *[[2, 2, 2]] * 4, [1, 2, 2]],
    "conv_kernel_sizes": [[3, 3, 3]] * 6,
}


@dataclass(frozen=True)
class Setting:
    """A known model, what its network looks like, and the peers that can run it."""

    model: str
    settings: Mapping[str, Any]
    spacing_mm: float
    peers: tuple[str, ...]
    profiles: tuple[str, ...] = ("ts218", "fast")
    words: tuple[str, ...] = ()  # of the command of MRSegmentator
    trainer: str = TRAINER  # in the name of the folder, of the last part
    mirror_axes: tuple[int, ...] | None = None


TOTALSEGMENTATOR = (
    "totalsegmentator_cli",
    "totalsegmentator_cli_tuned",
    "totalsegmentator_api",
    "totalsegmentator_api_tuned",
    "nnunetv2_predict",
    "nnunetv2_predict_tuned",
    "nnunet_sequential",
)
SETTINGS = {
    "tiny": Setting("total_mr_3mm", TINY, 3.0, TOTALSEGMENTATOR),
    "tiny-1.5mm": Setting("total_mr", {**TINY, "patch_size": [64, 80, 80]}, 1.5, TOTALSEGMENTATOR),
    "full-3mm": Setting("total_mr_3mm", FULL_3MM, 3.0, TOTALSEGMENTATOR),
    "full-1.5mm": Setting("total_mr", FULL_15MM, 1.5, TOTALSEGMENTATOR),
    "body_mr": Setting(
        "body_mr", TINY, 1.5, TOTALSEGMENTATOR[:4],
        trainer="nnUNetTrainer_DASegOrd0", mirror_axes=(0, 1, 2),
    ),
    "vertebrae_mr": Setting(
        "vertebrae_mr", TINY, 1.5, TOTALSEGMENTATOR[:4],
        trainer="nnUNetTrainer_DASegOrd0_NoMirroring",
    ),
    "liver_segments_mr": Setting(
        "liver_segments_mr", SMALL, 3.0, TOTALSEGMENTATOR[:4],
        trainer="nnUNetTrainer_DASegOrd0_NoMirroring",
    ),
    "liver_lesions_mr": Setting(
        "liver_lesions_mr", SMALL, 3.0, TOTALSEGMENTATOR[:4],
        trainer="nnUNetTrainer_DASegOrd0", mirror_axes=(0, 1, 2),
    ),
    "mrsegmentator": Setting(
        "mrsegmentator", TINY, 1.5, ("mrsegmentator",), profiles=("nnunet", "fast")
    ),
    "mrsegmentator-3mm": Setting(
        "mrsegmentator", SMALL, 3.0, ("mrsegmentator",), profiles=("nnunet", "fast")
    ),
    "mrsegmentator-fast": Setting(
        "mrsegmentator_fast", SMALL, 3.0, ("mrsegmentator",), profiles=("mrseg-fast", "fast"),
        words=("--fast",),
    ),
    "mrsegmentator-body-comp": Setting(
        "mrsegmentator_body_comp", SMALL, 3.0, ("mrsegmentator",), profiles=("nnunet", "fast"),
        words=("--body_comp",), mirror_axes=(0, 1, 2),
    ),
}  # fmt: skip


def published_weights(folder: Path, setting: Setting) -> list[Path]:
    """Trained-model folders of a known model, with random weights; made once."""
    made = []
    parts = load()[setting.model].parts
    for part in parts:
        name = part.folders[0]
        labels = part.labels
        trainer = setting.trainer if part is parts[-1] else TRAINER
        of_the_box = {"spacing": part.spacing_mm[::-1]} if part.spacing_mm else {}
        if not (folder / name).is_dir():
            weights_folder(
                folder, name, labels, setting.spacing_mm, max(len(part.folds), 1),
                {**setting.settings, **of_the_box},
                trainer="nnUNetTrainer", of_folder=trainer, mirror_axes=setting.mirror_axes,
            )  # fmt: skip
            for label in [n for n, label in labels.items() if label in parts[-1].crop]:
                favour(folder / name, label)
        made += list((folder / name).iterdir())
    return made


def favour(weights: Path, label: int) -> None:
    """Let a random network find a few voxels of a label, in some scans of a corner alone."""
    for path in weights.glob("*/fold_*/checkpoint_final.pth"):
        content = torch.load(path, weights_only=False)
        values = content["network_weights"]
        values[max(name for name in values if name.endswith(".bias") and "seg_" in name)][
            label
        ] += LITTLE_LOGIT
        torch.save(content, path)


def import_known(setting: Setting, weights: list[Path], folder: Path) -> Path:
    model = folder / setting.model
    if not model.is_dir():
        command = [program("cohortvol"), "models", "import", "--known", setting.model]
        command += ["--models-dir", str(folder), *(str(path.parent) for path in weights)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return model


def random_model(work: Path, network: str) -> Path:
    """The model of a network with random weights, made and imported below `work` once."""
    setting = SETTINGS[network]
    weights = published_weights(work / "weights" / network, setting)
    return import_known(setting, weights, work / "models" / network)

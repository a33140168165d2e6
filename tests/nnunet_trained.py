"""Results folders that nnunetv2 itself planned, preprocessed and trained, two iterations each.

Run as a program in folders that the environment names (``nnUNet_raw`` and so on), with a JSON of
what to train: nnU-Net reads its folders when it is imported.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.orientations import apply_orientation, axcodes2ornt, inv_ornt_aff, ornt_transform

DATASET = "Dataset001_Boxes"
AFFINE = np.diag([4.0, 4.5, 5.0, 1.0])  # mm, RAS
LABELS = {"background": 0, "liver": 1, "spleen": 2}


def boxes(seed: int, shape: tuple[int, int, int] = (36, 32, 28)) -> tuple[np.ndarray, np.ndarray]:
    """Image and labels, RAS: a large box on the right, a small one on the left."""
    rng = np.random.default_rng(seed)
    labels = np.zeros(shape, np.uint8)
    i, j, k = rng.integers(0, 4, 3)
    labels[shape[0] // 2 + i : shape[0] - 4 + i, 6 + j : 22 + j, 4 + k : 20 + k] = 1
    labels[4 + i : 12 + i, 8 + j : 18 + j, 10 + k : 20 + k] = 2
    image = np.array([20.0, 110.0, 190.0])[labels] + rng.normal(0, 12, shape)
    return image.astype(np.int16), labels


def stored(data: np.ndarray, affine: np.ndarray, axes: str) -> nib.Nifti1Image:
    """RAS voxels stored on other axes, at the same places."""
    turn = ornt_transform(axcodes2ornt("RAS"), axcodes2ornt(axes))
    return nib.Nifti1Image(apply_orientation(data, turn), affine @ inv_ornt_aff(turn, data.shape))


def raw_dataset(folder: Path, reader: str, axes: str, ignore: bool) -> None:
    """``nnUNet_raw/Dataset001_Boxes`` of five cases on these axes."""
    for seed in range(5):
        image, labels = boxes(seed)
        if ignore:
            labels[:3] = 3
        for kind, data, name in (
            ("imagesTr", image, f"case_{seed}_0000"), ("labelsTr", labels, f"case_{seed}"),
        ):  # fmt: skip
            (folder / kind).mkdir(parents=True, exist_ok=True)
            nib.save(stored(data, AFFINE, axes), folder / kind / f"{name}.nii.gz")
    description = {
        "channel_names": {"0": "MR"}, "labels": LABELS | ({"ignore": 3} if ignore else {}),
        "numTraining": 5, "file_ending": ".nii.gz", "overwrite_image_reader_writer": reader,
    }  # fmt: skip
    (folder / "dataset.json").write_text(json.dumps(description))


def train(folder: Path, reader: str, trainings: list[tuple[str, str, str]], **how) -> Path:
    """Results of `trainings` (planner, configuration, fold) below a folder."""
    raw_dataset(folder / "raw" / DATASET, reader, how.get("axes", "LPS"), how.get("ignore", False))
    places = {f"nnUNet_{name}": str(folder / name) for name in ("raw", "preprocessed", "results")}
    quick = {"nnUNet_compile": "f", "nnUNet_def_n_proc": "1"}
    done = subprocess.run(
        [sys.executable, __file__, json.dumps(trainings)], env=os.environ | places | quick,
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return folder / "results" / DATASET


def _main() -> None:
    import torch
    from nnunetv2.experiment_planning import plan_and_preprocess_api as api
    from nnunetv2.run.run_training import get_trainer_from_args

    trainings = json.loads(sys.argv[1])
    api.extract_fingerprints([1], num_processes=1)
    for planner in sorted({planner for planner, _, _ in trainings}):
        os.environ["nnUNet_n_proc_DA"] = "1"  # planning refuses 0
        plans = api.plan_experiments([1], planner)
        configurations = sorted({name for one, name, _ in trainings if one == planner})
        api.preprocess([1], plans, configurations, [1] * len(configurations))
        os.environ["nnUNet_n_proc_DA"] = "0"  # trained in this process
        for _, name, fold in (one for one in trainings if one[0] == planner):
            trainer = get_trainer_from_args(
                "1", name, fold if fold == "all" else int(fold), "nnUNetTrainer", plans,
                device=torch.device("cpu"),
            )  # fmt: skip
            trainer.num_epochs, trainer.num_iterations_per_epoch = 1, 2
            trainer.num_val_iterations_per_epoch = 1
            trainer.run_training()
            trainer.perform_actual_validation(False)


if __name__ == "__main__":
    _main()

"""Results folders that nnunetv2 itself planned, preprocessed, trained (two iterations) and ran.

Run as a program in folders that the environment names (``nnUNet_raw`` and so on), with a JSON of
what to train: nnU-Net reads its folders when it is imported. One process does it all, and threads
do what nnU-Net leaves to processes of its own, since each would import it for seconds.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
from dataclasses import asdict, dataclass
from multiprocessing.pool import ThreadPool
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.orientations import apply_orientation, axcodes2ornt, inv_ornt_aff, ornt_transform

AFFINE = np.diag([4.0, 4.5, 5.0, 1.0])  # mm, RAS
LABELS = {"background": 0, "liver": 1, "spleen": 2}
CONTRASTS = ((20, 110, 190), (35, 170, 60), (15, 60, 150), (40, 45, 90))
"""Grey values of background, liver and spleen in each channel."""
CHANNELS = {
    "two channels": ("water", "fat"),
    "four channels": ("in_phase", "opposed_phase", "noNorm", "rescale_to_0_1"),
}
"""As nnU-Net's normalisation goes by their names, the last two are not made alike."""


def boxes(
    seed: int, shape: tuple[int, int, int] = (24, 22, 20), channel: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Image and labels, RAS: a large box on the right, a small one on the left."""
    rng = np.random.default_rng(seed)
    labels = np.zeros(shape, np.uint8)
    i, j, k = rng.integers(0, 3, 3)
    labels[shape[0] // 2 + i : shape[0] - 3 + i, 4 + j : 15 + j, 3 + k : 14 + k] = 1
    labels[3 + i : 8 + i, 5 + j : 12 + j, 7 + k : 14 + k] = 2
    noise = np.random.default_rng([seed, channel]) if channel else rng
    image = np.array(CONTRASTS[channel], float)[labels] + noise.normal(0, 12, shape)
    return image.astype(np.int16), labels


def stored(data: np.ndarray, affine: np.ndarray, axes: str) -> nib.Nifti1Image:
    """RAS voxels stored on other axes, at the same places."""
    turn = ornt_transform(axcodes2ornt("RAS"), axcodes2ornt(axes))
    return nib.Nifti1Image(apply_orientation(data, turn), affine @ inv_ornt_aff(turn, data.shape))


def storages(axes: tuple[str, ...], channel: int | None = None) -> dict[str, nib.Nifti1Image]:
    """A scan on each of these axes, one turned by 20 degrees, and one smaller than a patch.

    Of several channels each is empty at another end, so that no one alone tells where all are.
    """
    image, _ = boxes(9, (28, 24, 22), channel or 0)
    small, _ = boxes(10, channel=channel or 0)
    if channel is not None:
        for one in (image, small):
            end = slice(7) if channel % 2 else slice(-7, None)
            one[end] = 0
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(0.35), -np.sin(0.35)], [np.sin(0.35), np.cos(0.35)]]
    return {one: stored(image, AFFINE, one) for one in axes} | {
        "oblique": nib.Nifti1Image(image, turn @ AFFINE),
        "small": stored(small[4:20, 3:17, 4:16], AFFINE, "LPS"),
    }


@dataclass(frozen=True)
class Training:
    """What nnU-Net is to train: a data set, which its reader and `kind` name, and how."""

    reader: str
    planner: str
    configuration: str
    fold: str
    kind: str = "labels"

    @property
    def number(self) -> int:
        """Of its data set."""
        return 1 + _DATASETS.index((self.reader, self.kind))

    @property
    def dataset(self) -> str:
        return f"Dataset{self.number:03}_Boxes"

    def results(self, folder: Path) -> Path:
        """What `train_and_predict` left below a folder, as nnU-Net names it."""
        plans = {"ExperimentPlanner": "nnUNetPlans", "nnUNetPlannerResEncM": _RES_ENC}[self.planner]
        name = f"nnUNetTrainer__{plans}__{self.configuration}"
        return folder / "results" / self.dataset / name


_RES_ENC = "nnUNetResEncUNetMPlans"
_DATASETS = (
    ("SimpleITKIO", "labels"),
    ("NibabelIO", "labels"),
    ("NibabelIOWithReorient", "labels"),
    ("SimpleITKIO", "regions"),
    ("SimpleITKIO", "two channels"),
    ("SimpleITKIO", "four channels"),
)
REGIONS = {"background": 0, "organs": [1, 2], "spleen": [2]}


def raw_dataset(folder: Path, reader: str, of: str) -> None:
    """Five cases stored LPS; those of NibabelIO stored RAS, with a part of each to be ignored."""
    ignore = reader == "NibabelIO"
    channels = CHANNELS.get(of, ("MR",))
    for seed in range(5):
        _, labels = boxes(seed)
        if ignore:
            labels[:3] = 3
        for kind, data, name in (
            *(
                ("imagesTr", boxes(seed, channel=n)[0], f"case_{seed}_{n:04}")
                for n in range(len(channels))
            ),
            ("labelsTr", labels, f"case_{seed}"),
        ):
            (folder / kind).mkdir(parents=True, exist_ok=True)
            nib.save(
                stored(data, AFFINE, "RAS" if ignore else "LPS"), folder / kind / f"{name}.nii.gz"
            )
    description = {
        "channel_names": {str(n): name for n, name in enumerate(channels)},
        "labels": LABELS | ({"ignore": 3} if ignore else {}),
        "numTraining": 5, "file_ending": ".nii.gz", "overwrite_image_reader_writer": reader,
    }  # fmt: skip
    if of == "regions":
        description |= {"labels": REGIONS, "regions_class_order": [1, 2]}
    (folder / "dataset.json").write_text(json.dumps(description))


def train_and_predict(folder: Path, trainings: list[Training], scans: Path, few: Path) -> None:
    """Results of `trainings`, and of each labels of scans: in ``predicted`` those of a few, as the
    program makes them by default, with mirrored passes; in ``unmirrored`` those of all, with
    ``--disable_tta``. Scans of a `kind` lie in folders of that name, if there are some."""
    for dataset, reader, kind in {(one.dataset, one.reader, one.kind) for one in trainings}:
        raw_dataset(folder / "raw" / dataset, reader, kind)
    places = {f"nnUNet_{name}": str(folder / name) for name in ("raw", "preprocessed", "results")}
    quick = {"nnUNet_compile": "f", "nnUNet_def_n_proc": "1"}
    wanted = json.dumps([asdict(training) for training in trainings])
    done = subprocess.run(
        [sys.executable, __file__, wanted, str(folder), str(scans), str(few)],
        env=os.environ | places | quick,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]


class _Threads:
    Pool = ThreadPool


def _main() -> None:
    import torch
    from nnunetv2.experiment_planning import plan_and_preprocess_api as api
    from nnunetv2.inference.predict_from_raw_data import predict_entry_point
    from nnunetv2.run.run_training import get_trainer_from_args

    multiprocessing.get_context = lambda _method=None: _Threads
    multiprocessing.cpu_count = lambda: 1  # threads that nnU-Net's program computes with
    trainings = [Training(**one) for one in json.loads(sys.argv[1])]
    folder, scans, few = map(Path, sys.argv[2:])
    for number in dict.fromkeys(training.number for training in trainings):
        mine = [training for training in trainings if training.number == number]
        os.environ["nnUNet_n_proc_DA"] = "1"  # planning refuses 0
        api.extract_fingerprints([number], num_processes=1)
        for planner in dict.fromkeys(training.planner for training in mine):
            plans = api.plan_experiments([number], planner)
            names = sorted({one.configuration for one in mine if one.planner == planner})
            api.preprocess([number], plans, names, [1] * len(names))
        os.environ["nnUNet_n_proc_DA"] = "0"  # trained in this process
        for training in mine:
            plans = training.results(folder).name.split("__")[1]
            fold = training.fold if training.fold == "all" else int(training.fold)
            trainer = get_trainer_from_args(
                str(number), training.configuration, fold, "nnUNetTrainer", plans,
                device=torch.device("cpu"),
            )  # fmt: skip
            trainer.num_epochs, trainer.num_iterations_per_epoch = 1, 2
            trainer.num_val_iterations_per_epoch = 1
            trainer.run_training()
            trainer.perform_actual_validation(False)
    for training in trainings:
        results = training.results(folder)
        for kind, of, words in (("predicted", few, []), ("unmirrored", scans, ["--disable_tta"])):
            own = of / training.kind
            sys.argv = [
                "nnUNetv2_predict", "-i", str(own if own.is_dir() else of),
                "-o", str(results / kind),
                "-d", str(training.number), "-c", training.configuration,
                "-p", results.name.split("__")[1], "-f", training.fold,
                "-device", "cpu", "-npp", "0", "-nps", "0", *words,
            ]  # fmt: skip
            predict_entry_point()


if __name__ == "__main__":
    _main()

"""Results folders that nnunetv2 itself planned, trained (two iterations, or not at all) and ran.

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
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
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
    "CT": ("CT",),
    "no normalisation": ("noNorm",),
    "0 to 1": ("rescale_to_0_1",),
    "RGB": ("rgb_to_0_1",),
}
"""By kind of data set; nnU-Net's normalisation goes by these names."""


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
    return image.clip(0, 255).astype(np.int16), labels


def in_an_ellipsoid(image: np.ndarray) -> np.ndarray:
    """An image that is 0 outside an ellipsoid, so that nnU-Net normalises what is inside it."""
    axes = (np.linspace(-1, 1, size) ** 2 for size in image.shape)
    return np.where(sum(np.meshgrid(*axes, indexing="ij")) < 0.8, image, 0).astype(image.dtype)


def stored(data: np.ndarray, affine: np.ndarray, axes: str) -> nib.Nifti1Image:
    """RAS voxels stored on other axes, at the same places."""
    turn = ornt_transform(axcodes2ornt("RAS"), axcodes2ornt(axes))
    return nib.Nifti1Image(apply_orientation(data, turn), affine @ inv_ornt_aff(turn, data.shape))


def storages(
    axes: tuple[str, ...], channel: int | None = None, kind: str = "labels"
) -> dict[str, nib.Nifti1Image]:
    """A scan on each of these axes, one turned by 20 degrees, and one smaller than a patch.

    Of several channels each is empty at another end, so that no one alone tells where all are.
    """
    image, _ = boxes(9, (28, 24, 22), channel or 0)
    small, _ = boxes(10, channel=channel or 0)
    if channel is not None:
        for one in (image, small):
            end = slice(7) if channel % 2 else slice(-7, None)
            one[end] = 0
    if kind == "masked":
        image, small = in_an_ellipsoid(image), in_an_ellipsoid(small)
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(0.35), -np.sin(0.35)], [np.sin(0.35), np.cos(0.35)]]
    return {one: stored(image, AFFINE, one) for one in axes} | {
        "oblique": nib.Nifti1Image(image, turn @ AFFINE),
        "small": stored(small[4:20, 3:17, 4:16], AFFINE, "LPS"),
    }


@dataclass(frozen=True)
class Training:
    """What nnU-Net is to train: a data set, which its reader and `kind` name, and how.

    `folds` are those that predict together. Weights are random where it is not `trained`; those
    of kind "never mirrored" do not allow mirrored passes, as of nnUNetTrainerNoMirroring.
    """

    reader: str = "SimpleITKIO"
    planner: str = "ExperimentPlanner"
    configuration: str = "3d_fullres"
    folds: str = "0"
    kind: str = "labels"
    trained: bool = True
    checkpoint: str = "checkpoint_final.pth"

    @property
    def number(self) -> int:
        """Of its data set."""
        return 1 + _DATASETS.index((self.reader, self.kind))

    @property
    def dataset(self) -> str:
        return f"Dataset{self.number:03}_Boxes"

    @property
    def plans(self) -> str:
        return {"ExperimentPlanner": "nnUNetPlans", "nnUNetPlannerResEncM": _RES_ENC}[self.planner]

    @property
    def before(self) -> Training | None:
        """The earlier stage of a cascade."""
        is_cascade = self.configuration == "3d_cascade_fullres"
        return replace(self, configuration="3d_lowres") if is_cascade else None

    def results(self, folder: Path) -> Path:
        """What `train_and_predict` left below a folder, as nnU-Net names it."""
        name = f"nnUNetTrainer__{self.plans}__{self.configuration}"
        return folder / "results" / self.dataset / name

    def labels(self, folder: Path, passes: str) -> Path:
        """Its label maps of scans, with the passes of `PASSES`."""
        return self.results(folder) / f"{passes} by {self.folds} of {self.checkpoint}"


@dataclass(frozen=True)
class Chosen:
    """What ``nnUNetv2_find_best_configuration`` may choose: one training or several that are
    averaged, and what is kept of their label maps."""

    members: tuple[Training, ...]

    def labels(self, folder: Path, passes: str) -> Path:
        """Label maps that nnU-Net made below a folder, before it keeps the largest pieces."""
        if len(self.members) == 1:
            return self.members[0].labels(folder, passes)
        names = [self.members[0].dataset, *(one.configuration for one in self.members)]
        return folder / "averaged" / " ".join(names) / passes

    def postprocessing(self, folder: Path) -> Path:
        """What nnU-Net says about what is kept."""
        return self.labels(folder, "unmirrored") / "postprocessing.pkl"

    def kept(self, folder: Path, passes: str) -> Path:
        """Label maps after that."""
        return self.labels(folder, passes) / "kept"


PASSES = {"predicted": [], "unmirrored": ["--disable_tta"]}
"""Ways of ``nnUNetv2_predict``: by default, with mirrored passes, and without."""
_RES_ENC = "nnUNetResEncUNetMPlans"
_DATASETS = (
    ("SimpleITKIO", "labels"),
    ("NibabelIO", "labels"),
    ("NibabelIOWithReorient", "labels"),
    ("SimpleITKIO", "regions"),
    ("SimpleITKIO", "masked"),
    ("SimpleITKIO", "never mirrored"),
    *(("SimpleITKIO", kind) for kind in CHANNELS),
)
REGIONS = {"background": 0, "organs": [1, 2], "spleen": [2]}


def raw_dataset(folder: Path, reader: str, of: str, n_cases: int = 5) -> None:
    """Cases stored LPS; those of NibabelIO stored RAS, with a part of each to be ignored."""
    ignore = reader == "NibabelIO"
    channels = CHANNELS.get(of, ("MR",))
    for seed in range(n_cases):
        _, labels = boxes(seed)
        images = [boxes(seed, channel=n)[0] for n in range(len(channels))]
        if of == "masked":
            images = [in_an_ellipsoid(image) for image in images]
        if ignore:
            labels[:3] = 3
        for kind, data, name in (
            *(("imagesTr", image, f"case_{seed}_{n:04}") for n, image in enumerate(images)),
            ("labelsTr", labels, f"case_{seed}"),
        ):
            (folder / kind).mkdir(parents=True, exist_ok=True)
            nib.save(
                stored(data, AFFINE, "RAS" if ignore else "LPS"), folder / kind / f"{name}.nii.gz"
            )
    description = {
        "channel_names": {str(n): name for n, name in enumerate(channels)},
        "labels": LABELS | ({"ignore": 3} if ignore else {}),
        "numTraining": n_cases, "file_ending": ".nii.gz", "overwrite_image_reader_writer": reader,
    }  # fmt: skip
    if of == "regions":
        description |= {"labels": REGIONS, "regions_class_order": [1, 2]}
    (folder / "dataset.json").write_text(json.dumps(description))


def train_and_predict(
    folder: Path,
    trainings: Sequence[Training],
    scans: Path,
    few: Path,
    chosen: Sequence[Chosen] = (),
) -> None:
    """Results of `trainings` and of what is `chosen` of them, and of each labels of scans.

    Of a few as the program makes them by default, of all without mirrored passes. Scans of a `kind`
    lie in folders of that name, if there are some.
    """
    for dataset, reader, kind in {(one.dataset, one.reader, one.kind) for one in trainings}:
        n_cases = 5 if any(one.trained for one in trainings if one.dataset == dataset) else 2
        raw_dataset(folder / "raw" / dataset, reader, kind, n_cases)
    places = {f"nnUNet_{name}": str(folder / name) for name in ("raw", "preprocessed", "results")}
    # Memory that is given back is cleared by the kernel when it is asked for again: half the time.
    kept = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**40)}
    quick = {"nnUNet_compile": "f", "nnUNet_def_n_proc": "1", **kept}
    wanted = [[asdict(one) for one in several] for several in (trainings, chosen)]
    done = subprocess.run(
        [sys.executable, __file__, json.dumps(wanted), str(folder), str(scans), str(few)],
        env=os.environ | places | quick,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]


class _Threads:
    Pool = ThreadPool


def _main() -> None:
    from nnunetv2.experiment_planning.dataset_fingerprint import fingerprint_extractor

    extractor = fingerprint_extractor.DatasetFingerprintExtractor
    collect = extractor.collect_foreground_intensities  # of a hundred million voxels
    extractor.collect_foreground_intensities = staticmethod(
        lambda labels, images, seed=1234, num_samples=0: collect(labels, images, seed, 10_000)
    )

    multiprocessing.get_context = lambda _method=None: _Threads
    multiprocessing.cpu_count = lambda: 1  # threads that nnU-Net's program computes with
    trainings = [Training(**one) for one in json.loads(sys.argv[1])[0]]
    chosen = [
        Chosen(tuple(Training(**member) for member in one["members"]))
        for one in json.loads(sys.argv[1])[1]
    ]
    folder = Path(sys.argv[2])
    scans = dict(zip(PASSES, map(Path, reversed(sys.argv[3:])), strict=True))
    for number in dict.fromkeys(training.number for training in trainings):
        _plan(folder, [training for training in trainings if training.number == number])
    for training in trainings:
        for fold in training.folds.split():
            _train(training, fold if fold == "all" else int(fold), folder)
    for passes, given in scans.items():
        for training in trainings:
            _predict(training, training.labels(folder, passes), folder, given, passes)
        for one in chosen:
            if len(one.members) > 1:
                _average(one, folder, given, passes)
    for one in chosen:
        _keep_largest(one, folder)


def _plan(folder: Path, trainings: Sequence[Training]) -> None:
    """Plans of one data set, with the cascade that nnU-Net makes of larger images.

    Networks that are not trained are an eighth as wide, since they need only be run.
    """
    from nnunetv2.experiment_planning import plan_and_preprocess_api as api

    number = trainings[0].number
    os.environ["nnUNet_n_proc_DA"] = "1"  # planning refuses 0
    api.extract_fingerprints([number], num_processes=1)
    for planner in dict.fromkeys(training.planner for training in trainings):
        mine = [training for training in trainings if training.planner == planner]
        api.plan_experiments([number], planner)
        path = folder / "preprocessed" / mine[0].dataset / f"{mine[0].plans}.json"
        plans = json.loads(path.read_text())
        names = sorted({one.configuration for one in mine if one.trained})
        if not names:
            for configuration in plans["configurations"].values():
                network = configuration["architecture"]["arch_kwargs"]
                network["features_per_stage"] = [n // 8 for n in network["features_per_stage"]]
        full = plans["configurations"]["3d_fullres"]
        plans["configurations"]["3d_lowres"] = full | {
            "data_identifier": f"{mine[0].plans}_3d_lowres",
            "spacing": [1.5 * edge for edge in full["spacing"]],
            "next_stage": "3d_cascade_fullres",
        }
        plans["configurations"]["3d_cascade_fullres"] = {
            "inherits_from": "3d_fullres", "previous_stage": "3d_lowres"
        }  # fmt: skip
        path.write_text(json.dumps(plans))
        if names:
            api.preprocess([number], mine[0].plans, names, [1] * len(names))
    os.environ["nnUNet_n_proc_DA"] = "0"  # trained in this process


def _train(training: Training, fold: str | int, folder: Path) -> None:
    import torch
    from nnunetv2.run.run_training import get_trainer_from_args

    trainer = get_trainer_from_args(
        str(training.number), training.configuration, fold, "nnUNetTrainer", training.plans,
        device=torch.device("cpu"),
    )  # fmt: skip
    if training.trained:
        trainer.num_epochs, trainer.num_iterations_per_epoch = 1, 2
        trainer.num_val_iterations_per_epoch = 1
        trainer.run_training()
        trainer.perform_actual_validation(False)
        return
    torch.manual_seed(sum(map(ord, f"{training} {fold}")))
    data = Path(trainer.preprocessed_dataset_folder)
    data.mkdir(exist_ok=True)
    (data / "none.b2nd").touch()  # the kind of its files is looked at, and none is read
    trainer.initialize()
    if training.kind != "never mirrored":
        trainer.configure_rotation_dummyDA_mirroring_and_inital_patch_size()
    results = training.results(folder)
    (results / "plans.json").write_text(json.dumps(trainer.plans_manager.plans))
    (results / "dataset.json").write_text(json.dumps(trainer.dataset_json))
    trainer.save_checkpoint(str(results / f"fold_{fold}" / training.checkpoint))


def _predict(
    training: Training, out: Path, folder: Path, scans: Path, passes: str, *words: str
) -> None:
    from nnunetv2.inference.predict_from_raw_data import predict_entry_point

    own = scans / training.kind
    before = training.before
    seen = ("-prev_stage_predictions", before.labels(folder, passes)) if before else ()
    _run(
        predict_entry_point, "nnUNetv2_predict", "-i", own if own.is_dir() else scans, "-o", out,
        "-d", training.number, "-c", training.configuration, "-p", training.plans,
        "-f", *training.folds.split(), "-chk", training.checkpoint,
        "-device", "cpu", "-npp", 0, "-nps", 0, *PASSES[passes], *seen, *words,
    )  # fmt: skip


def _average(chosen: Chosen, folder: Path, scans: Path, passes: str) -> None:
    from nnunetv2.ensembling.ensemble import entry_point_ensemble_folders

    out = chosen.labels(folder, passes)
    places = [out.with_name(f"{passes} {one.configuration}") for one in chosen.members]
    for member, place in zip(chosen.members, places, strict=True):
        _predict(member, place, folder, scans, passes, "--save_probabilities")
    _run(entry_point_ensemble_folders, "nnUNetv2_ensemble", "-i", *places, "-o", out, "-np", 1)


def _keep_largest(chosen: Chosen, folder: Path) -> None:
    """Let nnU-Net find that keeping the largest pieces helps, by labels of which only they are."""
    from nnunetv2.postprocessing import remove_connected_components as pieces

    maps = chosen.labels(folder, "unmirrored")
    readers = maps / "readers"
    readers.mkdir()
    for path in maps.glob("*.nii.gz"):
        image = nib.load(path)
        labels = np.asarray(image.dataobj)
        for kept in ([1, 2], [1], [2]):
            labels = pieces.remove_all_but_largest_component_from_segmentation(labels, kept)
        nib.save(nib.Nifti1Image(labels, image.affine), readers / path.name)
    raw = folder / "preprocessed" / chosen.members[0].dataset
    described = (
        "-plans_json", raw / f"{chosen.members[0].plans}.json",
        "-dataset_json", raw / "dataset.json", "-np", 1,
    )  # fmt: skip
    _run(
        pieces.entry_point_determine_postprocessing_folder, "nnUNetv2_determine_postprocessing",
        "-i", maps, "-ref", readers, *described,
    )  # fmt: skip
    for passes in PASSES:
        _run(
            pieces.entry_point_apply_postprocessing, "nnUNetv2_apply_postprocessing",
            "-i", chosen.labels(folder, passes), "-o", chosen.kept(folder, passes),
            "-pp_pkl_file", chosen.postprocessing(folder), *described,
        )  # fmt: skip


def _run(program: Callable[[], object], *words: object) -> None:
    sys.argv = [str(word) for word in words]
    program()


if __name__ == "__main__":
    _main()

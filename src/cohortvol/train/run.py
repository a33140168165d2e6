"""From folders of images and label maps to a model folder: plan, preprocess, train, import."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import torch
from batchgenerators.utilities.file_and_folder_operations import load_json
from nnunetv2.experiment_planning.plan_and_preprocess_api import (
    extract_fingerprint_dataset,
    preprocess_dataset,
)
from nnunetv2.training.nnUNetTrainer import nnUNetTrainer as upstream

from cohortvol.errors import ConfigError
from cohortvol.files import commit_json
from cohortvol.geometry import to_ras
from cohortvol.networks import Source, import_nnunet
from cohortvol.overlap import dice_by_structure
from cohortvol.train.nnunet import ShortTrainer, SmallPlanner, load_checkpoint
from cohortvol.train.recipe import Recipe, read_cases, read_recipe, split_by_subject

logger = logging.getLogger(__name__)

DATASET_ID = 1
CONFIGURATION = "3d_fullres"
PLANS = "nnUNetPlans"
ALL = "all"


@contextmanager
def nnunet_folders(work: Path) -> Iterator[Path]:
    """nnU-Net's three folders under `work`, told to it the only way it listens to."""
    names = {f"nnUNet_{folder}": folder for folder in ("raw", "preprocessed", "results")}
    before = {name: os.environ.get(name) for name in names}
    for name, folder in names.items():
        os.environ[name] = str((work / folder).absolute())
    try:
        yield work
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def dataset_name(recipe: Recipe) -> str:
    """nnU-Net's name of the dataset, such as ``Dataset001_embedded-v1``."""
    return f"Dataset{DATASET_ID:03d}_{recipe.id}"


def prepare(recipe: Recipe, pairs: Path, cases: pd.DataFrame, work: Path, processes: int) -> None:
    """Raw dataset (in RAS+), fingerprint, plans and preprocessed cases; done once.

    Raises
    ------
    ConfigError
        If a label map holds an index the recipe does not name, or does not lie on its image.
    """
    name = dataset_name(recipe)
    done = work / "prepared.json"
    if done.is_file():
        return
    raw = work / "raw" / name
    for case in cases["case"]:
        image, affine = _read_ras(pairs / "images" / f"{case}.nii.gz")
        labels, label_affine = _read_ras(pairs / "labels" / f"{case}.nii.gz")
        labels = np.rint(labels).astype(np.uint8)
        if image.shape != labels.shape or not np.allclose(affine, label_affine, atol=1e-3):
            raise ConfigError(f"{case}: image and label map are on different grids")
        unknown = set(np.unique(labels)) - {0, *recipe.labels}
        if unknown:
            raise ConfigError(f"{case}: label indices the recipe does not name: {sorted(unknown)}")
        _write(raw / "imagesTr" / f"{case}_0000.nii.gz", image, affine)
        _write(raw / "labelsTr" / f"{case}.nii.gz", labels, affine)
    commit_json(
        raw / "dataset.json",
        {
            "channel_names": {"0": "MRI"},
            "labels": {"background": 0, **{name: index for index, name in recipe.labels.items()}},
            "numTraining": len(cases),
            "file_ending": ".nii.gz",
            "overwrite_image_reader_writer": "NibabelIO",
        },
    )
    extract_fingerprint_dataset(DATASET_ID, num_processes=processes, show_progress_bar=False)
    planner = SmallPlanner(
        DATASET_ID,
        gpu_memory_target_in_gb=recipe.planning_memory_gb,
        overwrite_target_spacing=[float(edge) for edge in reversed(recipe.spacing_mm)],
        base_features=recipe.base_features,
        max_features=recipe.max_features,
    )
    planner.plan_experiment()
    preprocess_dataset(
        DATASET_ID, PLANS, [CONFIGURATION], num_processes=[processes], show_progress_bar=False
    )
    splits = split_by_subject(cases, recipe.n_folds, recipe.seed)
    commit_json(work / "preprocessed" / name / "splits_final.json", splits)
    commit_json(done, {"cases": len(cases)})


def train_fold(
    recipe: Recipe, cases: pd.DataFrame, work: Path, fold: str, device: str, pretrain: bool = False
) -> None:
    """Train one fold to its end, going on from its last checkpoint if there is one.

    Parameters
    ----------
    fold : str
        Fold of the split, or ``all`` for the final training on all cases.
    pretrain : bool
        Train the weights that all folds start from, the recipe's ``pretrain``.

    Raises
    ------
    ConfigError
        If the weights this fold starts from are not there yet.
    """
    folder = _fold_folder(recipe, work, fold, pretrain)
    final, latest = folder / "checkpoint_final.pth", folder / "checkpoint_latest.pth"
    if final.is_file():
        return
    start = None
    if recipe.pretrain and not pretrain and not latest.is_file():
        start = _fold_folder(recipe, work, ALL, pretrain=True) / "checkpoint_final.pth"
        if not start.is_file():
            raise ConfigError(f"fold {fold} starts from the pretraining: run --only pretrain first")
    trainer = _trainer(recipe, cases, work, fold, device, pretrain)
    seed = recipe.seed + (recipe.n_folds if fold == ALL else int(fold))
    np.random.seed(seed)  # nnU-Net draws from the global generator
    torch.manual_seed(seed)
    if latest.is_file():
        trainer.resume(latest)
    elif start:
        trainer.start_from(start)
    trainer.run_training()


def _results(pretrain: bool) -> str:
    return "pretrain" if pretrain else "results"


def _fold_folder(recipe: Recipe, work: Path, fold: str, pretrain: bool) -> Path:
    """Where nnU-Net keeps the checkpoints of a fold."""
    training = f"{ShortTrainer.__name__}__{PLANS}__{CONFIGURATION}"
    return work / _results(pretrain) / dataset_name(recipe) / training / f"fold_{fold}"


def _trainer(
    recipe: Recipe, cases: pd.DataFrame, work: Path, fold: str, device: str, pretrain: bool
) -> ShortTrainer:
    """nnU-Net's trainer of one fold, told where to write: `_fold_folder`."""
    os.environ["nnUNet_results"] = str((work / _results(pretrain)).absolute())
    preprocessed = work / "preprocessed" / dataset_name(recipe)
    trainer = ShortTrainer(
        plans={**load_json(str(preprocessed / f"{PLANS}.json")), "continue_training": False},
        configuration=CONFIGURATION,
        fold=fold if fold == ALL else int(fold),
        dataset_json=load_json(str(preprocessed / "dataset.json")),
        device=torch.device(device),
    )
    if pretrain and recipe.pretrain:
        phases = [recipe.pretrain]
    else:
        phases = recipe.phases + ([recipe.final] if recipe.final and fold == ALL else [])
    trainer.configure(
        phases=phases,
        learning_rate=recipe.learning_rate,
        batch_size=recipe.batch_size,
        sources=dict(zip(cases["case"], cases["source"], strict=True)),
    )
    return trainer


def run(
    recipe_file: Path,
    pairs: Path,
    work: Path,
    out: Path,
    device: str = "cpu",
    processes: int = 1,
    only: str | None = None,
) -> None:
    """Everything from a recipe to a model folder, going on where an earlier run stopped.

    Parameters
    ----------
    recipe_file : Path
        See `Recipe`.
    pairs : Path
        Folder with ``images/``, ``labels/`` and, where cases share subjects, ``cases.csv``.
    work : Path
        Folder for nnU-Net's data and checkpoints; kept, so that a rerun resumes.
    out : Path
        Model folder to make.
    device : str
        ``cpu`` or ``cuda``.
    processes : int
        Processes of nnU-Net's preprocessing and export.
    only : str, optional
        One step, for running several side by side: ``prepare``, ``pretrain``, ``0``, ``1``, ...,
        or ``all``, the final training.

    Raises
    ------
    ConfigError
        If the recipe or the pairs cannot be used, or `only` is no step of the recipe or one whose
        earlier step has not run.
    """
    recipe = read_recipe(recipe_file)
    cases = read_cases(pairs)
    folds = [str(fold) for fold in range(recipe.n_folds)]
    steps = ["prepare", "pretrain", *folds, ALL]
    if only is not None and only not in steps:
        raise ConfigError(f"--only {only}: the steps of this recipe are {', '.join(steps)}")
    with nnunet_folders(work):
        prepare(recipe, pairs, cases, work, processes)
        if only in (None, "pretrain") and recipe.pretrain:
            train_fold(recipe, cases, work, ALL, device, pretrain=True)
        for fold in (*folds, ALL):
            if only in (None, fold):
                train_fold(recipe, cases, work, fold, device)
                if fold != ALL:
                    validate(recipe, cases, work, fold, device, processes)
    if only is None:
        accuracy = out_of_fold_accuracy(recipe, work)
        trained = _fold_folder(recipe, work, ALL, pretrain=False).parent
        import_nnunet(
            [Source(trained, folds=[ALL], expected_labels=recipe.labels)],
            out,
            model_id=recipe.id,
            title=recipe.title,
            licence=recipe.licence,
            origin=recipe.origin,
            citation=recipe.citation,
            accuracy={"out_of_fold": accuracy},
            notes=recipe.notes,
        )


def validate(
    recipe: Recipe, cases: pd.DataFrame, work: Path, fold: str, device: str, processes: int
) -> None:
    """Let nnU-Net segment the held-out cases of a trained fold, on their own grids; done once."""
    folder = _fold_folder(recipe, work, fold, pretrain=False)
    if (folder / "validation" / "summary.json").is_file():
        return
    trainer = _trainer(recipe, cases, work, fold, device, pretrain=False)
    trainer.initialize()
    weights = load_checkpoint(folder / "checkpoint_final.pth")["network_weights"]
    trainer.network.load_state_dict(weights)
    # nnU-Net starts eight processes here, whatever the machine, unless its own name says less.
    upstream.default_num_processes = processes
    trainer.perform_actual_validation()


def out_of_fold_accuracy(recipe: Recipe, work: Path) -> dict[str, dict[str, float]]:
    """Dice and volume error per structure over the held-out cases of all folds.

    Returns
    -------
    dict
        Per structure: ``n``, ``dice_mean``, ``dice_min``, ``volume_error_pct_mean`` (signed)
        and ``volume_error_pct_mean_absolute``.
    """
    name = dataset_name(recipe)
    rows = []
    pattern = f"results/{name}/*/fold_*/validation/*.nii.gz"
    for predicted in sorted(work.glob(pattern)):
        ours, _ = _read_ras(predicted)
        expert, _ = _read_ras(work / "raw" / name / "labelsTr" / predicted.name)
        labels = {structure: index for index, structure in recipe.labels.items()}
        for structure, overlap in dice_by_structure(ours, labels, expert, labels).items():
            n_found, n_wanted = (int((x == labels[structure]).sum()) for x in (ours, expert))
            if n_wanted:
                rows.append((predicted.name, structure, overlap, 100 * (n_found / n_wanted - 1)))
    table = pd.DataFrame(rows, columns=["case", "structure", "dice", "volume_error_pct"])
    accuracy = {}
    for structure, part in table.groupby("structure", sort=False):
        accuracy[str(structure)] = {
            "n": len(part),
            "dice_mean": round(part["dice"].mean(), 4),
            "dice_min": round(part["dice"].min(), 4),
            "volume_error_pct_mean": round(part["volume_error_pct"].mean(), 2),
            "volume_error_pct_mean_absolute": round(part["volume_error_pct"].abs().mean(), 2),
        }
    return accuracy


def _read_ras(path: Path) -> tuple[np.ndarray, np.ndarray]:
    image = nib.Nifti1Image.from_filename(path)
    return to_ras(np.asarray(image.dataobj), np.asarray(image.affine))


def _write(path: Path, data: np.ndarray, affine: np.ndarray) -> None:
    if data.dtype == np.float64:
        data = data.astype(np.float32)
    image = nib.Nifti1Image(np.ascontiguousarray(data), affine)
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(image, path)

"""From folders of images and label maps to a model folder: plan, preprocess, train, import."""

from __future__ import annotations

import json
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
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.training.nnUNetTrainer import nnUNetTrainer as upstream

from cohortvol.errors import ConfigError
from cohortvol.files import commit_json
from cohortvol.geometry import to_ras, voxel_volume_ml
from cohortvol.intervals import OUT_OF_FOLD, Calibration, Case, calibrate, softmax_by_label
from cohortvol.networks import Source, import_nnunet
from cohortvol.networks.softness import Ratios, Softness, ratios
from cohortvol.overlap import dice_by_structure
from cohortvol.train.nnunet import ShortTrainer, SmallPlanner, load_checkpoint
from cohortvol.train.recipe import Recipe, read_cases, read_recipe, split_by_subject

logger = logging.getLogger(__name__)

DATASET_ID = 1
CONFIGURATION = "3d_fullres"
PLANS = "nnUNetPlans"
ALL = "all"
SOFTMAX = "softmax.json"
"""Beside the held-out label maps of a fold: how sure its network was of each."""


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
        held_out = held_out_volumes(recipe, work)
        accuracy = out_of_fold_accuracy(held_out)
        calibration = out_of_fold_calibration(held_out)
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
            volume_interval=calibration.to_card(),
        )


def validate(
    recipe: Recipe, cases: pd.DataFrame, work: Path, fold: str, device: str, processes: int
) -> None:
    """Let nnU-Net segment the held-out cases of a trained fold, on their own grids; done once."""
    folder = _fold_folder(recipe, work, fold, pretrain=False)
    segmented = folder / "validation" / "summary.json"
    softmax = folder / "validation" / SOFTMAX
    if segmented.is_file() and softmax.is_file():
        return
    trainer = _trainer(recipe, cases, work, fold, device, pretrain=False)
    trainer.initialize()
    weights = load_checkpoint(folder / "checkpoint_final.pth")["network_weights"]
    trainer.network.load_state_dict(weights)
    # nnU-Net starts eight processes here, whatever the machine, unless its own name says less.
    upstream.default_num_processes = processes
    if not segmented.is_file():
        trainer.perform_actual_validation()
    commit_json(softmax, _held_out_softmax(trainer))


def _held_out_softmax(trainer: ShortTrainer) -> dict[str, Ratios]:
    """How sure the network of a fold is of each held-out case, on the network's grid.

    nnU-Net's validation keeps no logits on that grid, so they are made once more.
    """
    trainer.set_deep_supervision_enabled(False)
    trainer.network.eval()
    predictor = nnUNetPredictor(
        tile_step_size=0.5, use_mirroring=False, device=trainer.device, allow_tqdm=False
    )
    predictor.manual_initialization(
        trainer.network,
        trainer.plans_manager,
        trainer.configuration_manager,
        None,
        trainer.dataset_json,
        type(trainer).__name__,
        None,
    )
    _, cases = trainer.do_split()
    dataset = trainer.dataset_class(trainer.preprocessed_dataset_folder, cases)
    kept = {}
    for case in cases:
        data = torch.from_numpy(np.array(dataset.load_case(case)[0]))
        logits = predictor.predict_sliding_window_return_logits(data)
        softness = Softness(len(logits))
        softness.add(logits)
        kept[case] = ratios([(softness, np.arange(len(logits)))])
    return kept


def held_out_volumes(recipe: Recipe, work: Path) -> pd.DataFrame:
    """Every structure of every held-out case, as found by a network that has not seen it.

    Returns
    -------
    pandas.DataFrame
        ``case, structure, volume_ml, true_ml, dice, spread_ratio``, the last null where nothing
        was found; no row for what the expert's label map does not hold.
    """
    name = dataset_name(recipe)
    rows = []
    pattern = f"results/{name}/*/fold_*/validation/*.nii.gz"
    for predicted in sorted(work.glob(pattern)):
        ours, affine = _read_ras(predicted)
        expert, _ = _read_ras(work / "raw" / name / "labelsTr" / predicted.name)
        case, voxel_ml = predicted.name.removesuffix(".nii.gz"), voxel_volume_ml(affine)
        kept = json.loads((predicted.parent / SOFTMAX).read_text(encoding="utf-8"))
        softmax = softmax_by_label(kept[case])
        labels = {structure: index for index, structure in recipe.labels.items()}
        for structure, dice in dice_by_structure(ours, labels, expert, labels).items():
            index = labels[structure]
            n_found, n_wanted = (int((voxels == index).sum()) for voxels in (ours, expert))
            if n_wanted:
                rows.append(
                    {
                        "case": case,
                        "structure": structure,
                        "volume_ml": n_found * voxel_ml,
                        "true_ml": n_wanted * voxel_ml,
                        "dice": dice,
                        "spread_ratio": softmax.get(index, (np.nan, np.nan))[1],
                    }
                )
    return pd.DataFrame(rows)


def out_of_fold_accuracy(held_out: pd.DataFrame) -> dict[str, dict[str, float]]:
    """Dice and volume error per structure, from `held_out_volumes`.

    Returns
    -------
    dict
        Per structure: ``n``, ``dice_mean``, ``dice_min``, ``volume_error_pct_mean`` (signed)
        and ``volume_error_pct_mean_absolute``.
    """
    accuracy = {}
    for structure, part in held_out.groupby("structure", sort=False):
        error_pct = 100 * (part["volume_ml"] / part["true_ml"] - 1)
        accuracy[str(structure)] = {
            "n": len(part),
            "dice_mean": round(part["dice"].mean(), 4),
            "dice_min": round(part["dice"].min(), 4),
            "volume_error_pct_mean": round(error_pct.mean(), 2),
            "volume_error_pct_mean_absolute": round(error_pct.abs().mean(), 2),
        }
    return accuracy


def out_of_fold_calibration(held_out: pd.DataFrame) -> Calibration:
    """What volume intervals are worth, from `held_out_volumes`: one interval per case found."""
    found = held_out[(held_out["volume_ml"] > 0) & held_out["spread_ratio"].notna()]
    return Calibration(
        source=OUT_OF_FOLD,
        profile="nnunet",
        structures=calibrate(
            Case(row.structure, row.volume_ml, row.true_ml, row.spread_ratio)
            for row in found.itertuples()
        ),
        note=f"{found['case'].nunique()} cases held out by the folds; the final network saw them",
    )


def _read_ras(path: Path) -> tuple[np.ndarray, np.ndarray]:
    image = nib.Nifti1Image.from_filename(path)
    return to_ras(np.asarray(image.dataobj), np.asarray(image.affine))


def _write(path: Path, data: np.ndarray, affine: np.ndarray) -> None:
    if data.dtype == np.float64:
        data = data.astype(np.float32)
    image = nib.Nifti1Image(np.ascontiguousarray(data), affine)
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(image, path)

"""Training one fold of one part, and segmenting the cases that it has not seen."""

from __future__ import annotations

import json
import os
import platform
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from batchgenerators.utilities.file_and_folder_operations import load_json
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.training.nnUNetTrainer import nnUNetTrainer as upstream

import cohortvol
from cohortvol.errors import ConfigError
from cohortvol.models.networks import Source
from cohortvol.models.networks.softness import Ratios, Softness, ratios
from cohortvol.store.files import commit_json, digest_of
from cohortvol.tools.train.nnunet import ShortTrainer, load_checkpoint
from cohortvol.tools.train.prepare import CONFIGURATION, OF_TRAINING, PLANS, dataset_name
from cohortvol.tools.train.recipe import ALL, PRETRAIN, Phase, Recipe

SOFTMAX = "softmax.json"
"""Beside the held-out label maps of a fold: how sure its network was of each."""
TRAINED = "trained.json"
"""Beside the last checkpoint of a fold: iterations, device and versions, for the card."""
SCHEDULE = "schedule.json"
"""Beside the checkpoints of a fold: digest of the settings it was started with."""


def train_fold(
    recipe: Recipe,
    cases: pd.DataFrame,
    work: Path,
    step: str,
    device: str,
    processes: int = 1,
) -> None:
    """Train one fold of one part to its end, going on from its last checkpoint if there is one.

    Parameters
    ----------
    cases : pandas.DataFrame
        At least those of the part, from `cohortvol.tools.train.cases.cases_of`.
    work : Path
        Of the part.
    step : str
        Fold of the split, ``all`` for the final training on all cases, or ``pretrain`` for the
        weights that all folds start from.
    processes : int
        That load cases, where the device is a GPU and this is more than 1.

    Raises
    ------
    ConfigError
        If the weights this fold starts from are not there yet, or it was begun with another
        schedule.
    """
    folder = fold_folder(recipe, work, step)
    final, latest = folder / "checkpoint_final.pth", folder / "checkpoint_latest.pth"
    check_schedule(recipe, work, step)
    commit_json(folder / SCHEDULE, _schedule(recipe, step))
    if final.is_file() and (folder / TRAINED).is_file():
        return
    start = None
    if recipe.pretrain and step != PRETRAIN and not latest.is_file():
        start = fold_folder(recipe, work, PRETRAIN) / "checkpoint_final.pth"
        if not start.is_file():
            raise ConfigError(f"fold {step} starts from the pretraining: run --only pretrain first")
    trainer = _trainer(recipe, cases, work, step, device, processes)
    if not final.is_file():
        for left in folder.glob(".checkpoint_*.tmp"):
            left.unlink()  # of a training that was killed while it wrote
        torch.manual_seed(trainer.seed)  # the first weights; an epoch has a seed of its own
        if latest.is_file():
            trainer.resume(latest)
        elif start:
            trainer.start_from(start)
        trainer.run_training()
    epochs = load_checkpoint(final)["current_epoch"]
    commit_json(
        folder / TRAINED,
        {
            "iterations": epochs * trainer.EPOCH_ITERATIONS,
            "device": _name_of(trainer.device),
            "versions": _versions(),
        },
    )


def check_schedule(recipe: Recipe, work: Path, step: str) -> None:
    """Refuse to mix what a fold was begun with and something else.

    Raises
    ------
    ConfigError
        If the fold was begun with other settings than the recipe has now.
    """
    folder = fold_folder(recipe, work, step)
    if not (folder / SCHEDULE).is_file():
        return
    before = json.loads((folder / SCHEDULE).read_text(encoding="utf-8"))
    mine = _schedule(recipe, step)
    if changed := [name for name in mine if before.get(name) != mine[name]]:
        raise ConfigError(
            f"{folder}: was begun with other {', '.join(changed)} than the recipe has now\n"
            "  Take the change back, or delete this folder to train the fold again."
        )


def _schedule(recipe: Recipe, step: str) -> dict[str, str]:
    """Digest of each setting that the training of a fold depends on."""
    settings = asdict(recipe)
    weights = {name: dataset.weight for name, dataset in recipe.datasets.items()}
    others = {ALL: (), PRETRAIN: ("phases", "final")}.get(step, ("final",))
    return {
        **{name: digest_of(settings[name]) for name in OF_TRAINING if name not in others},
        "weights of datasets": digest_of(weights),
    }


def _name_of(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def _versions() -> dict[str, str]:
    return {
        "cohortvol": cohortvol.__version__,
        **{name: version(name) for name in ("nnunetv2", "numpy", "torch")},
        "python": platform.python_version(),
    }


def _results(step: str) -> str:
    return "pretrain" if step == PRETRAIN else "results"


def fold_folder(recipe: Recipe, work: Path, step: str) -> Path:
    """Where nnU-Net keeps the checkpoints of a fold of a part."""
    training = f"{ShortTrainer.__name__}__{PLANS}__{CONFIGURATION}"
    fold = ALL if step == PRETRAIN else step
    return work / _results(step) / dataset_name(recipe) / training / f"fold_{fold}"


def sources(recipe: Recipe, work: Path, step: str) -> list[Source]:
    """The trained parts of one fold, or of the final training, to be imported as one model.

    Parameters
    ----------
    work : Path
        Of the whole training.
    """
    return [
        Source(
            fold_folder(recipe, work / part, step).parent,
            part=part,
            folds=[step],
            expected_labels=recipe.labels_of(part),
        )
        for part in recipe.parts
    ]


def _trainer(
    recipe: Recipe, cases: pd.DataFrame, work: Path, step: str, device: str, processes: int
) -> ShortTrainer:
    """nnU-Net's trainer of one fold, told where to write: `fold_folder`."""
    os.environ["nnUNet_results"] = str((work / _results(step)).absolute())
    preprocessed = work / "preprocessed" / dataset_name(recipe)
    whole = step in (ALL, PRETRAIN)
    trainer = ShortTrainer(
        plans={**load_json(str(preprocessed / f"{PLANS}.json")), "continue_training": False},
        configuration=CONFIGURATION,
        fold=ALL if whole else int(step),
        dataset_json=load_json(str(preprocessed / "dataset.json")),
        device=torch.device(device),
    )
    trainer.configure(
        phases=_phases(recipe, step),
        learning_rate=recipe.learning_rate,
        batch_size=recipe.batch_size,
        groups={row.case: (row.dataset, row.source) for row in cases.itertuples()},
        dataset_weights={name: dataset.weight for name, dataset in recipe.datasets.items()},
        optimizer=recipe.optimizer,
        seed=recipe.seed + (recipe.n_folds if whole else int(step)),
        loaders=processes if device == "cuda" and processes > 1 else 0,
    )
    return trainer


def _phases(recipe: Recipe, step: str) -> list[Phase]:
    if step == PRETRAIN and recipe.pretrain:
        return [recipe.pretrain]
    return recipe.phases + ([recipe.final] if recipe.final and step == ALL else [])


def validate(
    recipe: Recipe, cases: pd.DataFrame, work: Path, fold: str, device: str, processes: int
) -> None:
    """Let nnU-Net segment the held-out cases of a trained fold, on their own grids; done once."""
    folder = fold_folder(recipe, work, fold)
    segmented = folder / "validation" / "summary.json"
    softmax = folder / "validation" / SOFTMAX
    if segmented.is_file() and softmax.is_file():
        return
    trainer = _trainer(recipe, cases, work, fold, device, processes)
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

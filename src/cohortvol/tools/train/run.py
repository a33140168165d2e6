"""From a recipe to a model folder: prepare, train and validate each part, import them as one."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pandas as pd

from cohortvol.errors import ConfigError, did_you_mean
from cohortvol.models.networks import import_nnunet
from cohortvol.store.files import commit_json
from cohortvol.tools.train.accuracy import (
    accuracy_by_modality,
    held_out_volumes,
    out_of_fold_calibration,
)
from cohortvol.tools.train.cases import cases_of, cases_of_part
from cohortvol.tools.train.folds import (
    TRAINED,
    check_schedule,
    fold_folder,
    sources,
    train_fold,
    validate,
)
from cohortvol.tools.train.held_out import write_held_out
from cohortvol.tools.train.prepare import nnunet_folders, prepare
from cohortvol.tools.train.recipe import ALL, PREPARE, PRETRAIN, Recipe, read_recipe
from cohortvol.tools.train.subjects import subjects_for_test

logger = logging.getLogger(__name__)

IMPORT = "import"


def run(
    recipe_file: Path,
    pairs: Path | None,
    work: Path,
    out: Path,
    device: str = "cpu",
    processes: int = 1,
    only: str | None = None,
    part: str | None = None,
    variant: str | None = None,
) -> None:
    """Everything from a recipe to a model folder, going on where an earlier run stopped.

    Parameters
    ----------
    recipe_file : Path
        See `Recipe`.
    pairs : Path or None
        Folder with ``images/``, ``labels/`` and, where cases share subjects, ``cases.csv``; None
        where the recipe names its datasets.
    work : Path
        Folder for nnU-Net's data and checkpoints, with a folder for each part; kept, so that a
        rerun resumes. After a step, ``<part>/done/<step>.json`` is there.
    out : Path
        Model folder to make.
    device : str
        ``cpu`` or ``cuda``.
    processes : int
        Processes of nnU-Net's preprocessing and export, and of loading for a GPU.
    only : str, optional
        One step, for running several side by side: ``prepare``, ``pretrain``, ``0``, ``1``, ...,
        ``all``, the final training, or ``import``, which makes the model folder at the end.
    part : str, optional
        With `only`: one part; all if not given.
    variant : str, optional
        One of the recipe's variants.

    Raises
    ------
    ConfigError
        If the recipe or the cases cannot be used, or `only` is no step of the recipe or one whose
        earlier step has not run: for the import, naming every step that is still to be run.
    """
    recipe = read_recipe(recipe_file, variant)
    steps = [*recipe.steps, IMPORT]
    if only is not None and only not in steps:
        raise ConfigError(f"--only {only}: the steps of this recipe are {', '.join(steps)}")
    if part is not None and part not in recipe.parts:
        raise ConfigError(f"--part {part}: no such part{did_you_mean(part, recipe.parts)}")
    if part is not None and only in (None, IMPORT):
        raise ConfigError("--part goes with --only and one step of a part")
    cases = cases_of(recipe, pairs)
    for name in [part] if part else recipe.parts:
        for step in recipe.steps:
            if only in (None, step):
                _run_step(recipe, name, cases, work / name, step, device, processes)
    if only in (None, IMPORT):
        _check_complete(recipe, work)
        write_held_out(recipe, cases, work)
        make_model(recipe, cases, work, out)
        commit_json(work / "done" / f"{IMPORT}.json", {"model": recipe.id})


def _run_step(
    recipe: Recipe,
    part: str,
    cases: pd.DataFrame,
    work: Path,
    step: str,
    device: str,
    processes: int,
) -> None:
    with nnunet_folders(work):
        prepare(recipe, part, cases, work, processes)
        if step == PREPARE:  # so that a changed recipe stops here, and not in every fold
            for later in recipe.steps[1:]:
                check_schedule(recipe, work, later)
        else:
            train_fold(recipe, cases, work, step, device, processes)
        if step not in (PREPARE, PRETRAIN, ALL):
            validate(recipe, cases, work, step, device, processes)
    commit_json(work / "done" / f"{step}.json", {"part": part, "step": step})
    logger.info("%s, part %s: %s is done", recipe.id, part, step)


def _check_complete(recipe: Recipe, work: Path) -> None:
    missing = [
        f"  --part {part} --only {step}"
        for part in recipe.parts
        for step in recipe.steps
        if not (work / part / "done" / f"{step}.json").is_file()
    ]
    if missing:
        raise ConfigError("\n".join(["steps of the training are still to be run", *missing]))


def make_model(recipe: Recipe, cases: pd.DataFrame, work: Path, out: Path) -> None:
    """Import the trained parts as one model, with a card filled from what was trained.

    Parameters
    ----------
    work : Path
        Of the whole training; every step of it has run.
    """
    held_out = pd.concat(
        [held_out_volumes(recipe, part, cases, work / part) for part in recipe.parts],
        ignore_index=True,
    )
    import_nnunet(
        sources(recipe, work, ALL),
        out,
        model_id=recipe.id,
        title=recipe.title,
        licence=recipe.licence,
        orientation="RAS",
        origin=recipe.origin,
        citation=recipe.citation,
        accuracy=accuracy_by_modality(held_out),
        notes=recipe.notes,
        volume_interval=out_of_fold_calibration(held_out),
        training=trained_on(recipe, cases, work),
    )


def trained_on(recipe: Recipe, cases: pd.DataFrame, work: Path) -> dict[str, Any]:
    """What a card says of the training: data, folds, and for each part what was done.

    Returns
    -------
    dict
        ``datasets`` (modality, cases by source, subjects, people kept for the dataset's own test,
        weight), ``cases_by_modality``,
        ``subjects``, ``n_folds``, ``seed``, ``spacing_mm``, and ``parts`` (data sets, iterations
        of each fold, devices, versions).
    """
    return {
        "datasets": {
            name: {
                "modality": dataset.modality,
                "weight": dataset.weight,
                "subjects": int(mine["subject"].nunique()),
                "kept_for_test": len(subjects_for_test(recipe, name)),
                "cases": _counts(mine["source"]),
            }
            for name, dataset in recipe.datasets.items()
            for mine in [cases[cases["dataset"] == name]]
        },
        "cases_by_modality": _counts(cases["modality"]),
        "subjects": int(cases["subject"].nunique()),
        "n_folds": recipe.n_folds,
        "seed": recipe.seed,
        "spacing_mm": recipe.spacing_mm,
        "parts": {part: _part_trained_on(recipe, part, cases, work) for part in recipe.parts},
    }


def _part_trained_on(recipe: Recipe, part: str, cases: pd.DataFrame, work: Path) -> dict[str, Any]:
    mine = cases_of_part(recipe, part, cases)
    trained = {
        step: json.loads(
            (fold_folder(recipe, work / part, step) / TRAINED).read_text(encoding="utf-8")
        )
        for step in recipe.steps
        if step != PREPARE
    }
    versions = [one["versions"] for one in trained.values()]
    return {
        "datasets": list(dict.fromkeys(mine["dataset"])),
        "left_out": recipe.lacking(part),
        "cases_by_modality": _counts(mine["modality"]),
        "iterations": {step: one["iterations"] for step, one in trained.items()},
        "devices": sorted({one["device"] for one in trained.values()}),
        "versions": {
            name: " and ".join(dict.fromkeys(one[name] for one in versions)) for name in versions[0]
        },
    }


def _counts(values: pd.Series) -> dict[str, int]:
    return {str(name): int(n) for name, n in values.value_counts(sort=False).items()}

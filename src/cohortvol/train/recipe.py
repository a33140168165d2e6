"""The recipe of a model: what it is trained on and how, read from one YAML file."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from cohortvol.errors import ConfigError, did_you_mean


@dataclass(frozen=True)
class Phase:
    """A stretch of training with a learning rate schedule of its own.

    Attributes
    ----------
    iterations : int
        Batches.
    source_weights : dict
        Relative frequency of each source of cases, such as ``{"real": 0.7, "simulated": 0.3}``.
    """

    iterations: int
    source_weights: dict[str, float]


@dataclass(frozen=True)
class Recipe:
    """Settings of one training, as in ``models/<model>.yaml``.

    Attributes
    ----------
    id, title, licence, origin, citation, notes
        For the card of the model.
    labels : dict
        Label index to structure name.
    spacing_mm : list of float
        Spacing of the network along R, A, S.
    base_features, max_features : int
        Width of the network's first stage, and the most any stage may have.
    planning_memory_gb : float
        What nnU-Net's planner may assume; sets the patch.
    batch_size, learning_rate : int, float
        Of every training below.
    pretrain : Phase or None
        A first training whose result all folds start from; it may draw from no source that
        holds a subject of a fold, or out-of-fold figures would be untrue.
    phases : list of Phase
        Of every fold and of the final model, one after the other.
    final : Phase or None
        One more phase, of the final model alone; out-of-fold figures are those without it.
    n_folds : int
        Folds by subject over the cases of source ``real``.
    seed : int
        Of the folds and of the drawing of cases.
    """

    id: str
    title: str
    licence: str
    labels: dict[int, str]
    origin: str = ""
    citation: str = ""
    notes: list[str] = field(default_factory=list)
    spacing_mm: list[float] = field(default_factory=lambda: [4.0, 4.0, 4.0])
    base_features: int = 16
    max_features: int = 80
    planning_memory_gb: float = 8.0
    batch_size: int = 2
    learning_rate: float = 1e-3
    pretrain: Phase | None = None
    phases: list[Phase] = field(default_factory=lambda: [Phase(1000, {"real": 1.0})])
    final: Phase | None = None
    n_folds: int = 3
    seed: int = 0


def read_recipe(path: Path) -> Recipe:
    """Read and check a recipe.

    Raises
    ------
    ConfigError
        If the file is missing, or a setting is unknown or missing.
    """
    if not path.is_file():
        raise ConfigError(f"{path}: no such recipe")
    values: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    _check_names(path, values, Recipe, needed=("id", "title", "licence", "labels"))
    single = [name for name in ("pretrain", "final") if values.get(name)]
    for phase in [*values.get("phases", []), *(values[name] for name in single)]:
        _check_names(path, phase, Phase, needed=("iterations", "source_weights"))
    if "phases" in values:
        values["phases"] = [Phase(**phase) for phase in values["phases"]]
    values |= {name: Phase(**values[name]) for name in single}
    if "pretrain" in single:
        held = {"real", "synthetic"} & set(values["pretrain"].source_weights)
        if held:
            raise ConfigError(
                f"{path}: pretrain may not draw from {', '.join(sorted(held))}: subjects of a "
                "fold are among them"
            )
    return Recipe(**values)


def _check_names(
    path: Path, values: dict[str, Any], kind: type[Recipe] | type[Phase], needed: tuple[str, ...]
) -> None:
    known = [one.name for one in fields(kind)]
    for name in values:
        if name not in known:
            raise ConfigError(f"{path}: unknown setting {name!r}{did_you_mean(name, known)}")
    for name in needed:
        if name not in values:
            raise ConfigError(f"{path}: setting {name!r} is missing")


def read_cases(folder: Path) -> pd.DataFrame:
    """Cases of a training folder: ``case, subject, source``, from ``cases.csv``.

    A folder without ``cases.csv`` holds real scans only, one subject each.

    Raises
    ------
    ConfigError
        If images and label maps do not match the table.
    """
    table = folder / "cases.csv"
    if table.is_file():
        cases = pd.read_csv(table, dtype=str, keep_default_na=False)
    else:
        names = sorted(p.name.removesuffix(".nii.gz") for p in folder.glob("images/*.nii.gz"))
        cases = pd.DataFrame({"case": names, "subject": names, "source": "real"})
    if cases.empty:
        raise ConfigError(f"{folder}: no images/*.nii.gz to train on")
    absent = [
        f"{kind}/{case}.nii.gz"
        for case in cases["case"]
        for kind in ("images", "labels")
        if not (folder / kind / f"{case}.nii.gz").is_file()
    ]
    if absent:
        raise ConfigError(f"{folder}: missing {', '.join(absent[:5])} ({len(absent)} files)")
    return cases


def split_by_subject(cases: pd.DataFrame, n_folds: int, seed: int) -> list[dict[str, list[str]]]:
    """Folds over the subjects of real cases; a subject's synthetic cases never leave its side.

    Returns
    -------
    list of dict
        ``{"train": [...], "val": [...]}`` per fold; ``val`` holds real cases only, ``train``
        every case whose subject is not among them.
    """
    real = cases[cases["source"] == "real"]
    subjects = pd.Series(sorted(real["subject"].unique())).sample(frac=1, random_state=seed)
    splits = []
    for fold in range(n_folds):
        held_out = set(subjects.iloc[fold::n_folds])
        splits.append(
            {
                "train": list(cases.loc[~cases["subject"].isin(held_out), "case"]),
                "val": list(real.loc[real["subject"].isin(held_out), "case"]),
            }
        )
    return splits

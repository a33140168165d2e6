"""The recipe of a model: what it is trained on and how, read from one YAML file."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError

from cohortvol.config import read_yaml
from cohortvol.errors import ConfigError, did_you_mean
from cohortvol.models import catalogue

MAIN = "main"
"""Name of the only part, and of the only dataset, of a recipe with `labels` of its own."""

PREPARE, PRETRAIN, ALL = "prepare", "pretrain", "all"
"""Steps of a training beside its folds."""

PAIRS, TOTALSEGMENTATOR = "pairs", "totalsegmentator"
"""Layouts of a dataset; see `Dataset`."""

Label = int | str
"""What a structure goes by in a dataset: an index of its label maps, or the name of a file."""


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
class Dataset:
    """Images with label maps in one vocabulary.

    Attributes
    ----------
    folder : Path or None
        With ``images/``, ``labels/`` and, where cases share subjects, ``cases.csv``; or, of the
        layout ``totalsegmentator``, ``meta.csv`` and a folder of each subject with one file per
        structure. None where it is named on the command line.
    modality : str
        ``MR`` or ``CT``.
    labels : dict
        Label index, or name of a file, to structure. Several may be one structure.
    weight : float
        How often it is drawn from, relative to the other datasets; see `Recipe`.
    layout : str
        ``pairs`` or ``totalsegmentator``.
    leave_out : tuple of str
        Cases that are not used, by their names in the folder.
    """

    folder: Path | None
    modality: str
    labels: Mapping[Label, str]
    weight: float = 1.0
    layout: str = PAIRS
    leave_out: tuple[str, ...] = ()


@dataclass(frozen=True)
class Recipe:
    """Settings of one training, as in ``models/<model>.yaml``.

    Attributes
    ----------
    id, title, licence, origin, citation, notes
        For the card of the model.
    datasets : dict
        Name to `Dataset`, those that are trained on, in the order of the file.
    parts : dict
        Name of each sub-model to its structures, in the order of its label indices 1, 2, ...
        In the model the later part wins where two claim a voxel.
    channels : list of str
        Images of a case that the networks see together: those in ``images/``, ``images_2/``, ...
        Empty where they see one. nnU-Net normalises by these names; most by mean and spread.
    spacing_mm : list of float
        Spacing of the networks along R, A, S.
    base_features, max_features : int
        Width of the network's first stage, and the most any stage may have.
    convolutions_at_full_resolution : int
        2 as nnU-Net plans, or 1, which takes most of the time off.
    planning_memory_gb : float
        What nnU-Net's planner may assume; sets the patch.
    batch_size, optimizer, learning_rate
        Of every training below; ``adamw``, or ``sgd`` as nnU-Net trains.
    pretrain : Phase or None
        A first training whose result all folds start from; it may draw from no source that
        holds a subject of a fold, or out-of-fold figures would be untrue.
    phases : list of Phase
        Of every fold and of the final model, one after the other. A dataset's cases of one source
        are drawn as often as the weight of the dataset times that of the source says.
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
    datasets: dict[str, Dataset]
    parts: dict[str, list[str]]
    origin: str = ""
    citation: str = ""
    notes: list[str] = field(default_factory=list)
    channels: list[str] = field(default_factory=list)
    spacing_mm: list[float] = field(default_factory=lambda: [4.0, 4.0, 4.0])
    base_features: int = 16
    max_features: int = 80
    convolutions_at_full_resolution: int = 1
    planning_memory_gb: float = 8.0
    batch_size: int = 2
    optimizer: str = "adamw"
    learning_rate: float = 1e-3
    pretrain: Phase | None = None
    phases: list[Phase] = field(default_factory=lambda: [Phase(1000, {"real": 1.0})])
    final: Phase | None = None
    n_folds: int = 3
    seed: int = 0

    @property
    def image_folders(self) -> list[str]:
        """Of a dataset, in the order of the channels."""
        return ["images", *(f"images_{n}" for n in range(2, len(self.channels) + 1))]

    @property
    def steps(self) -> list[str]:
        """Of one part, in an order that works: each needs those before it, but for the folds."""
        pretrain = [PRETRAIN] if self.pretrain else []
        return [PREPARE, *pretrain, *map(str, range(self.n_folds)), ALL]

    def labels_of(self, part: str) -> dict[int, str]:
        """Label index to structure inside a part."""
        return dict(enumerate(self.parts[part], start=1))

    def lacking(self, part: str) -> dict[str, list[str]]:
        """The structures of a part that each dataset does not label; empty lists left out."""
        lacks = {
            name: [one for one in self.parts[part] if one not in dataset.labels.values()]
            for name, dataset in self.datasets.items()
        }
        return {name: structures for name, structures in lacks.items() if structures}


def variants_of(path: Path) -> list[str]:
    """Names of the variants in a recipe file, in its order; empty where it is one model.

    Raises
    ------
    ConfigError
        If the file cannot be read, or its variants are no mapping of names to settings.
    """
    return list(_variants(path, _read(path)))


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ConfigError(f"{path}: no such recipe")
    return read_yaml(path)


def _variants(path: Path, values: dict[str, Any]) -> dict[str, dict[str, Any]]:
    variants = values.get("variants", {})
    if not isinstance(variants, dict) or not all(isinstance(v, dict) for v in variants.values()):
        raise ConfigError(f"{path}: variants must be a mapping of names to settings")
    return {str(name): settings for name, settings in variants.items()}


def read_recipe(path: Path, variant: str | None = None) -> Recipe:
    """Read and check a recipe.

    Parameters
    ----------
    variant : str, optional
        One of the recipe's variants, whose settings replace the shared ones; its name is added to
        the id of the model.

    Raises
    ------
    ConfigError
        Naming every setting that is unknown, missing or not allowed, and every structure that no
        dataset labels; or if `variant` is none of the recipe's, or is missing where it has some.
    """
    values = _read(path)
    variants = _variants(path, values)
    if variant is None and variants:
        raise ConfigError(f"{path}: choose one of its variants: {', '.join(variants)}")
    if variant is not None and variant not in variants:
        raise ConfigError(f"{path}: no variant {variant!r}{did_you_mean(variant, variants)}")
    values = {name: value for name, value in values.items() if name != "variants"}
    if variant is not None:
        values |= variants[variant]
        values["id"] = f"{values.get('id')}-{variant}"
    values = _with_text_keys(values)
    wrong = [
        text
        for error in Draft202012Validator(_schema()).iter_errors(values)
        for text in _explain(error)
    ]
    wrong = wrong or list(_contradictions(values))
    if not wrong:
        recipe = _recipe(values)
        wrong = list(_unlabelled(recipe))
    if wrong:
        raise ConfigError("\n".join([f"{path}: cannot be used", *(f"  {line}" for line in wrong)]))
    return recipe


@cache
def _schema() -> dict[str, Any]:
    text = files("cohortvol.tools.train").joinpath("recipe.schema.json").read_text(encoding="utf-8")
    return dict(json.loads(text))


def _with_text_keys(value: Any) -> Any:
    """With the keys of mappings as text, as JSON has them: label indices are numbers in YAML."""
    if isinstance(value, dict):
        return {str(key): _with_text_keys(item) for key, item in value.items()}
    return [_with_text_keys(item) for item in value] if isinstance(value, list) else value


def _explain(error: ValidationError) -> Iterator[str]:
    """What is wrong in one place of the recipe, in words."""
    place = ".".join(str(part) for part in error.absolute_path)
    before = f"{place}." if place else ""
    if error.validator == "additionalProperties":
        known = error.schema["properties"]
        for name in error.instance:
            if name not in known:
                yield f"unknown setting {before + name!r}{did_you_mean(name, known)}"
    elif error.validator == "required":
        for name in error.validator_value:
            if name not in error.instance:
                yield f"setting {before + name!r} is missing"
    elif error.validator == "oneOf":
        yield f"{place}: give either labels or vocabulary"
    elif error.validator == "anyOf":
        for inner in error.context or ():
            if inner.schema_path[0] == 0:
                yield from _explain(inner)
    else:
        yield f"{place or 'the recipe'}: {error.instance!r} must be {error.schema['description']}"


def _contradictions(values: Mapping[str, Any]) -> Iterator[str]:
    """What each setting allows, but not together."""
    several = [name for name in ("datasets", "parts") if name in values]
    if "labels" in values:
        if several:
            yield f"labels stands for one dataset and one part: give it, or {' and '.join(several)}"
        elif sorted(map(int, values["labels"])) != list(range(1, len(values["labels"]) + 1)):
            yield f"labels: the indices are {', '.join(values['labels'])}; they must be 1, 2, ..."
        elif len(set(values["labels"].values())) != len(values["labels"]):
            yield "labels: one structure has two label indices"
    else:
        yield from (
            f"setting {name!r} is missing; or give labels, for one dataset and one part"
            for name in ("datasets", "parts")
            if name not in several
        )
    datasets = values.get("datasets", {})
    for name, dataset in datasets.items():
        known = catalogue.vocabularies()
        if dataset.get("vocabulary", known[0]) not in known:
            yield (
                f"datasets.{name}: no vocabulary {dataset['vocabulary']!r}"
                f"{did_you_mean(dataset['vocabulary'], known)}"
            )
    for name in values.get("train_on", []):
        if name not in datasets:
            yield f"train_on: no dataset {name!r}{did_you_mean(name, datasets)}"
    for phase in _phases(values):
        if not any(phase["source_weights"].values()):
            yield f"source_weights {phase['source_weights']}: not all of them may be 0"
    held = {"real", "synthetic"} & set((values.get("pretrain") or {}).get("source_weights", {}))
    if held:
        yield (
            f"pretrain may not draw from {', '.join(sorted(held))}: subjects of a fold are "
            "among them"
        )
    first: dict[str, str] = {}
    for part, structures in values.get("parts", {}).items():
        for structure in structures:
            if structure in first:
                yield f"structure {structure} is in two parts, {first[structure]} and {part}"
            first.setdefault(structure, part)


def _phases(values: Mapping[str, Any]) -> list[dict[str, Any]]:
    single = [values[name] for name in ("pretrain", "final") if values.get(name)]
    return [*values.get("phases", []), *single]


def _recipe(values: Mapping[str, Any]) -> Recipe:
    given = {
        name: value
        for name, value in values.items()
        if name not in ("labels", "datasets", "parts", "train_on")
    }
    for name in ("pretrain", "final"):
        if given.get(name):
            given[name] = Phase(**given[name])
    if "phases" in given:
        given["phases"] = [Phase(**phase) for phase in given["phases"]]
    if "labels" in values:
        labels = _labels(values["labels"])
        datasets = {MAIN: Dataset(None, "MR", labels)}
        parts = {MAIN: [labels[index] for index in range(1, len(labels) + 1)]}
    else:
        chosen = values.get("train_on", list(values["datasets"]))
        datasets = {
            name: _dataset(**dataset)
            for name, dataset in values["datasets"].items()
            if name in chosen
        }
        parts = values["parts"]
    return Recipe(datasets=datasets, parts=parts, **given)


def _dataset(
    folder: str,
    modality: str,
    labels: Mapping[str, str] | None = None,
    vocabulary: str = "",
    weight: float = 1.0,
    layout: str = PAIRS,
    leave_out: Sequence[str] = (),
) -> Dataset:
    known: dict[Label, str]
    if layout == TOTALSEGMENTATOR:  # files are named as the publisher names structures
        known = dict(catalogue.label_map(vocabulary).values() if labels is None else labels.items())
    elif labels is None:
        known = {index: name for index, (_, name) in catalogue.label_map(vocabulary).items()}
    else:
        known = _labels(labels)
    return Dataset(Path(folder), modality, known, weight, layout, tuple(leave_out))


def _labels(values: Mapping[str, str]) -> dict[Label, str]:
    return {int(index): structure for index, structure in values.items()}


def _unlabelled(recipe: Recipe) -> Iterator[str]:
    """Structures that no dataset labels, and parts that no dataset labels as a whole."""
    known = list(dict.fromkeys(n for one in recipe.datasets.values() for n in one.labels.values()))
    for part, structures in recipe.parts.items():
        absent = [name for name in structures if name not in known]
        lacking = recipe.lacking(part)
        for name in absent:
            yield f"parts.{part}: no dataset labels {name!r}{did_you_mean(name, known)}"
        if not absent and len(lacking) == len(recipe.datasets):
            yield (
                f"parts.{part}: no dataset labels all of its structures; put those that are "
                "labelled apart into parts of their own"
            )
            yield from (f"  {name} lacks {', '.join(lacks)}" for name, lacks in lacking.items())

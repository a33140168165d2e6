"""Model folders on this machine: found by name, listed, and held against their cards."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cohortvol.config import defaults
from cohortvol.errors import ModelError, did_you_mean
from cohortvol.models import catalogue
from cohortvol.models.allowed import check_names
from cohortvol.models.card import CARD, Card, lines, plans_files, weights_file
from cohortvol.models.channels import channels_of
from cohortvol.models.files import (
    check_dataset,
    check_header,
    check_plans,
    inside,
    local_labels,
    read_object,
    regions_of,
    shown,
)
from cohortvol.models.part import Part
from cohortvol.shipped import path_of
from cohortvol.store.files import sha256_of


def embedded() -> Path:
    """Folder of the model that comes with the package, which the config takes by default."""
    return path_of("models") / str(defaults()["model"])


def find_model(name: str, models_dir: Path = Path("models")) -> Path:
    """The folder of a model given by id, or by the path of the folder itself.

    The one that comes with the package is found by its id wherever one stands, and last.

    Raises
    ------
    ModelError
        If none exists; the message lists the models there are.
    """
    models_dir = Path(models_dir)
    packaged = [embedded()] if name == embedded().name else []
    for folder in (models_dir / name, Path(name), *packaged):
        if os.path.isfile(folder / CARD):  # Path.is_file raises where a name is too long
            return folder
    hint = did_you_mean(name, ids(models_dir))
    raise ModelError(
        f"no model {shown(name, 200)!r} in {models_dir} (MOD_MISSING){hint}\n"
        "  `model:` in the config is the name of a folder there, or the path of a model folder.\n"
        f"  {_how_to_get(name, models_dir)}"
    )


def _how_to_get(name: str, models_dir: Path) -> str:
    """The command that makes a model folder, with the way round for a machine without internet."""
    known = catalogue.load().get(name)
    if known is None:
        return "Make one from a trained nnU-Net with `cohortvol models import`."
    if not known.fetchable:
        return (
            f"Its weights: {known.access} ({known.source}). With your own copy:\n"
            f"  cohortvol models import FOLDER --known {name} --models-dir {models_dir}"
        )
    return (
        "On a machine with internet:\n"
        f"  cohortvol models fetch {name} --models-dir {models_dir}\n"
        f"  Without internet here, run it elsewhere and copy the folder to {models_dir / name}, or "
        f"bring a\n  bundle with it: cohortvol bundle --out DIR --model {name}"
    )


def ids(models_dir: Path) -> list[str]:
    """Ids that `find_model` knows, sorted."""
    return sorted({*list_models(models_dir), embedded().name})


def list_models(models_dir: Path = Path("models")) -> list[str]:
    """Ids of the model folders in a folder, sorted; empty if it does not exist."""
    return sorted(card.parent.name for card in Path(models_dir).glob(f"*/{CARD}"))


def verify(card: Card) -> None:
    """Compare every file of a model with the sha256 on its card, and the card with its plans.

    Whether the arrays fit the network that the plans describe, `cohortvol.models.networks` says.

    Raises
    ------
    ModelError
        Naming each file that is missing or changed; or the plans that cannot be used.
    """
    wrong = []
    for part in card.parts:
        for name, expected in sorted(part.files.items()):
            try:
                path = inside(card.folder, name)
                found = sha256_of(path)
            except ModelError as error:
                wrong.append(str(error))
                continue
            except OSError as error:
                wrong.append(f"{card.folder / name}: cannot be read ({error.strerror})")
                continue
            if found != expected:
                wrong.append(f"{path}: sha256 {found[:16]}..., the card says {expected[:16]}...")
    if wrong:
        raise ModelError(
            f"model {card.id}: its files are not the ones its card names (MOD_CHECKSUM)"
            f"{lines(wrong)}\n  Copy the model folder again, or import it again."
        )
    for part in card.parts:
        if not part.folds:  # label maps made elsewhere
            continue
        read_plans(card, part)
        for fold in part.folds:
            check_header(inside(card.folder, weights_file(part, fold)))


def read_plans(card: Card, part: Part) -> tuple[dict[str, Any], dict[str, Any]]:
    """``plans.json`` and ``dataset.json`` of a part, which fit each other and the card.

    Raises
    ------
    ModelError
        If they cannot be read, are not within bounds, or name other labels than the card.
    """
    plans, dataset = (read_object(inside(card.folder, name)) for name in plans_files(part))
    try:
        check_plans(plans)
        check_dataset(dataset)
        if part.configuration not in plans["configurations"]:
            raise ModelError(f"plans.json has no configuration {part.configuration!r}")
        configuration = _inherited(plans["configurations"], part.configuration)
        check_names(plans, configuration)
        if part.mirror_axes and max(part.mirror_axes) >= len(configuration["patch_size"]):
            raise ModelError("the card mirrors along an axis that the network does not have")
        check_labels(part.labels, local_labels(dataset))
        if card.channels != channels_of(dataset):
            raise ModelError("the card has other channels than dataset.json")
        if part.regions != tuple(regions_of(dataset).values()):
            raise ModelError("the card has other regions than dataset.json (MOD_LABELMAP)")
        check_kept(part.keep_largest, dataset)
        _check_needed(card, part, configuration.get("previous_stage"), dataset)
    except ModelError as error:
        raise ModelError(f"model {card.id}, part {part.name}: {error}") from error
    return plans, dataset


def _inherited(configurations: Mapping[str, Any], name: str) -> dict[str, Any]:
    """A configuration with what it inherits from others."""
    names = [name]
    while (parent := configurations[names[-1]].get("inherits_from")) in configurations:
        if parent in names:
            raise ModelError(
                f"plans.json has configurations that inherit from one another: {parent}"
            )
        names.append(parent)
    return {key: value for one in reversed(names) for key, value in configurations[one].items()}


def _check_needed(card: Card, part: Part, stage: str | None, dataset: Mapping[str, Any]) -> None:
    """Raise ModelError unless the parts that this one needs are those that its plans ask for."""
    needed = {other.name: other for other in card.parts if other.name in part.needs}
    found = needed[part.previous].configuration if part.previous in needed else None
    if found != stage:
        raise ModelError(
            f"plans.json wants the label map of {shown(str(stage))}, the card names {found}"
        )
    for name, other in needed.items():
        if _map_of(read_object(inside(card.folder, plans_files(other)[1]))) != _map_of(dataset):
            raise ModelError(f"part {name}, which it needs, has other labels (MOD_LABELMAP)")


def _map_of(dataset: Mapping[str, Any]) -> tuple[Any, ...]:
    """What label maps of a network mean: two that go together have the same."""
    return (
        local_labels(dataset),
        list(regions_of(dataset).items()),
        dataset.get("regions_class_order") if regions_of(dataset) else None,
    )


def check_kept(keep_largest: Sequence[Sequence[int]], dataset: Mapping[str, Any]) -> None:
    """Raise ModelError where postprocessing speaks of labels that the network does not have."""
    regions = regions_of(dataset).values()
    known = {label for region in regions for label in region} or set(local_labels(dataset))
    if strangers := sorted({label for labels in keep_largest for label in labels} - known):
        raise ModelError(
            f"the postprocessing is of label {', '.join(map(str, strangers[:8]))}, which "
            "dataset.json does not have (MOD_LABELMAP)"
        )


def check_labels(labels: Mapping[int, str], of_dataset: Mapping[int, str]) -> None:
    """Raise ModelError unless labels of a part are its network's, in no other order.

    A structure may have another name than in ``dataset.json``, but not that of another label there.
    """
    strangers = sorted(set(labels) - set(of_dataset))
    if strangers:
        raise ModelError(f"the card has labels {strangers}, dataset.json has not (MOD_LABELMAP)")
    indices = {name: index for index, name in of_dataset.items()}
    for index, name in labels.items():
        if indices.get(name, index) != index:
            raise ModelError(
                f"the card calls label {index} {name}; dataset.json calls it {of_dataset[index]}, "
                f"and label {indices[name]} {name} (MOD_LABELMAP)"
            )

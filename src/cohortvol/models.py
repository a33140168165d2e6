"""Model folders: the card, the checks on it, and the key of what it would compute.

Light on purpose: Snakemake reads cards while it plans, so nothing here imports torch or numpy.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from cohortvol.errors import ModelError, did_you_mean
from cohortvol.files import digest_of, sha256_of

CARD = "card.json"
PARTS = "parts"

SEGMENTATION_VERSION = "1"
"""Raised when the same model and profile would give other labels; part of the key."""


@dataclass(frozen=True)
class Profile:
    """A numeric recipe for inference. Two profiles may give different labels."""

    name: str
    tile_step: float
    gaussian: bool
    mirroring: bool
    preprocessing: str


PROFILES = {
    "nnunet": Profile(
        name="nnunet", tile_step=0.5, gaussian=True, mirroring=False, preprocessing="nnunet"
    ),
}
"""Every recipe this version knows, by name."""


@dataclass(frozen=True)
class Part:
    """One nnU-Net of a model: its folds are averaged, its labels mapped to the model's."""

    name: str
    configuration: str
    trainer: str
    folds: tuple[str, ...]
    labels: Mapping[int, str]
    files: Mapping[str, str]


@dataclass(frozen=True)
class Card:
    """What a model folder says about itself in ``card.json``.

    `labels` maps the label index of the label maps to the structure; each part maps its own
    local index to the same structure names. `files` of a part maps the path below the model
    folder to its sha256.
    """

    folder: Path
    id: str
    title: str
    licence: str
    source: str
    citation: str
    orientation: str
    default_profile: str
    profiles: tuple[str, ...]
    parts: tuple[Part, ...]
    labels: Mapping[int, str]
    accuracy: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def local_to_global(self, part: Part) -> dict[int, int]:
        """Label index inside a part to label index of the model."""
        index = {structure: label for label, structure in self.labels.items()}
        return {local: index[structure] for local, structure in part.labels.items()}


def load_card(folder: Path) -> Card:
    """Read and check ``card.json`` of a model folder; the other files are left to `verify`.

    Raises
    ------
    ModelError
        If there is no card, or it is not one this version understands.
    """
    folder = Path(folder)
    path = folder / CARD
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ModelError(
            f"{folder}: not a model folder, it has no {CARD}\n"
            "  Make one from a trained nnU-Net with `cohortvol models import`."
        ) from error
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: cannot be read ({error})") from error
    try:
        card = _card_from(folder, raw)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ModelError(
            f"{path}: not a card of this format ({type(error).__name__}: {error})"
        ) from error
    _check(card, path)
    return card


def _card_from(folder: Path, raw: Mapping[str, Any]) -> Card:
    parts = tuple(
        Part(
            name=part["name"],
            configuration=part["configuration"],
            trainer=part["trainer"],
            folds=tuple(str(fold) for fold in part["folds"]),
            labels={int(index): str(name) for index, name in part["labels"].items()},
            files=dict(part["files"]),
        )
        for part in raw["parts"]
    )
    return Card(
        folder=folder,
        id=raw["id"],
        title=raw["title"],
        licence=raw["licence"],
        source=raw["source"],
        citation=raw["citation"],
        orientation=raw["orientation"],
        default_profile=raw["default_profile"],
        profiles=tuple(raw["profiles"]),
        parts=parts,
        labels={int(index): str(name) for index, name in raw["labels"].items()},
        accuracy=raw.get("accuracy", {}),
        notes=tuple(raw.get("notes", ())),
    )


def _check(card: Card, path: Path) -> None:
    wrong = []
    if card.orientation != "RAS":
        wrong.append(f"orientation {card.orientation!r}; this version segments in RAS only")
    if not card.parts:
        wrong.append("no parts")
    for label in card.labels:
        if not 0 < label < 2**16:
            wrong.append(f"label index {label} is outside 1 to 65535")
    if len(set(card.labels.values())) != len(card.labels):
        wrong.append("one structure has two label indices")
    if card.default_profile not in card.profiles:
        wrong.append(f"default profile {card.default_profile!r} is not among its profiles")
    for part in card.parts:
        strangers = sorted(set(part.labels.values()) - set(card.labels.values()))
        if strangers:
            wrong.append(f"part {part.name} has structures the model lacks: {', '.join(strangers)}")
        expected = {*(weights_file(part, fold) for fold in part.folds), *_plans(part)}
        for name in sorted(expected - set(part.files)):
            wrong.append(f"part {part.name} names no sha256 for {name}")
        for name in part.files:
            place = PurePosixPath(name)
            if place.is_absolute() or ".." in place.parts or "\\" in name:
                wrong.append(f"file {name!r} lies outside the model folder")
    if wrong:
        raise ModelError(f"{path}: cannot be used\n" + "\n".join(f"  {line}" for line in wrong))


def weights_file(part: Part, fold: str) -> str:
    """Weights of one fold, relative to the model folder."""
    return f"{PARTS}/{part.name}/fold_{fold}.safetensors"


def _plans(part: Part) -> tuple[str, str]:
    return f"{PARTS}/{part.name}/plans.json", f"{PARTS}/{part.name}/dataset.json"


def find_model(name: str, models_dir: Path = Path("models")) -> Path:
    """The folder of a model given by id, or by the path of the folder itself.

    Raises
    ------
    ModelError
        If neither exists; the message lists the models there are.
    """
    models_dir = Path(models_dir)
    for folder in (models_dir / name, Path(name)):
        if (folder / CARD).is_file():
            return folder
    known = list_models(models_dir)
    hint = did_you_mean(name, known) if known else f"; {models_dir} holds no model"
    raise ModelError(
        f"no model {name!r} in {models_dir}{hint}\n"
        "  `model:` in the config is the name of a folder there, or the path of a model folder.\n"
        "  Make one from a trained nnU-Net with `cohortvol models import`."
    )


def list_models(models_dir: Path = Path("models")) -> list[str]:
    """Ids of the model folders in a folder, sorted; empty if it does not exist."""
    return sorted(card.parent.name for card in Path(models_dir).glob(f"*/{CARD}"))


def verify(card: Card) -> None:
    """Compare every file of a model with the sha256 on its card.

    Raises
    ------
    ModelError
        Naming each file that is missing or changed.
    """
    wrong = []
    for part in card.parts:
        for name, expected in sorted(part.files.items()):
            path = card.folder / name
            try:
                found = sha256_of(path)
            except OSError as error:
                wrong.append(f"{path}: cannot be read ({error.strerror})")
                continue
            if found != expected:
                wrong.append(f"{path}: sha256 {found[:16]}..., the card says {expected[:16]}...")
    if wrong:
        raise ModelError(
            f"model {card.id}: its files are not the ones its card names\n"
            + "\n".join(f"  {line}" for line in wrong)
            + "\n  Copy the model folder again, or import it again."
        )


def choose_profile(card: Card, name: str | None = None) -> Profile:
    """The profile asked for, or the card's default.

    Raises
    ------
    ModelError
        If the model does not offer it, or this version does not know it.
    """
    chosen = name or card.default_profile
    if chosen not in card.profiles:
        raise ModelError(f"model {card.id}: no profile {chosen!r}{_known(chosen, card.profiles)}")
    if chosen not in PROFILES:
        raise ModelError(
            f"model {card.id}: profile {chosen!r} needs another version of cohortvol"
            f"{_known(chosen, PROFILES)}"
        )
    return PROFILES[chosen]


def _known(name: str, known: Mapping[str, Any] | tuple[str, ...]) -> str:
    return did_you_mean(name, list(known))


def segmentation_key(
    card: Card, profile: str | None = None, version: str = SEGMENTATION_VERSION
) -> str:
    """16 hex digits that change when the labels of a scan might.

    They hold the bytes of weights, plans and label names, the order of the parts, the profile
    and the version of the algorithm. Title, notes and accuracy of the card do not enter.
    """
    return digest_of(
        {
            "parts": [
                {
                    "configuration": part.configuration,
                    "files": sorted(part.files.items()),
                    "folds": list(part.folds),
                    "labels": sorted(card.local_to_global(part).items()),
                    "name": part.name,
                }
                for part in card.parts
            ],
            "labels": sorted(card.labels.items()),
            "orientation": card.orientation,
            "profile": asdict(choose_profile(card, profile)),
            "version": version,
        }
    )[:16]


def card_json(card: Card) -> dict[str, Any]:
    """The card as it is written to ``card.json``."""
    value = asdict(card)
    del value["folder"]
    return value

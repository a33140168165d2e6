"""Model folders: the card, the checks on it, and the key of what it would compute.

Light on purpose: Snakemake reads cards while it plans, so nothing here imports torch or numpy.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from cohortvol.errors import ConfigError, ModelError, did_you_mean
from cohortvol.models.elsewhere import check_words, wrong_elsewhere
from cohortvol.models.files import (
    inside,
    problems,
    read_object,
    schema,
    shown,
)
from cohortvol.models.inference import (
    BODY,
    FAST,
    MRSEG_FAST,
    PROFILES,
    SOFTMAX,
    UNMIRRORED,
    Profile,
    recipe_of,
)
from cohortvol.models.intervals import Calibration
from cohortvol.models.part import (
    CROP,
    TOGETHER,
    Part,
    with_needed,
    wrong_crops,
    wrong_together,
    xyz_mm,
)
from cohortvol.store.files import digest_of

CARD = "card.json"
PARTS = "parts"
FOLD_MODEL = "model"
"""The network of a fold, beside the scans it has not seen; `train` leaves it, to be measured."""

MOST_LAYERS = 64
"""Of a label map."""
MOST_LINES = 8
"""Of what is wrong with a card, in a message."""

SEGMENTATION_VERSION = "1"
"""Raised when the same model and profile would give other labels or sums; part of the key."""


AS_STORED = "as-stored"
AXES = ("RAS", "LPS", AS_STORED)
"""Axes a model may want its scans on; `AS_STORED` where it was trained on images as stored."""


@dataclass(frozen=True)
class Card:
    """What a model folder says about itself in ``card.json``.

    `labels` maps the label index of the label maps to the structure; each part maps its own
    local index to the same structure names; an index it leaves out is background. `files` of a
    part maps the path below the model folder to its sha256. `spacing_mm` (x, y, z in the axis
    order of `orientation`) is where profiles with a `zoom_order` bring a scan. `stored_axes` are
    those of the training images, where `orientation` is `AS_STORED` and they are known.
    `volume_interval` is a `cohortvol.models.intervals.Calibration`, or empty. `training` says of a
    model that `cohortvol train` made what it was trained on; it is empty of others. `channels` are
    the images of a scan, in their order, where the networks see several; empty where they see one.
    `elsewhere` has the names of label maps that others made, see `cohortvol.models.elsewhere`.
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
    spacing_mm: tuple[float, float, float] | None = None
    accuracy: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    volume_interval: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)
    stored_axes: str | None = None
    channels: tuple[str, ...] = ()
    elsewhere: Mapping[int, str] = field(default_factory=dict)

    def calibration(self, profile: str) -> Calibration | None:
        """What volume intervals are worth in a profile; None where nobody has measured it."""
        found = Calibration.from_card(self.volume_interval)
        return found if found is not None and found.profile == recipe_of(profile) else None

    @property
    def layers(self) -> tuple[int, ...]:
        """The layers there are, in order; with more than one, a label map has a fourth axis."""
        return tuple(sorted({layer for part in self.parts for layer in part.layer_of.values()}))

    @property
    def labels_by_layer(self) -> list[dict[int, str]]:
        """Label index to structure, for each of `layers`."""
        index = {structure: label for label, structure in self.labels.items()}
        return [
            {
                index[part.labels[label]]: part.labels[label]
                for part in self.parts
                for label, place in part.layer_of.items()
                if place == layer
            }
            for layer in self.layers
        ]

    def local_to_global(self, part: Part) -> dict[int, int]:
        """Label index inside a part to label index of the model."""
        index = {structure: label for label, structure in self.labels.items()}
        return {local: index[structure] for local, structure in part.labels.items()}


def load_card(folder: Path) -> Card:
    """Read and check ``card.json`` of a model folder; the other files are left to `verify`.

    A card is data of others: what it says becomes paths, columns and text of a page. So it is held
    to ``card.schema.json``, read with bounds, before anything is done with it.

    Raises
    ------
    ModelError
        If there is no card, or it is not one this version understands.
    """
    folder = Path(folder)
    if not os.path.lexists(folder / CARD):
        raise ModelError(
            f"{shown(str(folder), 200)}: not a model folder, it has no {CARD}\n"
            "  Make one from a trained nnU-Net with `cohortvol models import`."
        )
    path = inside(folder, CARD)
    raw = read_object(path)
    wrong = problems(raw, schema("card"))
    line = raw.get("consistency") if not wrong else None
    if line is not None and len(line["agreement"]) != len(line["dice"]):
        wrong.append("consistency: agreement and dice are not of one length")
    if wrong:
        raise ModelError(f"{path}: not a card of this format{_listed(wrong)}")
    try:
        card = _card_from(folder, raw)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise ModelError(
            f"{path}: not a card of this format ({type(error).__name__}: {shown(str(error), 200)})"
        ) from error
    _check(card, path)
    return card


def _listed(wrong: Sequence[str]) -> str:
    """In the same line where it is one thing."""
    return f": {wrong[0]}" if len(wrong) == 1 else lines(wrong)


def lines(wrong: Sequence[str]) -> str:
    """What is wrong, a line each; how many more there are where they are many."""
    more = len(wrong) - MOST_LINES
    return "".join(f"\n  {line}" for line in wrong[:MOST_LINES]) + (
        f"\n  and {more} more" if more > 0 else ""
    )


def _card_from(folder: Path, raw: Mapping[str, Any]) -> Card:
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
        parts=tuple(Part.from_card(part) for part in raw["parts"]),
        labels={int(index): str(name) for index, name in raw["labels"].items()},
        spacing_mm=xyz_mm(raw.get("spacing_mm")),
        accuracy=raw.get("accuracy", {}),
        notes=tuple(raw.get("notes", ())),
        volume_interval=_calibrated(raw.get("volume_interval") or {}),
        training=raw.get("training", {}),
        stored_axes=raw.get("stored_axes"),
        channels=tuple(raw.get("channels", ())),
        elsewhere={int(label): name for label, name in raw.get("elsewhere", {}).items()},
    )


def _calibrated(raw: Mapping[str, Any]) -> Mapping[str, Any]:
    Calibration.from_card(raw)  # raises where it cannot be used
    return raw


def _check(card: Card, path: Path) -> None:
    wrong = []
    if card.orientation not in AXES:
        wrong.append(f"orientation {card.orientation!r}; this version knows {', '.join(AXES)}")
    if card.stored_axes is not None and card.orientation != AS_STORED:
        wrong.append(f"stored_axes {card.stored_axes}, though scans are turned")
    if len(card.channels) == 1 or len(set(card.channels)) < len(card.channels):
        wrong.append(f"channels {', '.join(card.channels)}; several, or none for one")
    if card.spacing_mm is not None and not all(0 < edge < 100 for edge in card.spacing_mm):
        wrong.append(f"spacing_mm {list(card.spacing_mm)}")
    if not card.parts:
        wrong.append("no parts")
    if not card.labels:
        wrong.append("no labels")
    for label in card.labels:
        if not 0 < label < 2**16:
            wrong.append(f"label index {label} is outside 1 to 65535")
    if len(set(card.labels.values())) != len(card.labels):
        wrong.append("one structure has two label indices")
    if len({part.name for part in card.parts}) != len(card.parts):
        wrong.append("two parts have the same name")
    for part in card.parts:
        if part.regions and not set(part.labels) <= set(range(1, len(part.regions) + 1)):
            raise ModelError(f"{path}: part {part.name} has labels that are none of its regions")
    places = {
        (layer, part.labels[label]) for part in card.parts for label, layer in part.layer_of.items()
    }
    if len(card.layers) > MOST_LAYERS:
        wrong.append(f"{len(card.layers)} layers; at most {MOST_LAYERS}")
    layers_of = Counter(name for _, name in places)
    for name in card.labels.values():
        if layers_of[name] != 1:
            wrong.append(f"structure {name} is in {layers_of[name]} layers")
    wrong += wrong_elsewhere(card.elsewhere, card.parts, card.profiles)
    wrong += wrong_crops(card.parts, card.spacing_mm)
    wrong += wrong_together(card.parts)
    if recipe_of(card.default_profile).removesuffix(BODY) not in card.profiles:
        wrong.append(f"default profile {card.default_profile!r} is not among its profiles")
    for part in card.parts:
        strangers = sorted(set(part.labels.values()) - set(card.labels.values()))
        if strangers:
            wrong.append(f"part {part.name} has structures the model lacks: {', '.join(strangers)}")
        if len(set(part.folds)) != len(part.folds):
            wrong.append(f"part {part.name} has a fold twice")
        plans = plans_files(part) if part.folds else ()
        expected = {*(weights_file(part, fold) for fold in part.folds), *plans}
        for name in sorted(expected - set(part.files)):
            wrong.append(f"part {part.name} names no sha256 for {name}")
        for name in sorted(set(part.files) - expected):
            wrong.append(f"part {part.name} names {shown(name)!r}, which is no file of its")
    if wrong:
        raise ModelError(f"{path}: cannot be used{_listed(wrong)}")


def plans_files(part: Part) -> tuple[str, str]:
    """Paths of ``plans.json`` and ``dataset.json`` of a part below the model folder."""
    return f"{PARTS}/{part.name}/plans.json", f"{PARTS}/{part.name}/dataset.json"


def weights_file(part: Part, fold: str) -> str:
    """Weights of one fold, relative to the model folder."""
    return f"{PARTS}/{part.name}/fold_{fold}.safetensors"


def choose_profile(card: Card, name: str | None = None) -> Profile:
    """The profile asked for, or the card's default; its name may end in `BODY`, then `SOFTMAX`.

    Raises
    ------
    ModelError
        If the model does not offer it, or this version does not know it.
    """
    full_name = name or card.default_profile
    chosen = recipe_of(full_name).removesuffix(BODY)
    check_words(full_name)
    if chosen.partition("+")[0] in card.profiles and "+" in chosen:
        raise ModelError(
            f"profile {full_name!r}: after the name may stand {BODY}, {SOFTMAX} or {BODY}{SOFTMAX}"
        )
    if chosen not in card.profiles:
        raise ModelError(
            f"model {card.id}: no profile {chosen!r}{did_you_mean(chosen, card.profiles)}"
        )
    if chosen not in PROFILES:
        raise ModelError(
            f"model {card.id}: profile {chosen!r} needs another version of cohortvol"
            f"{did_you_mean(chosen, PROFILES)}"
        )
    profile = PROFILES[chosen]
    if chosen == FAST and card.spacing_mm is None:
        profile = PROFILES[MRSEG_FAST if MRSEG_FAST in card.profiles else UNMIRRORED]
    return replace(profile, name=full_name)


ABDOMINAL = frozenset(
    ("liver", "spleen", "kidney_left", "kidney_right", "pancreas", "stomach", "gallbladder")
)
"""Structures of which a model knows at least one where its scans show an abdomen."""


def shows_abdomen(card: Card) -> bool:
    """Whether scans of a model show an abdomen, of which it can be said which way round it lies."""
    return not ABDOMINAL.isdisjoint(card.labels.values())


def restrict(card: Card, roi: Sequence[str]) -> Card:
    """The model as if it knew only the structures of `roi`, with the parts these need.

    An empty `roi` leaves the model as it is. Label indices stay what they are. Structures around
    which a part sees a box are found with it, and come out with it, though `roi` leaves them out.

    Raises
    ------
    ConfigError
        If the model does not have one of them; the message names the nearest it has.
    """
    if not roi:
        return card
    structures = list(card.labels.values())
    for name in roi:
        if name not in structures:
            raise ConfigError(
                f"roi: model {card.id} has no structure {name!r}{did_you_mean(name, structures)}"
            )
    around = [part.crop for part in card.parts if not set(roi).isdisjoint(part.labels.values())]
    wanted = {*roi, *(name for crop in around for name in crop)}
    parts = [replace(part, labels=_only(part.labels, wanted)) for part in card.parts]
    return replace(
        card,
        labels=_only(card.labels, wanted),
        parts=with_needed(parts, [part.name for part in parts if part.labels]),
    )


def _only(labels: Mapping[int, str], roi: Collection[str]) -> dict[int, str]:
    return {index: name for index, name in labels.items() if name in roi}


OPTIONAL = ("tile_step", "layer", "mirror_axes", *CROP, *TOGETHER)
"""What of a part enters the key only where a model uses it."""


def segmentation_key(
    card: Card, profile: str | None = None, version: str = SEGMENTATION_VERSION
) -> str:
    """16 hex digits that change when the labels of a scan might.

    They hold the bytes of weights, plans and label names, the order of the parts, the profile
    and the version of the algorithm. Title, notes and accuracy of the card do not enter, and
    neither does `SOFTMAX`: it is the receipt that says whether sums were kept.
    """
    recipe = recipe_of(profile or card.default_profile)
    return digest_of(
        {
            "parts": [
                {
                    "configuration": part.configuration,
                    "files": sorted(part.files.items()),
                    "folds": list(part.folds),
                    "labels": sorted(card.local_to_global(part).items()),
                    "name": part.name,
                    **{name: getattr(part, name) for name in OPTIONAL if getattr(part, name)},
                }
                for part in card.parts
            ],
            "labels": sorted(card.labels.items()),
            "orientation": card.orientation,
            "spacing_mm": card.spacing_mm,
            **({"elsewhere": sorted(card.elsewhere.items())} if card.elsewhere else {}),
            "profile": choose_profile(card, recipe).steps,
            "version": version,
        }
    )[:16]


def card_json(card: Card) -> dict[str, Any]:
    """The card as it is written to ``card.json``."""
    value = asdict(card)
    del value["folder"]
    return {**value, "parts": [part.as_card() for part in card.parts]}

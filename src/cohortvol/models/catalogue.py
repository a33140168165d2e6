"""The models known by name: their weights, label maps, spacing and licence. No weights in here.

Two tables: ``known_models.toml`` says which weights make up a model and where they lie,
``label_maps.tsv`` which label index of the weights is which structure.
"""

from __future__ import annotations

import csv
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from cohortvol.errors import ModelError, did_you_mean
from cohortvol.models.inference import FAST
from cohortvol.models.part import xyz_mm

KNOWN_MODELS = Path(__file__).with_name("known_models.toml")
LABEL_MAPS = Path(__file__).with_name("label_maps.tsv")
OUTDATED = "total_mr_before_2.5"
"""Label map of TotalSegmentator MRI before its release 2.5.0: other labels from 32 on."""


@dataclass(frozen=True)
class KnownWeights:
    """One nnU-Net as its publisher ships it.

    Attributes
    ----------
    name : str
        Such as ``850``.
    folders : tuple of str
        Names, or patterns, that the folder or the zip that holds it may have.
    url : str or None
        Zip of that folder; None where it is not one that anybody may fetch.
    sha256 : str or None
        Of that zip, where the publisher says it.
    folds : tuple of str
        Folds to use; empty for all there are.
    labels : mapping of int to str
        Label index to the publisher's name, as in its ``dataset.json``.
    structures : mapping of str to str
        The publisher's name to the structure's; a name left out is no result.
    tile_step : float or None
        See `cohortvol.models.part.Part`.
    labels_by_index : bool
        Whether the publisher names labels by their index alone: names in ``dataset.json`` need not
        be those of `labels`, but may not name another label's structure.
    weights_version : float or None
        What ``version.json`` beside the weights must say, where there is one.
    mirrors : bool
        Whether the publisher's program averages mirrored passes where the training allows them.
    crop, margin_mm, spacing_mm
        See `cohortvol.models.part.Part`.
    """

    name: str
    folders: tuple[str, ...]
    url: str | None
    sha256: str | None
    folds: tuple[str, ...]
    labels: Mapping[int, str]
    structures: Mapping[str, str]
    tile_step: float | None
    labels_by_index: bool
    weights_version: float | None
    mirrors: bool
    crop: tuple[str, ...]
    margin_mm: float | None
    spacing_mm: tuple[float, float, float] | None


@dataclass(frozen=True)
class KnownModel:
    """A model by name; see the attributes of `cohortvol.models.card.Card`.

    `orientation` is None where weights of one's own, with plans of one's own, go by the name.

    `layers` lists the parts that share a label map; see `cohortvol.models.part.Part`. `profiles` is
    None where they follow from the training. `notes` go on the card. `release` and `released` say
    which weights these are and of when, `access` who may have them. `home` is whose program keeps
    them on this machine; see `cohortvol.models.weights.places`.
    """

    id: str
    title: str
    release: str
    released: str
    home: str
    licence: str
    access: str
    source: str
    citation: str
    orientation: str | None
    spacing_mm: tuple[float, float, float] | None
    layers: tuple[tuple[KnownWeights, ...], ...]
    profiles: tuple[str, ...] | None
    notes: tuple[str, ...]

    @property
    def parts(self) -> tuple[KnownWeights, ...]:
        """Of all layers, in order."""
        return tuple(part for layer in self.layers for part in layer)

    @property
    def fetchable(self) -> bool:
        """Whether anybody may fetch all of its weights."""
        return all(part.url for part in self.parts)


@cache
def load() -> dict[str, KnownModel]:
    """Every known model by id."""
    raw = tomllib.loads(KNOWN_MODELS.read_text(encoding="utf-8"))
    weights = {name: _weights(name, **entry) for name, entry in raw["weights"].items()}
    models = {}
    for model_id, entry in raw["models"].items():
        spacing = entry.get("spacing_mm")
        profiles = entry.get("profiles", None if spacing is None else ("ts218", "paper", FAST))
        models[model_id] = KnownModel(
            id=model_id,
            title=entry["title"],
            release=entry["release"],
            released=entry["released"],
            notes=tuple(entry.get("notes", ())),
            profiles=None if profiles is None else tuple(profiles),
            orientation=entry.get("orientation", "RAS") or None,
            spacing_mm=None if spacing is None else (spacing[0], spacing[1], spacing[2]),
            layers=tuple(
                tuple(weights[name] for name in layer)
                for layer in entry.get("layers", [entry.get("weights")])
            ),
            **raw["publishers"][entry["publisher"]],
        )
    return models


def find(model_id: str) -> KnownModel:
    """A known model by id.

    Raises
    ------
    ModelError
        Naming the nearest right id.
    """
    known = load()
    if model_id not in known:
        raise ModelError(f"{model_id!r} is no known model{did_you_mean(model_id, list(known))}")
    return known[model_id]


def vocabularies() -> list[str]:
    """Names that `label_map` knows, in the order of the table."""
    return list(dict.fromkeys(row["weights"] for row in _label_rows()))


def label_map(weights: str, *, results_only: bool = True) -> dict[int, tuple[str, str]]:
    """Label index to (publisher's name, structure) of some weights; "" for what is no result."""
    return {
        int(row["label"]): (row["name_upstream"], row["structure"])
        for row in _label_rows()
        if row["weights"] == weights and (row["structure"] or not results_only)
    }


def _weights(
    name: str,
    folders: tuple[str, ...],
    url: str | None = None,
    sha256: str | None = None,
    folds: tuple[str, ...] = (),
    auxiliary: tuple[str, ...] = (),
    tile_step: float | None = None,
    label_map: str | None = None,
    labels_by_index: bool = False,
    weights_version: float | None = None,
    mirrors: bool = False,
    results: tuple[str, ...] = (),
    crop: tuple[str, ...] = (),
    margin_mm: float | None = None,
    spacing_mm: tuple[float, float, float] | None = None,
) -> KnownWeights:
    rows = [row for row in _label_rows() if row["weights"] == (label_map or name)]
    labels = {int(row["label"]): row["name_upstream"] for row in rows}
    labels |= dict(enumerate(auxiliary, start=len(rows) + 1))
    return KnownWeights(
        name=name,
        folders=tuple(folders),
        url=url,
        sha256=sha256,
        folds=tuple(folds),
        labels=labels,
        structures={
            row["name_upstream"]: row["structure"]
            for row in rows
            if row["structure"] and (not results or row["structure"] in results)
        },
        tile_step=tile_step,
        labels_by_index=labels_by_index,
        weights_version=weights_version,
        mirrors=mirrors,
        crop=tuple(crop),
        margin_mm=margin_mm,
        spacing_mm=xyz_mm(spacing_mm),
    )


@cache
def _label_rows() -> list[dict[str, str]]:
    with open(LABEL_MAPS, encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream, delimiter="\t", quoting=csv.QUOTE_NONE))

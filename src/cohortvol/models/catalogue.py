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
    folder : str
        Name, or pattern, of the folder that holds it.
    url : str or None
        Zip of that folder; None where the publisher asks for a licence first.
    folds : tuple of str
        Folds to use; empty for all there are.
    labels : mapping of int to str
        Label index to the publisher's name, as in its ``dataset.json``.
    structures : mapping of str to str
        The publisher's name to the structure's; a name left out is no result.
    tile_step : float or None
        See `cohortvol.models.card.Part`.
    """

    name: str
    folder: str
    url: str | None
    folds: tuple[str, ...]
    labels: Mapping[int, str]
    structures: Mapping[str, str]
    tile_step: float | None


@dataclass(frozen=True)
class KnownModel:
    """A model by name; see the attributes of `cohortvol.models.card.Card`.

    `orientation` is None where weights of one's own, with plans of one's own, go by the name.

    `layers` lists the parts that share a label map; see `cohortvol.models.card.Part`.
    """

    id: str
    title: str
    licence: str
    source: str
    citation: str
    orientation: str | None
    spacing_mm: tuple[float, float, float] | None
    layers: tuple[tuple[KnownWeights, ...], ...]

    @property
    def parts(self) -> tuple[KnownWeights, ...]:
        """Of all layers, in order."""
        return tuple(part for layer in self.layers for part in layer)

    @property
    def profiles(self) -> tuple[str, ...]:
        """Inference profiles, the default first."""
        return ("nnunet", FAST) if self.spacing_mm is None else ("ts218", "paper", FAST)


@cache
def load() -> dict[str, KnownModel]:
    """Every known model by id."""
    raw = tomllib.loads(KNOWN_MODELS.read_text(encoding="utf-8"))
    weights = {name: _weights(name, **entry) for name, entry in raw["weights"].items()}
    models = {}
    for model_id, entry in raw["models"].items():
        spacing = entry.get("spacing_mm")
        models[model_id] = KnownModel(
            id=model_id,
            title=entry["title"],
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


def label_map(weights: str) -> dict[int, tuple[str, str]]:
    """Label index to (publisher's name, structure) of some weights."""
    return {
        int(row["label"]): (row["name_upstream"], row["structure"])
        for row in _label_rows()
        if row["weights"] == weights
    }


def _weights(
    name: str,
    folder: str,
    url: str | None = None,
    folds: tuple[str, ...] = (),
    auxiliary: tuple[str, ...] = (),
    tile_step: float | None = None,
) -> KnownWeights:
    labels = label_map(name)
    names = [upstream for upstream, _ in labels.values()] + list(auxiliary)
    return KnownWeights(
        name=name,
        folder=folder,
        url=url,
        folds=tuple(folds),
        labels=dict(enumerate(names, start=1)),
        structures=dict(labels.values()),
        tile_step=tile_step,
    )


@cache
def _label_rows() -> list[dict[str, str]]:
    with open(LABEL_MAPS, encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream, delimiter="\t", quoting=csv.QUOTE_NONE))

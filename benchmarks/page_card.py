"""Cards of models drawn at random, for pages that say how their networks are run."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np

from cohortvol.models.card import CARD, Card, card_json, plans_files, weights_file
from cohortvol.models.part import Part

KINDS = {
    "one": ["3d_fullres"],
    "cascade": ["3d_lowres", "3d_cascade_fullres"],
    "together": ["2d", "3d_fullres"],
    "both": ["2d", "3d_lowres", "3d_cascade_fullres"],
    "box": ["3d_lowres", "3d_fullres"],
}
"""Ways in which networks go together, and their configurations."""


def drawn_card(seed: int, folder: Path) -> Card:
    """A card whose networks go together in a way drawn at random, or stand alone."""
    rng = np.random.default_rng(seed)
    kind = str(rng.choice(list(KINDS)))
    parts = [
        Part(
            name=f"network_{n}",
            configuration=configuration,
            trainer="nnUNetTrainer",
            folds=tuple("01234"[: rng.choice([1, 1, 2, 5])]),
            labels={},
            files={},
            mirror_axes=(0, 1, 2)[: rng.choice([0, 1, 3])],
        )
        for n, configuration in enumerate(KINDS[kind])
    ]
    parts[-1] = replace(
        parts[-1],
        labels={1: "spleen"} if kind == "box" else {1: "liver", 2: "spleen"},
        previous=parts[-2].name if kind in ("cascade", "both") else None,
        averaged_with=(parts[0].name,) if kind in ("together", "both") else (),
        crop=("liver",) if kind == "box" else (),
        margin_mm=float(rng.choice([10, 12.5])) if kind == "box" else None,
        keep_largest=((1, 2), (2,)) if kind != "box" and rng.random() < 0.5 else (),
    )
    if kind == "box":
        parts[0] = replace(parts[0], labels={1: "liver"})
    for n, part in enumerate(parts):
        files = dict.fromkeys(plans_files(part), "0" * 64)
        files |= {weights_file(part, fold): "0" * 64 for fold in part.folds}
        parts[n] = replace(part, files=files)
    return Card(
        folder=folder,
        id="made",
        title="Made",
        licence="CC0-1.0",
        source="none",
        citation="none",
        orientation="RAS",
        default_profile="nnunet",
        profiles=("nnunet", "nnunet-nomirror", "fast"),
        parts=tuple(parts),
        labels={1: "liver", 2: "spleen"},
    )


def write_card(card: Card) -> Path:
    """Its ``card.json``, in its folder."""
    card.folder.mkdir()
    path = card.folder / CARD
    path.write_text(json.dumps(card_json(card)), encoding="utf-8")
    return path

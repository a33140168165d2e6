"""Mean Dice of known models as their publishers give it, each with its test set and source."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

PUBLISHED_DICE = Path(__file__).with_name("published_dice.tsv")
SAME_WEIGHTS = {"total_mr_organs": "total_mr", "total_mr_80": "total_mr"}
"""Models whose shared structures come from the same weights as a published one."""


def published_dice(model: str | None) -> pd.DataFrame:
    """Published mean Dice of a model: ``structure, model, test_set, dice, source``.

    Empty where nothing is published of it. MRI test sets alone; only what was read in its source.
    """
    with PUBLISHED_DICE.open(encoding="utf-8") as stream:
        table = pd.read_csv(stream, sep="\t")
    mine = table["model"] == SAME_WEIGHTS.get(model or "", model)
    return table[mine].reset_index(drop=True)


def models_with_published_dice() -> list[str]:
    """Ids of the known models of which a Dice is published."""
    with PUBLISHED_DICE.open(encoding="utf-8") as stream:
        models = pd.read_csv(stream, sep="\t")["model"].unique()
    return sorted({*models, *SAME_WEIGHTS})

"""The Dice that publishers give of a model, beside the one found here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from cohortvol.errors import ConfigError, did_you_mean
from cohortvol.models import published
from cohortvol.models.files import read_object
from cohortvol.store.tables import append_rows
from cohortvol.tools.evaluate.outputs import PUBLISHED

NONE = "none"
"""In place of a known model: nothing is set beside."""


def published_model(labels: str | None, given: str | None) -> str | None:
    """The known model whose published Dice stands beside a model's; None where there is none.

    Parameters
    ----------
    labels : str or None
        What the model's labels mean: the name of a known model with a published Dice, or a
        ``card.json`` whose id is one, says which model it is.
    given : str or None
        What the user says; wins.

    Raises
    ------
    ConfigError
        If `given` is no model with a published Dice.
    """
    known = published.models_with_published_dice()
    if given is not None:
        if given not in (*known, NONE):
            raise ConfigError(
                f"--published {given}: no Dice is published of it{did_you_mean(given, known)}\n"
                f"  Known are {', '.join(known)}; {NONE} for nothing."
            )
        return None if given == NONE else given
    if labels is None or not labels.endswith(".json"):
        return labels if labels in known else None
    name = read_object(Path(labels)).get("id")
    return name if name in known else None


def beside(summary: pd.DataFrame, models: dict[str, str | None]) -> pd.DataFrame:
    """Rows of PUBLISHED: each structure of a model that has a Dice here and a published one.

    Parameters
    ----------
    summary : pandas.DataFrame
        Rows of SUMMARY.
    models : dict of str to str or None
        Model to the known model that is set beside it.
    """
    here = summary[
        (summary["metric"] == "dice")
        & (summary["average"] == "structure")
        & (summary["group_by"] == "all")
        & summary["mean"].notna()
    ]
    rows: list[dict[str, Any]] = []
    for model, known in models.items():
        theirs = published.published_dice(known).rename(
            columns={"dice": "published_dice", "model": "published_model"}
        )
        ours = here[here["model"] == model].rename(
            columns={"mean": "dice", "ci_low": "dice_ci_low", "ci_high": "dice_ci_high"}
        )
        both = ours.merge(theirs, on="structure", how="inner", validate="one_to_many")
        rows += both.to_dict("records")
    columns = list(PUBLISHED)
    return append_rows([{name: row[name] for name in columns} for row in rows], PUBLISHED)

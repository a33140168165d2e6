"""Tables of the page on what stands beside: published Dice, and a second reader."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from cohortvol.drawing import style
from cohortvol.drawing.pages import Table
from cohortvol.models import catalogue
from cohortvol.tools.evaluate.readers import AGREEMENTS

_MEAN = "Mean of structures"
_INTERVALS = "Means with 95 % intervals, bootstrap over people. "


def published_table(published: pd.DataFrame) -> Table | None:
    """Dice here beside the published one; None where nothing is published."""
    if published.empty:
        return None
    rows = []
    for (model, test_set), part in published.groupby(["model", "test_set"], sort=False):
        here, theirs = part["dice"].mean(), part["published_dice"].mean()
        rows.append([_MEAN, str(model), "–", *_beside(style.number(here, 3), here, theirs),
                     f"{test_set}, {len(part)} structures"])  # fmt: skip
    rows += [
        [
            style.display_name(row["structure"]),
            str(row["model"]),
            style.number(row["n_subjects"], 0),
            *_beside(_interval(row, "dice"), row["dice"], row["published_dice"]),
            row["test_set"],
        ]
        for row in published.to_dict("records")
    ]
    order = {name: place for place, name in enumerate(dict.fromkeys(row[0] for row in rows))}
    rows.sort(key=lambda row: order[row[0]])
    titles = [
        f"{model} beside {catalogue.find(known).title}"
        for model, known in published[["model", "published_model"]].drop_duplicates().to_numpy()
    ]
    sources = "; ".join(dict.fromkeys(published["source"]))
    note = (
        f"{_INTERVALS}{'; '.join(titles)}. The published Dice is of the people of its test set, on "
        "the publisher's grid and without an interval; those here may be others. "
        f"Source: {sources}."
    )
    header = ["Structure", "Model", "People", "Dice here", "Published", "Here − published",
              "Published for"]  # fmt: skip
    return Table("Published Dice", header, rows, note, "published")


def _beside(here: str, dice: float, published: float) -> list[str]:
    return [here, style.number(published, 3), style.number(dice - published, 3)]


def readers_table(readers: pd.DataFrame) -> Table | None:
    """Dice of models with each reader and of the readers with each other; None without any."""
    shown = readers[readers["metric"] == "dice"]
    if shown.empty:
        return None
    rows = [
        [
            _MEAN if pd.isna(row["structure"]) else style.display_name(row["structure"]),
            str(row["model"]),
            style.number(row["n_pairs"], 0),
            style.number(row["n_one_reader"], 0),
            *(_interval(row, agreement) for agreement in AGREEMENTS),
        ]
        for row in shown.to_dict("records")
    ]
    names = dict.fromkeys(row[0] for row in rows)
    order = {name: place for place, name in enumerate(sorted(names, key=lambda one: one != _MEAN))}
    rows.sort(key=lambda row: order[row[0]])
    note = (
        f"{_INTERVALS}Scans: those in which both readers drew the structure. Drawn by one: by one "
        "reader alone, not compared. Difference: the mean of the model's two Dice less that of the "
        "readers, scan by scan; where its interval is above or around 0 the model is as near to "
        "readers as they are to each other."
    )
    header = ["Structure", "Model", "Scans", "Drawn by one", "Model, first reader",
              "Model, second reader", "The two readers", "Difference"]  # fmt: skip
    return Table("Dice with two readers", header, rows, note, "readers")


def _interval(row: Mapping[str, Any], name: str) -> str:
    low, high = row[f"{name}_ci_low"], row[f"{name}_ci_high"]
    if pd.isna(row[name]) or pd.isna(low):
        return style.number(row[name], 3)
    return style.interval(row[name], low, high, 3)

"""Missingness: the share of scans without a usable volume, by age, sex and height."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pandas as pd
from matplotlib.lines import Line2D

from cohortvol.drawing import style
from cohortvol.stages.report.figures import rows
from cohortvol.stages.report.figures.panels import Page
from cohortvol.stages.report.tables.inputs import Analysis

VARIABLES = {"age_years": "Age", "sex": "Sex", "height_cm": "Height"}
_SHADES = ("#b9c2cb", "#74808c", "#1f2a35")
_MARKERS = ("o", "s", "D")
_MOST_ROWS = 44


def missing_pages(analysis: Analysis) -> Iterator[Page]:
    """Pages of rows, a column each for age, sex and height; none without such a table."""
    table = analysis.table("missingness").dropna(subset=["unusable_pct"])
    if table.empty:
        return
    known = [name for name in VARIABLES if name in set(table["variable"])]
    structures = analysis.structures(table["structure"])
    highest = max(float(table["unusable_pct"].max()) * 1.05, 1.0)
    columns = rows.even_columns(len(known))
    for part in rows.pages_of_groups([("", structures)], _MOST_ROWS):
        figure, axes = rows.page(part, columns, row_mm=4.4, head_mm=7.0, foot_mm=13.0)
        for axis, variable in zip(axes, known, strict=True):
            axis.set_xlim(-0.02 * highest, highest)
            axis.set_xlabel("Without a usable volume, %", labelpad=2)
            axis.set_title(VARIABLES[variable], weight="bold", pad=5)
            style.number_ticks(axis.xaxis, 5)
            axis.grid(axis="x", color="#d5dade", linewidth=0.4)
            axis.set_axisbelow(True)
            here = table[(table["variable"] == variable) & table["structure"].isin(part.places)]
            for structure, group in here.groupby("structure", sort=False):
                y = part.places[str(structure)]
                shares = group["unusable_pct"]
                axis.plot([shares.min(), shares.max()], [y, y], color="#9aa4ad", linewidth=0.7)
                for row in group.to_dict("records"):
                    axis.plot(row["unusable_pct"], y, clip_on=False, **_mark(row["level"]))
        names = list(part.places)
        data = table[table["structure"].isin(names)]
        rows.key(figure, _key(data))
        yield Page(figure, data, names)


def _mark(level: str) -> dict[str, Any]:
    """How the level of a variable is drawn."""
    style_of: dict[str, Any] = {"linestyle": "", "markersize": 3.2, "markeredgewidth": 0.6}
    if level in ("F", "M"):
        colour = style.SEX_COLOUR[level]
        marker = "o" if level == "F" else "^"
        return style_of | {"marker": marker, "color": colour}
    for number, word in enumerate(("lower", "middle", "upper")):
        if level.startswith(word):
            return style_of | {"marker": _MARKERS[number], "color": _SHADES[number]}
    return style_of | {"marker": "o", "markerfacecolor": "white", "markeredgecolor": style.INK}


def _key(table: pd.DataFrame) -> list[Line2D]:
    words = [("lower", "lowest third"), ("middle", "middle third"), ("upper", "highest third")]
    words += [("F", style.SEX_WORD["F"]), ("M", style.SEX_WORD["M"]), ("not known", "not known")]
    levels = table["level"].astype(str)
    return [
        Line2D([], [], label=label, **_mark(level))
        for level, label in words
        if levels.str.startswith(level).any()
    ]

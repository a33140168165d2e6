"""Slopes between people of different ages beside slopes within people scanned again."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from cohortvol.drawing import style
from cohortvol.stages.report.figures import rows
from cohortvol.stages.report.figures.panels import Page
from cohortvol.stages.report.tables.inputs import Analysis

_KINDS = ("between", "within")
_GAP_MM = 7.0
"""Between the columns, so that the numbers below one do not touch those of the next."""
_MOST_ROWS = 40


def repeat_pages(analysis: Analysis) -> Iterator[Page]:
    """Pages of rows, a column per sex; none where too few people were scanned again."""
    table = analysis.table("within_between").dropna(subset=["within_pct_per_decade"])
    if table.empty:
        return
    here = set(table["sex"])
    sexes = [sex for sex in dict.fromkeys(("all", *analysis.sexes)) if sex in here]
    table = table[table["model"] == max(table["model"])]
    limits = [f"{kind}_pct_per_decade_ci_{end}" for kind in _KINDS for end in ("low", "high")]
    reach = float(table[limits].abs().max(axis=None)) * 1.05
    structures = analysis.structures(table["structure"])
    columns = rows.even_columns(len(sexes), _GAP_MM)
    for part in rows.pages_of_groups([("", structures)], _MOST_ROWS):
        figure, axes = rows.page(
            part, columns, row_mm=5.0, head_mm=7.0, foot_mm=13.0, gap_mm=_GAP_MM
        )
        here = table[table["structure"].isin(part.places)]
        for axis, sex in zip(axes, sexes, strict=True):
            axis.set_xlim(-reach, reach)
            axis.set_title(style.SEX_WORD[sex], weight="bold", pad=5, color=style.SEX_COLOUR[sex])
            _draw(axis, here[here["sex"] == sex], part.places, style.SEX_COLOUR[sex])
        rows.key(figure, _key())
        yield Page(figure, here, list(part.places))


def _draw(axis: Axes, table: pd.DataFrame, places: dict[str, int], colour: str) -> None:
    axis.axvline(0, color=style.INK, linewidth=0.5, zorder=1)
    axis.set_xlabel("% per decade (95% CI)", labelpad=2)
    style.number_ticks(axis.xaxis, 5)
    for row in table.to_dict("records"):
        for kind, offset in zip(_KINDS, (-0.18, 0.18), strict=True):
            value, low, high = (
                row[f"{kind}_pct_per_decade{end}"] for end in ("", "_ci_low", "_ci_high")
            )
            y = places[row["structure"]] + offset
            axis.plot([low, high], [y, y], color=colour, linewidth=0.8)
            axis.plot(
                value,
                y,
                marker="o",
                markersize=3.0,
                markeredgecolor=colour,
                markeredgewidth=0.8,
                markerfacecolor="white" if kind == "between" else colour,
            )


def _key() -> list[Line2D]:
    words = {"between": "between people of different ages", "within": "within people, rescanned"}
    return [
        Line2D(
            [],
            [],
            color=style.INK,
            marker="o",
            markersize=3.0,
            linewidth=0.8,
            markerfacecolor="white" if kind == "between" else style.INK,
            label=words[kind],
        )
        for kind in _KINDS
    ]

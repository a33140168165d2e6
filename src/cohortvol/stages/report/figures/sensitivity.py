"""Sensitivity: the slope of a structure under every way of analysing it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from cohortvol.drawing import style
from cohortvol.stages.report.figures import panels
from cohortvol.stages.report.figures.panels import Page, Shape
from cohortvol.stages.report.tables.inputs import HIGH, LOW, SLOPE, Analysis

WORDS = {
    "complete": "Complete cases",
    "one_scan_each": "One scan each",
    "sampling_weights": "Of the population",
    "ipw": "Weighted (IPW)",
    "tobit": "Cut as bounds (Tobit)",
    "huber": "Robust (Huber)",
    "without_outliers": "Without outliers",
    "bsa_ratio": "Per body surface",
    "size_only": "Without site effects",
    "site_harmonised": "Sites harmonised",
}
"""What the rows are called, from top to bottom within a model; another analysis stands below by its
own name."""


def sensitivity_pages(analysis: Analysis) -> Iterator[Page]:
    """Pages of panels, one per structure, a row per analysis; none without such a table."""
    sexes = analysis.sexes
    table = analysis.table("sensitivity")
    table = table[table["sex"].isin(sexes)].dropna(subset=[SLOPE, LOW, HIGH])
    if table.empty:
        return
    found = set(zip(table["analysis"], table["model"], strict=True))
    order = list(WORDS)
    ways = sorted(
        found,
        key=lambda way: (way[1], order.index(way[0]) if way[0] in WORDS else len(order), way[0]),
    )
    shape = Shape(
        panel_mm=3.6 * len(ways) + 2, head_mm=6.0, foot_mm=8.5, left_mm=31.0, gutter_mm=5.0
    )
    structures = analysis.structures(table["structure"])
    for names in panels.pages_of(structures, shape):
        figure, axes = panels.grid(len(names), shape, x="% per decade (95% CI)", y="")
        for number, (panel, name) in enumerate(zip(axes, names, strict=True)):
            _draw(panel, table[table["structure"] == name], ways, sexes)
            if number % shape.columns == 0:
                panel.set_yticks(range(len(ways)), [_words(way) for way in ways])
            else:
                panel.set_yticks([])
            panels.head(panel, style.display_name(name))
        here = table[table["structure"].isin(names)]
        key = [
            Line2D(
                [],
                [],
                color=style.SEX_COLOUR[sex],
                linestyle=style.SEX_LINE[sex],
                linewidth=0.8,
                marker=style.SEX_MARKER[sex],
                markersize=3,
                label=style.SEX_WORD[sex],
            )
            for sex in sexes
            if (here["sex"] == sex).any()
        ]
        key.append(
            Line2D(
                [],
                [],
                color=style.QUIET,
                linewidth=0.5,
                linestyle=":",
                label="complete cases of the same model",
            )
        )
        panels.key(figure, key)
        yield Page(figure, here, names)


def _words(way: tuple[str, str]) -> str:
    analysis, model = way
    return f"{WORDS.get(analysis, analysis)}, {model}"


def _draw(panel: Axes, table: pd.DataFrame, ways: list[tuple[str, str]], sexes: list[str]) -> None:
    panel.set_ylim(len(ways) - 0.4, -0.6)
    panel.spines["left"].set_visible(False)
    panel.tick_params(axis="y", length=0)
    models = [model for _, model in ways]
    for place in range(1, len(ways)):
        if models[place] != models[place - 1]:
            panel.axhline(place - 0.5, color="#c9ced3", linewidth=0.5, zorder=0)
    panel.axvline(0, color=style.INK, linewidth=0.5, zorder=1)
    places = {way: place for place, way in enumerate(ways)}
    for row in table.to_dict("records"):
        sex = row["sex"]
        offset = 0.0 if len(sexes) == 1 else -0.18 if sex == sexes[0] else 0.18
        place = places[row["analysis"], row["model"]]
        line: dict[str, Any] = {"color": style.SEX_COLOUR[sex], "zorder": 3}
        panel.plot([row[LOW], row[HIGH]], [place + offset] * 2, linewidth=0.8, **line)
        panel.plot(
            row[SLOPE],
            place + offset,
            marker=style.SEX_MARKER[sex],
            markersize=2.6,
            markeredgewidth=0,
            **line,
        )
        if row["analysis"] == "complete":
            rows = [i for i, model in enumerate(models) if model == row["model"]]
            panel.plot(
                [row[SLOPE]] * 2,
                [rows[0] - 0.4, rows[-1] + 0.4],
                linewidth=0.5,
                linestyle=":",
                color=style.SEX_COLOUR[sex],
                zorder=2,
            )
    low, high = panel.get_xlim()
    panel.set_xlim(min(low, -0.5), max(high, 0.5))
    style.number_ticks(panel.xaxis, 5)

"""Centile charts: 5, 25, 50, 75 and 95 against age, women and men of a structure side by side."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from cohortvol.drawing import style
from cohortvol.stages.report.figures import panels
from cohortvol.stages.report.figures.panels import Page, Shape
from cohortvol.stages.report.tables.inputs import Analysis

CENTILES = (5, 25, 50, 75, 95)
_SHAPE = Shape(panel_mm=30.0, head_mm=8.5, foot_mm=8.0, columns=4, gutter_mm=9.5)
_SPARSE = "#9aa0a6"


def centile_pages(analysis: Analysis) -> Iterator[Page]:
    """Pages of panels, two beside each other for a structure; none without centiles."""
    every = analysis.table("centiles")
    table = every.dropna(subset=["age_years"])
    why = every.dropna(subset=["note"]).set_index(["structure", "sex"])["note"]
    sexes = analysis.sexes
    shown = list(product(analysis.structures(table["structure"]), sexes))
    for keys in panels.pages_of(shown, _SHAPE):
        figure, axes = panels.grid(len(keys), _SHAPE, x="Age (years)", y="Volume (mL)")
        names = list(dict.fromkeys(name for name, _ in keys))
        for panel, (name, sex) in zip(axes, keys, strict=True):
            of_structure = table[table["structure"] == name]
            here = of_structure[of_structure["sex"] == sex].sort_values("age_years")
            _limits(panel, of_structure)
            _draw(panel, here, sex, str(why.get((name, sex), "ANA_TOO_FEW")))
            words = style.SEX_WORD[sex]
            if len(here):
                words += f", n = {style.count(here['n_used'].iloc[0])}"
            panels.head(panel, style.display_name(name), [(words, style.SEX_COLOUR[sex])])
        figure.align_ylabels(axes)
        data = table[table["structure"].isin(names)].drop(columns="note")
        charted = [sex for sex in sexes if (data["sex"] == sex).any()]
        _key(figure, charted, sparse=bool(data["sparse"].fillna(False).astype(bool).any()))
        yield Page(figure, data, names)


def _limits(panel: Axes, rows: pd.DataFrame) -> None:
    """The same for both sexes, so that the two can be compared."""
    values = rows[[f"p{c}_ml" for c in CENTILES]].to_numpy(float)
    ages = rows["age_years"].to_numpy(float)
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    margin = 0.08 * (high - low)
    panel.set(
        xlim=(5 * np.floor(ages.min() / 5), ages.max() + 7),
        ylim=(max(0, low - margin), high + margin),
    )
    style.number_ticks(panel.xaxis, 4, integer=True)
    style.number_ticks(panel.yaxis, 4)


def _draw(panel: Axes, rows: pd.DataFrame, sex: str, why: str) -> None:
    if rows.empty:
        panel.text(
            0.5,
            0.5,
            "too few for centiles" if why.startswith("ANA_TOO_FEW") else "none that fit the people",
            transform=panel.transAxes,
            ha="center",
            size=style.SMALL_PT,
            color=style.QUIET,
        )
        return
    age = rows["age_years"].to_numpy(float)
    at = {c: rows[f"p{c}_ml"].to_numpy(float) for c in CENTILES}
    sparse = rows["sparse"].fillna(False).to_numpy(bool)
    for colour, where in ((style.SEX_COLOUR[sex], ~sparse), (_SPARSE, _widened(sparse))):
        panel.fill_between(age, at[5], at[95], where=where, color=colour, alpha=0.14, linewidth=0)
        panel.fill_between(age, at[25], at[75], where=where, color=colour, alpha=0.24, linewidth=0)
        for c in CENTILES:
            panel.plot(
                age,
                np.where(where, at[c], np.nan),
                color=colour,
                linestyle=style.SEX_LINE[sex] if c == 50 else "-",
                linewidth=1.2 if c == 50 else 0.5,
            )
    for c in CENTILES:
        panel.annotate(
            str(c),
            (age[-1], at[c][-1]),
            (1.5, 0),
            textcoords="offset points",
            va="center",
            size=style.LEAST_PT,
            color=style.INK,
        )


def _widened(flags: np.ndarray) -> np.ndarray:
    """Flags and the ages beside them, so that grey meets colour without a gap."""
    out = flags.copy()
    out[1:] |= flags[:-1]
    out[:-1] |= flags[1:]
    return out


def _key(figure: Figure, sexes: list[str], *, sparse: bool) -> None:
    entries: list[Line2D | Patch] = []
    for sex in sexes:
        colour, word = style.SEX_COLOUR[sex], style.SEX_WORD[sex]
        entries.append(
            Line2D(
                [],
                [],
                color=colour,
                linestyle=style.SEX_LINE[sex],
                linewidth=1.2,
                label=f"{word}: median",
            )
        )
        entries.append(Patch(facecolor=colour, alpha=0.38, label="25 to 75"))
        entries.append(Patch(facecolor=colour, alpha=0.14, label="5 to 95"))
    if sparse:
        entries.append(Patch(facecolor=_SPARSE, alpha=0.38, label="few people of that age"))
    panels.key(figure, entries)

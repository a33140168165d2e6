"""Worm plots: detrended normal Q-Q of scores in the centiles, all ages and by quarter of age."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from cohortvol.drawing import style
from cohortvol.stages.report.figures import panels
from cohortvol.stages.report.figures.panels import Page, Shape
from cohortvol.stages.report.tables.inputs import Analysis

_SHAPE = Shape(panel_mm=17.0, head_mm=9.5, foot_mm=7.5, columns=5, gutter_mm=5.0)
_MOST, _LEAST = 1.2, 0.2
"""Bounds of the height of a panel to either side of 0, in standard deviations."""
_BANDS = range(_SHAPE.columns)


def worm_pages(analysis: Analysis) -> Iterator[Page]:
    """Pages with a row of panels for each structure: all ages, then four ranges of age."""
    table = analysis.table("worms").dropna(subset=["deviation"])
    names = analysis.structures(table["structure"])
    for keys in panels.pages_of(list(product(names, _BANDS)), _SHAPE):
        figure, axes = panels.grid(len(keys), _SHAPE, x="Score", y="Deviation")
        shown = list(dict.fromkeys(name for name, _ in keys))
        for panel, (name, band) in zip(axes, keys, strict=True):
            of_structure = table[table["structure"] == name]
            panel.set(xlim=(-3.2, 3.2), ylim=_limits(of_structure))
            panel.axhline(0, color=style.QUIET, linewidth=0.4)
            style.number_ticks(panel.xaxis, 4, integer=True)
            style.number_ticks(panel.yaxis, 4)
            panel.tick_params(labelleft=band == 0)
            here = of_structure[of_structure["band"] == band]
            lines = [_draw(panel, here[here["sex"] == sex], sex) for sex in analysis.sexes]
            title = style.display_name(name) if band == 0 else ""
            panels.head(panel, title, [line for line in lines if line[0]])
        figure.align_ylabels(axes)
        data = table[table["structure"].isin(shown)]
        panels.key(figure, _key([sex for sex in analysis.sexes if (data["sex"] == sex).any()]))
        yield Page(figure, data, shown)


def _limits(rows: pd.DataFrame) -> tuple[float, float]:
    """The same for all panels of a structure: all bands, and nearly all deviations."""
    reach = max(float(rows["limit"].max()), float(rows["deviation"].abs().quantile(0.99)))
    reach = 1.1 * float(np.clip(reach, _LEAST, _MOST))
    return -reach, reach


def _draw(panel: Axes, rows: pd.DataFrame, sex: str) -> tuple[str, str]:
    """One worm with its band; what stands above it, and in which colour."""
    colour = style.SEX_COLOUR[sex]
    if rows.empty:
        return "", colour
    score, worm, limit = (rows[c].to_numpy(float) for c in ("score", "deviation", "limit"))
    panel.fill_between(score, -limit, limit, color=colour, alpha=0.13, linewidth=0)
    panel.plot(
        score,
        worm,
        color=colour,
        linewidth=0.5,
        marker=style.SEX_MARKER[sex],
        markersize=1.6,
        markeredgewidth=0,
    )
    first = rows.iloc[0]
    if first["band"] == 0:
        return f"{style.SEX_WORD[sex]}, n = {style.count(first['n_band'])}", colour
    return f"{first['age_low_years']:.0f} to {first['age_high_years']:.0f} years", colour


def _key(sexes: list[str]) -> list[Line2D | Patch]:
    entries: list[Line2D | Patch] = []
    for sex in sexes:
        colour, word = style.SEX_COLOUR[sex], style.SEX_WORD[sex]
        entries.append(
            Line2D(
                [],
                [],
                color=colour,
                linewidth=0.5,
                marker=style.SEX_MARKER[sex],
                markersize=2.4,
                markeredgewidth=0,
                label=f"{word}: sample less normal",
            )
        )
        entries.append(Patch(facecolor=colour, alpha=0.25, label="95% band"))
    return entries

"""Volumes by themselves, where there is no trend to show: one panel per structure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from cohortvol.drawing import style
from cohortvol.stages.report.figures import panels
from cohortvol.stages.report.figures.boxes import FACE, GROUPS
from cohortvol.stages.report.figures.panels import Page, Shape
from cohortvol.stages.report.tables.inputs import Analysis

_SHAPE = Shape(panel_mm=33.0, head_mm=6.0, foot_mm=9.5, top_mm=1.0, columns=4, gutter_mm=10.5)
_WRITTEN = 3
"""Scans up to which the volumes are written above their panel."""
_DENSE = 100
"""Scans of a group beyond which marks are smaller and paler, so that the box shows."""
_WIDTH, _SPREAD = 0.62, 0.22


def volume_pages(
    analysis: Analysis, measured: pd.DataFrame, *, public: bool = False
) -> Iterator[Page]:
    """Pages of panels: a box per group of the summary, and the scans where they are few.

    Parameters
    ----------
    analysis : Analysis
        Of which ``summary`` has the groups, their scans and quantiles.
    measured : pandas.DataFrame
        structure, sex, volume_ml of every scan that was measured; sex is null where not known.
    public : bool
        Draw no scan by itself, and so no structure without a quantile that may be shown.
    """
    table = analysis.summary
    told = table["n"].isna() | (table["n"] > 0)  # a count that is missing is a small one
    if public:
        told &= table["median_ml"].notna()
    sexes = [sex for sex in GROUPS if sex != "all" and sex in set(table.loc[told, "sex"])]
    groups = sexes if len(sexes) == 1 and measured["sex"].notna().all() else ["all", *sexes]
    structures = analysis.structures(table.loc[told, "structure"])
    for names in panels.pages_of(structures, _SHAPE):
        figure, axes = panels.grid(len(names), _SHAPE, x="", y="Volume (mL)")
        data = []
        for panel, name in zip(axes, names, strict=True):
            boxes = table[(table["structure"] == name) & table["sex"].isin(groups)]
            here = measured.loc[measured["structure"] == name, ["sex", "volume_ml"]]
            here = here.sort_values(["sex", "volume_ml"])
            if public or panels.are_binned(here):
                here = here[:0]
            _draw(panel, boxes, here, groups)
            panels.head(panel, style.display_name(name), _written(here))
            data += [boxes.assign(kind="box"), here.assign(kind="scan", structure=name)]
        figure.align_ylabels(axes)
        columns = ["structure", "kind", "sex", "n", "volume_ml", "median_ml", "q25_ml", "q75_ml"]
        rows = pd.concat([part for part in data if len(part)], ignore_index=True)
        yield Page(figure, rows.reindex(columns=[*columns, "p5_ml", "p95_ml"]), names)


def _draw(panel: Axes, boxes: pd.DataFrame, scans: pd.DataFrame, groups: list[str]) -> None:
    labels = [f"{style.SEX_WORD[sex]}\nn = 0" for sex in groups]
    for row in boxes.to_dict("records"):
        place = groups.index(row["sex"])
        labels[place] = f"{style.SEX_WORD[row['sex']]}\nn = {style.count(row['n'])}"
        _box(panel, row, place)
    for place, sex in enumerate(groups):
        _marks(panel, scans if sex == "all" else scans[scans["sex"] == sex], sex, place)
    panel.set_xticks(range(len(groups)), labels, size=style.SMALL_PT)
    panel.set(xlim=(-0.6, len(groups) - 0.4))
    panel.set_ylim(0, 1.06 * max(panel.get_ylim()[1], 1e-3))
    style.number_ticks(panel.yaxis, 5)


def _box(panel: Axes, row: dict[str, Any], place: float) -> None:
    """Median and quartiles with the 5th and 95th centile, as far as they are given."""
    line: dict[str, Any] = {"color": style.SEX_COLOUR[row["sex"]], "linewidth": 0.6}
    ends = (place - _WIDTH / 2, place + _WIDTH / 2)
    if pd.notna(row["q25_ml"]) and pd.notna(row["q75_ml"]):
        low, high = row["q25_ml"], row["q75_ml"]
        edge = {"edgecolor": line["color"], "linewidth": line["linewidth"]}
        panel.fill_between(ends, low, high, facecolor=FACE[row["sex"]], zorder=1, **edge)
        for start, end in ((row["p5_ml"], low), (row["p95_ml"], high)):
            if pd.notna(start):
                panel.plot([place, place], [start, end], zorder=1, **line)
                cap = (place - _WIDTH / 6, place + _WIDTH / 6)
                panel.plot(cap, [start, start], zorder=1, **line)
    if pd.notna(row["median_ml"]):
        panel.plot(ends, [row["median_ml"]] * 2, color=style.INK, linewidth=0.9, zorder=3)


def _marks(panel: Axes, scans: pd.DataFrame, sex: str, place: float) -> None:
    """The scans of a group side by side."""
    n = len(scans)
    spread = np.random.default_rng(n).uniform(-_SPREAD, _SPREAD, n) if n > _WRITTEN else np.zeros(n)
    panel.scatter(
        place + spread,
        scans["volume_ml"].to_numpy(float),
        s=9.0 if n <= _WRITTEN else 4.0 if n <= _DENSE else 2.0,
        marker=style.SEX_MARKER[sex],
        facecolor=style.SEX_COLOUR[sex],
        alpha=0.9 if n <= _WRITTEN else 0.55 if n <= _DENSE else 0.3,
        linewidth=0,
        zorder=2,
    )


def _written(scans: pd.DataFrame) -> list[tuple[str, str]]:
    """The volumes themselves where they are few."""
    if not 0 < len(scans) <= _WRITTEN:
        return []
    values = scans["volume_ml"].sort_values().map(style.significant)
    return [(f"{', '.join(values)} mL", style.QUIET)]

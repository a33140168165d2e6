"""Left against right of paired structures: asymmetry against age, and Bland-Altman."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from cohortvol.drawing import style
from cohortvol.stages.report.figures import panels
from cohortvol.stages.report.figures.panels import Page, Shape
from cohortvol.stages.report.tables.inputs import Analysis

_SHAPE = Shape(panel_mm=31.0, head_mm=11.5, foot_mm=9.0, columns=4, gutter_mm=10.5)
_SHOWN = (0.004, 0.996)


def pairs(points: pd.DataFrame, stem: str) -> pd.DataFrame:
    """Scans in which both sides were measured: what is drawn of them."""
    sides = [
        points.loc[points["structure"] == f"{stem}_{side}"].set_index("scan_id")
        for side in ("left", "right")
    ]
    both = sides[0].join(sides[1]["volume_ml"].rename("right_ml"), how="inner")
    left, right = both["volume_ml"], both["right_ml"]
    return pd.DataFrame(
        {
            "sex": both["sex"],
            "age_years": both["age_years"],
            "asymmetry_pct": 200 * (left - right) / (left + right),
            "mean_ml": (left + right) / 2,
            "difference_ml": left - right,
        }
    ).reset_index(drop=True)


def side_pages(analysis: Analysis, points: pd.DataFrame) -> Iterator[Page]:
    """Pages of two panels per pair; none without pairs."""
    table = analysis.table("asymmetry").dropna(subset=["asymmetry_mean_pct"])
    stems = list(dict.fromkeys(table["pair"]))
    kinds = ("asymmetry", "agreement")
    for keys in panels.pages_of(list(product(stems, kinds)), _SHAPE):
        figure, axes = panels.grid(len(keys), _SHAPE, x="", y="")
        drawn = []
        for panel, (stem, kind) in zip(axes, keys, strict=True):
            found = pairs(points, stem)
            rows = table[table["pair"] == stem].set_index("sex")
            draw = _asymmetry if kind == "asymmetry" else _agreement
            data = draw(panel, found, rows, analysis.sexes)
            drawn.append(data.assign(pair=stem, panel=kind))
            _head(panel, stem, kind, rows, analysis.sexes)
        columns = ["pair", "panel", "kind", "sex", "age_years", "asymmetry_pct", "mean_ml"]
        columns += ["difference_ml", "n"]
        data = pd.concat(drawn, ignore_index=True).reindex(columns=columns)
        key = panels.people_key(data)
        key.append(Line2D([], [], color=style.INK, linewidth=0.9, label="mean"))
        key.append(
            Line2D(
                [],
                [],
                color=style.INK,
                linewidth=0.8,
                linestyle=(0, (4, 2)),
                label="limits of agreement",
            )
        )
        panels.key(figure, key)
        yield Page(figure, data, list(dict.fromkeys(stem for stem, _ in keys)))


def _asymmetry(
    panel: Axes, found: pd.DataFrame, rows: pd.DataFrame, sexes: list[str]
) -> pd.DataFrame:
    ages = found["age_years"].min(), found["age_years"].max()
    reach = _reach(found["asymmetry_pct"])
    panel.set(xlim=(ages[0] - 1, ages[1] + 1), ylim=(-reach, reach))
    drawn = panels.draw_people(panel, found, "age_years", "asymmetry_pct")
    panel.axhline(0, color=style.QUIET, linewidth=0.4)
    for sex in sexes:
        if sex in rows.index:
            mean = float(rows.loc[sex, "asymmetry_mean_pct"])
            panel.axhline(
                mean, color=style.SEX_COLOUR[sex], linewidth=0.9, linestyle=style.SEX_LINE[sex]
            )
    panel.set_xlabel("Age (years)", labelpad=2)
    panel.set_ylabel("200 (L − R) / (L + R), %", labelpad=1)
    _ticks(panel)
    return drawn


def _agreement(
    panel: Axes, found: pd.DataFrame, rows: pd.DataFrame, sexes: list[str]
) -> pd.DataFrame:
    reach = _reach(found["difference_ml"])
    low, high = np.quantile(found["mean_ml"], _SHOWN)
    if not panels.are_binned(found):
        low, high = found["mean_ml"].min(), found["mean_ml"].max()
    margin = 0.04 * max(high - low, 1e-6)
    panel.set(xlim=(low - margin, high + margin), ylim=(-reach, reach))
    drawn = panels.draw_people(panel, found, "mean_ml", "difference_ml")
    panel.axhline(0, color=style.QUIET, linewidth=0.4)
    group = "all" if "all" in rows.index else sexes[0]
    if group in rows.index:
        panel.axhline(float(rows.loc[group, "bias_ml"]), color=style.INK, linewidth=0.9)
        for end in ("limit_low_ml", "limit_high_ml"):
            panel.axhline(
                float(rows.loc[group, end]), color=style.INK, linewidth=0.8, linestyle=(0, (4, 2))
            )
    panel.set_xlabel("Mean of L and R (mL)", labelpad=2)
    panel.set_ylabel("L − R (mL)", labelpad=1)
    _ticks(panel)
    return drawn


def _reach(values: pd.Series) -> float:
    """Half the height of a panel: nearly all values; all of them where they are few."""
    share = 0.992 if len(values) > style.MOST_POINTS else 1.0
    return max(float(values.abs().quantile(share)) * 1.1, 1e-3)


def _ticks(panel: Axes) -> None:
    for axis in (panel.xaxis, panel.yaxis):
        style.number_ticks(axis, 4)


def _head(panel: Axes, stem: str, kind: str, rows: pd.DataFrame, sexes: list[str]) -> None:
    """Change of asymmetry per decade by sex, or mean difference with limits of agreement."""
    lines = []
    if kind == "asymmetry":
        for sex in sexes:
            if sex in rows.index and pd.notna(rows.loc[sex, "slope_points_per_decade"]):
                slope = style.interval_of(rows.loc[sex], "slope_points_per_decade")
                lines.append((f"{style.SEX_WORD[sex]} {slope} points/dec.", style.SEX_COLOUR[sex]))
    else:
        group = "all" if "all" in rows.index else sexes[0]
        if group in rows.index:
            row = rows.loc[group]
            bias, low, high = (
                style.significant(row[name], 3)
                for name in ("bias_ml", "limit_low_ml", "limit_high_ml")
            )
            lines = [
                (f"mean {bias} mL, n = {style.count(row['n_used'])}", style.INK),
                (f"limits {low} to {high} mL", style.INK),
            ]
    panels.head(panel, style.display_name(stem), lines)

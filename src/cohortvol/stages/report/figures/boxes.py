"""The replication side: box plots of volume by quartile of age, pooled and per sex."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.patches import Patch

from cohortvol.drawing import style
from cohortvol.stages.report.figures import panels
from cohortvol.stages.report.figures.panels import Page, Shape
from cohortvol.stages.report.tables.inputs import Analysis

GROUPS = ("all", "F", "M")
_SHAPE = Shape(panel_mm=33.0, head_mm=8.5, foot_mm=9.0)
FACE = {"all": "#d7dadd", "F": "#f5cdb0", "M": "#b0d4e8"}


def box_pages(analysis: Analysis) -> Iterator[Page]:
    """Pages of panels: four quartiles of age, each pooled and per sex; none without quartiles."""
    table = analysis.table("quartiles")
    drawn = table.dropna(subset=["q25_ml", "median_ml", "q75_ml"])
    wanted = GROUPS if len(analysis.sexes) > 1 else analysis.sexes
    groups = [sex for sex in wanted if (drawn["sex"] == sex).any()]
    structures = analysis.structures(drawn.loc[drawn["sex"].isin(groups), "structure"])
    if not groups:
        return
    for names in panels.pages_of(structures, _SHAPE):
        label = "Age (years), quartiles"
        figure, axes = panels.grid(len(names), _SHAPE, x=label, y="Volume (mL)")
        for panel, name in zip(axes, names, strict=True):
            here = table[table["structure"] == name]
            _draw(panel, here, groups)
            panels.head(panel, style.display_name(name), _correlations(analysis, name, groups))
        figure.align_ylabels(axes)
        key = [
            Patch(
                facecolor=FACE[sex],
                edgecolor=style.SEX_COLOUR[sex],
                linewidth=0.6,
                label=style.SEX_WORD[sex],
            )
            for sex in groups
        ]
        panels.key(figure, key)
        shown = table["structure"].isin(names) & table["sex"].isin(groups)
        yield Page(figure, table[shown], names)


def _draw(panel: Axes, rows: pd.DataFrame, groups: list[str]) -> None:
    width = 0.8 / len(groups)
    ranges: dict[int, str] = {}
    for row in rows.to_dict("records"):
        quartile = int(row["quartile"])
        ranges[quartile] = _range(row["age_above_years"], row["age_to_years"])
        if row["sex"] not in groups or pd.isna(row["q25_ml"]) or pd.isna(row["q75_ml"]):
            continue
        place = quartile + width * (groups.index(row["sex"]) - (len(groups) - 1) / 2)
        _box(panel, row, place, width * 0.84)
    labels = [ranges.get(quartile, "") for quartile in (1, 2, 3, 4)]
    panel.set_xticks([1, 2, 3, 4], labels, size=style.SMALL_PT)
    panel.set(xlim=(0.5, 4.5))
    panel.set_ylim(bottom=0)
    style.number_ticks(panel.yaxis, 5)


def _box(panel: Axes, row: dict[str, Any], place: float, width: float) -> None:
    colour = style.SEX_COLOUR[row["sex"]]
    whiskers = [row["whisker_low_ml"], row["whisker_high_ml"]]
    known = all(pd.notna(end) for end in whiskers)
    line: dict[str, Any] = {"color": colour, "linewidth": 0.6}
    panel.bxp(
        [
            {
                "med": row["median_ml"],
                "q1": row["q25_ml"],
                "q3": row["q75_ml"],
                "whislo": whiskers[0] if known else row["q25_ml"],
                "whishi": whiskers[1] if known else row["q75_ml"],
                "fliers": [],
            }
        ],
        positions=[place],
        widths=width,
        showfliers=False,
        patch_artist=True,
        manage_ticks=False,
        boxprops={"facecolor": FACE[row["sex"]], "edgecolor": colour, "linewidth": 0.6},
        medianprops={"color": style.INK, "linewidth": 0.9},
        whiskerprops=line,
        capprops=line,
    )


def _range(above: float, to: float) -> str:
    if pd.isna(to):
        return f"over {round(above, 1):g}"
    return f"to {round(to, 1):g}"


def _correlations(analysis: Analysis, structure: str, groups: list[str]) -> list[tuple[str, str]]:
    """Spearman correlation per group, an asterisk where Bonferroni's p is below 0.05."""
    table = analysis.correlations[analysis.correlations["structure"] == structure]
    parts = []
    for sex in groups:
        row = table[table["sex"] == sex]
        if row.empty or pd.isna(row["spearman_rho"].iloc[0]):
            continue
        star = "*" if row["p_bonferroni"].iloc[0] < 0.05 else ""
        word = style.SEX_WORD[sex].lower()
        parts.append(f"{word} {style.number(row['spearman_rho'].iloc[0], 2)}{star}")
    return [(f"ρ {', '.join(parts)}", style.INK)] if parts else []

"""Heat map: structures by organ system, against correlations, slopes, bends and interactions."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.patches import Patch, Rectangle

from cohortvol.drawing import style
from cohortvol.stages.report.figures import rows
from cohortvol.stages.report.figures.panels import Page
from cohortvol.stages.report.figures.systems import by_system
from cohortvol.stages.report.page.sentences.captions import columns
from cohortvol.stages.report.tables.inputs import SLOPE, Analysis

DIVERGING, SEQUENTIAL = "PuOr_r", "Greys"
"""Told apart by people who do not see red or green; the numbers stand in the cells besides."""
_NAME_MM, _HEAD_MM, _FOOT_MM, _GAP_MM = 32.0, 13.0, 9.0, 2.0
_WIDEST_CELL_MM = 15.0
_MOST_ROWS = 52
_SMALLEST_LOG10_Q = 10.0

_Column = tuple[str, dict[str, tuple[float, bool]]]


@dataclass(frozen=True)
class _Block:
    """Columns that share a colour scale: (words above, values) of each."""

    title: str
    columns: list[_Column]
    is_q: bool = False

    def limit(self) -> float:
        """Value of the deepest colour: the 95th percentile, so that one outlier is not all."""
        values = [
            abs(v) for _, cells in self.columns for v, _ in cells.values() if math.isfinite(v)
        ]
        return max(float(np.quantile(values, 0.95)), 1e-9) if values else 1.0


def heat_pages(analysis: Analysis, *, level: float) -> Iterator[Page]:
    """Pages of at most 50 structures under their organ systems."""
    structures = analysis.structures()
    blocks = [
        block for block in _blocks(analysis, level) if any(cells for _, cells in block.columns)
    ]
    if not blocks:
        return
    limits = [block.limit() for block in blocks]
    n_columns = sum(len(block.columns) for block in blocks)
    free = style.DOUBLE_COLUMN_MM - _NAME_MM - _GAP_MM * len(blocks)
    cell = min(free / n_columns, _WIDEST_CELL_MM)
    widths = [cell * len(block.columns) for block in blocks]
    table = _table(blocks, structures)
    for part in rows.pages_of_groups(by_system(structures), _MOST_ROWS):
        figure, axes = rows.page(
            part,
            widths,
            row_mm=4.3,
            head_mm=_HEAD_MM,
            foot_mm=_FOOT_MM,
            name_mm=_NAME_MM,
            gap_mm=_GAP_MM,
        )
        for axis, block, limit in zip(axes, blocks, limits, strict=True):
            _draw(axis, block, part, limit)
        rows.key(figure, _entries(level, columns(table)))
        data = table[table["structure"].isin(list(part.places))]
        told = set(data["structure"])  # of the others there are dashes alone
        yield Page(figure, data, [name for name in part.places if name in told])


def _blocks(analysis: Analysis, level: float) -> Iterator[_Block]:
    sexes = analysis.sexes
    groups = ["all", *sexes] if len(sexes) > 1 else sexes
    columns = _by_sex(analysis.correlations, groups, "spearman_rho", "p_bonferroni", 0.05)
    yield _Block("Spearman ρ\nwith age", columns)
    slopes = analysis.slopes
    for model, words in (("M1", "Slope M1,\n%/decade"), ("M2", "Slope M2,\n%/decade")):
        here = slopes[slopes["model"] == model]
        if here[SLOPE].notna().any():
            yield _Block(words, _by_sex(here, sexes, SLOPE, "q_value", level))
    bends = analysis.table("nonlinearity")
    tested = [sex for sex in sexes if (bends["sex"] == sex).any()]
    columns = _by_sex(bends, tested, "q_value", "q_value", level)
    yield _Block("Bend,\nq", columns, is_q=True)
    between = analysis.interactions
    if len(between) and between["difference_pct_per_decade"].notna().any():
        model = max(between["model"])
        here = between[between["model"] == model]
        cells = _cells(here, "difference_pct_per_decade", "q_value", level)
        yield _Block("Men against\nwomen, %", [(model, cells)])


def _by_sex(
    table: pd.DataFrame, sexes: list[str], value: str, probability: str, level: float
) -> list[_Column]:
    """`_cells` of each sex under its name."""
    return [
        (style.SEX_WORD[sex], _cells(table[table["sex"] == sex], value, probability, level))
        for sex in sexes
    ]


def _cells(
    table: pd.DataFrame, value: str, probability: str, level: float
) -> dict[str, tuple[float, bool]]:
    """Value of each structure, and whether its p or q is below the level."""
    return {
        row["structure"]: (float(row[value]), bool(row[probability] < level))
        for row in table.to_dict("records")
        if pd.notna(row[value])
    }


def _draw(axis: Axes, block: _Block, part: rows.Rows, limit: float) -> None:
    axis.set_xlim(-0.5, len(block.columns) - 0.5)
    axis.set_xticks([])
    for side in ("left", "bottom"):
        axis.spines[side].set_visible(False)
    middle = (len(block.columns) - 1) / 2
    head: dict[str, Any] = {"textcoords": "offset points", "ha": "center", "annotation_clip": False}
    axis.annotate(
        block.title,
        (middle, -0.5),
        (0, 12.5),
        weight="bold",
        size=style.LABEL_PT,
        va="bottom",
        **head,
    )
    for place, (words, cells) in enumerate(block.columns):
        axis.annotate(words, (place, -0.5), (0, 4), size=style.SMALL_PT, **head)
        for name, row in part.places.items():
            value, found = cells.get(name, (math.nan, False))
            face = _colour(block, value, limit)
            axis.add_patch(
                Rectangle(
                    (place - 0.5, row - 0.5), 1, 1, facecolor=face, edgecolor="white", linewidth=0.6
                )
            )
            axis.text(
                place,
                row + 0.04,
                _words(block, value),
                ha="center",
                va="center",
                size=style.LEAST_PT + 0.3,
                weight="bold" if found else "normal",
                color="white" if _is_dark(face) else style.INK if found else "#4a4f55",
            )


def _colour(block: _Block, value: float, limit: float) -> str:
    if not math.isfinite(value):
        return "#ffffff"
    if block.is_q:
        depth = min(-math.log10(max(value, 1e-300)), _SMALLEST_LOG10_Q) / _SMALLEST_LOG10_Q
        return to_hex(matplotlib.colormaps[SEQUENTIAL](0.02 + 0.6 * depth))
    return to_hex(matplotlib.colormaps[DIVERGING](0.5 + 0.42 * max(-1, min(1, value / limit))))


def _is_dark(colour: str) -> bool:
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return 0.299 * red + 0.587 * green + 0.114 * blue < 120


def _words(block: _Block, value: float) -> str:
    if not math.isfinite(value):
        return "–"
    if block.is_q:
        return "<0.001" if value < 0.001 else style.number(value, 3 if value < 0.1 else 2)
    return style.number(value, 2 if "ρ" in block.title else 1)


def _table(blocks: list[_Block], structures: list[str]) -> pd.DataFrame:
    """The values, one row per structure and column."""
    found: list[Mapping[str, Any]] = [
        {
            "structure": name,
            "statistic": block.title.replace("\n", " "),
            "of": words,
            "value": cells[name][0],
            "below_level": cells[name][1],
        }
        for name in structures
        for block in blocks
        for words, cells in block.columns
        if name in cells
    ]
    return pd.DataFrame(found)


def _entries(level: float, shown: list[str]) -> list[Patch]:
    """What colours and letters mean in the columns that are there."""
    low, high = (to_hex(matplotlib.colormaps[DIVERGING](0.5 + side * 0.42)) for side in (-1, 1))
    entries = [
        Patch(facecolor=low, label="smaller at higher age"),
        Patch(facecolor=high, label="larger"),
    ]
    if "bends" in shown:
        entries.append(Patch(facecolor="#8a8a8a", label="the trend bends"))
    bold = [f"q < {level:g}"] * bool(set(shown) - {"correlations"})
    bold += ["ρ: Bonferroni p < 0.05"] * ("correlations" in shown)
    return [*entries, Patch(facecolor="none", label=f"bold: {'; '.join(bold)}")]

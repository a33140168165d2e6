"""Volume against age: small multiples, one panel per structure, both sexes in each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from cohortvol import style
from cohortvol.report import disclosure
from cohortvol.report.inputs import Analysis

COLUMNS, ROWS = 3, 4
MODEL, SPLINE = "M1", "spline"
"""The model whose curve and interval are drawn, and the one drawn thin beside it."""
MOST_POINTS = 500
"""With more scans than this in a panel, counts in hexagons are drawn and not single points."""

_PANEL_MM, _HEAD_MM, _FOOT_MM, _TOP_MM = 35.0, 11.5, 8.0, 5.5
_LEFT_MM, _RIGHT_MM, _GUTTER_MM = 12.0, 2.0, 12.5
_HEXAGONS, _PUBLIC_HEXAGONS = 26, 14
_SHOWN_QUANTILES, _PUBLIC_QUANTILES = (0.003, 0.997), (0.02, 0.98)


@dataclass(frozen=True)
class TrendPage:
    """One page of small multiples."""

    figure: Figure
    data: pd.DataFrame
    structures: list[str]
    binned: bool


def trend_pages(
    analysis: Analysis, points: pd.DataFrame, *, public: bool = False
) -> Iterator[TrendPage]:
    """Pages of at most 12 panels, in the order of the slopes table.

    Parameters
    ----------
    analysis : Analysis
        The fitted curves and slopes to draw.
    points : pandas.DataFrame
        structure, sex, age_years, volume_ml of every scan behind them.
    public : bool
        Draw no scan by itself, and no cell of a few.
    """
    curves = analysis.curves
    slopes = analysis.slopes[analysis.slopes["model"] == MODEL]
    by_structure = dict(tuple(points.groupby("structure", sort=False)))
    empty = points.iloc[:0]
    structures = [name for name in analysis.structures() if name in by_structure]
    ages = _age_range(points)
    if public:
        ages = disclosure.whole_decades(ages)
    per_page = COLUMNS * ROWS
    n_pages = -(-len(structures) // per_page)
    per_page = COLUMNS * -(-len(structures) // (COLUMNS * n_pages)) if n_pages else per_page
    for start in range(0, len(structures), per_page):
        names = structures[start : start + per_page]
        figure, panels = _grid(len(names))
        data, binned = [], False
        for panel, name in zip(panels, names, strict=True):
            here = by_structure.get(name, empty)
            fit = curves[curves["structure"] == name]
            drawn, hexagons = _draw_panel(panel, here, fit, ages, public=public)
            _head(panel, name, slopes[slopes["structure"] == name])
            data.append(drawn.assign(structure=name))
            binned |= hexagons
        figure.align_ylabels(panels)
        _key(figure, binned=binned, splines=bool((curves["model"] == SPLINE).any()))
        yield TrendPage(figure, pd.concat(data, ignore_index=True), names, binned)


def _age_range(points: pd.DataFrame) -> tuple[float, float]:
    if points.empty:
        return 0.0, 100.0
    return float(points["age_years"].min()), float(points["age_years"].max())


def _grid(n: int) -> tuple[Figure, list[Axes]]:
    rows = -(-n // COLUMNS)
    height = _TOP_MM + rows * (_PANEL_MM + _HEAD_MM + _FOOT_MM)
    figure = style.new_figure(style.DOUBLE_COLUMN_MM, height)
    free = style.DOUBLE_COLUMN_MM - _LEFT_MM - _RIGHT_MM - _GUTTER_MM * (COLUMNS - 1)
    width = free / COLUMNS
    panels = []
    for number in range(n):
        row, column = divmod(number, COLUMNS)
        left = _LEFT_MM + column * (width + _GUTTER_MM)
        top = _TOP_MM + row * (_PANEL_MM + _HEAD_MM + _FOOT_MM) + _HEAD_MM
        bottom = height - top - _PANEL_MM
        panel = figure.add_axes(
            (
                left / style.DOUBLE_COLUMN_MM,
                bottom / height,
                width / style.DOUBLE_COLUMN_MM,
                _PANEL_MM / height,
            )
        )
        panel.set_xlabel("Age (years)", labelpad=2)
        if column == 0:
            panel.set_ylabel("Volume (mL)", labelpad=2)
        panels.append(panel)
    return figure, panels


def _draw_panel(
    panel: Axes,
    points: pd.DataFrame,
    fit: pd.DataFrame,
    ages: tuple[float, float],
    *,
    public: bool,
) -> tuple[pd.DataFrame, bool]:
    binned = public or len(points) > MOST_POINTS
    low, high = _volume_range(points, fit, binned=binned, public=public)
    span = max(ages[1] - ages[0], 1.0)
    panel.set(xlim=(ages[0] - 0.03 * span, ages[1] + 0.03 * span), ylim=(low, high))
    drawn = _hexagons(panel, points, public=public) if binned else _points(panel, points)
    for sex in ("F", "M"):
        _draw_fit(panel, fit[fit["sex"] == sex].sort_values("age_years"), sex)
    panel.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    panel.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    panel.yaxis.set_major_formatter(lambda value, _: style.number(value, _digits(high)))
    data = pd.concat([drawn, fit.assign(kind="fit")], ignore_index=True)
    columns = ["structure", "kind", "sex", "model", "age_years", "volume_ml", "n"]
    columns += ["volume_ml_ci_low", "volume_ml_ci_high"]
    return data.reindex(columns=columns), binned


def _draw_fit(panel: Axes, fit: pd.DataFrame, sex: str) -> None:
    colour = style.SEX_COLOUR[sex]
    curve = fit[fit["model"] == MODEL]
    age, volume_ml = curve["age_years"].to_numpy(float), curve["volume_ml"].to_numpy(float)
    low, high = (curve[f"volume_ml_ci_{end}"].to_numpy(float) for end in ("low", "high"))
    panel.fill_between(age, low, high, color=colour, alpha=0.22, linewidth=0, zorder=3)
    panel.plot(age, volume_ml, color="white", linewidth=2.0, alpha=0.75, zorder=4)
    panel.plot(age, volume_ml, color=colour, linestyle=style.SEX_LINE[sex], linewidth=1.1, zorder=5)
    bent = fit[fit["model"] == SPLINE]
    panel.plot(
        bent["age_years"].to_numpy(float),
        bent["volume_ml"].to_numpy(float),
        color=style.SEX_DARK[sex],
        linestyle=(0, (0.8, 1.0)),
        linewidth=0.8,
        zorder=6,
    )


def _digits(high: float) -> int:
    return 0 if high >= 5 else 1


def _volume_range(
    points: pd.DataFrame, fit: pd.DataFrame, *, binned: bool, public: bool
) -> tuple[float, float]:
    values = points["volume_ml"].to_numpy(float)
    shown = _PUBLIC_QUANTILES if public else _SHOWN_QUANTILES
    edges = list(np.quantile(values, shown)) if len(values) else []
    if len(values) and not binned:
        edges = [values.min(), values.max()]
    edges += [fit["volume_ml"].min(), fit["volume_ml"].max()] if len(fit) else []
    if not edges:
        return 0.0, 1.0
    low, high = min(edges), max(edges)
    margin = 0.05 * max(high - low, 1e-6)
    return max(0.0, low - margin), high + margin


def _points(panel: Axes, points: pd.DataFrame) -> pd.DataFrame:
    for sex, marker in (("F", "o"), ("M", "^")):
        here = points[points["sex"] == sex]
        panel.scatter(
            here["age_years"].to_numpy(float),
            here["volume_ml"].to_numpy(float),
            s=5.0,
            marker=marker,
            facecolor=style.SEX_COLOUR[sex],
            alpha=0.55,
            linewidth=0,
            zorder=2,
        )
    return points.assign(kind="scan").sort_values(["sex", "age_years", "volume_ml"])


def _hexagons(panel: Axes, points: pd.DataFrame, *, public: bool) -> pd.DataFrame:
    """Hexagons coloured by the mix of the sexes in them, darker with more scans."""
    across = _PUBLIC_HEXAGONS if public else _HEXAGONS
    extent = (*panel.get_xlim(), *panel.get_ylim())
    inside = points["volume_ml"].between(*panel.get_ylim())
    counts: dict[str, np.ndarray] = {}
    for sex in ("F", "M"):
        here = points[inside & (points["sex"] == sex)]
        bins = panel.hexbin(
            here["age_years"].to_numpy(float),
            here["volume_ml"].to_numpy(float),
            gridsize=(across, across * 3 // 7),
            extent=extent,
        )
        counts[sex] = np.asarray(bins.get_array(), dtype=float)
        if public:
            counts[sex] = disclosure.hexagon_counts(counts[sex])
        centres = np.asarray(bins.get_offsets())
        outline = np.asarray(bins.get_paths()[0].vertices)[:6]
        bins.remove()
    total = counts["F"] + counts["M"]
    filled = total > 0
    share = (counts["F"][filled] / total[filled])[:, None]
    women, men = (np.array(to_rgb(style.SEX_COLOUR[sex])) for sex in ("F", "M"))
    colour = share * women + (1 - share) * men
    depth = np.log1p(total[filled]) / np.log1p(max(total.max(), 2.0))
    colour = 1 - (1 - colour) * (0.08 + 0.40 * depth[:, None])
    panel.add_collection(
        PolyCollection(
            [outline + centre for centre in centres[filled]],
            facecolors=colour,
            edgecolors=colour,
            linewidths=0.1,
            zorder=1,
        ),
        autolim=False,
    )
    parts = [
        pd.DataFrame(
            {
                "kind": "hexagon",
                "sex": sex,
                "age_years": centres[:, 0],
                "volume_ml": centres[:, 1],
                "n": counts[sex],
            }
        )
        for sex in ("F", "M")
    ]
    table = pd.concat(parts, ignore_index=True)
    if public:
        table["age_years"] = disclosure.top_coded(table["age_years"])
    return table[table["n"] > 0]


def _head(panel: Axes, structure: str, slopes: pd.DataFrame) -> None:
    """Name of the structure, and the slope of each sex in its colour, above the panel."""
    place: dict[str, Any] = {
        "xycoords": "axes fraction",
        "textcoords": "offset points",
        "annotation_clip": False,
    }
    panel.annotate(
        style.display_name(structure), (0, 1), (0, 19), size=style.TITLE_PT, weight="bold", **place
    )
    for sex, above in (("F", 11.5), ("M", 4.5)):
        row = slopes[slopes["sex"] == sex]
        if row.empty or pd.isna(row["slope_pct_per_decade"].iloc[0]):
            text = f"{style.SEX_WORD[sex]}: too few to fit"
        else:
            first = row.iloc[0]
            slope = style.interval(
                first["slope_pct_per_decade"],
                first["slope_pct_per_decade_ci_low"],
                first["slope_pct_per_decade_ci_high"],
            )
            text = f"{style.SEX_WORD[sex]} {slope} %/decade, n = {int(first['n_used']):,}"
        panel.annotate(
            text, (0, 1), (0, above), size=style.SMALL_PT, color=style.SEX_COLOUR[sex], **place
        )


def _key(figure: Figure, *, binned: bool, splines: bool) -> None:
    entries = [
        Line2D(
            [],
            [],
            color=style.SEX_COLOUR[sex],
            linestyle=style.SEX_LINE[sex],
            marker="" if binned else marker,
            markersize=2.4,
            markeredgewidth=0,
            linewidth=1.1,
            label=f"{style.SEX_WORD[sex]}: fit, 95% CI" + ("" if binned else ", scans"),
        )
        for sex, marker in (("F", "o"), ("M", "^"))
    ]
    if binned:
        grey: dict[str, Any] = {
            "marker": "h",
            "markersize": 5,
            "markeredgewidth": 0,
        }
        for sex in ("F", "M"):
            colour = 1 - (1 - np.array(to_rgb(style.SEX_COLOUR[sex]))) * 0.40
            word = f"scans, mostly {style.SEX_WORD[sex].lower()}"
            entries.append(Line2D([], [], color=tuple(colour), linestyle="", label=word, **grey))
    if splines:
        dots: dict[str, Any] = {"linestyle": (0, (0.8, 1.0)), "linewidth": 0.8}
        entries.append(Line2D([], [], color=style.INK, label="spline", **dots))
    height = figure.get_size_inches()[1] * style.MM_PER_INCH
    figure.legend(
        handles=entries,
        loc="upper left",
        bbox_to_anchor=(_LEFT_MM / style.DOUBLE_COLUMN_MM, 1 - 1.2 / height),
        ncols=len(entries),
        frameon=False,
        borderaxespad=0,
        borderpad=0,
        handlelength=2.6,
        columnspacing=1.8,
        handletextpad=0.6,
    )

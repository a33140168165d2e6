"""Forest plots of % per decade: every structure by sex and model; planted beside recovered."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from cohortvol.drawing import style
from cohortvol.stages.report.figures import rows as named_rows
from cohortvol.stages.report.figures.panels import Page
from cohortvol.stages.report.tables.inputs import HIGH, LOW, SLOPE, Analysis

NEGATIVE_CONTROLS = ("stomach", "gallbladder", "urinary_bladder")
"""Hollow organs whose volume follows their filling: a slope here warns of bias elsewhere."""

_ROW_MM, _HEAD_MM, _FOOT_MM = 5.6, 8.0, 13.0
_NAME_MM, _PLOT_MM, _TEXT_MM, _GUTTER_MM = 29.0, 43.0, 32.0, 2.0
_ROWS_PER_PAGE = 40


def forest_pages(
    analysis: Analysis, *, level: float, planted: pd.DataFrame | None = None
) -> Iterator[Page]:
    """Women and men side by side, structures from the steepest fall to the steepest rise.

    Parameters
    ----------
    analysis : Analysis
        Its slopes; where they bend, from the table of bends; and the published slopes.
    level : float
        False discovery rate below which an estimate is marked.
    planted : pandas.DataFrame, optional
        Slopes a simulated cohort was drawn with; they are marked in the same rows.
    """
    slopes = analysis.slopes
    rows = slopes[slopes["sex"].isin(analysis.sexes)].dropna(subset=[SLOPE, LOW, HIGH])
    rows = rows.assign(average=_bends(analysis, rows, level))
    published = published_slopes(analysis) if planted is None else published_slopes(None)
    if planted is not None:
        rows = rows.merge(planted, on=["structure", "sex", "model"], validate="m:1")
    if rows.empty:
        return
    limit = _limit(rows)
    order = _order(slopes, set(rows["structure"]))
    for start in range(0, len(order), _ROWS_PER_PAGE):
        names = order[start : start + _ROWS_PER_PAGE]
        shown = [name for name in names if name]
        here = rows[rows["structure"].isin(shown)]
        beside = published[published["structure"].isin(shown)]
        yield _page(
            here,
            names,
            beside,
            analysis.sexes,
            level=level,
            limit=limit,
            planted=planted is not None,
        )


def _bends(analysis: Analysis, rows: pd.DataFrame, level: float) -> list[bool]:
    """Whether the trend of each row bends, so that its slope is an average."""
    table = analysis.table("nonlinearity")
    bent = table[table["q_value"] < level]
    known = set(zip(bent["structure"], bent["sex"], strict=True))
    return [key in known for key in zip(rows["structure"], rows["sex"], strict=True)]


def published_slopes(analysis: Analysis | None) -> pd.DataFrame:
    """Published slopes in % per decade, as drawn: UNVERIFIED ones never.

    A reference of both sexes together has sex ``all`` and is drawn beside either sex.
    """
    columns = ["structure", "sex", "slope", "age_from", "age_to", "evidence", "modality", "source"]
    if analysis is None:
        return pd.DataFrame(columns=columns)
    table = analysis.published().dropna(subset=["reference_slope_pct_per_decade"])
    return table.rename(
        columns={
            "reference_slope_pct_per_decade": "slope",
            "reference_age_low_years": "age_from",
            "reference_age_high_years": "age_to",
        }
    )[columns]


def _order(slopes: pd.DataFrame, wanted: set[str]) -> list[str]:
    """Structures by slope, a blank row (empty name), then the negative controls."""
    last_model = slopes.dropna(subset=[SLOPE]).sort_values("model", kind="stable")
    mean = last_model.groupby("structure")[SLOPE].last()
    pooled = last_model[last_model["sex"] == "all"].groupby("structure")[SLOPE].last()
    key = pooled.combine_first(mean)
    names = sorted(wanted, key=lambda name: (float(key.get(name, 0.0)), name))
    controls = [name for name in names if name in NEGATIVE_CONTROLS]
    others = [name for name in names if name not in NEGATIVE_CONTROLS]
    return [*others, *([""] if controls and others else []), *controls]


def _limit(rows: pd.DataFrame) -> float:
    """Half-width of the axis, so that a few very wide intervals do not squeeze the others."""
    reach = rows[[LOW, HIGH]].abs().max(axis=1)
    usual = float(np.quantile(reach, 0.9)) * 1.15
    estimates = float(rows[SLOPE].abs().max()) * 1.1
    if "planted_pct_per_decade" in rows:
        estimates = max(estimates, float(rows["planted_pct_per_decade"].abs().max()) * 1.1)
    return max(min(float(reach.max()) * 1.05, max(usual, estimates)), 1.0)


def _page(
    rows: pd.DataFrame,
    names: list[str],
    published: pd.DataFrame,
    sexes: list[str],
    *,
    level: float,
    limit: float,
    planted: bool,
) -> Page:
    body = _ROW_MM * len(names)
    height = _HEAD_MM + body + _FOOT_MM
    figure = style.new_figure(style.DOUBLE_COLUMN_MM, height)
    labels = figure.add_axes(_place(0, style.DOUBLE_COLUMN_MM, height, body))
    labels.set(xlim=(0, style.DOUBLE_COLUMN_MM), ylim=(len(names) - 0.5, -0.5))
    labels.axis("off")
    for place in range(0, len(names), 2):
        if names[place]:
            labels.axhspan(place - 0.5, place + 0.5, color=named_rows.BAND, linewidth=0)
    controls = [name for name in names if name in NEGATIVE_CONTROLS]
    for place, name in enumerate(names):
        if name:
            named_rows.write_name(labels, place, name, _NAME_MM)
        else:
            named_rows.write_heading(labels, place + 0.2, "Negative controls")
    left = _NAME_MM
    for sex in sexes:
        plot = figure.add_axes(_place(left, _PLOT_MM, height, body))
        text = figure.add_axes(_place(left + _PLOT_MM, _TEXT_MM, height, body), sharey=plot)
        here = rows[rows["sex"] == sex]
        _draw_sex(plot, text, here, names, sex=sex, level=level, limit=limit, planted=planted)
        _draw_published(plot, published[published["sex"].isin([sex, "all"])], names, limit)
        left += _PLOT_MM + _TEXT_MM + _GUTTER_MM
    _key(figure, rows, published, planted=planted, level=level)
    shown = [name for name in names if name]
    columns = ["structure", "sex", "model", SLOPE, LOW, HIGH, "p_value", "q_value", "n_used"]
    if planted:
        columns.insert(3, "planted_pct_per_decade")
    data = rows.assign(order=rows["structure"].map({name: i for i, name in enumerate(shown)}))
    data = data.sort_values(["order", "sex", "model"])[[*columns, "average"]]
    data = data.assign(negative_control=data["structure"].isin(controls))
    if len(published):
        beside = published.rename(columns={"slope": SLOPE}).assign(model="published")
        data = pd.concat([data, beside], ignore_index=True)
    return Page(figure, data, shown)


def _place(
    left: float, width: float, height: float, body: float
) -> tuple[float, float, float, float]:
    total = style.DOUBLE_COLUMN_MM
    return left / total, _FOOT_MM / height, width / total, body / height


def _draw_sex(
    plot: Axes,
    text: Axes,
    rows: pd.DataFrame,
    names: list[str],
    *,
    sex: str,
    level: float,
    limit: float,
    planted: bool,
) -> None:
    plot.set(xlim=(-limit, limit), ylim=(len(names) - 0.5, -0.5))
    plot.set_yticks([])
    plot.spines["left"].set_visible(False)
    plot.axvline(0, color=style.INK, linewidth=0.5, zorder=1)
    plot.patch.set_visible(False)
    plot.set_xlabel("% per decade (95% CI)", labelpad=2)
    style.number_ticks(plot.xaxis, 6, symmetric=True)
    colour = style.SEX_COLOUR[sex]
    plot.set_title(
        style.SEX_WORD[sex], color=colour, weight="bold", pad=9, size=style.TITLE_PT, loc="center"
    )
    text.set_xlim(0, _TEXT_MM)
    text.axis("off")
    text.annotate(
        "planted | estimate (95% CI)" if planted else "estimate (95% CI)",
        (_TEXT_MM, -0.5),
        (0, 3),
        textcoords="offset points",
        ha="right",
        size=style.SMALL_PT,
        color=style.QUIET,
        annotation_clip=False,
    )
    models = sorted(rows["model"].unique())
    for row in rows.to_dict("records"):
        offset = 0.0 if len(models) == 1 else (-0.23 if row["model"] == models[0] else 0.23)
        y = names.index(row["structure"]) + offset
        _draw_interval(plot, row, y, colour, limit)
        words = style.interval_of(row, SLOPE)
        if planted:
            true = row["planted_pct_per_decade"]
            plot.plot([true, true], [y - 0.19, y + 0.19], color=style.INK, linewidth=1.0, zorder=5)
            words = f"{style.number(true)} | {words}"
        else:
            words += " *" if row["q_value"] < level else "  "
            words += " †" if row["average"] else "  "
        text.text(_TEXT_MM, y, words, ha="right", va="center_baseline", size=style.SMALL_PT)
    here = set(rows["structure"])
    for y, name in enumerate(names):
        if name and name not in here:
            text.text(_TEXT_MM, y, "–  ", ha="right", va="center_baseline", color=style.QUIET)


def _draw_published(plot: Axes, published: pd.DataFrame, names: list[str], limit: float) -> None:
    """Diamonds between the two models: filled where VERIFIED, hollow where DERIVED."""
    for row in published.to_dict("records"):
        verified = row["evidence"] == "VERIFIED"
        plot.plot(
            min(max(row["slope"], -limit), limit),
            names.index(row["structure"]),
            marker="D",
            markersize=2.9,
            markeredgecolor=style.INK,
            markeredgewidth=0.6,
            markerfacecolor=style.INK if verified else "white",
            linestyle="",
            zorder=5,
            clip_on=False,
        )


def _draw_interval(plot: Axes, row: Mapping[str, Any], y: float, colour: str, limit: float) -> None:
    low, high = max(row[LOW], -limit), min(row[HIGH], limit)
    plot.plot([low, high], [y, y], color=colour, linewidth=0.8, zorder=3, solid_capstyle="butt")
    for edge, beyond, marker in ((low, row[LOW] < -limit, "<"), (high, row[HIGH] > limit, ">")):
        if beyond:
            plot.plot(edge, y, marker=marker, color=colour, markersize=2.4, clip_on=False, zorder=3)
    plot.plot(
        row[SLOPE],
        y,
        marker="o",
        markersize=3.0,
        markeredgecolor=colour,
        markeredgewidth=0.8,
        markerfacecolor="white" if row["model"] == "M1" else colour,
        linestyle="",
        zorder=4,
    )


def _key(
    figure: Figure,
    rows: pd.DataFrame,
    published: pd.DataFrame,
    *,
    planted: bool,
    level: float,
) -> None:
    words = {"M1": "M1: unadjusted", "M2": "M2: adjusted, see the caption"}
    dot: dict[str, Any] = {"marker": "o", "linestyle": "-", "linewidth": 0.8, "markersize": 3.0}
    entries = [
        Line2D(
            [],
            [],
            color=style.INK,
            markerfacecolor="white" if model == "M1" else style.INK,
            label=words.get(model, model),
            **dot,
        )
        for model in sorted(rows["model"].unique())
    ]
    if planted:
        bar: dict[str, Any] = {
            "marker": "|",
            "linestyle": "",
            "markersize": 5,
            "markeredgewidth": 1.0,
        }
        entries.append(Line2D([], [], color=style.INK, label="planted slope", **bar))
    else:
        marks = f"* q < {level:g} (false discovery rate)"
        if rows["average"].any():
            marks += "   † average: the trend bends"
        for evidence, face in (("VERIFIED", style.INK), ("DERIVED", "white")):
            if (published["evidence"] == evidence).any():
                entries.append(
                    Line2D(
                        [],
                        [],
                        color=style.INK,
                        linestyle="",
                        marker="D",
                        markersize=2.9,
                        markeredgewidth=0.6,
                        markerfacecolor=face,
                        label=f"published, {evidence.lower()}",
                    )
                )
        entries.append(Line2D([], [], linestyle="", label=marks))
    named_rows.key(figure, entries, spacing=1.8)

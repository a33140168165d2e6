"""Volume against age: small multiples, one panel per structure, both sexes in each."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from cohortvol.drawing import style
from cohortvol.stages.report.figures import panels
from cohortvol.stages.report.figures.panels import Page, Shape
from cohortvol.stages.report.page.sentences.captions import SPLINE, curve_kinds
from cohortvol.stages.report.tables.inputs import SLOPE, Analysis

MODEL = "M1"
"""The straight fit, whose slope stands above a panel, and the curve drawn with its interval."""

_SHAPE = Shape()
_SHOWN_QUANTILES = (0.003, 0.997)
_BOX_YEARS = 4.0
"""Width of the box of a reference that names one age."""


def trend_pages(analysis: Analysis, points: pd.DataFrame) -> Iterator[Page]:
    """Pages of at most 12 panels, in the order of the slopes table.

    Parameters
    ----------
    analysis : Analysis
        The fitted curves and slopes to draw, and the published values behind them.
    points : pandas.DataFrame
        structure, sex, age_years, volume_ml of every scan behind them; none on a public page,
        which shows the curves alone.
    """
    curves = analysis.curves
    slopes = analysis.slopes[analysis.slopes["model"] == MODEL]
    published = references(analysis)
    by_structure = dict(tuple(points.groupby("structure", sort=False)))
    structures = analysis.structures(by_structure or curves["structure"])
    ages = _age_range(points if len(points) else curves)
    for names in panels.pages_of(structures, _SHAPE):
        figure, axes = panels.grid(len(names), _SHAPE, x="Age (years)", y="Volume (mL)")
        parts = []
        for panel, name in zip(axes, names, strict=True):
            fit = curves[curves["structure"] == name]
            values = published[published["structure"] == name]
            people = by_structure.get(name, points.iloc[:0])
            drawn = _draw_panel(panel, people, fit, values, ages)
            lines = _slopes_in_words(slopes[slopes["structure"] == name], analysis.sexes)
            panels.head(panel, style.display_name(name), lines)
            parts.append(drawn.assign(structure=name))
        figure.align_ylabels(axes)
        data = pd.concat(parts, ignore_index=True)
        _key(figure, data)
        yield Page(figure, data, names)


def references(analysis: Analysis) -> pd.DataFrame:
    """Published volumes that can be drawn: a mean with an SD at an age; UNVERIFIED ones never."""
    table = analysis.published()
    at = table["reference_age_ref_years"].notna() | table["reference_age_low_years"].notna()
    return table[at].dropna(subset=["reference_mean_ml", "reference_sd_ml"])


def _age_range(rows: pd.DataFrame) -> tuple[float, float]:
    if rows.empty:
        return 0.0, 100.0
    return float(rows["age_years"].min()), float(rows["age_years"].max())


def _draw_panel(
    panel: Axes,
    points: pd.DataFrame,
    fit: pd.DataFrame,
    published: pd.DataFrame,
    ages: tuple[float, float],
) -> pd.DataFrame:
    low, high = _volume_range(points, fit)
    span = max(ages[1] - ages[0], 1.0)
    panel.set(xlim=(ages[0] - 0.03 * span, ages[1] + 0.03 * span), ylim=(low, high))
    drawn = panels.draw_people(panel, points, "age_years", "volume_ml")
    shown = [_draw_reference(panel, row) for row in published.to_dict("records")]
    for sex in ("F", "M", "all"):
        _draw_fit(panel, fit[fit["sex"] == sex].sort_values("age_years"), sex)
    style.number_ticks(panel.xaxis, 5, integer=True)
    style.number_ticks(panel.yaxis, 5)
    data = pd.concat([drawn, fit.assign(kind="fit"), pd.DataFrame(shown)], ignore_index=True)
    columns = ["structure", "kind", "sex", "model", "age_years", "volume_ml", "n"]
    columns += ["volume_ml_ci_low", "volume_ml_ci_high"]
    columns += ["sd_ml", "reference_n", "evidence", "source"] if shown else []
    return data.reindex(columns=columns)


def _draw_reference(panel: Axes, row: dict[str, Any]) -> dict[str, Any]:
    """A box from one SD below the mean to one above, over the ages of the reference."""
    mean, sd = float(row["reference_mean_ml"]), float(row["reference_sd_ml"])
    at, start, end = (float(row[f"reference_age_{age}_years"]) for age in ("ref", "low", "high"))
    if np.isfinite(at):
        start, end = at - _BOX_YEARS / 2, at + _BOX_YEARS / 2
    at = (start + end) / 2
    colour = style.SEX_DARK[row["sex"]]
    verified = row["evidence"] == "VERIFIED"
    box: dict[str, Any] = {"xy": (start, mean - sd), "width": end - start, "height": 2 * sd}
    line: dict[str, Any] = {"linestyle": "-" if verified else (0, (2, 1.2)), "linewidth": 0.6}
    panel.add_patch(Rectangle(**box, facecolor=colour, alpha=0.16, linewidth=0, zorder=2))
    panel.add_patch(Rectangle(**box, fill=False, edgecolor=colour, zorder=2.5, **line))
    panel.plot(
        at,
        mean,
        marker="D",
        markersize=2.8,
        markeredgewidth=0.7,
        markeredgecolor=colour,
        markerfacecolor=colour if verified else "white",
        zorder=7,
    )
    return {
        "kind": "published",
        "sex": row["sex"],
        "age_years": at,
        "volume_ml": mean,
        "sd_ml": sd,
        "reference_n": row["reference_n"],
        "evidence": row["evidence"],
        "source": row["source"],
    }


def _draw_fit(panel: Axes, fit: pd.DataFrame, sex: str) -> None:
    straight, bent = fit[fit["model"] == MODEL], fit[fit["model"] == SPLINE]
    main = bent if len(bent) else straight
    colour = style.SEX_COLOUR[sex]
    age, volume_ml = main["age_years"].to_numpy(float), main["volume_ml"].to_numpy(float)
    low, high = (main[f"volume_ml_ci_{end}"].to_numpy(float) for end in ("low", "high"))
    panel.fill_between(age, low, high, color=colour, alpha=0.30, linewidth=0, zorder=3)
    panel.plot(age, volume_ml, color="white", linewidth=2.0, alpha=0.75, zorder=4)
    panel.plot(age, volume_ml, color=colour, linestyle=style.SEX_LINE[sex], linewidth=1.1, zorder=5)
    if len(bent):
        panel.plot(
            straight["age_years"].to_numpy(float),
            straight["volume_ml"].to_numpy(float),
            color=style.SEX_DARK[sex],
            linestyle=(0, (0.8, 1.0)),
            linewidth=0.8,
            zorder=6,
        )


def _volume_range(points: pd.DataFrame, fit: pd.DataFrame) -> tuple[float, float]:
    values = points["volume_ml"].to_numpy(float)
    edges = list(np.quantile(values, _SHOWN_QUANTILES)) if len(values) else []
    if len(values) and not panels.are_binned(points):
        edges = [values.min(), values.max()]
    edges += [fit["volume_ml"].min(), fit["volume_ml"].max()] if len(fit) else []
    if len(fit) and not len(values):
        edges += [fit["volume_ml_ci_low"].min(), fit["volume_ml_ci_high"].max()]
    if not edges:
        return 0.0, 1.0
    low, high = min(edges), max(edges)
    margin = 0.05 * max(high - low, 0.1 * high)
    return max(0.0, low - margin), high + margin


def _slopes_in_words(slopes: pd.DataFrame, sexes: list[str]) -> list[tuple[str, str]]:
    """The slope of each sex, in its colour."""
    lines = []
    for sex in sexes:
        row = slopes[slopes["sex"] == sex]
        if row.empty or pd.isna(row[SLOPE].iloc[0]):
            few = row.empty or "ANA_TOO_FEW" in str(row["note"].iloc[0])
            text = f"{style.SEX_WORD[sex]}: {'too few to fit' if few else 'not estimated'}"
        else:
            first = row.iloc[0]
            slope = style.interval_of(first, SLOPE)
            text = f"{style.SEX_WORD[sex]} {slope} %/decade, n = {style.count(first['n_used'])}"
        lines.append((text, style.SEX_COLOUR[sex]))
    return lines


def _key(figure: Figure, data: pd.DataFrame) -> None:
    kinds = curve_kinds(data)
    entries = []
    for sex, word in style.SEX_WORD.items():
        here = [models for (_, whose), models in kinds.items() if whose == sex]
        bent = [SPLINE in models for models in here]
        what = "spline" if all(bent) else "spline or line" if any(bent) else "fit"
        line: dict[str, Any] = {"linestyle": style.SEX_LINE[sex], "linewidth": 1.1}
        label = f"{word}: {what}, 95% CI"
        if here:
            entries.append(Line2D([], [], color=style.SEX_COLOUR[sex], label=label, **line))
    if any(len(models) > 1 for models in kinds.values()):
        dots: dict[str, Any] = {"linestyle": (0, (0.8, 1.0)), "linewidth": 0.8}
        entries.append(Line2D([], [], color=style.INK, label="straight", **dots))
    entries += panels.people_key(data)
    told = set(data["evidence"].dropna()) if "evidence" in data else set()
    for evidence, face in (("VERIFIED", style.INK), ("DERIVED", "white")):
        if evidence in told:
            entries.append(
                Line2D(
                    [],
                    [],
                    color=style.INK,
                    linewidth=0.6,
                    marker="D",
                    markersize=2.6,
                    linestyle="-" if evidence == "VERIFIED" else (0, (1.5, 1.2)),
                    markerfacecolor=face,
                    markeredgewidth=0.6,
                    label=f"published, {evidence.lower()}",
                )
            )
    panels.key(figure, entries)

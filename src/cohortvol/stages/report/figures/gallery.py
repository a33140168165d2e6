"""Every figure of a report, in the order of the page, or why one is left out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from cohortvol import reasons
from cohortvol.drawing import style
from cohortvol.stages.report.figures import (
    boxes,
    centile_charts,
    forest,
    heatmap,
    missing,
    repeats,
    sensitivity,
    sides,
    trends,
    volumes,
    worms,
)
from cohortvol.stages.report.figures.boxes import GROUPS
from cohortvol.stages.report.figures.panels import Page
from cohortvol.stages.report.page.sentences import captions, notices
from cohortvol.stages.report.tables.flow import Flow, flow_figure
from cohortvol.stages.report.tables.inputs import HIGH, LOW, Analysis

NAMES = (
    *("flow", "volumes", "trends", "centiles", "worms", "forest", "quartiles", "heatmap", "sides"),
    *("missing", "sensitivity", "repeats", "planted"),
)
"""Figures: the name is that of their files and of their caption."""


@dataclass(frozen=True)
class Drawn:
    """A figure before it is saved."""

    name: str
    figure: Figure
    data: pd.DataFrame
    context: dict[str, Any]
    title: str
    """What stands above its caption."""
    alt: str
    page: int = 1

    @property
    def stem(self) -> str:
        """Name of its files, without suffix."""
        return self.name if self.page == 1 else f"{self.name}_{self.page}"


@dataclass(frozen=True)
class Subject:
    """What all figures are drawn from."""

    analysis: Analysis
    measured: pd.DataFrame
    """Every volume that can be used; see `inputs.read_measured`."""
    flow: Flow
    planted: pd.DataFrame | None = None
    public: bool = False
    level: float = 0.05

    @property
    def points(self) -> pd.DataFrame:
        """Those of known age and sex."""
        return self.measured.dropna(subset=["age_years", "sex"])


def draw(subject: Subject) -> Iterator[Drawn]:
    """All figures that have something to show."""
    yield _flow(subject.flow)
    for name, pages in _kinds(subject):
        found = list(pages)
        more = _inside(found) if found and name == "planted" else {}
        for number, page in enumerate(found, start=1):
            here = more | _of_page(name, page, subject, number=number, n_pages=len(found))
            sexes = subject.analysis.sexes
            if name == "volumes":  # also of those whose age is not known
                sexes = [sex for sex in GROUPS if sex != "all" and (page.data["sex"] == sex).any()]
            title = captions.title(name, page.data, sexes)
            alt = captions.alt(name, page.data, sexes, page.structures)
            yield Drawn(name, page.figure, page.data, here, title, alt, number)


def _kinds(subject: Subject) -> Iterator[tuple[str, Iterable[Page]]]:
    """Name and pages of each kind of figure."""
    analysis, points = subject.analysis, subject.points
    if not analysis.has_trends:
        yield "volumes", volumes.volume_pages(analysis, subject.measured, public=subject.public)
    if analysis.has_trends or points["age_years"].nunique() > 1:
        yield "trends", trends.trend_pages(analysis, points)
    if not analysis.has_trends:
        yield "sides", sides.side_pages(analysis, points)
        yield "missing", missing.missing_pages(analysis)
        return
    yield "centiles", centile_charts.centile_pages(analysis)
    yield "worms", worms.worm_pages(analysis)
    yield "forest", forest.forest_pages(analysis, level=subject.level)
    yield "quartiles", boxes.box_pages(analysis)
    yield "heatmap", heatmap.heat_pages(analysis, level=subject.level)
    yield "sides", sides.side_pages(analysis, points)
    yield "missing", missing.missing_pages(analysis)
    yield "sensitivity", sensitivity.sensitivity_pages(analysis)
    yield "repeats", repeats.repeat_pages(analysis)
    if subject.planted is not None:
        pages = forest.forest_pages(analysis, level=subject.level, planted=subject.planted)
        yield "planted", pages


def _flow(flow: Flow) -> Drawn:
    sentences = {code: reason.sentence for code, reason in reasons.load().items()}
    figure, data = flow_figure(flow, sentences)
    alt = f"Flow diagram. {flow.sentence()} {style.count(flow.usable)} scans usable for trends."
    return Drawn("flow", figure, data, {}, captions.title("flow", data, []), alt)


def _of_page(
    name: str, page: Page, subject: Subject, *, number: int, n_pages: int
) -> dict[str, Any]:
    """What a caption may say of its page."""
    data, analysis = page.data, subject.analysis
    context: dict[str, Any] = {
        "page": number,
        "n_pages": n_pages,
        "public": subject.public,
        "n_range": _range_of_n(data),
        "suppress_below": analysis.settings.get("suppress_below", 5),
    }
    if name in ("trends", "sides"):
        context["scans"] = captions.scans(data)
        context["binned"] = bool((data["kind"] == "hexagon").any())
    if name == "volumes":
        context["shapes"] = captions.shapes(set(data.loc[data["kind"] == "scan", "sex"]))
    if name == "trends":
        context["n_drawn"] = captions.n_drawn(data)
        context["n_points"] = int(subject.points["structure"].isin(page.structures).sum())
        context["lines"] = captions.lines(data, notices.on_age(analysis))
        context["published"] = "evidence" in data
    if name == "heatmap":
        context["columns"] = captions.columns(data)
    if name == "missing":
        context["groups"] = captions.groups_of_missing(data)
    if name == "sides":
        changes = analysis.table("asymmetry")["slope_points_per_decade"]
        context["change"] = bool(changes.notna().any())
    if name == "forest":
        context["controls"] = bool(data["negative_control"].fillna(False).any())
        context["average"] = bool(data["average"].fillna(False).any())
        context["dashes"] = captions.lacks_slopes(data, page.structures, analysis.sexes)
        context["published"] = "evidence" in data
    if name == "centiles":
        context["worst"] = _worst(analysis)
        context["families"] = _families(data)
        context["drawn_at"] = list(dict.fromkeys(data["drawn_at"].dropna()))
    if name == "worms":
        context["n_drawn"] = style.count(len(data))
        context["n_outside"] = style.count(int((data["deviation"].abs() > data["limit"]).sum()))
    if name == "repeats":
        context["n_rescanned"] = _range_of_n(data, "n_rescanned")
        years = data["years_between_median"].dropna()
        context["years"] = f"{years.median():.1f}" if len(years) else ""
    return context


def _range_of_n(data: pd.DataFrame, column: str = "") -> str:
    """``3,860 to 3,993``: people or scans behind the numbers of a page; empty if not told."""
    names = [column] if column else [name for name in ("n_used", "n", "n_scans") if name in data]
    counts = data[names[0]].dropna() if names else pd.Series(dtype=float)
    counts = counts[counts > 0]
    if counts.empty:
        return ""
    low, high = int(counts.min()), int(counts.max())
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


FAMILIES = {
    "BCCG": "Box-Cox Cole-Green (LMS)",
    "BCT": "Box-Cox t",
    "SHASH": "SHASH of ln(volume)",
    "BCCG_low": "LMS with a share of far smaller volumes",
    "BCCG_high": "LMS with a share of far larger volumes",
    "BCCG_both": "LMS with shares of far smaller and larger volumes",
}


def _families(data: pd.DataFrame) -> str:
    """Of the curves of a page, the commonest first."""
    return " or ".join(FAMILIES[name] for name in data["family"].value_counts().index)


def _worst(analysis: Analysis) -> str:
    """Greatest difference of observed and claimed share of people below a centile, points."""
    table = analysis.table("calibration")
    points = table[table["method"] == "model"]["difference_points"].abs().dropna()
    return style.number(float(points.max())) if len(points) else ""


def _inside(pages: list[Page]) -> dict[str, Any]:
    """How many intervals hold the slope that was planted."""
    rows = pd.concat([page.data for page in pages])
    held = rows["planted_pct_per_decade"].between(rows[LOW], rows[HIGH])
    return {"n_inside": int(held.sum()), "n_intervals": len(rows)}

"""Small multiples: panels of one size on pages, and many people drawn in a panel."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from cohortvol.drawing import style

Name = TypeVar("Name")

_RIGHT_MM, _KEY_MM = 2.0, 12.0
_HEXAGONS = 26


@dataclass(frozen=True)
class Page:
    """One page of a figure."""

    figure: Figure
    data: pd.DataFrame
    structures: list[str]


@dataclass(frozen=True)
class Shape:
    """Size of a page of panels: millimetres, and how many side by side."""

    panel_mm: float = 35.0
    head_mm: float = 11.5
    foot_mm: float = 8.0
    top_mm: float = 7.0
    columns: int = 3
    gutter_mm: float = 12.5
    left_mm: float = 12.0

    @property
    def row_mm(self) -> float:
        """Height of a row of panels with what stands above and below them."""
        return self.panel_mm + self.head_mm + self.foot_mm

    @property
    def rows(self) -> int:
        """Rows of panels that fit a page."""
        return int((style.MAX_HEIGHT_MM - self.top_mm) // self.row_mm)


def pages_of(names: Sequence[Name], shape: Shape) -> Iterator[list[Name]]:
    """Names of panels in pages that are about equally full, of whole rows."""
    most = shape.columns * shape.rows
    n_pages = -(-len(names) // most)
    each = shape.columns * -(-len(names) // (shape.columns * n_pages)) if n_pages else most
    for start in range(0, len(names), each):
        yield list(names[start : start + each])


def grid(n: int, shape: Shape, *, x: str, y: str) -> tuple[Figure, list[Axes]]:
    """A figure of `n` panels, and the panels from left to right, from top to bottom."""
    height = shape.top_mm + -(-n // shape.columns) * shape.row_mm
    figure = style.new_figure(style.DOUBLE_COLUMN_MM, height)
    free = (
        style.DOUBLE_COLUMN_MM - shape.left_mm - _RIGHT_MM - shape.gutter_mm * (shape.columns - 1)
    )
    width = free / shape.columns
    panels = []
    for number in range(n):
        row, column = divmod(number, shape.columns)
        left = shape.left_mm + column * (width + shape.gutter_mm)
        bottom = height - shape.top_mm - row * shape.row_mm - shape.head_mm - shape.panel_mm
        panel = figure.add_axes(
            (
                left / style.DOUBLE_COLUMN_MM,
                bottom / height,
                width / style.DOUBLE_COLUMN_MM,
                shape.panel_mm / height,
            )
        )
        panel.set_xlabel(x, labelpad=2)
        if column == 0:
            panel.set_ylabel(y, labelpad=2)
        panels.append(panel)
    return figure, panels


def head(panel: Axes, title: str, lines: Iterable[tuple[str, str]] = ()) -> None:
    """Title above a panel, and lines of (text, colour) between the two."""
    place: dict[str, Any] = {
        "xycoords": "axes fraction",
        "textcoords": "offset points",
        "annotation_clip": False,
    }
    lines = list(lines)
    bottom = 4.5
    for text, colour in reversed(lines):
        panel.annotate(text, (0, 1), (0, bottom), size=style.SMALL_PT, color=colour, **place)
        bottom += 7.0
    panel.annotate(title, (0, 1), (0, bottom + 0.5), size=style.TITLE_PT, weight="bold", **place)


def key(figure: Figure, entries: Sequence[Line2D | Any]) -> None:
    """One line of explanations at the top of a figure."""
    height = figure.get_size_inches()[1] * style.MM_PER_INCH
    figure.legend(
        handles=list(entries),
        loc="upper left",
        bbox_to_anchor=(_KEY_MM / style.DOUBLE_COLUMN_MM, 1 - 1.2 / height),
        ncols=_columns([str(entry.get_label()) for entry in entries]),
        frameon=False,
        borderaxespad=0,
        borderpad=0,
        handlelength=2.6,
        columnspacing=1.6,
        handletextpad=0.6,
        labelspacing=0.35,
    )


def _columns(labels: Sequence[str]) -> int:
    """Entries in one line of a key: all, or half of them where all are wider than the page."""
    handle_mm = 8.5  # line, gaps to its text and to the next entry
    width = sum(style.text_width_mm(label, style.LABEL_PT) + handle_mm for label in labels)
    fits = width <= style.DOUBLE_COLUMN_MM - _KEY_MM - _RIGHT_MM
    return len(labels) if fits else -(-len(labels) // 2)


def are_binned(points: pd.DataFrame) -> bool:
    """Whether scans are so many that they are drawn as hexagons."""
    return len(points) > style.MOST_POINTS


def draw_people(panel: Axes, points: pd.DataFrame, x: str, y: str) -> pd.DataFrame:
    """Scans in a panel: single marks, or hexagons where they `are_binned`.

    Parameters
    ----------
    panel : Axes
        With its limits set: hexagons fill them.
    points : pandas.DataFrame
        Columns `x`, `y` and ``sex``.
    x, y : str
        Columns to draw.

    Returns
    -------
    pandas.DataFrame
        What is drawn: ``kind`` (scan or hexagon), ``sex``, `x`, `y`, and ``n`` of a hexagon.
    """
    if are_binned(points):
        return _hexagons(panel, points, x, y)
    for sex, marker in style.SEX_MARKER.items():
        here = points[points["sex"] == sex]
        panel.scatter(
            here[x].to_numpy(float),
            here[y].to_numpy(float),
            s=5.0,
            marker=marker,
            facecolor=style.SEX_COLOUR[sex],
            alpha=0.55,
            linewidth=0,
            zorder=2,
        )
    return points[["sex", x, y]].assign(kind="scan").sort_values(["sex", x, y])


def _hexagons(panel: Axes, points: pd.DataFrame, x: str, y: str) -> pd.DataFrame:
    """Hexagons coloured by the mix of the sexes in them, darker with more scans."""
    extent = (*panel.get_xlim(), *panel.get_ylim())
    inside = points[y].between(*panel.get_ylim()) & points[x].between(*panel.get_xlim())
    sexes = ["all"] if (points["sex"] == "all").any() else ["F", "M"]
    counts: dict[str, np.ndarray] = {}
    for sex in sexes:
        here = points[inside & (points["sex"] == sex)]
        bins = panel.hexbin(
            here[x].to_numpy(float),
            here[y].to_numpy(float),
            gridsize=(_HEXAGONS, _HEXAGONS * 3 // 7),
            extent=extent,
        )
        counts[sex] = np.asarray(bins.get_array(), dtype=float)
        centres = np.asarray(bins.get_offsets())
        outline = np.asarray(bins.get_paths()[0].vertices)[:6]
        bins.remove()
    total = np.sum(list(counts.values()), axis=0)
    filled = total > 0
    colour = sum(
        (n[filled] / total[filled])[:, None] * np.array(to_rgb(style.SEX_COLOUR[sex]))
        for sex, n in counts.items()
    )
    depth = np.log1p(total[filled]) / np.log1p(max(total.max(), 2.0))
    colour = 1 - (1 - np.asarray(colour)) * (0.08 + 0.40 * depth[:, None])
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
        pd.DataFrame({"kind": "hexagon", "sex": sex, x: centres[:, 0], y: centres[:, 1], "n": n})
        for sex, n in counts.items()
    ]
    table = pd.concat(parts, ignore_index=True)
    return table[table["n"] > 0]


def people_key(drawn: pd.DataFrame) -> list[Line2D]:
    """Explanations of what `draw_people` drew: its rows, others are passed over."""
    entries = []
    for kind in ("scan", "hexagon"):
        sexes = set(drawn.loc[drawn["kind"] == kind, "sex"])
        for sex in (sex for sex in style.SEX_MARKER if sex in sexes):
            colour = np.array(to_rgb(style.SEX_COLOUR[sex]))
            word = style.SEX_WORD[sex].lower()
            label = "scans" if sex == "all" else f"{word}: scans"
            face, marker, size = tuple(colour), style.SEX_MARKER[sex], 2.4
            if kind == "hexagon":
                label = f"scans, mostly {word}" if len(sexes) > 1 else label
                face, marker, size = tuple(1 - (1 - colour) * 0.40), "h", 5.0
            entries.append(
                Line2D(
                    [],
                    [],
                    linestyle="",
                    color=face,
                    marker=marker,
                    markersize=size,
                    markeredgewidth=0,
                    label=label,
                )
            )
    return entries

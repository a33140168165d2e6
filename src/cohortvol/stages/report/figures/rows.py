"""Pages with a row for each structure: names on the left, columns of marks beside them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cohortvol.drawing import style

BAND = "#f2f4f7"
NAME_MM, GAP_MM = 36.0, 3.0
"""Widths of the names, and of the space between columns, unless a page says otherwise."""


@dataclass(frozen=True)
class Rows:
    """Names of a page from top to bottom; `heading` says which of them are headings."""

    names: list[str]
    headings: frozenset[int] = frozenset()

    @property
    def places(self) -> dict[str, int]:
        """Row of each structure."""
        return {n: i for i, n in enumerate(self.names) if i not in self.headings}


def pages_of_groups(groups: Sequence[tuple[str, Sequence[str]]], most: int) -> Iterator[Rows]:
    """Groups under their headings, at most `most` rows a page; a group may go on overleaf."""
    names: list[str] = []
    headings: set[int] = set()
    for heading, members in groups:
        for number, member in enumerate(members):
            if len(names) + (2 if number == 0 else 1) > most:
                yield Rows(names, frozenset(headings))
                names, headings = [], set()
            if heading and (number == 0 or not names):
                headings.add(len(names))
                names.append(heading)
            names.append(member)
    if names:
        yield Rows(names, frozenset(headings))


def even_columns(n: int, gap_mm: float = GAP_MM) -> list[float]:
    """Widths of `n` columns that fill a page, mm."""
    return [(style.DOUBLE_COLUMN_MM - NAME_MM - gap_mm * n) / n] * n


def page(
    rows: Rows,
    columns_mm: Sequence[float],
    *,
    row_mm: float,
    head_mm: float,
    foot_mm: float,
    name_mm: float = NAME_MM,
    gap_mm: float = GAP_MM,
) -> tuple[Figure, list[Axes]]:
    """A figure with the names written, and an empty column of marks for each width.

    A column has row 0 at the top, row n - 1 at the bottom, and no y axis of its own.
    """
    n = len(rows.names)
    height = head_mm + n * row_mm + foot_mm
    total = style.DOUBLE_COLUMN_MM
    figure = style.new_figure(total, height)

    def add(left: float, width: float) -> Axes:
        place = (left / total, foot_mm / height, width / total, n * row_mm / height)
        axes = figure.add_axes(place)
        axes.set(ylim=(n - 0.5, -0.5))
        return axes

    labels = add(0, total)
    labels.set_xlim(0, total)
    labels.axis("off")
    band = False
    for place, name in enumerate(rows.names):
        if place in rows.headings:
            band = False
            write_heading(labels, place + 0.08, name)
            continue
        if band := not band:
            labels.axhspan(place - 0.5, place + 0.5, color=BAND, linewidth=0)
        write_name(labels, place, name, name_mm)
    axes, left = [], name_mm
    for width in columns_mm:
        column = add(left, width)
        column.set_yticks([])
        column.spines["left"].set_visible(False)
        column.patch.set_visible(False)
        axes.append(column)
        left += width + gap_mm
    return figure, axes


def write_name(labels: Axes, place: float, name: str, name_mm: float) -> None:
    """The words of a structure, smaller where they would be wider than its column."""
    words = style.display_name(name)
    room = (name_mm - 2.0) / style.text_width_mm(words, style.LABEL_PT)
    size = max(style.LEAST_PT, style.LABEL_PT * min(1.0, room))
    labels.text(1.0, place, words, va="center", size=size)


def write_heading(labels: Axes, place: float, words: str) -> None:
    """What stands above a group of names."""
    labels.text(
        1.0, place, words, va="center", size=style.LABEL_PT, weight="bold", color=style.QUIET
    )


def key(figure: Figure, entries: Sequence[object], *, spacing: float = 1.6) -> None:
    """One line of explanations at the foot of a page of rows."""
    height = figure.get_size_inches()[1] * style.MM_PER_INCH
    figure.legend(
        handles=list(entries),
        loc="lower left",
        bbox_to_anchor=(1.0 / style.DOUBLE_COLUMN_MM, 1.0 / height),
        ncols=len(entries),
        frameon=False,
        borderaxespad=0,
        borderpad=0,
        handlelength=2.2,
        columnspacing=spacing,
        handletextpad=0.6,
    )

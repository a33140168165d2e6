"""Figure of a model against two readers beside the readers against each other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cohortvol.drawing import style
from cohortvol.tools.evaluate.plots import Plot, colour_of

_LINE_MM = 1.7
_GAP_MM = 2.0
_MOST_HEIGHT_MM = 225.0
_EDGES_MM = 21.0
WORDS = {
    "expert": "model, first reader",
    "second": "model, second reader",
    "readers": "the two readers",
}
_MARKERS = {"expert": "o", "second": "s", "readers": "D"}


def reader_plots(readers: pd.DataFrame, models: Sequence[str]) -> Iterator[Plot]:
    """Mean Dice of the three agreements by structure and model, and their difference.

    Parameters
    ----------
    readers : pandas.DataFrame
        Rows of READERS.
    models : sequence of str
        In the order from top to bottom.
    """
    shown = readers[(readers["metric"] == "dice") & readers["readers"].notna()]
    names = [name for name in dict.fromkeys(shown["structure"]) if not pd.isna(name)]
    row_mm = 3 * _LINE_MM * len(models) + _GAP_MM
    per_page = max(1, int((_MOST_HEIGHT_MM - _EDGES_MM) / row_mm))
    for start in range(0, len(names), per_page):
        here = names[start : start + per_page]
        yield _one_page(shown[shown["structure"].isin(here)], here, models, row_mm)


def _one_page(
    shown: pd.DataFrame, names: Sequence[str], models: Sequence[str], row_mm: float
) -> Plot:
    height_mm = row_mm * len(names) + _EDGES_MM
    colours = colour_of(models)
    figure = style.new_figure(style.DOUBLE_COLUMN_MM, height_mm)
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=(3, 2))
    for row in shown.to_dict("records"):
        top = names.index(row["structure"]) * row_mm
        top += (models.index(row["model"]) - len(models) / 2) * 3 * _LINE_MM
        for place, agreement in enumerate(WORDS):
            at = top + (place + 0.5) * _LINE_MM
            _point(left, row, agreement, at, colours[row["model"]])
        _point(right, row, "difference", top + 1.5 * _LINE_MM, colours[row["model"]])
    right.axvline(0, color="#b8c0c8", linewidth=0.6, zorder=0)
    for axis, title in ((left, "Mean Dice"), (right, "Model with readers − readers")):
        axis.set_title(title, loc="left")
        axis.grid(axis="x", color="#e3e7eb", linewidth=0.4)
        axis.set_axisbelow(True)
    left.set_yticks([place * row_mm for place in range(len(names))])
    left.set_yticklabels([style.display_name(name) for name in names])
    left.set_ylim(len(names) * row_mm - row_mm / 2, -row_mm / 2)
    left.set_xlim(right=min(1.005, left.get_xlim()[1]))
    _legend(figure, models, colours)
    figure.subplots_adjust(
        left=0.19, right=0.985, wspace=0.06, top=1 - 15 / height_mm, bottom=6 / height_mm
    )
    columns = ["model", "structure", "n_subjects", "n_pairs", "n_one_reader"]
    numbers = [
        f"{name}{end}" for name in (*WORDS, "difference") for end in ("", "_ci_low", "_ci_high")
    ]
    return Plot(figure, shown[[*columns, *numbers]])


def _point(axis: Axes, row: Mapping[str, Any], agreement: str, at: float, colour: str) -> None:
    """A mean, and its interval where it has one."""
    drawn = style.INK if agreement == "readers" else colour
    limits = [row[f"{agreement}_ci_low"], row[f"{agreement}_ci_high"]]
    if not any(pd.isna(limit) for limit in limits):
        axis.plot(limits, [at, at], color=drawn, linewidth=0.7, solid_capstyle="butt")
    filled = "none" if agreement == "second" else drawn
    axis.plot(
        [row[agreement]], [at], linestyle="", marker=_MARKERS.get(agreement, "o"), markersize=2.6,
        color=drawn, markerfacecolor=filled if filled != "none" else "white", markeredgewidth=0.6,
    )  # fmt: skip


def _legend(figure: Figure, models: Sequence[str], colours: Mapping[str, str]) -> None:
    axis = figure.axes[0]
    handles = [
        axis.plot(
            [], [], linestyle="", marker=_MARKERS[agreement], markersize=3, color=style.INK,
            markerfacecolor="white" if agreement == "second" else style.INK, markeredgewidth=0.6,
        )[0]
        for agreement in WORDS
    ]  # fmt: skip
    words = list(WORDS.values())
    if len(models) > 1:
        handles += [axis.plot([], [], color=colours[model], linewidth=1.6)[0] for model in models]
        words += models
    figure.legend(
        handles, words, loc="upper right", ncols=min(6, len(words)), frameon=False,
        borderaxespad=0.2, handletextpad=0.3,
    )  # fmt: skip

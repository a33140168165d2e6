"""Figures of agreement: box plots by structure and model, and Bland-Altman plots of volumes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cohortvol.drawing import style

BOX_MM = 2.6
_MOST_HEIGHT_MM = 225.0
_COLUMNS, _ROWS = 4, 6
LEAST_FOR_LIMITS = 3


@dataclass(frozen=True)
class Plot:
    """One figure with the data it shows."""

    figure: Figure
    data: pd.DataFrame


def colour_of(models: Sequence[str]) -> dict[str, str]:
    """Colour of each model; an eighth begins again."""
    return {model: style.MANY[place % len(style.MANY)] for place, model in enumerate(models)}


def box_plots(pairs: pd.DataFrame, models: Sequence[str], tolerance_mm: float) -> Iterator[Plot]:
    """Dice and normalised surface Dice by structure, a box per model; as many figures as needed.

    Parameters
    ----------
    pairs : pandas.DataFrame
        Rows of PAIRS.
    models : sequence of str
        In the order from top to bottom.
    tolerance_mm : float
        Of the normalised surface Dice.
    """
    shown = pairs[pairs["dice"].notna()]
    names = list(dict.fromkeys(shown["structure"]))
    row_mm = BOX_MM * len(models) + 2.0
    per_page = max(1, int((_MOST_HEIGHT_MM - 22) / row_mm))
    colours = colour_of(models)
    for start in range(0, len(names), per_page):
        here = names[start : start + per_page]
        height_mm = min(_MOST_HEIGHT_MM, row_mm * len(here) + 22)
        figure = style.new_figure(style.DOUBLE_COLUMN_MM, height_mm)
        axes = figure.subplots(1, 2, sharey=True)
        for axis, metric, title in zip(
            axes, ("dice", "nsd"), ("Dice", f"Surface Dice, {tolerance_mm:g} mm"), strict=True
        ):
            for row, name in enumerate(here):
                for place, model in enumerate(models):
                    chosen = (shown["structure"] == name) & (shown["model"] == model)
                    values = shown.loc[chosen, metric].dropna().to_numpy(dtype=float)
                    at = row * row_mm + (place - (len(models) - 1) / 2) * BOX_MM
                    _box(axis, values, at, colours[model])
            axis.set_xlim(-0.02, 1.02)
            axis.set_title(title, loc="left")
            axis.grid(axis="x", color="#e3e7eb", linewidth=0.4)
            axis.set_axisbelow(True)
        axes[0].set_yticks([row * row_mm for row in range(len(here))])
        axes[0].set_yticklabels([style.display_name(name) for name in here])
        axes[0].set_ylim(len(here) * row_mm - row_mm / 2, -row_mm / 2)
        _legend(figure, models, colours)
        figure.subplots_adjust(
            left=0.19, right=0.985, wspace=0.06, top=1 - 12 / height_mm, bottom=7 / height_mm
        )
        data = shown[shown["structure"].isin(here)][
            ["model", "scan_id", "structure", "dice", "nsd"]
        ]
        yield Plot(figure, data)


def _box(axis: Axes, values: np.ndarray, at: float, colour: str) -> None:
    if len(values) > 1:
        axis.boxplot(
            [values], positions=[at], orientation="horizontal", widths=BOX_MM * 0.72,
            patch_artist=True, manage_ticks=False, showfliers=False,
            boxprops={"facecolor": f"{colour}33", "edgecolor": colour, "linewidth": 0.6},
            medianprops={"color": colour, "linewidth": 1.2},
            whiskerprops={"color": colour, "linewidth": 0.6},
            capprops={"color": colour, "linewidth": 0.6},
        )  # fmt: skip
    axis.plot(
        values, np.full(len(values), at), linestyle="", marker="o", markersize=1.8,
        color=colour, alpha=0.6, markeredgewidth=0,
    )  # fmt: skip


def _legend(figure: Figure, models: Sequence[str], colours: dict[str, str]) -> None:
    handles = [
        figure.axes[0].plot([], [], color=colours[model], marker="o", markersize=3, linestyle="")[0]
        for model in models
    ]
    figure.legend(
        handles, list(models), loc="upper right", ncols=min(4, len(models)), frameon=False,
        borderaxespad=0.2, handletextpad=0.3,
    )  # fmt: skip


def bland_altman(pairs: pd.DataFrame, models: Sequence[str]) -> Iterator[Plot]:
    """Difference of the volumes against their mean, a panel per structure."""
    shown = pairs[pairs["model_ml"].notna() & pairs["volume_error_ml"].notna()]
    names = list(dict.fromkeys(shown["structure"]))
    colours = colour_of(models)
    per_page = _COLUMNS * _ROWS
    for start in range(0, len(names), per_page):
        here = names[start : start + per_page]
        n_rows = -(-len(here) // _COLUMNS)
        height_mm = 36.0 * n_rows + 14
        figure = style.new_figure(style.DOUBLE_COLUMN_MM, height_mm)
        panels = figure.subplots(n_rows, _COLUMNS, squeeze=False).ravel()
        for panel in panels[len(here) :]:
            panel.set_axis_off()
        for panel, name in zip(panels, here, strict=False):
            panel.axhline(0, color="#b8c0c8", linewidth=0.5)
            for model in models:
                chosen = (shown["structure"] == name) & (shown["model"] == model)
                part = shown[chosen]
                _differences(
                    panel,
                    part["expert_ml"].to_numpy(dtype=float),
                    part["volume_error_ml"].to_numpy(dtype=float),
                    colours[model],
                )
            panel.set_title(style.display_name(name), loc="left")
            panel.margins(x=0.08, y=0.15)
        for panel in panels[: len(here)]:
            panel.locator_params(nbins=4)
        figure.supxlabel("Mean of model and expert, mL", fontsize=style.LABEL_PT, y=1 / height_mm)
        figure.supylabel("Model − expert, mL", fontsize=style.LABEL_PT, x=0.004)
        _legend(figure, models, colours)
        figure.subplots_adjust(
            left=0.07, right=0.985, wspace=0.34, hspace=0.5,
            top=1 - 11 / height_mm, bottom=9 / height_mm,
        )  # fmt: skip
        columns = ["model", "scan_id", "structure", "expert_ml", "model_ml", "volume_error_ml"]
        yield Plot(figure, shown[shown["structure"].isin(here)][columns])


def _differences(panel: Axes, expert_ml: np.ndarray, error_ml: np.ndarray, colour: str) -> None:
    panel.plot(
        expert_ml + error_ml / 2, error_ml, linestyle="", marker="o", markersize=2.4,
        color=colour, alpha=0.8, markeredgewidth=0,
    )  # fmt: skip
    if len(error_ml) < LEAST_FOR_LIMITS:
        return
    bias, spread = error_ml.mean(), 1.96 * error_ml.std(ddof=1)
    panel.axhline(bias, color=colour, linewidth=0.8)
    for limit in (bias - spread, bias + spread):
        panel.axhline(limit, color=colour, linewidth=0.6, linestyle=(0, (4, 2)))

"""What agreement with altered copies says of the true Dice: a line from labelled scans."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from scipy.optimize import isotonic_regression
from scipy.stats import spearmanr

from cohortvol.drawing import style
from cohortvol.errors import ConfigError
from cohortvol.models.card import CARD
from cohortvol.models.files import inside, read_object

LEAST_SCANS = 5
"""Labelled scans below which nothing is said of what agreement tells."""
ON_CARD = "consistency"
MARKERS = "os^Dv<>P"


@dataclass(frozen=True)
class Expectation:
    """What Dice scans of some agreement have: a line that never falls, from labelled scans."""

    profile: str
    agreement: tuple[float, ...]
    """Rising."""
    dice: tuple[float, ...]
    """At these."""
    error: float
    """Mean distance from the true Dice of scans that were left out of the line, each in turn."""
    correlation: float | None
    """Spearman's, of agreement and Dice; None where one of them is the same everywhere."""
    n_scans: int
    note: str

    @property
    def correlation_text(self) -> str:
        """With two decimals."""
        return "undefined" if self.correlation is None else f"{self.correlation:.2f}"

    def of(self, agreement: np.ndarray) -> np.ndarray:
        """Expected Dice; beyond the labelled scans that of the nearest."""
        return np.asarray(np.interp(agreement, self.agreement, self.dice))

    @classmethod
    def of_card(cls, folder: Path, profile: str) -> Expectation | None:
        """That on the card of a model, for a profile; None where nobody has measured it."""
        raw = read_object(inside(folder, CARD)).get(ON_CARD)
        if raw is None or raw["profile"] != profile:
            return None
        return cls(**raw | {name: tuple(raw[name]) for name in ("agreement", "dice")})


def expectation(found: pd.DataFrame, profile: str, note: str = "") -> Expectation:
    """The Dice to expect of an agreement, by isotonic regression over all structures together.

    Parameters
    ----------
    found : pandas.DataFrame
        Rows of `cohortvol.tools.judge.consistency.CONSISTENCY` of labelled scans new to the model.
    profile : str
        Inference profile of these.
    note : str
        Which scans.

    Raises
    ------
    ConfigError
        If there are fewer than `LEAST_SCANS` labelled scans.
    """
    known = found[found["dice"].notna()]
    if known["scan"].nunique() < LEAST_SCANS:
        raise ConfigError(
            f"{known['scan'].nunique()} labelled scans; {LEAST_SCANS} are needed to say what "
            "agreement tells"
        )
    agreement, dice = _rising(known)
    varies = known["agreement"].nunique() > 1 and known["dice"].nunique() > 1
    return Expectation(
        profile=profile,
        agreement=tuple(agreement.round(4).tolist()),
        dice=tuple(dice.round(4).tolist()),
        error=round(float((left_out(known) - known["dice"]).abs().mean()), 4),
        correlation=(
            round(float(spearmanr(known["agreement"], known["dice"]).statistic), 3)
            if varies
            else None
        ),
        n_scans=int(known["scan"].nunique()),
        note=note,
    )


def left_out(known: pd.DataFrame) -> pd.Series:
    """Expected Dice of every row by the scans other than its own."""
    expected = pd.Series(np.nan, index=known.index)
    for _, own in known.groupby("scan"):
        expected[own.index] = np.interp(own["agreement"], *_rising(known.drop(own.index)))
    return expected


def _rising(known: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Agreement and fitted Dice at the ends of each step of the isotonic regression."""
    mean = known.groupby("agreement")["dice"].agg(["mean", "size"])
    fitted = isotonic_regression(mean["mean"].to_numpy(), weights=mean["size"].to_numpy()).x
    ends = np.r_[True, np.diff(fitted) != 0] | np.r_[np.diff(fitted) != 0, True]
    return mean.index.to_numpy()[ends], fitted[ends]


def figure_of(known: pd.DataFrame, expected: Expectation) -> Figure:
    """Dice against agreement, a mark per structure, and the expected Dice as a line."""
    figure = style.new_figure(89.0, 78.0)
    axes = figure.add_axes((0.13, 0.13, 0.83, 0.83))
    structures = list(dict.fromkeys(known["structure"]))
    for place, structure in enumerate(structures):
        rows = known[known["structure"] == structure]
        axes.plot(
            rows["agreement"],
            rows["dice"],
            linestyle="none",
            marker=MARKERS[place % len(MARKERS)],
            markersize=3.0,
            markerfacecolor="none",
            markeredgewidth=0.7,
            color=style.MANY[place % len(style.MANY)],
            label=style.display_name(structure) if len(structures) <= len(MARKERS) else None,
        )
    left, low = (np.floor(20 * known[name].min()) / 20 for name in ("agreement", "dice"))
    axes.plot(expected.agreement, expected.dice, color=style.INK, label="expected Dice")
    axes.set(xlim=(left, 1.003), ylim=(low, 1.005))
    axes.set(xlabel="Agreement with altered copies (Dice)", ylabel="Dice against the label map")
    axes.legend(frameon=False, loc="upper left")
    return figure

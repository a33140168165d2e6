"""The log-linear model of age and sex that every sensitivity analysis fits in its own way."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from cohortvol.stages.analyse.cohort.usable import SEXES
from cohortvol.stages.analyse.fits.designs import (
    YEARS_PER_DECADE,
    age_and_sex,
    linear,
    sexes_pooled,
    trouble,
)


@dataclass(frozen=True)
class Problem:
    """One design and the slopes to be read from it."""

    keep: np.ndarray
    """(n,) bool: rows, of those given, that the design is of."""
    design: np.ndarray
    """(kept, terms): 1, a, male and a x male as far as both sexes are there, then the rest."""
    slopes: dict[str, np.ndarray] = field(default_factory=dict)
    """all, or F and M: weights of the coefficients."""


def problems(
    scans: pd.DataFrame, log_volume: np.ndarray, extra: np.ndarray, center: float, least: int
) -> tuple[list[Problem], dict[str, str]]:
    """Designs for the slope of all and for those of F and M, and why a slope has none.

    Parameters
    ----------
    scans : pandas.DataFrame
        n rows with ``age_years, sex, subject``.
    log_volume : (n,) float array
    extra : (n, k) float array
        Further columns; they are centred on the rows kept.
    center : float
        Age at which a is 0, years.
    least : int
        Subjects below which there is no slope.
    """
    of_sex = {one: (scans["sex"] == one).to_numpy(dtype=bool) for one in SEXES}
    ages = scans["age_years"].to_numpy(dtype=float)
    subjects = scans["subject"].to_numpy()
    notes: dict[str, str] = {}

    def note(rows: np.ndarray) -> str:
        return trouble(ages[rows], log_volume[rows], subjects[rows], least)

    found: list[Problem] = []
    present = sexes_pooled({one: int(rows.sum()) for one, rows in of_sex.items()})
    keep = np.ones(len(ages), dtype=bool)  # where no sex is known
    if present:
        keep = np.logical_or.reduce([of_sex[one] for one in present])
    notes["all"] = note(keep)
    if not notes["all"]:
        design = _design(ages[keep], of_sex["M"][keep], extra[keep], center, interaction=False)
        found.append(Problem(keep, design, {"all": np.eye(design.shape[1])[1]}))

    notes |= {one: note(rows) for one, rows in of_sex.items()}
    present = tuple(one for one in SEXES if not notes[one])
    if present:
        keep = np.logical_or.reduce([of_sex[one] for one in present])
        design = _design(ages[keep], of_sex["M"][keep], extra[keep], center, interaction=True)
        unit = np.eye(design.shape[1])
        slopes = {present[0]: unit[1]}
        if len(present) == 2:
            slopes["M"] = unit[1] + unit[3]
        found.append(Problem(keep, design, slopes))
    return found, {name: note for name, note in notes.items() if note}


def _design(
    ages: np.ndarray, male: np.ndarray, extra: np.ndarray, center: float, interaction: bool
) -> np.ndarray:
    decades = (ages - center) / YEARS_PER_DECADE
    both = 0 < male.sum() < len(male)
    columns, _ = age_and_sex(linear(decades), male.astype(float) if both else None, interaction)
    return np.column_stack([*columns, extra - extra.mean(axis=0)])

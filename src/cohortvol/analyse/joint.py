"""The log-linear model of age and sex that every sensitivity analysis fits in its own way."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from scipy import stats

from cohortvol.analyse.regression import count_subjects

SEXES = ("F", "M")
YEARS_PER_DECADE = 10.0


@dataclass(frozen=True)
class Estimated:
    """Coefficients of one design however they were found, with their covariance."""

    coefficients: np.ndarray
    covariance: np.ndarray
    degrees_of_freedom: float = math.inf

    def percent(self, weights: np.ndarray) -> dict[str, float]:
        """A slope of ln(volume) as % per decade, with its 95 % limits."""
        value = float(weights @ self.coefficients)
        se = math.sqrt(max(float(weights @ self.covariance @ weights), 0.0))
        half = se * float(stats.t.ppf(0.975, self.degrees_of_freedom))
        return {
            "slope_pct_per_decade": 100 * math.expm1(value),
            "slope_pct_per_decade_ci_low": 100 * math.expm1(value - half),
            "slope_pct_per_decade_ci_high": 100 * math.expm1(value + half),
        }


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
    sex = scans["sex"].to_numpy()
    ages = scans["age_years"].to_numpy(dtype=float)
    subjects = scans["subject"].to_numpy()
    notes: dict[str, str] = {}

    def trouble(rows: np.ndarray) -> str:
        n = count_subjects(subjects[rows])
        if n < least:
            return f"ANA_TOO_FEW: {n} usable subjects, at least {least} needed"
        for name, values in (("ages", ages), ("volumes", log_volume)):
            if np.ptp(values[rows]) == 0:
                return f"ANA_NO_VARIANCE: all {name} are equal"
        return ""

    found: list[Problem] = []
    counts = {one: int((sex == one).sum()) for one in SEXES}
    present = [one for one in SEXES if counts[one] >= 2] or [one for one in SEXES if counts[one]]
    keep = np.isin(sex, present) if present else np.ones(len(sex), dtype=bool)  # no sex is known
    notes["all"] = trouble(keep)
    if not notes["all"]:
        design = _design(ages, sex, keep, extra, center, interaction=False)
        found.append(Problem(keep, design, {"all": np.eye(design.shape[1])[1]}))

    notes |= {one: trouble(sex == one) for one in SEXES}
    present = [one for one in SEXES if not notes[one]]
    if present:
        keep = np.isin(sex, present)
        design = _design(ages, sex, keep, extra, center, interaction=True)
        unit = np.eye(design.shape[1])
        slopes = {present[0]: unit[1]}
        if len(present) == 2:
            slopes["M"] = unit[1] + unit[3]
        found.append(Problem(keep, design, slopes))
    return found, {name: note for name, note in notes.items() if note}


def _design(
    ages: np.ndarray,
    sex: np.ndarray,
    keep: np.ndarray,
    extra: np.ndarray,
    center: float,
    interaction: bool,
) -> np.ndarray:
    decades = (ages[keep] - center) / YEARS_PER_DECADE
    male = (sex[keep] == "M").astype(float)
    columns = [np.ones(len(decades)), decades]
    if 0 < male.sum() < len(male):
        columns.append(male)
        if interaction:
            columns.append(decades * male)
    rest = extra[keep]
    return np.column_stack([*columns, rest - rest.mean(axis=0)])


def size_columns(scans: pd.DataFrame, with_size: bool) -> np.ndarray:
    """(n, 2): ln(height in cm) and ln(BMI); (n, 0) without size."""
    if not with_size:
        return np.empty((len(scans), 0))
    return np.asarray(np.log(scans[["height_cm", "bmi"]].to_numpy(dtype=float)))

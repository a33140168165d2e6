"""The rows of one structure, and the curves of volume against age for the figures."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd

from cohortvol.analyse.cohort import Cohort
from cohortvol.analyse.designs import SEXES
from cohortvol.analyse.groups import LOG
from cohortvol.analyse.regression import count_subjects, fit, fitted_means, natural_spline
from cohortvol.analyse.settings import Settings
from cohortvol.errors import EstimateError

KNOT_PERCENTILES = (5.0, 27.5, 50.0, 72.5, 95.0)


@dataclass(frozen=True)
class Rows:
    """The scans that one model of one structure is fitted to."""

    volume_ml: np.ndarray
    age_years: np.ndarray
    male: np.ndarray
    subjects: np.ndarray
    size: np.ndarray
    """(n, 2): ln(height in cm) and ln(BMI), centred on these rows; (n, 0) without size."""
    knows_sex: bool = True
    """Whether the sex of anyone in the cohort is known; if not, nobody is F or M."""

    def take(self, mask: np.ndarray) -> Rows:
        """Some of the rows, with the size terms centred anew."""
        size = self.size[mask]
        if len(size):
            size = size - size.mean(axis=0)
        return Rows(
            self.volume_ml[mask],
            self.age_years[mask],
            self.male[mask],
            self.subjects[mask],
            size,
            self.knows_sex,
        )

    def of_sex(self, sex: str) -> np.ndarray:
        """(n,) of bool."""
        if not self.knows_sex:
            return np.zeros(len(self.male), dtype=bool)
        return self.male if sex == "M" else ~self.male

    @property
    def responses(self) -> np.ndarray:
        """(n, 2): ln(volume), and volume in mL."""
        return np.column_stack([np.log(self.volume_ml), self.volume_ml])


def rows_for(cohort: Cohort, structure: int, with_size: bool) -> Rows:
    """The usable rows of one structure, or those of them with known height and weight."""
    mask = cohort.usable(structure)
    if with_size:
        mask = mask & cohort.has_size
    scans = cohort.scans[mask]
    size = np.empty((len(scans), 0))
    if with_size:
        size = np.log(scans[["height_cm", "bmi"]].to_numpy(dtype=float))
    rows = Rows(
        volume_ml=cohort.volume_ml[mask, structure],
        age_years=scans["age_years"].to_numpy(dtype=float),
        male=(scans["sex"] == "M").to_numpy(dtype=bool),
        subjects=scans["subject"].to_numpy(),
        size=size,
        knows_sex=cohort.knows_sex,
    )
    return rows.take(np.ones(len(scans), dtype=bool))


def trouble_of(rows: Rows, mask: np.ndarray, least: int) -> str:
    """Why no age slope can be fitted to these rows; empty if it can."""
    n = count_subjects(rows.subjects[mask])
    if n < least:
        return f"ANA_TOO_FEW: {n} usable subjects, at least {least} needed"
    if np.ptp(rows.age_years[mask]) == 0:
        return "ANA_NO_VARIANCE: all ages are equal"
    if np.ptp(rows.volume_ml[mask]) == 0:
        return "ANA_NO_VARIANCE: all volumes are equal"
    return ""


def knots_years(cohort: Cohort) -> np.ndarray:
    """Knots of the spline curves: percentiles of the ages of all scans in the trends."""
    ages = cohort.scans.loc[cohort.in_trends, "age_years"].to_numpy(dtype=float)
    return np.percentile(ages, KNOT_PERCENTILES) if len(ages) else np.empty(0)


def curves(cohort: Cohort, settings: Settings) -> pd.DataFrame:
    """Fitted volume by age for the figures: M1, and the natural spline by sex.

    A curve is exp(mean of ln(volume)), so about the median volume, with the 95 % interval
    of that mean. It stands only between the 1st and 99th percentile of the ages of its sex.
    The spline is fitted where a sex has `Settings.min_n_per_sex` subjects.
    """
    knots = knots_years(cohort)
    pieces = []
    for index, structure in enumerate(cohort.structures):
        rows = rows_for(cohort, index, with_size=False)
        for model, least in (("M1", settings.min_n_fit), ("spline", settings.min_n_per_sex)):
            for sex in SEXES:
                mask = rows.of_sex(sex)
                if trouble_of(rows, mask, least):
                    continue
                try:
                    curve = _curve(rows.take(mask), knots if model == "spline" else None)
                except EstimateError:
                    continue  # the slopes table says why
                pieces.append(curve.assign(structure=structure, sex=sex, model=model))
    return pd.concat(pieces, ignore_index=True) if pieces else pd.DataFrame()


def _curve(rows: Rows, knots: np.ndarray | None) -> pd.DataFrame:
    """One sex alone: the line of the joint fit, in which every term has its interaction."""
    low, high = np.percentile(rows.age_years, [1, 99])
    ages = np.unique(np.concatenate([[low], np.arange(math.ceil(low), high), [high]]))
    if knots is not None and (np.diff(knots) <= 0).any():
        raise EstimateError("ANA_COLLINEAR", "too few different ages for a spline")

    def basis(years: np.ndarray) -> np.ndarray:
        terms = years if knots is None else natural_spline(years, knots)
        return np.column_stack([np.ones(len(years)), terms])

    fitted = fit(basis(rows.age_years), rows.responses[:, LOG], rows.subjects)
    mean, half = fitted_means(fitted, basis(ages))
    return pd.DataFrame(
        {
            "age_years": ages,
            "volume_ml": np.exp(mean),
            "volume_ml_ci_low": np.exp(mean - half),
            "volume_ml_ci_high": np.exp(mean + half),
        }
    )

"""The curves of volume against age for the figures."""

from __future__ import annotations

import numpy as np
import pandas as pd

from cohortvol.errors import EstimateError
from cohortvol.stages.analyse.cohort.parts import part
from cohortvol.stages.analyse.cohort.settings import Settings
from cohortvol.stages.analyse.cohort.usable import SEXES, Cohort
from cohortvol.stages.analyse.each import Each, one_by_one
from cohortvol.stages.analyse.fits.designs import ages_of_curve, fenced
from cohortvol.stages.analyse.fits.regression import (
    fit,
    fitted_means,
    knots_at,
    natural_spline,
)

KNOT_PERCENTILES = (5.0, 27.5, 50.0, 72.5, 95.0)
LEAST_KNOTS = 3
WIDEST = np.log(1000)
"""Half an interval of ln(volume) from which on its limits are null: they tell nothing."""
PEOPLE_PER_TERM = 5
"""A spline of fewer runs through single people, and its errors are those of nobody else."""


def knots_years(cohort: Cohort) -> np.ndarray:
    """Knots of the spline curves: percentiles of the ages of all scans in the trends.

    None where there are fewer than `LEAST_KNOTS` different ones: no spline could bend.
    """
    ages = cohort.scans.loc[cohort.in_trends, "age_years"].to_numpy(dtype=float)
    knots = knots_at(ages, KNOT_PERCENTILES) if len(ages) else np.empty(0)
    return knots if len(knots) >= LEAST_KNOTS else np.empty(0)


def curves(cohort: Cohort, settings: Settings, each: Each = one_by_one) -> pd.DataFrame:
    """Fitted volume by age for the figures: M1, and the natural spline by sex.

    A curve is exp(mean of ln(volume)), so about the median volume, with the 95 % interval
    of that mean. It stands only between the 1st and 99th percentile of the ages of its sex; where
    no sex is known, of all.
    The spline is fitted where a sex has `Settings.min_n_per_sex` subjects, and `PEOPLE_PER_TERM`.
    """
    knots = knots_years(cohort)
    for_spline = max(settings.min_n_per_sex, PEOPLE_PER_TERM * len(knots))

    def of_structure(index: int) -> list[pd.DataFrame]:
        pieces = []
        for model, least in (("M1", settings.min_n_fit), ("spline", for_spline)):
            for sex in SEXES if cohort.knows_sex else ("all",):
                mask = cohort.usable(index) & cohort.of_sex(sex)
                if part(cohort, index, mask, least).trouble:
                    continue
                try:
                    curve = _curve(cohort, index, mask, knots if model == "spline" else None)
                except EstimateError:
                    continue  # the slopes table says why
                key = {"structure": cohort.structures[index], "sex": sex, "model": model}
                pieces.append(curve.assign(**key))
        return pieces

    pieces = each(of_structure, cohort.structures)
    return pd.concat(pieces, ignore_index=True) if pieces else pd.DataFrame()


def _curve(
    cohort: Cohort, structure: int, mask: np.ndarray, knots: np.ndarray | None
) -> pd.DataFrame:
    """One sex alone: the line of the joint fit, in which every term has its interaction."""
    age_years = cohort.scans["age_years"].to_numpy(dtype=float)[mask]
    subjects = cohort.scans["cluster"].to_numpy()[mask]
    ages = ages_of_curve(*fenced(age_years))
    if knots is not None and not len(knots):
        raise EstimateError("ANA_COLLINEAR", "too few different ages for a spline")

    def basis(years: np.ndarray) -> np.ndarray:
        terms = years if knots is None else natural_spline(years, knots)
        return np.column_stack([np.ones(len(years)), terms])

    fitted = fit(basis(age_years), np.log(cohort.volume_ml[mask, structure]), subjects)
    mean, half = fitted_means(fitted, basis(ages))
    half = np.where(half < WIDEST, half, np.nan)
    return pd.DataFrame(
        {
            "age_years": ages,
            "volume_ml": np.exp(mean),
            "volume_ml_ci_low": np.exp(mean - half),
            "volume_ml_ci_high": np.exp(mean + half),
        }
    )

"""Who is missing from a structure, and slopes that allow for it: weighting and censoring.

Neither is right in general. Weights repair what depends on age, sex and body size, and nothing
that depends on the volume itself. The censored model takes a cut volume for a lower bound with a
limit that is independent of the volume, as a fixed field of view makes it, and is off where an
organ is cut by a share of itself. So they stand beside the complete cases, never alone.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pandas as pd
from scipy import special

from cohortvol.errors import EstimateError
from cohortvol.stages.analyse.cohort.settings import Settings
from cohortvol.stages.analyse.cohort.usable import SEXES, Cohort
from cohortvol.stages.analyse.fits.few_clusters import FEW, of_information
from cohortvol.stages.analyse.fits.regression import Estimated, summed

LEAST_MISSING = 10
"""Scans without the structure, or with it, below which nobody can say who they are."""
MOST_STEPS = 100
SETTLED = 1e-7
"""Twice the log likelihood that a step of Newton's method promises, below which it is the last."""
TERTILES = (100 / 3, 200 / 3)


def inverse_probability_weights(
    scans: pd.DataFrame, usable: np.ndarray, with_size: bool
) -> np.ndarray:
    """One over the chance that a scan is usable, by a logistic model; their mean is about 1.

    The model has age, age squared, sex, and ln(height) and ln(BMI) where known, and the products
    of age with the last three.

    Parameters
    ----------
    scans : pandas.DataFrame
        n rows with known ``age_years, sex`` and, if `with_size`, ``height_cm, bmi``.
    usable : (n,) bool array

    Returns
    -------
    (n,) float array

    Raises
    ------
    EstimateError
        ``ANA_TOO_FEW`` if there are fewer than 10 usable scans, or of the others;
        ``ANA_NOT_CONVERGED`` if a covariate tells the two apart entirely.
    """
    from statsmodels.discrete.discrete_model import Logit  # 1 s, unused where nothing is missing
    from statsmodels.tools.sm_exceptions import (
        ConvergenceWarning,
        PerfectSeparationError,
        PerfectSeparationWarning,
    )

    few = min(int(usable.sum()), int((~usable).sum()))
    if few < LEAST_MISSING:
        raise EstimateError(
            "ANA_TOO_FEW", f"{LEAST_MISSING} scans that are not usable are needed to weight by"
        )
    ages = scans["age_years"].to_numpy(dtype=float)
    ages = (ages - ages.mean())[:, None]
    male = (scans[["sex"]] == "M").to_numpy(dtype=float)
    measures = ["height_cm", "bmi"] if with_size else []
    size = np.log(scans[measures].to_numpy(dtype=float))
    size = size - size.mean(axis=0)
    table = np.column_stack([ages, ages**2, male, ages * male, size, ages * size])
    spread = table.std(axis=0)
    table = (table[:, spread > 0] - table[:, spread > 0].mean(axis=0)) / spread[spread > 0]
    design = np.column_stack([np.ones(len(table)), table])
    with warnings.catch_warnings():
        for trouble in (ConvergenceWarning, PerfectSeparationWarning, RuntimeWarning):
            warnings.simplefilter("error", trouble)
        try:
            fitted = Logit(usable.astype(float), design).fit(disp=0)
        except (
            ConvergenceWarning,
            PerfectSeparationWarning,
            RuntimeWarning,
            PerfectSeparationError,
            np.linalg.LinAlgError,
        ) as error:
            raise EstimateError(
                "ANA_NOT_CONVERGED", "age, sex or size tell usable scans from the others"
            ) from error
    return np.asarray(usable.mean() / fitted.predict(design))


def censored_regression(
    design: np.ndarray,
    response: np.ndarray,
    censored: np.ndarray,
    subjects: np.ndarray | None = None,
) -> tuple[Estimated, float, float]:
    """Normal regression by maximum likelihood in which some responses are lower bounds (Tobit).

    Newton's method in beta / sigma and 1 / sigma, in which the likelihood has one maximum (Olsen
    1978, Econometrica 46:1211).

    Parameters
    ----------
    design : (n, terms) float array
    response : (n,) float array
        Where `censored`, the true response is above this.
    censored : (n,) bool array
    subjects : (n,) int array, optional
        If any value repeats, the covariance is cluster-robust by subject, with few of them as in
        `few_clusters`; otherwise it is the inverse of the observed information.

    Returns
    -------
    tuple
        Coefficients, the last one ln(sigma), with their covariance; sigma; log likelihood.

    Raises
    ------
    EstimateError
        ``ANA_COLLINEAR``, ``ANA_NOT_CONVERGED``, or ``ANA_TOO_FEW`` subjects.
    """
    n, terms = design.shape
    signed = np.column_stack([design, -response])  # (x b - y) / sigma at once
    scale = np.linalg.norm(signed, axis=0)
    scale[scale == 0] = 1.0
    signed = signed / scale
    start, *_ = np.linalg.lstsq(design, response, rcond=None)
    sigma = float(np.std(response - design @ start))
    at = np.append(start, 1.0) / sigma * scale
    value, gradient, information = _likelihood(signed, at, censored, scale[-1])
    never = EstimateError("ANA_NOT_CONVERGED", "no censored model fits these volumes best")
    for _ in range(MOST_STEPS):
        try:
            step = np.linalg.solve(information, gradient)
        except np.linalg.LinAlgError as error:
            raise EstimateError("ANA_COLLINEAR", "the terms cannot be told apart") from error
        if last := step @ gradient < SETTLED:  # less than the likelihood of many rows can show
            at = at + step
            value, gradient, information = _likelihood(signed, at, censored, scale[-1])
            break
        for halving in 0.5 ** np.arange(40):
            trial = at + halving * step
            if trial[-1] > 0:
                found = _likelihood(signed, trial, censored, scale[-1])
                if found[0] >= value:
                    break
        else:
            raise never
        at, (value, gradient, information) = trial, found
    if not last:
        raise never
    sigma = float(scale[-1] / at[-1])
    beta = at[:-1] / scale[:-1] * sigma
    # to beta and ln sigma: d(beta)/d(at_k) = sigma / scale_k, and through sigma for the last
    back = np.zeros((terms + 1, terms + 1))
    back[np.arange(terms), np.arange(terms)] = sigma / scale[:-1]
    back[:terms, -1] = -beta / at[-1]
    back[-1, -1] = -1 / at[-1]
    coefficients = np.append(beta, np.log(sigma))
    if subjects is not None and len(np.unique(subjects)) < n:
        fitted = _clustered(coefficients, back, information, signed, at, censored, subjects)
    else:
        fitted = Estimated(coefficients, back @ np.linalg.inv(information) @ back.T)
    return fitted, sigma, value


def _likelihood(
    signed: np.ndarray, at: np.ndarray, censored: np.ndarray, scale: float
) -> tuple[float, np.ndarray, np.ndarray]:
    """Log likelihood, its gradient, and minus its second derivatives."""
    above = signed @ at
    weight, bend = _pull(above, censored)
    full = ~censored
    value = special.log_ndtr(above[censored]).sum()
    value += full.sum() * np.log(at[-1] / scale) - 0.5 * (above[full] ** 2).sum()
    value -= full.sum() * 0.5 * np.log(2 * np.pi)
    gradient = signed.T @ weight
    gradient[-1] += full.sum() / at[-1]
    return float(value), gradient, _information(signed, bend, censored, at)


def _information(
    signed: np.ndarray, bend: np.ndarray, censored: np.ndarray, at: np.ndarray
) -> np.ndarray:
    """(terms + 1, terms + 1): minus the second derivatives, of some rows."""
    information: np.ndarray = signed.T @ (signed * bend[:, None])
    information[-1, -1] += (~censored).sum() / at[-1] ** 2
    return information


def _pull(above: np.ndarray, censored: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """First and minus second derivative of each row's log likelihood by its (x b - y) / sigma."""
    weight, bend = -above, np.ones(len(above))
    tail = above[censored]
    mills = np.exp(-0.5 * tail**2 - 0.5 * np.log(2 * np.pi) - special.log_ndtr(tail))
    weight[censored] = mills
    bend[censored] = mills * (mills + tail)
    return weight, bend


def _clustered(
    coefficients: np.ndarray,
    back: np.ndarray,
    information: np.ndarray,
    signed: np.ndarray,
    at: np.ndarray,
    censored: np.ndarray,
    subjects: np.ndarray,
) -> Estimated:
    """With errors by cluster; `back` leads from steps of `at` to those of the coefficients."""
    weight, bend = _pull(signed @ at, censored)
    scores = signed * weight[:, None]
    scores[:, -1] += ~censored / at[-1]
    members = np.unique(subjects, return_inverse=True)[1]
    sums = summed(scores, members)
    clusters, terms = sums.shape
    if clusters <= terms:
        raise EstimateError("ANA_TOO_FEW", f"{clusters} subjects for {terms} terms")
    if clusters < FEW:
        parts = [members == cluster for cluster in range(clusters)]
        of_each = [_information(signed[rows], bend[rows], censored[rows], at) for rows in parts]
        adjusted, few = of_information(np.stack(of_each))
        pulled = np.einsum("gij,gj->gi", adjusted, sums) @ back.T
        few = few.seen_through(back)
        return Estimated(coefficients, pulled.T @ pulled, clusters - 1, few)
    pulled = np.linalg.solve(information, sums.T).T @ back.T
    return Estimated(coefficients, clusters / (clusters - 1) * pulled.T @ pulled)


def missingness(cohort: Cohort, settings: Settings) -> pd.DataFrame:
    """Share of scans without a usable volume by thirds of age, by sex and by thirds of height.

    Of scans that are done, passed QC as a whole and have age and sex, without those of people whose
    structure surgery took. Counts of 1 to
    `Settings.suppress_below` less one are null, and so is their share.

    Returns
    -------
    pandas.DataFrame
        ``analyse/missingness`` as `outputs.SCHEMAS` has it.
    """
    hidden = f"a count below {settings.suppress_below} is not shown"
    levels = levels_of(cohort.scans[cohort.in_trends])
    rows: list[dict[str, Any]] = []
    for index, structure in enumerate(cohort.structures):
        missing = ~cohort.usable(index)[cohort.in_trends]
        whole = ~cohort.by_surgery(index)[cohort.in_trends]
        for (variable, level), members in levels.items():
            mask = members & whole
            n, out = int(mask.sum()), int((mask & missing).sum())
            few = None in (settings.shown(n), settings.shown(out))
            rows.append(
                {
                    "structure": structure,
                    "variable": variable,
                    "level": level,
                    "n_scans": settings.shown(n),
                    "n_unusable": None if few else out,
                    "unusable_pct": None if few or n == 0 else 100 * out / n,
                    "note": hidden if few else None,
                }
            )
    return pd.DataFrame(rows)


def levels_of(scans: pd.DataFrame) -> dict[tuple[str, str], np.ndarray]:
    """Thirds of age and of height, and the sexes: variable and level, and which scans are in it."""
    levels: dict[tuple[str, str], np.ndarray] = {}
    for variable, unit in (("age_years", "years"), ("height_cm", "cm")):
        values = scans[variable].to_numpy(dtype=float)
        known = values[~np.isnan(values)]
        if len(np.unique(known)) < 3:  # no thirds
            continue
        low, high = np.percentile(known, TERTILES)
        levels[variable, f"lower third, to {low:.1f} {unit}"] = values <= low
        levels[variable, "middle third"] = (values > low) & (values <= high)
        levels[variable, f"upper third, above {high:.1f} {unit}"] = values > high
        if variable != "age_years":
            levels[variable, "not known"] = np.isnan(values)
    for sex in SEXES:
        levels["sex", sex] = (scans["sex"] == sex).to_numpy(dtype=bool)
    return levels

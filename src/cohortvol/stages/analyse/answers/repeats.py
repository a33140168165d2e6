"""People scanned more than once: random intercepts, and slopes within and between people."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy import optimize

from cohortvol.errors import EstimateError
from cohortvol.stages.analyse.cohort.settings import Settings
from cohortvol.stages.analyse.cohort.usable import GROUPS, Cohort
from cohortvol.stages.analyse.fits.designs import YEARS_PER_DECADE
from cohortvol.stages.analyse.fits.random_slopes import LEAST_ROWS, random_slopes
from cohortvol.stages.analyse.fits.regression import (
    Estimated,
    cluster_factor,
    orthonormal,
    summed,
)

MOST_OF_ONE = 1 - 1e-9
"""Largest share of the variance that may lie between people."""
WITH_SIZE = "M1 + size"


@dataclass(frozen=True, kw_only=True)
class RandomIntercept(Estimated):
    """y = X b + u(subject) + e, by restricted maximum likelihood; normal intervals."""

    robust: Estimated
    """The same coefficients with cluster-robust covariance, on one less degrees of freedom than
    clusters: holds where people age at rates of their own, which the model does not know."""
    variance_between: float
    """Of u, between people."""
    variance_within: float
    """Of e, within people."""

    @property
    def icc(self) -> float:
        """Share of the variance that lies between people."""
        return self.variance_between / (self.variance_between + self.variance_within)


def random_intercept(
    design: np.ndarray,
    response: np.ndarray,
    subjects: np.ndarray,
    clusters: np.ndarray | None = None,
) -> RandomIntercept:
    """Restricted maximum likelihood, of which only the share between people is searched.

    For a given share the rest has a closed form, which needs sums per person only. Agrees with
    lme4 and nlme; ``statsmodels.MixedLM`` fits the same model some thousand times slower.

    Parameters
    ----------
    design : (n, terms) float array
        The intercept included.
    response : (n,) float array
    subjects : (n,) int array
        Who each row belongs to.
    clusters : (n,) int array, optional
        By which the errors of `RandomIntercept.robust` are clustered: subjects if not given.

    Raises
    ------
    EstimateError
        ``ANA_COLLINEAR`` if the design has not full rank, ``ANA_TOO_FEW`` if nobody has two rows.
    """
    q, r, length = orthonormal(design)
    first = q.T @ response
    left = response - q @ first  # what least squares leaves: keeps digits below
    members = np.unique(subjects, return_inverse=True)[1]
    sizes = np.bincount(members)
    if sizes.max() < 2:
        raise EstimateError("ANA_TOO_FEW", "nobody was scanned twice")
    profile = _profile(q, left, members, sizes)

    def criterion(share: float) -> float:
        return profile(share)[0]

    found = optimize.minimize_scalar(
        criterion, bounds=(0.0, MOST_OF_ONE), method="bounded", options={"xatol": 1e-12}
    )
    share = float(found.x) if found.fun < criterion(0.0) else 0.0
    _, change, inverse, within = profile(share)
    back = np.linalg.inv(r) / length[:, None]
    covariance = within * back @ inverse @ back.T
    between = within * share / (1 - share)
    coefficients = back @ (first + change)
    scores = _scores(q, left - q @ change, members, sizes, share / (1 - share))
    whose = np.empty(len(sizes), dtype=int)
    whose[members] = np.unique(subjects if clusters is None else clusters, return_inverse=True)[1]
    n, terms, groups = len(q), q.shape[1], int(whose.max()) + 1
    pulled = summed(scores, whose) @ (back @ inverse).T
    correction = cluster_factor(groups, n, terms)
    return RandomIntercept(
        coefficients=coefficients,
        covariance=covariance,
        robust=Estimated(coefficients, correction * pulled.T @ pulled, groups - 1),
        variance_between=between,
        variance_within=within,
    )


def _scores(
    q: np.ndarray, residuals: np.ndarray, members: np.ndarray, sizes: np.ndarray, t: float
) -> np.ndarray:
    """(people, terms): X' V^-1 e of every person, V as in `_profile`."""
    weight = t / (1 + sizes * t) * np.bincount(members, residuals, minlength=len(sizes))
    return summed(q * residuals[:, None], members) - summed(q, members) * weight[:, None]


_Profiled = tuple[float, np.ndarray, np.ndarray, float]


def _profile(
    q: np.ndarray, left: np.ndarray, members: np.ndarray, sizes: np.ndarray
) -> Callable[[float], _Profiled]:
    """-2 log restricted likelihood at a share between people, with what belongs to it.

    With t = share / (1 - share) a person with k rows has V = I + t 11' and
    V^-1 = I - t / (1 + k t) 11', so that X'V^-1 X is X'X less weighted products of sums.
    """
    n, terms = q.shape
    joined = np.column_stack([q, left])
    sums = summed(joined, members)
    of_all = joined.T @ joined
    different, counts = np.unique(sizes, return_counts=True)
    of_size = [sums[sizes == k].T @ sums[sizes == k] for k in different]

    def at(share: float) -> _Profiled:
        t = share / (1 - share)
        products = of_all - sum(
            t / (1 + k * t) * of for k, of in zip(different, of_size, strict=True)
        )
        inverse = np.linalg.inv(products[:terms, :terms])
        change = inverse @ products[:terms, terms]
        squares = products[terms, terms] - products[:terms, terms] @ change
        within = float(squares / (n - terms))
        value = (
            (n - terms) * math.log(squares)
            + float(counts @ np.log1p(different * t))
            + np.linalg.slogdet(products[:terms, :terms])[1]
        )
        return float(value), change, inverse, within

    return at


def within_between(cohort: Cohort, settings: Settings) -> pd.DataFrame:
    """Slopes of ln(volume) with age within people and between them, where people were rescanned.

    Age is split into a person's mean and the distance from it, each with a slope of its own, in
    a model with a random intercept per person, with cluster-robust errors. How much people differ
    in their slopes within comes from a model with a random slope besides. The second model has
    ln(height) and ln(BMI) besides, each as the person's mean; neither has fixed effects of how a
    scan was made.

    Returns
    -------
    pandas.DataFrame
        ``analyse/within_between`` as `outputs.SCHEMAS` has it.
    """
    models = ("M1", WITH_SIZE) if cohort.has_size.any() else ("M1",)
    rows: list[dict[str, Any]] = []
    for index, structure in enumerate(cohort.structures):
        for model in models:
            usable = cohort.usable(index) & (cohort.has_size if model == WITH_SIZE else True)
            for sex in GROUPS:
                key = {"structure": structure, "sex": sex, "model": model}
                mask = usable & cohort.of_sex(sex)
                data = cohort.scans[mask].assign(log_ml=np.log(cohort.volume_ml[mask, index]))
                rows.append({**key, **_of_one(data, model == WITH_SIZE, settings)})
    return pd.DataFrame(rows)


def _of_one(data: pd.DataFrame, with_size: bool, settings: Settings) -> dict[str, Any]:
    by_person = data.groupby("subject")
    ages = data["age_years"]
    span = by_person["age_years"].max() - by_person["age_years"].min()
    rescanned = span[span > 0]
    found: dict[str, Any] = {
        "n_used": len(data),
        "n_subjects": len(span),
        "n_rescanned": len(rescanned),
        "years_between_median": rescanned.median() if len(rescanned) else None,
    }
    if len(rescanned) < settings.min_n_rescanned:
        few = f"{len(rescanned)} subjects scanned at several ages"
        return {**found, "note": f"ANA_TOO_FEW: {few}, {settings.min_n_rescanned} needed"}
    mean = by_person["age_years"].transform("mean")
    columns = [
        np.ones(len(data)),
        (mean - mean.mean()) / YEARS_PER_DECADE,
        (ages - mean) / YEARS_PER_DECADE,
    ]
    if data["sex"].nunique() == 2:
        columns.append((data["sex"] == "M").astype(float))
    if with_size:
        size = np.log(data[["height_cm", "bmi"]]).groupby(data["subject"]).transform("mean")
        columns += [size[name] - size[name].mean() for name in size]
    try:
        if np.ptp(data["log_ml"].to_numpy()) == 0:
            raise EstimateError("ANA_NO_VARIANCE", "all volumes are equal")
        fitted = random_intercept(
            np.column_stack(columns),
            data["log_ml"].to_numpy(),
            data["subject"].to_numpy(),
            data["cluster"].to_numpy(),
        )
    except EstimateError as error:
        return {**found, "note": str(error)}
    between, within = np.eye(len(columns))[[1, 2]]
    found |= fitted.robust.contrast(between).percent_cells("between_pct_per_decade")
    found |= fitted.robust.contrast(within).percent_cells("within_pct_per_decade")
    difference = fitted.robust.contrast(within - between)
    found |= {"difference_p_value": difference.p_value, "icc": fitted.icc}
    return found | _own_slopes(data, np.column_stack(columns), settings)


def _own_slopes(data: pd.DataFrame, design: np.ndarray, settings: Settings) -> dict[str, Any]:
    """How much people differ in their slopes, where enough were scanned at three ages."""
    ages = data.groupby("subject")["age_years"].nunique()
    if (ages >= LEAST_ROWS).sum() < settings.min_n_rescanned:
        return {}
    subjects, log_ml = data["subject"].to_numpy(), data["log_ml"].to_numpy()
    try:
        fitted = random_slopes(design, log_ml, design[:, 2], subjects)
    except EstimateError as error:
        return {"note": str(error)}
    return {"within_sd_pct_per_decade": 100 * fitted.slope_sd}

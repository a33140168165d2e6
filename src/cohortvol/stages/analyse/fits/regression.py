"""Least squares with robust errors, contrasts, and the spline basis. Arrays in, numbers out."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import integrate, stats
from scipy.linalg import solve_triangular

from cohortvol.errors import EstimateError
from cohortvol.stages.analyse.fits.few_clusters import FEW, FewClusters, of_rows

RANK_TOLERANCE = 1e-10
"""Smallest over largest singular value of the scaled design below which it has no full rank."""


@dataclass(frozen=True)
class Fit:
    """Coefficients of one design for several responses, with their robust covariance."""

    coefficients: np.ndarray
    """(terms, responses)."""
    covariance: np.ndarray
    """(responses, terms, terms)."""
    n: int
    degrees_of_freedom: int
    se_kind: str
    """HC3; cluster where a cluster has several rows, CR2 where clusters are few."""
    few: FewClusters | None = None

    def of(self, response: int) -> Estimated:
        """One of the responses alone."""
        return Estimated(
            self.coefficients[:, response],
            self.covariance[response],
            self.degrees_of_freedom,
            self.few,
        )


@dataclass(frozen=True)
class Estimated:
    """Coefficients of one response however they were found, with their covariance."""

    coefficients: np.ndarray
    """(terms,)."""
    covariance: np.ndarray
    """(terms, terms)."""
    degrees_of_freedom: float = math.inf
    few: FewClusters | None = None
    """Where clusters are few, degrees of freedom differ from contrast to contrast."""

    def contrast(self, weights: np.ndarray) -> Estimate:
        """Estimate, 95 % t interval and two-sided p of ``weights @ coefficients``.

        p is NaN where the standard error is 0.
        """
        weights = np.asarray(weights, dtype=float)
        value = float(weights @ self.coefficients)
        se = math.sqrt(max(float(weights @ self.covariance @ weights), 0.0))
        freedom = self.few.degrees_of_freedom(weights) if self.few else self.degrees_of_freedom
        half = float(stats.t.ppf(0.975, freedom)) * se
        p_value, log10_p = float("nan"), float("nan")
        if se > 0:
            p_value, log10_p = two_sided_p(value / se, freedom)
        return Estimate(value, se, value - half, value + half, p_value, log10_p)


@dataclass(frozen=True)
class Estimate:
    """A linear combination of coefficients, with its 95 % interval."""

    value: float
    se: float
    ci_low: float
    ci_high: float
    p_value: float
    log10_p: float

    def cells(self, name: str) -> dict[str, float]:
        """Value and limits as columns of a table: ``name, name_ci_low, name_ci_high``."""
        return {name: self.value, f"{name}_ci_low": self.ci_low, f"{name}_ci_high": self.ci_high}

    def percent_cells(self, name: str) -> dict[str, float]:
        """The same of a change of ln(volume), as percent of the volume."""
        return {column: 100 * math.expm1(value) for column, value in self.cells(name).items()}


def orthonormal(
    design: np.ndarray, names: Sequence[str] = ()
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """QR of a design whose columns were scaled to about unit length, and those lengths.

    Lengths are powers of two, so that scaling is exact and the rank check does not depend on
    units.

    Returns
    -------
    tuple of arrays
        q (n, terms), r (terms, terms) and length (terms,): ``design = q @ r * length``.

    Raises
    ------
    EstimateError
        ``ANA_COLLINEAR`` if the design has not full rank, with the `names` of the columns
        that a combination of others gives.
    """
    length = np.linalg.norm(design, axis=0)
    length = 2.0 ** np.ceil(np.log2(np.where(length > 0, length, 1.0)))
    q, r = np.linalg.qr(design / length)
    _, singular, directions = np.linalg.svd(r)
    lost = singular <= RANK_TOLERANCE * singular[0]
    if lost.any():
        involved = np.flatnonzero((np.abs(directions[lost]) > 1e-6).any(axis=0)).tolist()
        told = ", ".join(names[i] if names else f"column {i + 1}" for i in involved)
        raise EstimateError("ANA_COLLINEAR", f"the terms of the model cannot be told apart: {told}")
    return q, r, length


def fit(
    design: np.ndarray,
    responses: np.ndarray,
    subjects: np.ndarray | None = None,
    names: Sequence[str] = (),
    weights: np.ndarray | None = None,
) -> Fit:
    """Least squares by QR, with HC3 or cluster-robust covariance.

    The normal equations are never formed from the raw design: they lose half the digits (NIST
    Wampler). For many structures on one design there is `batch.fit_many`.

    Parameters
    ----------
    design : (n, terms) float array
        The intercept included.
    responses : (n,) or (n, responses) float array
        Fitted one by one with the same design.
    subjects : (n,) array of whole numbers, optional
        Who each row belongs to, as in `count_subjects`. If any value repeats, the covariance
        is cluster-robust by subject with the factor G/(G-1) (n-1)/(n-terms), on G - 1
        degrees of freedom, or where there are few as in `few_clusters`. Otherwise it is HC3 on
        n - terms.
    names : sequence of str, optional
        What the columns are called in errors.
    weights : (n,) float array, optional
        How many rows each stands for, above 0; errors are those of equally scattered rows.

    Raises
    ------
    EstimateError
        ``ANA_TOO_FEW`` with fewer rows or subjects than terms; ``ANA_COLLINEAR`` if the
        design has not full rank; ``ANA_LEVERAGE`` if one row alone determines a term.
    """
    design = np.asarray(design, dtype=float)
    responses = np.asarray(responses, dtype=float).reshape(len(design), -1)
    n, terms = design.shape
    if n <= terms:
        raise EstimateError("ANA_TOO_FEW", f"{n} rows for {terms} terms")
    root = np.ones(n) if weights is None else np.sqrt(weights)
    design, responses = design * root[:, None], responses * root[:, None]
    q, r, length = orthonormal(design, names)
    coefficients = np.zeros((terms, responses.shape[1]))
    residuals = responses
    for _ in range(2):  # the second pass refines: two more digits on NIST Wampler 1
        coefficients = coefficients + solve_triangular(r, q.T @ residuals) / length[:, None]
        residuals = responses - design @ coefficients
    inverse = solve_triangular(r, np.eye(terms)) / length[:, None]
    pull = q @ inverse.T  # (n, terms): what one unit of residual adds to each coefficient

    leverage = (q**2).sum(axis=1)
    if leverage.max() > 1 - 1e-10:
        raise EstimateError("ANA_LEVERAGE", "one scan alone determines a term of the model")

    clusters = n if subjects is None else count_subjects(subjects)
    if subjects is not None and clusters < n:
        members = np.unique(subjects, return_inverse=True)[1]
        if clusters <= terms:
            raise EstimateError("ANA_TOO_FEW", f"{clusters} subjects for {terms} terms")
        covariance = np.empty((responses.shape[1], terms, terms))
        if clusters < FEW:
            columns, left = q / root[:, None], residuals / root[:, None]
            pull, few = of_rows(columns, inverse, members, enters=root**2)
            for k in range(responses.shape[1]):
                scores = summed(pull * left[:, k, None], members)
                covariance[k] = scores.T @ scores
            return Fit(coefficients, covariance, n, clusters - 1, "CR2", few)
        correction = cluster_factor(clusters, n, terms)
        for k in range(responses.shape[1]):
            scores = summed(pull * residuals[:, k, None], members)
            covariance[k] = correction * scores.T @ scores
        return Fit(coefficients, covariance, n, clusters - 1, "cluster")

    weighted = residuals / (1 - leverage)[:, None]
    covariance = np.stack([(pull * e[:, None]).T @ (pull * e[:, None]) for e in weighted.T])
    return Fit(coefficients, covariance, n, n - terms, "HC3")


def summed(rows: np.ndarray, members: np.ndarray) -> np.ndarray:
    """(groups, k): rows (n, k) of each group added up; groups are numbered from 0 without gaps."""
    sums = np.zeros((int(members.max()) + 1, rows.shape[1]))
    np.add.at(sums, members, rows)
    return sums


def cluster_factor(clusters: int, n: int, terms: int) -> float:
    """What makes up for few clusters in a cluster-robust covariance, as statsmodels has it."""
    return clusters / (clusters - 1) * (n - 1) / (n - terms)


def count_subjects(subjects: np.ndarray) -> int:
    """How many different people rows belong to, people being numbered from 0."""
    return int(np.count_nonzero(np.bincount(subjects)))


def contrast(fitted: Fit, weights: np.ndarray, response: int = 0) -> Estimate:
    """`Estimated.contrast` of one response of a fit."""
    return fitted.of(response).contrast(weights)


def fitted_means(fitted: Fit, design: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean of the first response at each row of `design`, and half its 95 % interval."""
    se = np.sqrt(((design @ fitted.covariance[0]) * design).sum(axis=1))
    mean: np.ndarray = design @ fitted.coefficients[:, 0]
    few = fitted.few
    freedom = [few.degrees_of_freedom(x) if few else fitted.degrees_of_freedom for x in design]
    return mean, se * stats.t.ppf(0.975, freedom)


def two_sided_p(t: float, degrees_of_freedom: float) -> tuple[float, float]:
    """Two-sided p of a t statistic, and its base-10 logarithm, which does not underflow.

    Where p leaves the range of a float (near t = 40 at n = 8,672) the logarithm is
    ``logpdf(t)`` plus that of the integral of pdf(t + u) / pdf(t) over u > 0.
    """
    t = abs(t)
    p_value = 2 * float(stats.t.sf(t, degrees_of_freedom))
    if p_value > 1e-280:
        return p_value, float(np.log10(p_value))
    if math.isinf(degrees_of_freedom):
        return p_value, float((np.log(2) + stats.norm.logsf(t)) / np.log(10))
    spread = degrees_of_freedom + t * t
    scale = spread / ((degrees_of_freedom + 1) * t)  # the integrand falls by e over this length

    def ratio(v: float) -> float:
        u = scale * v
        shrink = (degrees_of_freedom + 1) / 2 * np.log1p(u * (2 * t + u) / spread)
        return float(np.exp(-shrink))

    tail = scale * _integral(ratio)
    log_p = np.log(2) + stats.t.logpdf(t, degrees_of_freedom) + np.log(tail)
    return p_value, float(log_p / np.log(10))


@dataclass(frozen=True)
class WaldTest:
    """That some combinations of coefficients are all 0."""

    statistic: float
    """Quadratic form of the estimates in their robust covariance, chi-square in large samples."""
    df: int
    p_value: float
    """From ``statistic / df`` as F on df and the degrees of freedom of the fit; of few clusters as
    Hotelling's T squared on those of `FewClusters.of_several`."""
    log10_p: float


def wald(fitted: Fit, weights: np.ndarray, response: int = 0) -> WaldTest:
    """Robust Wald test of ``weights @ coefficients == 0``, `weights` being (df, terms).

    Raises
    ------
    EstimateError
        ``ANA_COLLINEAR`` if their covariance has not full rank; ``ANA_TOO_FEW`` clusters for them.
    """
    weights = np.atleast_2d(np.asarray(weights, dtype=float))
    values = weights @ fitted.coefficients[:, response]
    covariance = weights @ fitted.covariance[response] @ weights.T
    se = np.sqrt(np.diag(covariance))
    if not (se > 0).all() or np.linalg.cond(covariance / np.outer(se, se)) > 1e12:
        raise EstimateError("ANA_COLLINEAR", "the tested terms cannot be told apart")
    statistic = float(values @ np.linalg.solve(covariance, values))
    df = len(weights)
    freedom, scale = float(fitted.degrees_of_freedom), 1.0
    if fitted.few:
        if not (freedom := fitted.few.of_several(weights) - df + 1) > 0:
            raise EstimateError("ANA_TOO_FEW", f"too few clusters to test {df} terms at once")
        scale = freedom / (freedom + df - 1)
    p_value, log10_p = upper_f_p(scale * statistic / df, df, freedom)
    return WaldTest(statistic, df, p_value, log10_p)


def upper_f_p(value: float, df: int, degrees_of_freedom: float) -> tuple[float, float]:
    """Upper tail of F, and its base-10 logarithm, which does not underflow."""
    p_value = float(stats.f.sf(value, df, degrees_of_freedom))
    if p_value > 1e-280:
        return p_value, float(np.log10(p_value))

    def log_density(x: float) -> float:
        return float(
            (df / 2 - 1) * np.log(x)
            - (df + degrees_of_freedom) / 2 * np.log1p(df * x / degrees_of_freedom)
        )

    falls = (df + degrees_of_freedom) / 2 * df / (degrees_of_freedom + df * value)
    scale = 1 / (falls - (df / 2 - 1) / value)
    tail = scale * _integral(
        lambda v: float(np.exp(log_density(value + scale * v) - log_density(value)))
    )
    log_p = float(stats.f.logpdf(value, df, degrees_of_freedom)) + np.log(tail)
    return p_value, float(log_p / np.log(10))


def _integral(function: Callable[[float], float]) -> float:
    return float(integrate.quad(function, 0, np.inf)[0])


def false_discovery_rate(p_values: np.ndarray) -> np.ndarray:
    """Benjamini-Hochberg q of one family of tests; NaN is no test, and stays NaN."""
    adjusted: np.ndarray = np.minimum(_step_up(p_values), 1.0)
    return adjusted


def _step_up(p_values: np.ndarray) -> np.ndarray:
    p_values = np.asarray(p_values, dtype=float)
    q_values = np.full(p_values.shape, np.nan)
    tested = np.flatnonzero(~np.isnan(p_values))
    order = tested[np.argsort(p_values[tested], kind="stable")]
    ranked = p_values[order] * len(order) / np.arange(1, len(order) + 1)
    q_values[order] = np.minimum.accumulate(ranked[::-1])[::-1]
    return q_values


def false_discovery_rate_of_any_dependence(p_values: np.ndarray) -> np.ndarray:
    """Benjamini-Yekutieli q: holds however the tests depend on each other; NaN stays NaN."""
    tests = np.count_nonzero(~np.isnan(np.asarray(p_values, dtype=float)))
    harmonic = (1 / np.arange(1, tests + 1)).sum()
    adjusted: np.ndarray = np.minimum(_step_up(p_values) * harmonic, 1.0)
    return adjusted


def bonferroni(p_values: np.ndarray) -> np.ndarray:
    """p times the number of tests of the family, at most 1; NaN is no test, and stays NaN."""
    tests = np.count_nonzero(~np.isnan(p_values))
    adjusted: np.ndarray = np.minimum(np.asarray(p_values, dtype=float) * tests, 1.0)
    return adjusted


def knots_at(ages_years: np.ndarray, percentiles: Sequence[float]) -> np.ndarray:
    """Knots of a spline of age at these percentiles, each once: (k,) rising.

    Ages that come in bands have few different values; a spline has no more knots than these.
    """
    knots = np.unique(np.percentile(ages_years, percentiles))
    different = np.unique(ages_years)
    return different if len(different) <= len(knots) else knots


def natural_spline(x: np.ndarray, knots: np.ndarray) -> np.ndarray:
    """Natural cubic spline in truncated-power form: x, and one column per inner knot.

    Linear outside the first and last knot. Without intercept, it spans the same functions
    as R's ``ns(x, knots = inner knots, Boundary.knots = outer knots)``.

    Parameters
    ----------
    x : (n,) float array
    knots : (k,) float array
        Rising, the outer two included.

    Returns
    -------
    (n, k - 1) float array
    """
    x = np.asarray(x, dtype=float)
    return np.column_stack([x, *_bends(knots, lambda knot: np.clip(x - knot, 0, None) ** 3)])


def natural_spline_slope(x: np.ndarray, knots: np.ndarray) -> np.ndarray:
    """Derivative of `natural_spline` by x, in the same columns."""
    x = np.asarray(x, dtype=float)
    steep = _bends(knots, lambda knot: 3 * np.clip(x - knot, 0, None) ** 2)
    return np.column_stack([np.ones(len(x)), *steep])


def _bends(knots: np.ndarray, power: Callable[[float], np.ndarray]) -> list[np.ndarray]:
    """Per knot but the last two: its power, less what makes it linear beyond the last knot."""
    last, before = knots[-1], knots[-2]
    return [
        (
            power(knot)
            - power(before) * (last - knot) / (last - before)
            + power(last) * (before - knot) / (last - before)
        )
        / (last - knots[0]) ** 2
        for knot in knots[:-2]
    ]

"""Centiles by the LMS method (Cole and Green 1992), fitted by maximum likelihood.

At age t a volume y has the score z = ((y / M(t))**L - 1) / (L S(t)), standard normal; M is the
median, S the coefficient of variation, L the power that makes the rest symmetric. ln M and ln S are
natural cubic splines of age with stated knots, L is one number.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import stats

from cohortvol.errors import EstimateError
from cohortvol.stages.analyse.fits.regression import RANK_TOLERANCE, natural_spline

MEDIAN_KNOTS = (5.0, 27.5, 50.0, 72.5, 95.0)
SPREAD_KNOTS = (10.0, 50.0, 90.0)
"""Percentiles of age at which the splines of ln M and ln S have their knots."""
MOST_STEPS = 100
CONVERGED = 1e-10
"""Gain in log likelihood still to be had, by the last step, below which it has converged."""
NEARLY_LOG = 1e-6
"""|L| below which the limit of the formulas at L = 0 is taken, ln(y / M) / S."""


@dataclass(frozen=True)
class Lms:
    """A fitted model of one structure and sex."""

    power: float
    """L."""
    median_knots_years: np.ndarray
    median_coefficients: np.ndarray
    """Of ln M in mL: the intercept, then one per column of `natural_spline`."""
    spread_knots_years: np.ndarray
    spread_coefficients: np.ndarray
    """Of ln S."""

    def median_ml(self, age_years: np.ndarray) -> np.ndarray:
        """M at these ages, mL."""
        basis = _basis(age_years, self.median_knots_years)
        return np.asarray(np.exp(basis @ self.median_coefficients))

    def spread(self, age_years: np.ndarray) -> np.ndarray:
        """S at these ages: about the coefficient of variation."""
        basis = _basis(age_years, self.spread_knots_years)
        return np.asarray(np.exp(basis @ self.spread_coefficients))

    def centile_ml(self, age_years: np.ndarray, percent: float) -> np.ndarray:
        """Volume below which `percent` of the people of these ages lie, mL."""
        z = float(stats.norm.ppf(percent / 100))
        return volume_at(z, self.power, self.median_ml(age_years), self.spread(age_years))

    def z(self, age_years: np.ndarray, volume_ml: np.ndarray) -> np.ndarray:
        """Score of these volumes at these ages, standard normal in the reference."""
        return z_of(volume_ml, self.power, self.median_ml(age_years), self.spread(age_years))


def z_of(
    volume: np.ndarray, power: float, median: np.ndarray | float, spread: np.ndarray | float
) -> np.ndarray:
    """z of a volume from L, M and S."""
    ratio = np.log(volume / np.asarray(median))
    if abs(power) < NEARLY_LOG:
        return np.asarray(ratio / spread)
    return np.asarray(np.expm1(power * ratio) / (power * np.asarray(spread)))


def volume_at(
    z: np.ndarray | float, power: float, median: np.ndarray | float, spread: np.ndarray | float
) -> np.ndarray:
    """Volume at a z from L, M and S; NaN where the model has no volume that far out."""
    if abs(power) < NEARLY_LOG:
        return np.asarray(median * np.exp(np.asarray(spread) * z))
    inside = 1 + power * np.asarray(spread) * z
    return np.asarray(median * np.where(inside > 0, inside, np.nan) ** (1 / power))


def fit_lms(age_years: np.ndarray, volume_ml: np.ndarray) -> Lms:
    """Maximum likelihood by Fisher scoring, a step being halved until the likelihood rises.

    Parameters
    ----------
    age_years : (n,) float array
    volume_ml : (n,) float array
        All above 0.

    Raises
    ------
    EstimateError
        ``ANA_NO_VARIANCE`` if all ages or volumes are equal, ``ANA_COLLINEAR`` if there are too
        few different ages for the splines, ``ANA_NOT_CONVERGED`` if no best fit is found.
    """
    for name, values in (("ages", age_years), ("volumes", volume_ml)):
        if np.ptp(values) == 0:
            raise EstimateError("ANA_NO_VARIANCE", f"all {name} are equal")
    median_knots = np.percentile(age_years, MEDIAN_KNOTS)
    spread_knots = np.percentile(age_years, SPREAD_KNOTS)
    if (np.diff(median_knots) <= 0).any() or (np.diff(spread_knots) <= 0).any():
        raise EstimateError("ANA_COLLINEAR", "too few different ages for a spline")
    log_volume = np.log(volume_ml)
    x_m, back_m = _orthonormal(_basis(age_years, median_knots))
    x_s, back_s = _orthonormal(_basis(age_years, spread_knots))
    beta = x_m.T @ log_volume
    left = log_volume - x_m @ beta
    gamma = x_s.T @ np.full(len(left), 0.5 * np.log(np.mean(left**2)))
    power, beta, gamma = _scored(log_volume, x_m, x_s, beta, gamma)
    return Lms(power, median_knots, back_m @ beta, spread_knots, back_s @ gamma)


def _scored(
    log_volume: np.ndarray, x_m: np.ndarray, x_s: np.ndarray, beta: np.ndarray, gamma: np.ndarray
) -> tuple[float, np.ndarray, np.ndarray]:
    """Fisher scoring from a start: L, and the coefficients of ln M and ln S."""
    power = 0.0
    likelihood, state = _likelihood(log_volume, power, x_m @ beta, x_s @ gamma)
    for _ in range(MOST_STEPS):
        gradient, information = _slopes(power, x_m, x_s, *state)
        step = np.linalg.solve(information, gradient)
        if step @ gradient < CONVERGED:
            return power, beta, gamma
        for halving in 0.5 ** np.arange(30):
            d_m, d_s, d_l = np.split(halving * step, [len(beta), len(beta) + len(gamma)])
            trial = (power + float(d_l[0]), beta + d_m, gamma + d_s)
            better, at = _likelihood(log_volume, trial[0], x_m @ trial[1], x_s @ trial[2])
            if better > likelihood:
                break
        else:
            if step @ gradient < 1e-6:  # the likelihood cannot rise in floating point
                return power, beta, gamma
            break
        (power, beta, gamma), likelihood, state = trial, better, at
    raise EstimateError("ANA_NOT_CONVERGED", "no centiles fit these volumes best")


_State = tuple[np.ndarray, np.ndarray, np.ndarray]


def _likelihood(
    log_volume: np.ndarray, power: float, log_m: np.ndarray, log_s: np.ndarray
) -> tuple[float, _State]:
    """Log likelihood but for constants, and ln(y / M), S and z at it."""
    ratio, spread = log_volume - log_m, np.exp(log_s)
    with np.errstate(over="ignore", invalid="ignore"):
        if abs(power) < NEARLY_LOG:
            z = ratio / spread
        else:
            z = np.expm1(power * ratio) / (power * spread)
        value = float(np.sum(power * ratio - log_s - z * z / 2))
    return (value if np.isfinite(value) else -np.inf), (ratio, spread, z)


def _slopes(
    power: float,
    x_m: np.ndarray,
    x_s: np.ndarray,
    ratio: np.ndarray,
    spread: np.ndarray,
    z: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Gradient and expected information (Cole and Green 1992, appendix A), in ln M, ln S and L."""
    if abs(power) < NEARLY_LOG:
        slope_of_z = ratio * ratio / (2 * spread)
    else:
        slope_of_z = ((1 + power * spread * z) * ratio / spread - z) / power
    gradient = np.concatenate(
        [
            x_m.T @ (z / spread + power * (z * z - 1)),
            x_s.T @ (z * z - 1),
            [np.sum(ratio - z * slope_of_z)],
        ]
    )
    n_m, n_s = x_m.shape[1], x_s.shape[1]
    information = np.empty((n_m + n_s + 1,) * 2)
    m, s, last = slice(n_m), slice(n_m, n_m + n_s), n_m + n_s
    information[m, m] = x_m.T @ (x_m * (1 / spread**2 + 2 * power**2)[:, None])
    information[s, s] = 2 * x_s.T @ x_s
    information[m, s] = 2 * power * x_m.T @ x_s
    information[s, m] = information[m, s].T
    information[m, last] = information[last, m] = -0.5 * x_m.sum(axis=0)
    information[s, last] = information[last, s] = power * x_s.T @ spread**2
    information[last, last] = 7 / 4 * np.sum(spread**2)
    return gradient, information


def _basis(age_years: np.ndarray, knots: np.ndarray) -> np.ndarray:
    ages = np.atleast_1d(np.asarray(age_years, dtype=float))
    return np.column_stack([np.ones(len(ages)), natural_spline(ages, knots)])


def _orthonormal(basis: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Columns of the same span that are orthonormal, and the matrix back to the basis."""
    length = np.linalg.norm(basis, axis=0)
    q, r = np.linalg.qr(basis / length)
    singular = np.linalg.svd(r, compute_uv=False)
    if singular[-1] <= RANK_TOLERANCE * singular[0]:
        raise EstimateError("ANA_COLLINEAR", "too few different ages for a spline")
    return q, np.linalg.inv(r) / length[:, None]

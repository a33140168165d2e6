"""Centile curves by quantile regression: no shape is assumed, so they check those of a family."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from scipy.optimize import linprog
from scipy.special import expit

from cohortvol.errors import EstimateError
from cohortvol.stages.analyse.fits.centile_choice import People
from cohortvol.stages.analyse.fits.centile_model import MEDIAN_KNOTS
from cohortvol.stages.analyse.fits.regression import knots_at, natural_spline

WHOLE_ROWS = 1000
"""Rows up to which the linear program has all of them."""
NEAR_ROWS = 300
"""Rows nearest to a smooth fit that the first program has, per root of 1,000 rows."""
SMOOTHING = (0.3, 0.1, 0.03)
"""Widths over which the kink of the loss is rounded off, in interquartile ranges of residuals."""
NEWTON_STEPS = 30


def quantile_regression(design: np.ndarray, response: np.ndarray, share: float) -> np.ndarray:
    """Coefficients with the least sum of (share - [below]) times distance from the fit.

    Solved as the linear program it is, in its dual form: exact to rounding, where the reweighting
    of ``statsmodels.QuantReg`` stops at about 5 digits. Of many rows most lie so far above or
    below that their side is certain, and only their sum matters (Portnoy and Koenker 1997,
    Statistical Science 12:279). Here a fit with the kink of the loss rounded off tells which. A
    side that turns out wrong is given back to the program, so the solution is that of all rows.

    Parameters
    ----------
    design : (n, terms) float array
    response : (n,) float array
    share : float
        Of the responses that lie below, 0 to 1.

    Returns
    -------
    (terms,) float array

    Raises
    ------
    EstimateError
        ``ANA_NOT_CONVERGED`` if the program is not solved.
    """
    length = np.linalg.norm(design, axis=0)
    q, r = np.linalg.qr(design / length)
    n = len(response)
    left = np.zeros(n)
    n_near = n
    if n > WHOLE_ROWS:
        left = response - q @ _smooth(q, response, share)
        n_near = min(n, int(NEAR_ROWS * np.sqrt(n / 1000)))
    while True:
        near = np.zeros(n, dtype=bool)
        near[np.argpartition(np.abs(left), n_near - 1)[:n_near]] = True
        above = ~near & (left > 0)
        while (coefficients := _solved(q, response, share, near, above)) is not None:
            found = response - q @ coefficients
            wrong = ~near & np.where(above, found < 0, found > 0)
            if not wrong.any():
                return np.asarray(np.linalg.solve(r, coefficients) / length)
            near, above = near | wrong, above & ~wrong
        if n_near == n:
            raise EstimateError("ANA_NOT_CONVERGED", f"quantile regression of {100 * share:g} %")
        n_near = min(n, 4 * n_near)


def _solved(
    q: np.ndarray, response: np.ndarray, share: float, near: np.ndarray, above: np.ndarray
) -> np.ndarray | None:
    """The program of the rows that are near, others being above or below; None if it has no
    solution, as some of them are not."""
    wanted = (1 - share) * q.sum(axis=0) - q[above].sum(axis=0)
    solved = linprog(-response[near], A_eq=q[near].T, b_eq=wanted, bounds=(0, 1), method="highs")
    return -solved.eqlin.marginals if solved.status == 0 else None


def _smooth(q: np.ndarray, response: np.ndarray, share: float) -> np.ndarray:
    """(terms,): about the solution, by Newton steps on a loss with a rounded kink (Fernandes,
    Guerre and Horta 2021, Journal of Business & Economic Statistics 39:338)."""
    coefficients = q.T @ response
    left = response - q @ coefficients
    low, middle, high = np.quantile(left, [0.25, share, 0.75])
    coefficients = coefficients + q.T @ np.full(len(q), middle)
    most = (high - low) * np.sqrt(len(q))
    for width in np.multiply(SMOOTHING, high - low):
        if not width > 0:
            break
        for _ in range(NEWTON_STEPS):
            below = expit((q @ coefficients - response) / width)
            bend = q.T @ (q * (below * (1 - below))[:, None]) / width
            step = np.linalg.lstsq(bend, q.T @ (share - below))[0]
            coefficients = coefficients + np.clip(step, -most, most)
            if np.abs(step).max() < 1e-3 * width * np.sqrt(len(q)):
                break
    return np.asarray(coefficients)


def quantile_curves(
    people: People, at_years: np.ndarray, centiles: Iterable[float]
) -> tuple[dict[float, np.ndarray], dict[float, np.ndarray]]:
    """Each centile by a regression of its own, of ln(volume) on the columns of its median.

    Returns
    -------
    tuple of dict
        Volumes in mL by centile at `at_years`, further covariates 0; and of the people.
    """
    knots = knots_at(people.age_years, MEDIAN_KNOTS)

    def basis(years: np.ndarray) -> np.ndarray:
        return np.column_stack([np.ones(len(years)), natural_spline(years, knots)])

    design, curve = basis(people.age_years), basis(at_years)
    if people.further is not None:
        design = np.column_stack([design, people.further])
        curve = np.pad(curve, [(0, 0), (0, people.further.shape[1])])
    log_volume = np.log(people.volume_ml)
    on_curve, on_scans = {}, {}
    for c in centiles:
        coefficients = quantile_regression(design, log_volume, c / 100)
        on_curve[c] = np.exp(curve @ coefficients)
        on_scans[c] = np.exp(design @ coefficients)
    return on_curve, on_scans

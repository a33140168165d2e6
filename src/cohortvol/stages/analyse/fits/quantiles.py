"""Centile curves by quantile regression: no shape is assumed, so they check those of a family."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from scipy.optimize import linprog

from cohortvol.errors import EstimateError
from cohortvol.stages.analyse.fits.centile_choice import People
from cohortvol.stages.analyse.fits.centile_model import MEDIAN_KNOTS
from cohortvol.stages.analyse.fits.regression import knots_at, natural_spline


def quantile_regression(design: np.ndarray, response: np.ndarray, share: float) -> np.ndarray:
    """Coefficients with the least sum of (share - [below]) times distance from the fit.

    Solved as the linear program it is, in its dual form: as fast as the reweighting of
    ``statsmodels.QuantReg``, and exact to rounding where that stops at about 5 digits.

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
    solved = linprog(
        -response, A_eq=q.T, b_eq=(1 - share) * q.sum(axis=0), bounds=(0, 1), method="highs"
    )
    if solved.status != 0:
        raise EstimateError("ANA_NOT_CONVERGED", f"quantile regression of {100 * share:g} %")
    return np.asarray(np.linalg.solve(r, -solved.eqlin.marginals) / length)


def quantile_curves(
    people: People, at_years: np.ndarray, centiles: Iterable[int]
) -> tuple[dict[int, np.ndarray], dict[int, np.ndarray]]:
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

"""Regression of a sample that was drawn with unequal chances, as R's survey fits it."""

from __future__ import annotations

import numpy as np

from cohortvol.errors import EstimateError
from cohortvol.stages.analyse.fits.few_clusters import FEW
from cohortvol.stages.analyse.fits.regression import Estimated, fit, orthonormal, summed


def weighted_to_population(
    design: np.ndarray,
    response: np.ndarray,
    weights: np.ndarray,
    strata: np.ndarray,
    clusters: np.ndarray,
) -> Estimated:
    """Slopes of the population, with errors by Taylor linearisation (``svyglm``).

    Families and villages of one stratum that are few have the errors of `few_clusters` instead,
    which know of no strata.

    Parameters
    ----------
    design : (n, terms) float array
        The intercept included.
    response : (n,) float array
    weights : (n,) float array
        People of the population that each row stands for, above 0.
    strata, clusters : (n,) arrays of whole numbers
        Where each row was drawn, and with whom; clusters of two strata are two clusters.

    Returns
    -------
    Estimated
        On as many degrees of freedom as there are clusters, less strata and slopes, or those of
        `few_clusters`.

    Raises
    ------
    EstimateError
        ``ANA_COLLINEAR`` if the design has not full rank; ``ANA_TOO_FEW`` if a stratum has one
        cluster, or there are too few of them for the terms.
    """
    different = len(np.unique(clusters))
    if different < min(FEW, len(clusters)) and len(np.unique(strata)) == 1:
        return fit(design, response, clusters, weights=weights).of(0)
    root = np.sqrt(weights)
    q, r, length = orthonormal(design * root[:, None])
    back = np.linalg.inv(r) / length[:, None]
    coefficients = back @ (q.T @ (response * root))
    scores = design * (weights * (response - design @ coefficients))[:, None]

    pairs, members = np.unique(np.column_stack([strata, clusters]), axis=0, return_inverse=True)
    of_stratum = np.unique(pairs[:, 0], return_inverse=True)[1]
    sizes = np.bincount(of_stratum)
    if sizes.min() < 2:
        raise EstimateError("ANA_TOO_FEW", "a stratum has one cluster")
    freedom = len(pairs) - len(sizes) + 1 - design.shape[1]
    if freedom < 1:
        raise EstimateError("ANA_TOO_FEW", f"{len(pairs)} clusters for {design.shape[1]} terms")
    totals = summed(scores, members.ravel())
    means = summed(totals / sizes[of_stratum, None], of_stratum)
    apart = (totals - means[of_stratum]) * np.sqrt(sizes / (sizes - 1))[of_stratum, None]
    pulled = apart @ (back @ back.T)
    return Estimated(coefficients, pulled.T @ pulled, freedom)

"""Outliers, and slopes that a few of them cannot bend; sites, and slopes that allow for them."""

from __future__ import annotations

import numpy as np
import pandas as pd

from cohortvol.errors import EstimateError
from cohortvol.stages.analyse.fits.few_clusters import FEW, of_rows
from cohortvol.stages.analyse.fits.regression import (
    Estimated,
    cluster_factor,
    count_subjects,
    orthonormal,
    summed,
)

OUTLIER_Z = 5.0
NORMAL_MAD = 0.6744897501960817
"""Median absolute deviation of a standard normal."""
HUBER_K = 1.345
"""Scales beyond which a residual pulls no stronger."""
MOST_STEPS = 1000
SETTLED = 1e-9
"""Of a step of the robust fit over the scale of the residuals: about in standard errors."""
LEAST_OF_SITE = 20
"""Scans below which a site is left out of what allows for sites."""
SITE_AGES = (5.0, 95.0)
"""Percentiles of age that must overlap between sites."""


def robust_z(residuals: np.ndarray) -> np.ndarray:
    """Distance from the median in units of the scaled median absolute deviation; 0 where that is 0.

    Parameters
    ----------
    residuals : (n,) float array
    """
    away = residuals - np.median(residuals)
    mad = float(np.median(np.abs(away))) / NORMAL_MAD
    return np.asarray(away / mad) if mad > 0 else np.zeros(len(residuals))


def outliers(design: np.ndarray, response: np.ndarray) -> np.ndarray:
    """(n,) of bool: the residual of least squares has a robust z beyond 5 to either side."""
    coefficients, *_ = np.linalg.lstsq(design, response, rcond=None)
    return np.asarray(np.abs(robust_z(response - design @ coefficients)) > OUTLIER_Z)


def huber(
    design: np.ndarray, response: np.ndarray, subjects: np.ndarray | None = None
) -> Estimated:
    """Huber's M-estimate (k = 1.345, scale by MAD), with the covariance of Huber (1981, chapter 7).

    By his algorithm with modified residuals, which decomposes the design once.

    Parameters
    ----------
    design : (n, terms) float array
    response : (n,) float array
    subjects : (n,) array of whole numbers, optional
        Who each row belongs to. If any repeats, the covariance is cluster-robust by subject, with
        the factor and degrees of freedom of `regression.fit`, or where there are few as in
        `few_clusters` at the solution; otherwise that of independent rows.

    Raises
    ------
    EstimateError
        ``ANA_NOT_CONVERGED`` if it does not settle; ``ANA_TOO_FEW`` with fewer subjects than terms.
    """
    n, terms = design.shape
    q, r, length = orthonormal(design)
    back = np.linalg.inv(r) / length[:, None]
    at = q.T @ response
    for _ in range(MOST_STEPS):
        left = response - q @ at
        scale = float(np.median(np.abs(left))) / NORMAL_MAD
        if not scale > 0:
            raise EstimateError("ANA_NOT_CONVERGED", "the robust fit did not settle")
        pulled = np.clip(left, -HUBER_K * scale, HUBER_K * scale)
        step = q.T @ pulled
        at = at + step
        if np.abs(step).max() < SETTLED * scale:
            break
    else:
        raise EstimateError("ANA_NOT_CONVERGED", "the robust fit did not settle")
    coefficients = back @ at
    bends = (np.abs(left) <= HUBER_K * scale).astype(float)
    people = n if subjects is None else count_subjects(subjects)
    if subjects is None or people == n:
        share = bends.mean()
        small = 1 + terms / n * (1 - share) / share
        spread = small**2 * (pulled @ pulled) / (n - terms) / share**2
        return Estimated(coefficients, spread * back @ back.T)
    if people <= terms:
        raise EstimateError("ANA_TOO_FEW", f"{people} subjects for {terms} terms")
    members = np.unique(subjects, return_inverse=True)[1]
    _, r, length = orthonormal(design * bends[:, None])
    back = np.linalg.inv(r) / length[:, None]
    columns = design @ back
    if people < FEW:
        pull, few = of_rows(columns, back, members, bends=bends)
        sums = summed(pull * pulled[:, None], members)
        return Estimated(coefficients, sums.T @ sums, people - 1, few)
    sums = summed(columns * pulled[:, None], members) @ back.T
    return Estimated(coefficients, cluster_factor(people, n, terms) * sums.T @ sums, people - 1)


def comparable_sites(site: pd.Series, age_years: np.ndarray) -> tuple[np.ndarray, str]:
    """Rows of sites that can be compared, and what was left out.

    A site with fewer than 20 scans is left out. The sites must share a range of ages, so that
    site and age can be told apart.

    Parameters
    ----------
    site : (n,) series of str, None where not known
    age_years : (n,) float array

    Returns
    -------
    tuple
        (n,) bool array, and a note, empty if nothing was left out.

    Raises
    ------
    EstimateError
        ``ANA_SITES`` if fewer than two sites are left, or no age is common to all of them.
    """
    counts = site.value_counts()
    large = counts.index[counts >= LEAST_OF_SITE]
    keep = site.isin(large).to_numpy(dtype=bool)
    n_small = len(counts) - len(large)
    note = []
    if n_small:
        note.append(f"{n_small} sites with fewer than {LEAST_OF_SITE} scans left out")
    if site.isna().any():
        note.append(f"{int(site.isna().sum())} scans of unknown site left out")
    if len(large) < 2:
        raise EstimateError("ANA_SITES", f"{len(large)} site with {LEAST_OF_SITE} scans or more")
    ranges = [np.percentile(age_years[(site == one).to_numpy(bool)], SITE_AGES) for one in large]
    youngest, oldest = max(low for low, _ in ranges), min(high for _, high in ranges)
    if youngest >= oldest:
        raise EstimateError(
            "ANA_SITES", f"no age common to all {len(large)} sites (5th to 95th percentile)"
        )
    return keep, "; ".join(note)


def site_columns(site: pd.Series) -> np.ndarray:
    """(n, sites - 1): one column per site but the first in the order of their names."""
    levels = sorted(site.unique())
    return np.column_stack([(site == level).to_numpy(dtype=float) for level in levels[1:]])


def harmonised(design: np.ndarray, response: np.ndarray, site: pd.Series) -> np.ndarray:
    """Responses with each site's offset taken out and its spread brought to that of all.

    The location-scale model of ComBat (Johnson 2007) for one structure, without its shrinkage of
    sites towards each other, which needs many structures. Age, sex and size stand in the model, so
    that what they explain is kept; without age the slopes would shrink.

    Parameters
    ----------
    design : (n, terms) float array
        What is to be kept, the intercept first.
    response : (n,) float array
    site : (n,) series of str

    Returns
    -------
    (n,) float array
    """
    sites = site_columns(site)
    sites = sites - sites.mean(axis=0)
    joined = np.column_stack([design, sites])
    coefficients, _, rank, _ = np.linalg.lstsq(joined, response, rcond=None)
    if rank < joined.shape[1]:
        raise EstimateError("ANA_COLLINEAR", "site cannot be told from the other terms")
    kept = design @ coefficients[: design.shape[1]]
    residuals = response - joined @ coefficients
    out = kept + residuals
    together = residuals.std()
    for level in site.unique():
        here = (site == level).to_numpy(dtype=bool)
        own = residuals[here].std()
        if own > 0:
            out[here] = kept[here] + residuals[here] * together / own
    return np.asarray(out)

"""Worm plots of centiles: how far the scores of the sample are from standard normal, by age."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd
from scipy import stats

SCORES = np.arange(-3.0, 3.01, 0.25)
"""Where the sample's quantiles are compared with those of a standard normal."""
LEAST_BEYOND = 1.0
"""People expected beyond a score, below which its quantile is left out: it would be an extreme."""
QUARTERS = 4
_Z95 = 1.959964


def quarters(age_years: np.ndarray) -> Iterator[tuple[float, float, np.ndarray]]:
    """Least and greatest age of each quarter of the sample by age, and who is in it.

    Of ages in few bands, quarters that hold nobody are left out.
    """
    edges = np.percentile(age_years, np.linspace(0, 100, QUARTERS + 1))
    band = np.clip(np.searchsorted(edges, age_years, side="right") - 1, 0, QUARTERS - 1)
    for k in range(QUARTERS):
        here = band == k
        if here.any():
            yield float(edges[k]), float(edges[k + 1]), here


def worms(z: np.ndarray, age_years: np.ndarray) -> pd.DataFrame:
    """Detrended normal Q-Q of all, then of each quarter by age (van Buuren and Fredriks 2001).

    Parameters
    ----------
    z : (n,) float array
        Scores of the people that the centiles were fitted to.
    age_years : (n,) float array

    Returns
    -------
    pandas.DataFrame
        ``band`` (0 of all ages, then 1 to 4), ``age_low_years``, ``age_high_years``, ``score``,
        ``deviation`` of the sample's quantile from it, ``limit``: half the width of the pointwise
        95 % band around 0, sqrt(p (1 - p) / n) / density times 1.96; and ``n_band``.
    """
    everyone = (float(age_years.min()), float(age_years.max()), np.ones(len(z), dtype=bool))
    found = []
    for band, (low, high, here) in enumerate([everyone, *quarters(age_years)]):
        n = int(here.sum())
        scores = SCORES[n * stats.norm.sf(np.abs(SCORES)) >= LEAST_BEYOND]
        share = stats.norm.cdf(scores)
        with np.errstate(invalid="ignore"):  # a score may be infinite
            deviation = np.quantile(z[here], share, method="hazen") - scores
        error = np.sqrt(share * (1 - share) / n) / stats.norm.pdf(scores)
        found.append(
            pd.DataFrame(
                {
                    "band": band,
                    "age_low_years": low,
                    "age_high_years": high,
                    "score": scores,
                    "deviation": np.where(np.isfinite(deviation), deviation, np.nan),
                    "limit": _Z95 * error,
                    "n_band": n,
                }
            )
        )
    return pd.concat(found, ignore_index=True)

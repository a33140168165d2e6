"""A reference at a site that it does not know: whether scores are off there, and by how much."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy import stats

LEAST_SCANS = 20
"""Volumes of a structure at a site below which nothing is said of the site."""
OFF, OFF_ERRORS = 0.3, 4.0
"""A mean score is off if it is so far from 0, and so many of its standard errors."""
SHIFT_SD, LOG_SCALE_SD = 1.0, 0.2
"""Of sites, before their scans are seen: of the mean score, and of the logarithm of its SD."""
ADAPTED = ("shift", "shift_se", "scale", "z_adapted", "centile_adapted")


def warnings(scores: pd.DataFrame, site: pd.Series, by: str) -> list[str]:
    """A sentence for every site and structure whose scores are off on average.

    Parameters
    ----------
    scores : pandas.DataFrame
        With ``structure, z``.
    site : pandas.Series
        Of each row; None where not known.
    by : str
        What sites are called.
    """
    said = []
    known = scores["z"].notna()
    groups = scores[known].groupby([site[known].fillna("not given"), "structure"], sort=True)["z"]
    for (name, structure), z in groups:
        n, mean = len(z), float(z.mean())
        limit = max(OFF, OFF_ERRORS * float(z.std()) / np.sqrt(n)) if n > 1 else np.inf
        if n >= LEAST_SCANS and abs(mean) > limit:
            size = "larger" if mean > 0 else "smaller"
            said.append(
                f"{by} {name}: {structure} scores {mean:+.2f} on average in {n:,} scans, {size} "
                "than in the reference"
            )
    return said


def adapted(scores: pd.DataFrame, site: pd.Series) -> pd.DataFrame:
    """Columns `ADAPTED`: scores less what is the site's, for sites of `LEAST_SCANS` or more.

    The mean and the SD of a structure's scores at a site are drawn towards 0 and 1 by their
    normal priors (`SHIFT_SD`, `LOG_SCALE_SD`): the fewer scans, the more. This takes the people
    of a site for a sample of those of the reference: what is true of them goes with it.
    """
    found = pd.DataFrame(np.nan, index=scores.index, columns=list(ADAPTED))
    known = scores["z"].notna() & site.notna()
    for _, z in scores[known].groupby([site[known], "structure"])["z"]:
        n, sd = len(z), float(z.std())
        if n < LEAST_SCANS or not sd > 0:
            continue
        precision = n / sd**2
        variance = 1 / (precision + 1 / SHIFT_SD**2)
        shift = float(z.mean()) * precision * variance
        of_scale = LOG_SCALE_SD**2 / (LOG_SCALE_SD**2 + 1 / (2 * (n - 1)))
        scale = sd**of_scale
        moved = (z - shift) / scale
        found.loc[z.index, "shift"] = shift
        found.loc[z.index, "shift_se"] = np.sqrt(variance)
        found.loc[z.index, "scale"] = scale
        found.loc[z.index, "z_adapted"] = moved
        found.loc[z.index, "centile_adapted"] = 100 * stats.norm.cdf(moved)
    return found

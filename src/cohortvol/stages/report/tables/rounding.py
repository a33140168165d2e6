"""Rounding: to multiples of five, and to a step near the standard error."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

SMALL = 5
"""Counts from 1 to one less than this are not given; all others are rounded to multiples of it."""
LEAST_N = 20
"""Scans behind any statistic, so that at least `SMALL` lie beyond a quartile."""


def rounded(counts: pd.Series) -> pd.Series:
    """Counts to the nearest multiple of `SMALL`; missing where they are small but not 0."""
    n = counts.astype("Float64")
    nearest = (n / SMALL).round() * SMALL
    return nearest.mask((n > 0) & (n < SMALL)).astype("Int64")


def rounded_one(count: float | None) -> int | None:
    """`rounded` for one count."""
    found = rounded(pd.Series([count], dtype="Float64")).iloc[0]
    return None if pd.isna(found) else int(found)


def step_of(error: Any, n: Any) -> np.ndarray:
    """The step that statistics of `n` scans with these standard errors are rounded to.

    The largest 1, 2 or 5 times a power of ten that is not above the error. One person z standard
    deviations off moves a mean by z / sqrt(n) of its error: below 100 scans the error counts
    sqrt(100 / n) times, so that a step is never less than what z = 4 can do.

    Returns
    -------
    numpy.ndarray
        NaN where the error is not known, 0, or of fewer than `LEAST_N` scans.
    """
    n = np.asarray(n, dtype=float)
    error = np.asarray(error, dtype=float)
    with np.errstate(divide="ignore", invalid="ignore"):
        enough = (n >= LEAST_N) & (error > 0)
        wide = np.where(enough, error * np.maximum(1, 10 / np.sqrt(n)), np.nan)
        power = 10.0 ** np.floor(np.log10(wide))
        first = np.where(wide >= 5 * power, 5.0, np.where(wide >= 2 * power, 2.0, 1.0))
    return np.asarray(first * power)


def to_step(values: Any, step: Any) -> np.ndarray:
    """Values to the nearest multiple of their step; NaN where there is none."""
    values, step = np.broadcast_arrays(np.asarray(values, float), np.asarray(step, float))
    nearest = np.round(values / step) * step
    digits = np.clip(-np.floor(np.log10(step)), 0, 15)
    plain = [
        round(value, int(places)) + 0.0 if np.isfinite(value) else np.nan
        for value, places in zip(nearest.ravel(), digits.ravel(), strict=True)
    ]
    return np.array(plain, dtype=float).reshape(nearest.shape)

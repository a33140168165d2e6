"""Write the sample that ``random_slopes.R`` fits: python random_slopes.py FILE.csv."""

from __future__ import annotations

import sys

import numpy as np
import pandas as pd


def sample() -> pd.DataFrame:
    """300 people with one to six scans, who age at rates of their own."""
    rng = np.random.default_rng(5)
    subject = np.repeat(np.arange(300), rng.integers(1, 7, 300))
    n = len(subject)
    start = rng.uniform(30, 75, 300)
    age = start[subject] + 8 * rng.random(n)
    mean = pd.Series(age).groupby(subject).transform("mean").to_numpy()
    rate = -0.03 + 0.1 * rng.standard_normal(300)
    within = (age - mean) / 10
    y = 7.3 - 0.05 * (mean - 50) / 10 + rate[subject] * within
    y = y + 0.15 * rng.standard_normal(300)[subject] + 0.03 * rng.standard_normal(n)
    between = (mean - 50) / 10
    return pd.DataFrame({"y": y, "between": between, "within": within, "subject": subject})


if __name__ == "__main__":
    sample().to_csv(sys.argv[1], index=False, float_format="%.17g")

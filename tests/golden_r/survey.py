"""Write the sample that ``survey.R`` fits: python tests/golden_r/survey.py FILE.csv."""

from __future__ import annotations

import sys

import numpy as np
import pandas as pd


def sample() -> pd.DataFrame:
    """People of 120 families, drawn in five strata with chances from 1 in 1 to 1 in 20."""
    rng = np.random.default_rng(7)
    cluster = np.repeat(np.arange(120), rng.integers(2, 5, 120))
    n = len(cluster)
    stratum = cluster % 5
    age = rng.uniform(20, 85, n)
    male = rng.integers(0, 2, n)
    weight = np.exp(rng.uniform(0, np.log(20), n)) * (1 + stratum)
    family = 0.1 * rng.standard_normal(120)[cluster]
    y = 7.3 - 0.004 * age + 0.1 * male + 0.02 * np.log(weight) * (age - 50) / 10
    y = y + family + 0.15 * rng.standard_normal(n)
    return pd.DataFrame(
        {"y": y, "age": age, "male": male, "w": weight, "stratum": stratum, "cluster": cluster}
    )


if __name__ == "__main__":
    sample().to_csv(sys.argv[1], index=False, float_format="%.17g")

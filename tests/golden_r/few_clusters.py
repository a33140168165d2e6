"""Write the sample that ``few_clusters.R`` fits: python tests/golden_r/few_clusters.py FILE.csv."""

from __future__ import annotations

import sys

import numpy as np
import pandas as pd


def sample() -> pd.DataFrame:
    """People of twelve villages of unlike size; who is treated differs in three of them alone."""
    rng = np.random.default_rng(12)
    cluster = np.repeat(np.arange(12), [3, 4, 4, 6, 8, 9, 12, 15, 20, 31, 44, 60])
    n = len(cluster)
    age = rng.uniform(20, 85, n) + 2.0 * cluster
    male = rng.integers(0, 2, n)
    treated = (cluster % 5 == 0) * (rng.random(n) < 0.8)
    y = 7.3 - 0.004 * age + 0.1 * male + 0.1 * rng.standard_normal(12)[cluster]
    y = y + 0.15 * rng.standard_normal(n)
    return pd.DataFrame({"y": y, "age": age, "male": male, "treated": treated, "cluster": cluster})


if __name__ == "__main__":
    sample().astype(float).to_csv(sys.argv[1], index=False, float_format="%.17g")

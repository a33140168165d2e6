"""Write the sample that ``few_clusters.R`` fits: python tests/golden_r/few_clusters.py FILE.csv."""

from __future__ import annotations

import sys

import numpy as np
import pandas as pd


def sample() -> pd.DataFrame:
    """Scans of people of twelve villages of unlike size, one to three of each, y with and again
    without what they share; who is treated differs in three of the villages alone."""
    rng = np.random.default_rng(12)
    cluster = np.repeat(np.arange(12), [3, 4, 4, 6, 8, 9, 12, 15, 20, 31, 44, 60])
    n = len(cluster)
    age = rng.uniform(20, 85, n) + 2.0 * cluster
    male = rng.integers(0, 2, n)
    treated = (cluster % 5 == 0) * (rng.random(n) < 0.8)
    y = 7.3 - 0.004 * age + 0.1 * male + 0.1 * rng.standard_normal(12)[cluster]
    y = y + 0.15 * rng.standard_normal(n)
    weight = np.exp(rng.uniform(0, np.log(20), n))
    person = np.cumsum((np.arange(n) % 3 != 2) | (np.diff(cluster, prepend=-1) > 0))
    again = y + 0.2 * rng.standard_normal(person.max() + 1)[person]
    return pd.DataFrame(
        {"y": y, "age": age, "male": male, "treated": treated, "cluster": cluster}
        | {"weight": weight, "person": person, "again": again}
    )


if __name__ == "__main__":
    sample().astype(float).to_csv(sys.argv[1], index=False, float_format="%.17g")

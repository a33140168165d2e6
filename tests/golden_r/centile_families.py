"""Write the data that ``centile_families.R`` fits: one CSV each, with the columns of the splines.

python tests/golden_r/centile_families.py DIR
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pandas as pd

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from cohortvol.stages.analyse.fits.centile_model import MEDIAN_KNOTS, SPREAD_KNOTS
from cohortvol.stages.analyse.fits.regression import natural_spline
from golden_values import data_of_r


def remnants() -> tuple[np.ndarray, np.ndarray]:
    """Ages, and kidneys of which one in fifty is a remnant."""
    rng = np.random.default_rng(1000)
    age = rng.uniform(20, 85, 1000)
    volume = 160 * np.exp(0.15 * rng.standard_normal(1000))
    small = rng.random(1000) < 0.02
    volume[small] *= rng.uniform(0.05, 0.3, small.sum())
    return age, volume


def chains(sex: str, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Ages, and free light chains of serum, which have a heavy tail."""
    data = data_of_r("flchain")
    data = data[data["sex"] == sex]
    return data["age"].to_numpy(dtype=float), data[name].to_numpy(dtype=float)


DATA = {
    "remnants": remnants,
    "kappa_F": lambda: chains("F", "kappa"),
    "lambda_M": lambda: chains("M", "lambda"),
}


def main() -> None:
    """Write every data set to the folder named."""
    folder = Path(sys.argv[1])
    for name, read in DATA.items():
        age, volume = read()
        median = natural_spline(age, np.percentile(age, MEDIAN_KNOTS))
        spread = natural_spline(age, np.percentile(age, SPREAD_KNOTS))
        columns = {"y": volume, "age": age}
        columns |= {f"m{n}": one / np.ptp(one) for n, one in enumerate(median.T)}
        columns |= {f"s{n}": one / np.ptp(one) for n, one in enumerate(spread.T)}
        pd.DataFrame(columns).to_csv(folder / f"{name}.csv", index=False, float_format="%.17g")


if __name__ == "__main__":
    main()

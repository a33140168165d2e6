"""Analyse: cohorts of one structure, one sex, few ages or cut volumes have an answer."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm

from analyse_fixture import analysed, made_up, record, row
from cohortvol.stages.analyse.answers import curves

pytestmark = pytest.mark.slow


def test_no_slope_is_given_where_there_are_no_ages(tmp_path):
    volumes, scans = made_up(1500)
    young = scans["age_years"] < 62
    keep = volumes["scan_id"].isin(scans.loc[young, "scan_id"]) & (volumes["structure"] == "liver")
    volumes = volumes[keep].copy()
    age = volumes["scan_id"].map(scans.set_index("scan_id")["age_years"])
    volumes["volume_ml"] *= np.exp(0.5 * ((age - 40) / 15) ** 2)  # a valley: highest at an end
    found = analysed(tmp_path, volumes, scans[young])
    at = found["slopes_at_age"].set_index(["sex", "age_years"])
    assert at.loc[("F", 50.0), "slope_pct_per_decade"] > 5
    for age_years in (65.0, 80.0):
        assert np.isnan(at.loc[("F", age_years), "slope_pct_per_decade"])
        assert at.loc[("F", age_years), "note"].startswith("outside the ages of the scans, 2")
    peaks = found["peaks"]
    assert peaks["peak_age_years"].isna().all()
    assert peaks["note"].str.startswith("no peak: highest at the").all()


def one_structure(n: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    volumes, scans = made_up(n)
    liver = volumes.loc[volumes["structure"] == "liver", ["scan_id", "structure", "volume_ml"]]
    return liver, scans[["scan_id", "age_years", "sex"]]


def test_one_structure_65_rows_and_no_height_is_a_cohort(tmp_path):
    found = analysed(tmp_path, *one_structure(65))
    assert found["slopes"]["slope_pct_per_decade"].notna().all()
    assert set(found["slopes"]["model"]) == {"M1"}
    assert (found["slopes"]["note"] == "descriptive only: n < 100 per sex").all()
    assert found["body_size"].empty
    assert found["nonlinearity"]["p_value"].isna().all()
    assert found["nonlinearity"]["note"].str.contains("ANA_TOO_FEW").all()
    assert found["peaks"].empty
    assert found["slopes_at_age"].empty
    assert found["diagnostics"]["max_leverage"].notna().all()
    assert found["quartiles"]["n"].sum() == 2 * 65


@pytest.mark.parametrize("n", [300, 20, 8])
def test_a_table_without_sex_is_analysed_as_one(tmp_path, n):
    volumes, scans = one_structure(n)
    found = analysed(tmp_path, volumes, scans.drop(columns="sex"))
    pooled = row(found["slopes"], structure="liver", sex="all", model="M1")
    assert pooled["n_used"] == n
    assert "Sex is not known: women and men are analysed as one." in record(tmp_path)["sentences"]
    if n < 10:
        assert pooled["note"].startswith("ANA_TOO_FEW: 8 usable")
        return
    data = volumes.merge(scans, on="scan_id")
    theirs = sm.OLS(np.log(data["volume_ml"]), sm.add_constant(data["age_years"] / 10)).fit(
        cov_type="HC3", use_t=True
    )
    assert pooled["slope_pct_per_decade"] == pytest.approx(100 * np.expm1(theirs.params.iloc[1]))
    assert pooled["p_value"] == pytest.approx(theirs.pvalues.iloc[1], rel=1e-6)
    assert "sex is not known: no term of sex" in pooled["note"]
    assert found["slopes"].query("sex != 'all'")["p_value"].isna().all()
    bends = row(found["nonlinearity"], structure="liver", sex="all")
    if n == 300:
        assert bends["df"] == 3
    else:
        assert bends["note"].startswith("ANA_TOO_FEW: 20 usable subjects, at least 100")
    assert row(found["flow"], step="usable for trends")["n"] == n
    assert found["diagnostics"]["n_used"].to_list() == [n]


@pytest.mark.parametrize("sex", ["F", "M"])
def test_a_cohort_of_one_sex_bends_alone(tmp_path, sex):
    volumes, scans = made_up(500)
    scans = scans[scans["sex"] == sex]
    volumes = volumes[volumes["scan_id"].isin(scans["scan_id"])]
    found = analysed(tmp_path, volumes, scans)
    own, both = (row(found["nonlinearity"], structure="liver", sex=s) for s in (sex, "all"))
    assert own["wald_statistic"] == both["wald_statistic"]
    assert both["note"] == f"{sex} only"
    size = row(found["body_size"], structure="liver", sex=sex)
    assert size["height_exponent_ci_low"] < 1 < size["height_exponent_ci_high"]
    assert found["diagnostics"]["breusch_pagan_p"].notna().all()


def test_constant_volumes_constant_ages_and_20_rows_are_answered_with_notes(tmp_path):
    volumes, scans = made_up(300)
    volumes.loc[volumes["structure"] == "stomach", "volume_ml"] = 250.0
    constant = analysed(tmp_path / "volume", volumes, scans)
    for name in ("slopes", "nonlinearity", "body_size", "diagnostics"):
        rows = constant[name][constant[name]["structure"] == "stomach"]
        assert rows["note"].str.contains("ANA_NO_VARIANCE: all volumes are equal").all(), name
    ages = analysed(tmp_path / "age", volumes, scans.assign(age_years=50.0))
    assert ages["slopes"]["note"].str.startswith("ANA_NO_VARIANCE: all ages").all()
    few = analysed(tmp_path / "few", *made_up(20))
    assert few["slopes"]["note"].notna().all()
    assert few["quartiles"]["n"].isna().any()


def test_few_different_ages_have_a_slope_but_no_bend(tmp_path):
    volumes, scans = made_up(600)
    scans["age_years"] = np.where(scans["age_years"] < 55, 40.0, 60.0)
    found = analysed(tmp_path, volumes, scans)
    assert found["slopes"]["p_value"].notna().all()
    assert found["nonlinearity"]["note"].str.contains("too few different ages").all()


def test_each_side_keeps_its_own_slope(tmp_path):
    volumes, scans = made_up(1000)
    sides = {"liver": "kidney_left", "adrenal_gland_left": "kidney_right"}
    volumes = volumes[volumes["structure"].isin(sides)]
    volumes = volumes.assign(structure=volumes["structure"].map(sides))
    slopes = analysed(tmp_path, volumes, scans)["slopes"]
    left, right = (row(slopes, structure=s, sex="M", model="M2") for s in sides.values())
    assert left["slope_pct_per_decade_ci_high"] < -3
    assert right["slope_pct_per_decade_ci_low"] > 0


def test_volumes_cut_more_often_in_the_old_do_not_bend_the_slope(tmp_path):
    volumes, scans = made_up(2000)
    random = np.random.default_rng(9)
    age = volumes["scan_id"].map(scans.set_index("scan_id")["age_years"])
    cut = random.random(len(volumes)) < (age - 20) / 140
    share = np.where(cut, random.uniform(0.5, 0.95, len(volumes)), 1.0)
    volumes = volumes.assign(
        volume_ml=volumes["volume_ml"] * share, status=np.where(cut, "cut", "ok")
    )
    left_out = analysed(tmp_path / "out", volumes, scans)["slopes"]
    as_they_are = analysed(tmp_path / "in", volumes, scans, exclude_cut=False)["slopes"]
    key = {"structure": "stomach", "sex": "all", "model": "M2"}
    assert row(left_out, **key)["slope_pct_per_decade"] == pytest.approx(0, abs=1)
    assert row(as_they_are, **key)["slope_pct_per_decade_ci_high"] < -1


def test_a_spline_through_single_people_is_no_curve_and_has_no_interval(tmp_path):
    volumes, scans = one_structure(24)
    found = analysed(tmp_path, volumes, scans, min_n_per_sex=1, min_n_fit=5)
    assert set(found["curves"]["model"]) == {"M1"}  # of 12 a sex: a spline has 5 terms


def test_limits_that_tell_nothing_are_null(tmp_path, monkeypatch):
    real = curves.fitted_means
    monkeypatch.setattr(curves, "fitted_means", lambda *of: (real(*of)[0], real(*of)[1] + 800))
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)  # exp(800) is none
        found = analysed(tmp_path, *one_structure(60))["curves"]
    assert found["volume_ml"].notna().all()
    assert found[["volume_ml_ci_low", "volume_ml_ci_high"]].isna().all(axis=None)


def test_a_cohort_of_no_known_sex_has_a_curve_of_all(tmp_path):
    volumes, scans = one_structure(200)
    found = analysed(tmp_path, volumes, scans[["scan_id", "age_years"]])["curves"]
    assert set(zip(found["sex"], found["model"], strict=True)) == {("all", "M1"), ("all", "spline")}

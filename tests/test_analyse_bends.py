"""Analyse: bends, slopes at an age and ages of a peak are found as planted."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import statsmodels.formula.api as smf

from analyse_fixture import analysed, made_up, row
from cohortvol.stages.analyse.fits.regression import natural_spline

pytestmark = pytest.mark.slow

AGE_SHAPE = {"F": 55.0, "M": 45.0}


@pytest.fixture(scope="module")
def bent_cohort():
    """`made_up`, its liver highest at `AGE_SHAPE` and its spleen as the stomach is."""
    volumes, scans = made_up(3000)
    age = scans["age_years"].to_numpy()
    peak = scans["sex"].map(AGE_SHAPE).to_numpy()
    liver = volumes["structure"] == "liver"
    straight = np.where(scans["sex"] == "M", np.log(0.94), np.log(0.97)) * (age - 50) / 10
    volumes.loc[liver, "volume_ml"] *= np.exp(-straight - 0.5 * ((age - peak) / 25) ** 2)
    return volumes, scans


@pytest.fixture(scope="module")
def bent_tables(bent_cohort, tmp_path_factory):
    return analysed(tmp_path_factory.mktemp("bent"), *bent_cohort)


def test_the_test_of_the_bends_agrees_with_the_robust_wald_test_of_statsmodels(
    bent_cohort, bent_tables, tmp_path
):
    volumes, scans = bent_cohort
    data = volumes[volumes["structure"] == "stomach"].merge(scans, on="scan_id")
    knots = np.percentile(scans["age_years"], [5, 27.5, 50, 72.5, 95])
    spline = natural_spline(data["age_years"].to_numpy(), knots)
    for i in range(4):
        data[f"s{i}"] = (spline[:, i] - spline[:, i].mean()) / spline[:, i].std()
    data["bmi"] = data["weight_kg"] / (data["height_cm"] / 100) ** 2
    formula = (
        "np.log(volume_ml) ~ (s0 + s1 + s2 + s3) * sex + np.log(height_cm) + np.log(bmi) + site"
    )
    theirs = smf.ols(formula, data).fit(cov_type="HC3", use_t=True)
    hypotheses = {
        "F": "s1 = 0, s2 = 0, s3 = 0",
        "M": ", ".join(f"s{i} + s{i}:sex[T.M] = 0" for i in (1, 2, 3)),
    }
    hypotheses["all"] = ", ".join(hypotheses.values())
    for sex, hypothesis in hypotheses.items():
        test = theirs.wald_test(hypothesis, use_f=True, scalar=True)
        ours = row(bent_tables["nonlinearity"], structure="stomach", sex=sex)
        assert ours["df"] == test.df_num
        assert ours["wald_statistic"] / ours["df"] == pytest.approx(float(test.statistic), rel=1e-6)
        assert ours["p_value"] == pytest.approx(float(test.pvalue), rel=1e-6)
        assert ours["adjusted_for"] == "height, BMI, site"


def test_a_bent_trend_is_found_and_its_slope_called_an_average(bent_tables):
    tests = bent_tables["nonlinearity"]
    for sex in ("all", "F", "M"):
        assert row(tests, structure="liver", sex=sex)["q_value"] < 1e-6
        assert row(tests, structure="stomach", sex=sex)["q_value"] > 0.05
        for model in ("M1", "M2"):
            bent = row(bent_tables["slopes"], structure="liver", sex=sex, model=model)
            straight = row(bent_tables["slopes"], structure="stomach", sex=sex, model=model)
            assert bent["note"] == "average: the trend bends"
            assert pd.isna(straight["note"])
    assert set(bent_tables["slopes_at_age"]["structure"]) == {"liver"}
    assert set(bent_tables["peaks"]["structure"]) == {"liver"}


@pytest.mark.parametrize("sex", ["F", "M"])
def test_slopes_at_an_age_and_the_age_of_the_peak_are_those_planted(bent_tables, sex):
    peak = AGE_SHAPE[sex]
    for age in (35.0, 50.0, 65.0, 80.0):
        slope = row(bent_tables["slopes_at_age"], structure="liver", sex=sex, age_years=age)
        truth = 100 * np.expm1(-10 * (age - peak) / 25**2)
        low, high = (slope[f"slope_pct_per_decade_ci_{end}"] for end in ("low", "high"))
        assert low < slope["slope_pct_per_decade"] < high < low + 12
        assert slope["slope_pct_per_decade"] == pytest.approx(truth, abs=high - low)
    found = row(bent_tables["peaks"], structure="liver", sex=sex)
    low, high = found["peak_age_years_ci_low"], found["peak_age_years_ci_high"]
    assert low - 1 < peak < high + 1
    assert low < found["peak_age_years"] < high < low + 15
    assert found["draws"] == 500


def test_another_seed_draws_others_and_the_same_seed_the_same(bent_cohort, bent_tables, tmp_path):
    volumes, scans = bent_cohort
    other = analysed(tmp_path / "other", volumes, scans, seed=2)["peaks"]
    again = analysed(tmp_path / "again", volumes.sample(frac=1, random_state=1), scans)["peaks"]
    pd.testing.assert_frame_equal(again, bent_tables["peaks"])
    assert (other["peak_age_years"] == again["peak_age_years"]).all()
    assert (other["peak_age_years_ci_low"] != again["peak_age_years_ci_low"]).any()

"""Analyse: people scanned more than once, against lme4, nlme, statsmodels and planted slopes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from statsmodels.regression.mixed_linear_model import MixedLM

from analyse_fixture import analysed, made_up, row
from cohortvol.errors import EstimateError
from cohortvol.stages.analyse.fits.random_effects import random_intercept, random_slopes
from golden_data import orthodont, sleepstudy
from golden_values import assert_agrees, golden, script_of_r

FOLDER = Path(__file__).parent / "golden_r"


def test_random_intercept_agrees_with_nlme():
    data = orthodont()
    female = (data["sex"] == "F").to_numpy(float)
    age = data["age"].to_numpy()
    design = np.column_stack([np.ones(len(data)), age, female, age * female])
    found = random_intercept(design, data["distance"].to_numpy(), data["subject"].to_numpy())
    assert_agrees(found.coefficients, golden("orthodont_ri", "estimate"))
    assert_agrees(np.sqrt(np.diag(found.covariance)), golden("orthodont_ri", "se"))
    variances = [found.variance_between, found.variance_within]
    assert_agrees(variances, golden("orthodont_ri", "variance"))


def test_random_intercept_agrees_with_lme4():
    data = sleepstudy()
    design = np.column_stack([np.ones(len(data)), data["days"]])
    found = random_intercept(design, data["reaction"].to_numpy(), data["subject"].to_numpy())
    assert_agrees(np.sqrt(np.diag(found.covariance)), golden("sleepstudy_ri", "se"))
    variances = [found.variance_between, found.variance_within]
    assert_agrees(variances, golden("sleepstudy_ri", "variance"))


def test_random_intercept_agrees_with_statsmodels_where_people_differ_in_scans():
    random = np.random.default_rng(2)
    subjects = np.repeat(np.arange(120), random.integers(1, 5, 120))
    x = random.normal(size=len(subjects))
    response = 3 + 0.5 * x + random.normal(size=120)[subjects] + random.normal(size=len(subjects))
    design = np.column_stack([np.ones(len(x)), x])
    theirs = MixedLM(response, design, subjects).fit(reml=True, method="lbfgs")
    ours = random_intercept(design, response, subjects)
    assert ours.coefficients == pytest.approx(theirs.fe_params, rel=1e-5)
    assert np.sqrt(np.diag(ours.covariance)) == pytest.approx(
        theirs.bse_fe, rel=2e-3
    )  # of its Hessian
    assert ours.variance_between == pytest.approx(theirs.cov_re[0, 0], rel=1e-3)
    assert ours.variance_within == pytest.approx(theirs.scale, rel=1e-3)


def test_random_slopes_agree_with_lme4():
    data = script_of_r("random_slopes").sample()
    within, subjects = data["within"].to_numpy(), data["subject"].to_numpy()
    design = np.column_stack([np.ones(len(data)), data["between"], within])
    found = random_slopes(design, data["y"].to_numpy(), within, subjects)
    theirs = pd.read_csv(FOLDER / "random_slopes.csv").set_index("name")["value"]
    terms = ["(Intercept)", "between", "within"]
    assert found.coefficients == pytest.approx(theirs[terms].to_numpy(), rel=1e-6)
    errors = np.sqrt(np.diag(found.covariance))
    assert errors == pytest.approx(theirs[[f"se {term}" for term in terms]].to_numpy(), rel=1e-5)
    assert found.variance_within == pytest.approx(theirs["variance within"], rel=1e-5)
    assert found.random_covariance[[0, 1, 0], [0, 1, 1]] == pytest.approx(
        theirs[["variance of intercepts", "variance of slopes", "covariance"]].to_numpy(), rel=1e-5
    )


def test_random_slopes_agree_with_lme4_on_its_own_example():
    data = sleepstudy()
    days, subjects = data["days"].to_numpy(float), data["subject"].to_numpy()
    design = np.column_stack([np.ones(len(data)), days])
    found = random_slopes(design, data["reaction"].to_numpy(), days, subjects)
    assert_agrees(found.coefficients, golden("sleepstudy_reml", "estimate"))
    errors = np.sqrt(np.diag(found.covariance))
    assert_agrees(errors, golden("sleepstudy_reml", "se"), rounding=1.0)
    # lme4 stops 6e-6 away unless it is told to go on (bobyqa, rhoend 1e-11), which gives these
    assert errors == pytest.approx([6.824555776, 1.545788932], rel=2e-7)
    covariance = found.random_covariance
    variances = [covariance[0, 0], covariance[1, 1], covariance[0, 1], found.variance_within]
    assert_agrees(variances, golden("sleepstudy_reml", "variance"), rounding=0.5)


def test_slopes_of_their_own_need_people_with_three_rows():
    x = np.arange(40.0)
    design = np.column_stack([np.ones(40), x])
    with pytest.raises(EstimateError, match="ANA_TOO_FEW: nobody was scanned 3 times"):
        random_slopes(design, np.sin(x), x, np.repeat(np.arange(20), 2))


def test_people_who_age_at_rates_of_their_own_are_told_from_those_who_do_not(tmp_path):
    spread = {}
    for planted in (0.0, 0.08):
        rng = np.random.default_rng(3)
        n, scans_each = 400, 4
        start, rate = rng.uniform(40, 70, n), -0.03 + planted * rng.standard_normal(n)
        years = np.arange(scans_each) * 2.5
        age = (start[:, None] + years).ravel()
        log_ml = np.log(1500) - 0.03 * (start - 50)[:, None] / 10 + rate[:, None] * years / 10
        log_ml = (log_ml + 0.1 * rng.standard_normal((n, 1))).ravel()
        ids = [f"s{row:04d}" for row in range(n * scans_each)]
        volume = np.exp(log_ml + 0.02 * rng.standard_normal(len(ids)))
        volumes = pd.DataFrame({"scan_id": ids, "structure": "liver", "volume_ml": volume})
        people = [f"p{person}" for person in np.repeat(np.arange(n), scans_each)]
        scans = pd.DataFrame({"scan_id": ids, "subject_id": people, "age_years": age, "sex": "F"})
        found = analysed(tmp_path / str(planted), volumes.assign(status="ok"), scans)
        of_liver = row(found["within_between"], structure="liver", sex="all", model="M1")
        spread[planted] = of_liver["within_sd_pct_per_decade"]
    assert spread[0.0] < 2
    assert spread[0.08] == pytest.approx(8, rel=0.1)


def test_people_who_are_all_alike_have_no_variance_between_them():
    random = np.random.default_rng(4)
    response = random.normal(size=200)
    response -= np.repeat(response.reshape(100, 2).mean(axis=1), 2)  # means of all people are 0
    found = random_intercept(np.ones((200, 1)), response, np.repeat(np.arange(100), 2))
    assert found.variance_between == 0
    assert found.variance_within == pytest.approx(response.var(ddof=1))


def test_what_cannot_be_fitted_raises():
    subjects = np.repeat(np.arange(20), 2)
    x = np.arange(40.0)
    with pytest.raises(EstimateError, match="ANA_COLLINEAR"):
        random_intercept(np.column_stack([np.ones(40), x, x - 3]), x**2, subjects)
    with pytest.raises(EstimateError, match="ANA_TOO_FEW: nobody"):
        random_intercept(np.ones((40, 1)), x, np.arange(40))


def rescanned(n=1500, within=-2.0, between=-6.0, years=8.0, seed=7):
    """People scanned twice; a liver loses `within` % per decade, but the old began smaller."""
    random = np.random.default_rng(seed)
    male = random.random(n) < 0.5
    first = random.uniform(30, 80, n)
    person = 0.2 * random.normal(size=n)
    scans, volumes = [], []
    for visit, age in enumerate((first, first + random.uniform(0.5, 1.5, n) * years)):
        ids = [f"sub-{i:05d}_{visit}" for i in range(n)]
        mean = first + years / 2
        log_ml = (
            np.log(1500)
            + 0.1 * male
            + np.log1p(between / 100) * (mean - 50) / 10
            + np.log1p(within / 100) * (age - mean) / 10
            + person
            + 0.03 * random.normal(size=n)
        )
        scans.append(
            pd.DataFrame(
                {
                    "scan_id": ids,
                    "subject_id": [f"p{i}" for i in range(n)],
                    "age_years": age,
                    "sex": np.where(male, "M", "F"),
                }
            )
        )
        volumes.append(
            pd.DataFrame({"scan_id": ids, "structure": "liver", "volume_ml": np.exp(log_ml)})
        )
    return pd.concat(volumes), pd.concat(scans)


def test_slopes_within_and_between_people_are_told_apart(tmp_path):
    found = analysed(tmp_path, *rescanned())["within_between"]
    for sex in ("all", "F", "M"):
        one = row(found, structure="liver", sex=sex, model="M1")
        for name, planted in (("within", -2.0), ("between", -6.0)):
            low, high = (one[f"{name}_pct_per_decade_ci_{end}"] for end in ("low", "high"))
            assert low < one[f"{name}_pct_per_decade"] < high
            assert one[f"{name}_pct_per_decade"] == pytest.approx(planted, abs=high - low)
        assert one["difference_p_value"] < 1e-3
        assert one["icc"] == pytest.approx(0.04 / 0.0409, abs=0.01)
        assert pd.isna(one["note"])
    assert one["n_rescanned"] == one["n_subjects"] == one["n_used"] / 2
    assert one["years_between_median"] == pytest.approx(8, abs=0.3)
    pooled = row(found, structure="liver", sex="all", model="M1")
    assert pooled["n_rescanned"] == 1500


def test_no_difference_is_found_where_there_is_none(tmp_path):
    found = analysed(tmp_path, *rescanned(within=-4.0, between=-4.0))["within_between"]
    assert row(found, structure="liver", sex="all", model="M1")["difference_p_value"] > 0.01


@pytest.mark.slow
def test_fewer_than_200_rescanned_people_are_not_split(tmp_path):
    found = analysed(tmp_path / "few", *rescanned(n=199))["within_between"]
    one = row(found, structure="liver", sex="all", model="M1")
    assert one["note"] == "ANA_TOO_FEW: 199 subjects scanned at several ages, 200 needed"
    assert np.isnan(one["within_pct_per_decade"])
    assert one["n_rescanned"] == 199
    once = analysed(tmp_path / "once", *made_up(400))["within_between"]
    assert once["note"].str.startswith("ANA_TOO_FEW: 0 subjects").all()


def test_scans_of_one_day_are_no_rescan(tmp_path):
    volumes, scans = rescanned(n=300)
    same_day = scans.assign(age_years=scans.groupby("subject_id")["age_years"].transform("min"))
    found = analysed(tmp_path, volumes, same_day)["within_between"]
    assert (found["n_rescanned"] == 0).all()

"""Analyse: planted trends are recovered, and what cannot be estimated is null with a note."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import statsmodels.formula.api as smf

from analyse_fixture import PLANTED, analysed, made_up, record, row


@pytest.fixture(scope="module")
def cohort():
    return made_up()


@pytest.fixture(scope="module")
def tables(cohort, tmp_path_factory):
    return analysed(tmp_path_factory.mktemp("made_up"), *cohort)


@pytest.mark.slow
@pytest.mark.parametrize("structure", PLANTED)
@pytest.mark.parametrize("sex", ["F", "M"])
def test_planted_slope_is_recovered(tables, structure, sex):
    slope = row(tables["slopes"], structure=structure, sex=sex, model="M2")
    low, high = (slope[f"slope_pct_per_decade_ci_{end}"] for end in ("low", "high"))
    assert low < slope["slope_pct_per_decade"] < high < low + 2
    # one in 20 intervals of 95 % misses the truth; none misses it by its own width
    assert slope["slope_pct_per_decade"] == pytest.approx(PLANTED[structure][sex], abs=high - low)
    assert slope["se_kind"] == "HC3"
    assert pd.isna(slope["note"])


def test_slope_is_per_decade_in_percent_and_ml_as_statsmodels_has_it(cohort, tables):
    volumes, scans = cohort
    data = volumes[volumes["structure"] == "liver"].merge(scans, on="scan_id")
    data["a"] = (data["age_years"] - 50) / 10
    data["bmi"] = data["weight_kg"] / (data["height_cm"] / 100) ** 2
    for model, size in (("M1", ""), ("M2", " + np.log(height_cm) + np.log(bmi) + site")):
        joint = smf.ols(f"np.log(volume_ml) ~ a * sex{size}", data).fit(cov_type="HC3", use_t=True)
        for sex, test in (("F", "a = 0"), ("M", "a + a:sex[T.M] = 0")):
            theirs = joint.t_test(test)
            ours = row(tables["slopes"], structure="liver", sex=sex, model=model)
            limits = 100 * np.expm1(theirs.conf_int()[0])
            assert ours["slope_pct_per_decade"] == pytest.approx(100 * math.expm1(theirs.effect[0]))
            assert ours["slope_pct_per_decade_ci_low"] == pytest.approx(limits[0], rel=1e-8)
            assert ours["slope_pct_per_decade_ci_high"] == pytest.approx(limits[1], rel=1e-8)
            assert 10 ** ours["log10_p"] == pytest.approx(float(theirs.pvalue), rel=1e-6)
        pooled = smf.ols(f"volume_ml ~ a + sex{size}", data).fit(cov_type="HC3", use_t=True)
        ours = row(tables["slopes"], structure="liver", sex="all", model=model)
        assert ours["slope_ml_per_decade"] == pytest.approx(pooled.params["a"], rel=1e-9)
        limits = pooled.conf_int().loc["a"]
        assert ours["slope_ml_per_decade_ci_low"] == pytest.approx(limits[0], rel=1e-8)
        assert ours["slope_ml_per_decade_ci_high"] == pytest.approx(limits[1], rel=1e-8)


def test_interaction_is_m_minus_f(tables):
    difference = row(tables["interactions"], structure="liver", model="M2")
    relative = 100 * (0.94 / 0.97 - 1)
    low, high = (difference[f"difference_pct_per_decade_ci_{end}"] for end in ("low", "high"))
    assert low < relative < high < 0
    assert difference["q_value"] < 1e-6
    assert difference["n_used"] == 2000
    assert row(tables["interactions"], structure="stomach", model="M2")["p_value"] > 0.01


@pytest.mark.slow
def test_a_sex_mix_that_drifts_with_age_does_not_bend_the_pooled_slope(tmp_path):
    volumes, scans = made_up()
    drift = np.random.default_rng(5).random(len(scans)) < (scans["age_years"] - 20) / 70
    keep = (scans["sex"] == "M") == drift  # the old are men, the young women
    liver = volumes["structure"] == "liver"
    male = volumes["scan_id"].map(scans.set_index("scan_id")["sex"]) == "M"
    volumes.loc[liver & male, "volume_ml"] *= 1.5
    slopes = analysed(tmp_path, volumes[liver], scans[keep])["slopes"]
    pooled = row(slopes, structure="liver", sex="all", model="M2")["slope_pct_per_decade"]
    assert -6.5 < pooled < -2.5


def test_correlations_have_the_sign_of_the_trend(tables):
    found = tables["correlations"]
    assert row(found, structure="liver", sex="M")["spearman_rho"] < -0.3
    assert row(found, structure="liver", sex="M")["pearson_r"] < -0.3
    assert row(found, structure="adrenal_gland_left", sex="F")["spearman_rho"] > 0.1
    stomach = row(found, structure="stomach", sex="all")
    assert stomach["p_bonferroni"] == pytest.approx(min(1, 3 * stomach["p_value"]))


def test_q_values_are_of_the_family_of_one_model(tables):
    slopes = tables["slopes"]
    for _, family in slopes.groupby("model"):
        assert len(family) == 9
        largest = family.loc[family["p_value"].idxmax()]
        assert largest["q_value"] == pytest.approx(largest["p_value"])
        assert (family["q_value"] >= family["p_value"]).all()


def test_curves_follow_the_slope_and_stay_inside_the_ages(cohort, tables):
    _, scans = cohort
    curves = tables["curves"]
    assert set(curves["model"]) == {"M1", "spline"}
    assert set(curves["sex"]) == {"F", "M"}
    for sex in ("F", "M"):
        ages = scans.loc[scans["sex"] == sex, "age_years"]
        line = curves[
            (curves["structure"] == "liver") & (curves["sex"] == sex) & (curves["model"] == "M1")
        ]
        assert line["age_years"].min() == pytest.approx(ages.quantile(0.01))
        assert line["age_years"].max() == pytest.approx(ages.quantile(0.99))
        years = np.ptp(line["age_years"])
        rate = (line["volume_ml"].iloc[-1] / line["volume_ml"].iloc[0]) ** (10 / years)
        slope = row(tables["slopes"], structure="liver", sex=sex, model="M1")
        assert 100 * (rate - 1) == pytest.approx(slope["slope_pct_per_decade"], rel=1e-6)
        assert (line["volume_ml_ci_low"] < line["volume_ml"]).all()
        assert (line["volume_ml"] < line["volume_ml_ci_high"]).all()


def test_the_spline_of_a_straight_trend_is_nearly_straight(tables):
    liver = tables["curves"][tables["curves"]["structure"] == "liver"]
    pair = liver.pivot(index=["sex", "age_years"], columns="model", values="volume_ml")
    assert len(pair) > 100
    assert np.abs(pair["spline"] / pair["M1"] - 1).max() < 0.08


def test_small_cohorts_are_descriptive_only(tmp_path):
    found = analysed(tmp_path, *made_up(60))
    slopes = found["slopes"]
    assert (slopes["note"] == "descriptive only: n < 100 per sex").all()
    assert slopes["slope_pct_per_decade"].notna().all()
    assert set(found["curves"]["model"]) == {"M1"}
    assert any("descriptive only" in said for said in record(tmp_path)["sentences"])


def test_a_handful_of_scans_gives_nulls_and_a_note(tmp_path):
    found = analysed(tmp_path, *made_up(8))
    for name in ("slopes", "interactions", "correlations"):
        assert found[name]["p_value"].isna().all()
        assert found[name]["note"].str.contains("ANA_TOO_FEW").all()
    assert found["slopes"]["slope_ml_per_decade"].isna().all()
    assert found["curves"].empty
    assert found["table1"]["value"].str.contains("<5").any()


def test_a_cohort_of_one_sex_has_that_slope_alone(tmp_path):
    volumes, scans = made_up(600)
    women = scans[scans["sex"] == "F"]
    found = analysed(tmp_path, volumes[volumes["scan_id"].isin(women["scan_id"])], women)
    f, m, pooled = (
        row(found["slopes"], structure="liver", sex=sex, model="M1") for sex in ("F", "M", "all")
    )
    assert f["slope_pct_per_decade"] == pooled["slope_pct_per_decade"] < 0
    assert pooled["note"] == "F only"
    assert math.isnan(m["slope_pct_per_decade"])
    assert "ANA_TOO_FEW: 0 usable subjects" in m["note"]
    assert "M: ANA_TOO_FEW" in row(found["interactions"], structure="liver", model="M1")["note"]


def test_volumes_that_are_all_equal_have_no_slope(tmp_path):
    volumes, scans = made_up(400)
    women = volumes["scan_id"].isin(scans.loc[scans["sex"] == "F", "scan_id"])
    volumes.loc[(volumes["structure"] == "liver") & women, "volume_ml"] = 1500.0
    volumes.loc[volumes["structure"] == "stomach", "volume_ml"] = 250.0
    found = analysed(tmp_path, volumes, scans)
    stomach = found["slopes"][found["slopes"]["structure"] == "stomach"]
    assert stomach["p_value"].isna().all()
    assert (stomach["note"] == "ANA_NO_VARIANCE: all volumes are equal").all()
    liver = row(found["slopes"], structure="liver", sex="F", model="M1")
    assert math.isnan(liver["slope_pct_per_decade"])
    assert row(found["slopes"], structure="liver", sex="M", model="M1")["p_value"] < 1e-3
    assert found["slopes"]["q_value"].notna().sum() == found["slopes"]["p_value"].notna().sum()


def test_a_design_without_full_rank_has_no_slope(tmp_path):
    volumes, scans = made_up(400)
    scans["height_cm"] = 170.0
    scans["weight_kg"] = 70.0
    slopes = analysed(tmp_path, volumes, scans)["slopes"]
    m2 = slopes[slopes["model"] == "M2"]
    assert m2["note"].str.startswith("ANA_COLLINEAR").all()
    assert m2[["slope_pct_per_decade", "slope_ml_per_decade", "p_value"]].isna().all(axis=None)
    assert slopes.loc[slopes["model"] == "M1", "p_value"].notna().all()


@pytest.mark.slow
def test_repeated_subjects_make_errors_cluster_robust(tmp_path):
    volumes, scans = made_up(400)
    scans["subject_id"] = [f"person-{i // 2}" for i in range(400)]
    scans["sex"] = scans.groupby("subject_id")["sex"].transform("first")
    found = analysed(tmp_path / "repeated", volumes, scans)
    assert (found["slopes"]["se_kind"] == "cluster").all()
    assert any("cluster-robust" in said for said in record(tmp_path / "repeated")["sentences"])
    notes = found["correlations"].query("sex == 'all'")["note"]
    assert set(notes) == {"ANA_REPEATED_MEASURES: 400 scans of 200 people"}
    once = analysed(tmp_path / "once", volumes, scans.drop(columns="subject_id"))
    assert once["correlations"]["note"].isna().all()


@pytest.mark.slow
def test_a_copied_cohort_is_not_twice_as_sure(tmp_path):
    volumes, scans = made_up(400)
    once = analysed(tmp_path / "once", volumes, scans)["slopes"]
    again = scans.assign(scan_id=scans["scan_id"] + "_2")
    both = pd.concat([scans, again])
    twice = pd.concat([volumes, volumes.assign(scan_id=volumes["scan_id"] + "_2")])
    copied = analysed(tmp_path / "twice", twice, both)["slopes"]
    for sex in ("all", "F", "M"):
        one = row(once, structure="liver", sex=sex, model="M1")
        two = row(copied, structure="liver", sex=sex, model="M1")
        width = "slope_pct_per_decade_ci_high", "slope_pct_per_decade_ci_low"
        ratio = (two[width[0]] - two[width[1]]) / (one[width[0]] - one[width[1]])
        assert two["slope_pct_per_decade"] == pytest.approx(one["slope_pct_per_decade"])
        assert 0.95 < ratio < 1.05

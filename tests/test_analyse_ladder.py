"""Analyse: fixed effects, bends, body size, diagnostics and age tables say what was planted."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
import statsmodels.formula.api as smf
from statsmodels.stats.diagnostic import het_breuschpagan
from statsmodels.stats.outliers_influence import variance_inflation_factor

from analyse_fixture import analysed, made_up, record, row
from cohortvol.stages.analyse.fits.designs import Factor
from cohortvol.stages.analyse.fits.regression import natural_spline
from cohortvol.stages.analyse.robustness.diagnostics import MOST_INFLUENTIAL

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


def sited(n: int = 1200) -> tuple[pd.DataFrame, pd.DataFrame]:
    """`made_up` at three sites: the old are scanned at one whose volumes are 30 % larger."""
    volumes, scans = made_up(n, seed=3)
    old = np.random.default_rng(8).random(n) < np.clip((scans["age_years"] - 30) / 50, 0.05, 0.95)
    scans["site"] = np.where(old, "new", np.where(np.arange(n) % 2, "A", "B"))
    at_new = volumes["scan_id"].isin(scans.loc[old, "scan_id"])
    volumes.loc[at_new, "volume_ml"] *= 1.3
    return volumes, scans


def test_a_site_with_larger_volumes_and_older_people_does_not_bend_m2(tmp_path):
    slopes = analysed(tmp_path, *sited())["slopes"]
    for sex, truth in (("F", -3.0), ("M", -6.0)):
        m1 = row(slopes, structure="liver", sex=sex, model="M1")
        m2 = row(slopes, structure="liver", sex=sex, model="M2")
        assert m1["slope_pct_per_decade_ci_low"] > truth + 1
        assert m2["slope_pct_per_decade_ci_low"] < truth < m2["slope_pct_per_decade_ci_high"]
        assert m2["adjusted_for"] == "height, BMI, site"
        assert pd.isna(m1["adjusted_for"])
    assert record(tmp_path)["covariates"]["adjusted_for"] == ["height", "BMI", "site"]
    assert record(tmp_path)["covariates"]["left_out"]["scanner"] == "not known"
    assert "M2 and M3 have fixed effects of site; M1 has not." in record(tmp_path)["sentences"]


def test_a_scanner_that_its_site_gives_is_left_out_by_name(tmp_path):
    volumes, scans = sited()
    scans["scanner"] = scans["site"].map({"A": "one", "B": "two", "new": "three"})
    scans.loc[scans["site"] == "new", "scanner"] = np.where(
        np.arange((scans["site"] == "new").sum()) % 2, "three", "four"
    )
    nested = analysed(tmp_path / "nested", volumes, scans)["slopes"]
    m2 = row(nested, structure="liver", sex="all", model="M2")
    assert m2["adjusted_for"] == "height, BMI, site, scanner"
    left_out = m2["note"].removeprefix("left out because other terms give it: ").split(", ")
    assert set(left_out) < {"scanner=one", "scanner=two", "scanner=three", "scanner=four"}
    assert len(left_out) == 2
    scans["scanner"] = scans["site"]
    same = analysed(tmp_path / "same", volumes, scans)["slopes"]
    alone = analysed(tmp_path / "alone", volumes, scans.drop(columns="scanner"))["slopes"]
    pd.testing.assert_series_equal(same["slope_ml_per_decade"], alone["slope_ml_per_decade"])


def test_small_sites_have_terms_of_their_own(tmp_path):
    """Twenty sites of 15 whose larger organs are those of younger people: -2 % per decade."""
    rng = np.random.default_rng(2)
    site = np.repeat(np.arange(22), [150, 150] + [15] * 20)
    offset = np.concatenate([[0, 0], rng.normal(0, 0.10, 20)])
    age = 55 - 80 * offset[site] + 6 * rng.standard_normal(600)
    log_ml = 7.3 - 0.002 * (age - 55) + offset[site] + 0.12 * rng.standard_normal(600)
    ids = [f"s{i:04d}" for i in range(600)]
    volumes = pd.DataFrame({"scan_id": ids, "structure": "liver", "volume_ml": np.exp(log_ml)})
    scans = pd.DataFrame({"scan_id": ids, "age_years": age, "sex": np.where(site % 2, "M", "F")})
    scans["sex"] = np.where(rng.random(600) < 0.5, "F", "M")
    slopes = analysed(tmp_path, volumes, scans.assign(site=[f"h{i}" for i in site]))["slopes"]
    m1, m2 = (row(slopes, structure="liver", sex="all", model=model) for model in ("M1", "M2"))
    dummies = (site[:, None] == np.arange(1, 22)).astype(float)
    design = np.column_stack([np.ones(600), age / 10, scans["sex"] == "M", dummies]).astype(float)
    slope = np.linalg.lstsq(design, log_ml, rcond=None)[0][1]
    assert m2["slope_pct_per_decade"] == pytest.approx(100 * np.expm1(slope), rel=1e-9)
    assert m2["slope_pct_per_decade_ci_low"] < -2 < m2["slope_pct_per_decade_ci_high"]
    assert m1["slope_pct_per_decade_ci_high"] < -5
    assert not any("levels of site" in said for said in record(tmp_path)["sentences"])
    analysed(
        tmp_path / "b", volumes, scans.assign(site=[f"h{i}" for i in site]), min_n_per_level=20
    )
    assert (
        "Of 22 levels of site, 20 have too few scans for a term of their own and share one: "
        "what differs between these is not adjusted for."
    ) in record(tmp_path / "b")["sentences"]


def test_rare_levels_are_pooled_and_the_note_says_so(tmp_path):
    volumes, scans = sited()
    rare = scans.index[:45]
    scans.loc[rare, "site"] = [f"rare-{i % 5}" for i in range(45)]  # nine scans of each
    scans.loc[scans.index[45:50], "sequence"] = "other"  # 5 scans: nothing to compare with
    found = analysed(tmp_path, volumes, scans, min_n_per_level=20)
    m2 = row(found["slopes"], structure="liver", sex="F", model="M2")
    assert m2["note"] == (
        "site: 5 levels pooled (too few scans for a term each); "
        "not adjusted for sequence: fewer than two levels have 20 scans"
    )
    assert m2["n_used"] == (scans["sex"] == "F").sum()


@pytest.mark.parametrize(
    ("counts", "own", "pooled"),
    [
        ((50, 30, 25), 3, 0),
        ((50, 30, 15, 10), 2, 2),
        ((50, 30, 15), 1, 2),  # 15 alone are too few: the next smallest joins them
        ((15, 12), 0, 2),
        ((50, 4), 0, 2),
    ],
)
def test_levels_have_a_term_of_their_own_from_20_scans(counts, own, pooled):
    codes = np.repeat(np.arange(len(counts)), counts)
    factor = Factor("site", codes, tuple("ABCD"[: len(counts)]))
    lump = factor.lump(np.ones(len(codes), dtype=bool), 20)
    assert (len(lump.own), len(lump.pooled)) == (own, pooled)
    assert lump.varies == (own + bool(pooled) > 1)


def test_sites_without_common_ages_are_named(tmp_path):
    volumes, scans = made_up(800)
    scans["site"] = np.where(scans["age_years"] < 55, "young", "old")
    m2 = row(analysed(tmp_path, volumes, scans)["slopes"], structure="liver", sex="F", model="M2")
    assert "no common ages with the other levels: site=" in m2["note"]


def test_a_fit_without_sex_shows_what_a_drifting_sex_mix_does(tmp_path):
    volumes, scans = made_up()
    drift = np.random.default_rng(5).random(len(scans)) < (scans["age_years"] - 20) / 70
    scans = scans[(scans["sex"] == "M") == drift]
    volumes = volumes[volumes["scan_id"].isin(scans["scan_id"])].copy()
    men = volumes["scan_id"].isin(scans.loc[scans["sex"] == "M", "scan_id"])
    volumes.loc[men, "volume_ml"] *= 1.5
    slopes = analysed(tmp_path, volumes, scans)["slopes"]
    pooled = row(slopes, structure="stomach", sex="all", model="M2")
    assert pooled["slope_pct_per_decade"] == pytest.approx(0, abs=1.5)
    assert pooled["slope_without_sex_pct_per_decade"] > 4
    assert slopes.loc[slopes["sex"] != "all", "slope_without_sex_pct_per_decade"].isna().all()


def test_exponents_of_height_and_bmi_are_those_planted_and_the_ratio_stands_beside(tmp_path):
    volumes, scans = made_up()
    found = analysed(tmp_path, volumes, scans)
    for structure, slope in (("liver", -3.0), ("adrenal_gland_left", 3.0), ("stomach", 0.0)):
        size = row(found["body_size"], structure=structure, sex="F")
        assert size["height_exponent_ci_low"] < 1.0 < size["height_exponent_ci_high"]
        assert size["bmi_exponent_ci_low"] < 0.4 < size["bmi_exponent_ci_high"]
        m2 = row(found["slopes"], structure=structure, sex="F", model="M2")
        assert size["adjusted_pct_per_decade"] == m2["slope_pct_per_decade"]
        width = size["adjusted_pct_per_decade_ci_high"] - size["adjusted_pct_per_decade_ci_low"]
        assert size["adjusted_pct_per_decade"] == pytest.approx(slope, abs=width)
    data = volumes[volumes["structure"] == "liver"].merge(scans, on="scan_id")
    data["a"] = data["age_years"] / 10
    data["surface"] = np.sqrt(data["height_cm"] * data["weight_kg"] / 3600)
    theirs = smf.ols("np.log(volume_ml / surface) ~ a + sex + site", data).fit(
        cov_type="HC3", use_t=True
    )
    ours = row(found["body_size"], structure="liver", sex="all")
    assert ours["ratio_pct_per_decade"] == pytest.approx(100 * np.expm1(theirs.params["a"]))
    low = 100 * np.expm1(theirs.conf_int().loc["a"][0])
    assert ours["ratio_pct_per_decade_ci_low"] == pytest.approx(low)


def test_diagnostics_agree_with_statsmodels(tmp_path):
    volumes, scans = made_up(500)
    found = analysed(tmp_path, volumes, scans)
    data = volumes[volumes["structure"] == "liver"].merge(scans, on="scan_id")
    data["a"] = (data["age_years"] - 50) / 10
    data["bmi"] = data["weight_kg"] / (data["height_cm"] / 100) ** 2
    size = "np.log(height_cm) + np.log(bmi) + site"
    theirs = smf.ols(f"np.log(volume_ml) ~ a * sex + {size}", data).fit()
    influence = theirs.get_influence()
    ours = row(found["diagnostics"], structure="liver")
    assert ours["max_leverage"] == pytest.approx(influence.hat_matrix_diag.max())
    cooks = pd.Series(influence.cooks_distance[0], index=data["scan_id"]).sort_values()
    assert ours["max_cooks_distance"] == pytest.approx(cooks.iloc[-1])
    top = found["influence"][found["influence"]["structure"] == "liver"]
    assert list(top["scan_id"]) == list(cooks.index[::-1][:MOST_INFLUENTIAL])
    z = pd.Series(influence.resid_studentized_internal, index=data["scan_id"])
    assert top["residual_z"].to_numpy() == pytest.approx(z[top["scan_id"]].to_numpy())
    p_value = het_breuschpagan(theirs.resid, theirs.model.exog)[1]
    assert ours["breusch_pagan_p"] == pytest.approx(p_value)
    plain = smf.ols(f"np.log(volume_ml) ~ a + sex + {size}", data).fit().model.exog
    factors = [variance_inflation_factor(plain, i) for i in range(1, plain.shape[1])]
    assert ours["max_vif"] == pytest.approx(max(factors))
    assert pd.isna(ours["note"])


def test_a_covariate_that_leans_on_others_is_named(tmp_path):
    volumes, scans = made_up(500)
    noise = np.random.default_rng(1).normal(0, 0.3, len(scans))
    scans["height_cm"] = 190 - 0.4 * scans["age_years"] + noise
    ours = row(analysed(tmp_path, volumes, scans)["diagnostics"], structure="liver")
    assert ours["max_vif"] > 100
    assert ours["note"].startswith("VIF of ")


def test_age_quartiles_hold_a_quarter_each_and_count_what_is_too_small(tmp_path):
    volumes, scans = made_up(400)
    liver = volumes.index[volumes["structure"] == "liver"]
    volumes.loc[liver[:8], "volume_ml"] = 100.0  # the least plausible liver has 310 mL
    found = analysed(tmp_path, volumes, scans)
    boxes = found["quartiles"]
    bounds = np.percentile(scans["age_years"], [25, 50, 75])
    pooled = boxes[(boxes["structure"] == "liver") & (boxes["sex"] == "all")]
    assert pooled["age_to_years"].to_list()[:3] == pytest.approx(bounds)
    counted = row(found["correlations"], structure="liver", sex="all")
    assert (counted["n_implausible"], counted["n_used"], counted["n_dropped"]) == (8, 392, 8)
    stomach = boxes[(boxes["structure"] == "stomach") & (boxes["sex"] == "all")]
    assert stomach["n"].to_list() == pytest.approx([100] * 4, abs=2)  # ages have ties
    assert stomach["n"].sum() == 400
    oldest = scans["age_years"] > bounds[2]
    of = volumes[volumes["structure"] == "stomach"].set_index("scan_id")["volume_ml"]
    values = of[scans.loc[oldest, "scan_id"]]
    last = stomach.iloc[3]
    assert last["median_ml"] == pytest.approx(values.median())
    q25, q75 = values.quantile([0.25, 0.75])
    assert (last["q25_ml"], last["q75_ml"]) == pytest.approx((q25, q75))
    fence = q75 + 1.5 * (q75 - q25)
    assert last["whisker_high_ml"] == values[values <= fence].max() < values.max()


def test_age_bands_are_of_ten_years_and_hide_small_cells(tmp_path):
    volumes, scans = made_up(400)
    scans = scans.copy()
    scans.loc[scans.index[:3], "age_years"] = [92.0, 93.0, 94.0]
    bands = analysed(tmp_path, volumes, scans)["age_bands"]
    forties = row(bands, structure="liver", sex="F", age_from_years=40.0)
    those = scans["age_years"].between(40, 50, inclusive="left") & (scans["sex"] == "F")
    of = volumes[volumes["structure"] == "liver"].set_index("scan_id")["volume_ml"]
    values = of[scans.loc[those, "scan_id"]]
    assert forties["n"] == len(values)
    assert forties["median_ml"] == pytest.approx(values.median())
    assert forties["p95_ml"] == pytest.approx(values.quantile(0.95))
    last = row(bands, structure="liver", sex="all", age_from_years=90.0)
    assert pd.isna(last["n"])
    assert pd.isna(last["median_ml"])
    assert last["note"] == "<5 scans"


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

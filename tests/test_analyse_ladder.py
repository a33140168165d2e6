"""Analyse: fixed effects, body size, diagnostics and age tables say what was planted."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import statsmodels.formula.api as smf
from statsmodels.stats.diagnostic import het_breuschpagan
from statsmodels.stats.outliers_influence import variance_inflation_factor

from analyse_fixture import analysed, made_up, record, row
from cohortvol.stages.analyse.fits.designs import Factor
from cohortvol.stages.analyse.robustness.diagnostics import MOST_INFLUENTIAL

pytestmark = pytest.mark.slow


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

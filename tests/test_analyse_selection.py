"""Analyse: missing and cut volumes, outliers, sites, by simulations whose truth is -4 %/decade."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from scipy.special import expit
from statsmodels.datasets import stackloss

from analyse_fixture import analysed, made_up, row
from cohortvol.errors import EstimateError
from cohortvol.stages.analyse.cohort import usable as cohort_of
from cohortvol.stages.analyse.cohort.settings import Settings
from cohortvol.stages.analyse.fits.robust import comparable_sites, huber, robust_z
from cohortvol.stages.analyse.robustness.selection import (
    censored_regression,
    inverse_probability_weights,
    missingness,
)
from cohortvol.stages.analyse.robustness.sensitivity import sensitivity
from golden_data import tobin
from golden_values import assert_agrees, golden

N = 20_000
SETTINGS = Settings()
TRUTH = -4.0  # % per decade, at equal height
MARGINAL = -4.65  # as the old are shorter by 1.2 cm per decade


def test_censored_regression_agrees_with_survreg():
    data = tobin()
    design = np.column_stack([np.ones(20), -data["age"], -data["quant"]])  # upside down: a bound
    censored = (data["durable"] == 0).to_numpy()  # from above in place of one from below
    found, sigma, likelihood = censored_regression(design, -data["durable"].to_numpy(), censored)
    assert_agrees(found.coefficients * [-1, 1, 1, 1], golden("tobit_tobin", "estimate"))
    assert_agrees(np.sqrt(np.diag(found.covariance)), golden("tobit_tobin", "se"))
    assert likelihood == pytest.approx(-28.9401331997206, rel=1e-6)
    assert np.log(sigma) == found.coefficients[-1]
    alone, _, null = censored_regression(np.ones((20, 1)), -data["durable"].to_numpy(), censored)
    assert null == pytest.approx(-29.4921995481776, rel=1e-6)
    assert len(alone.coefficients) == 2


def test_without_cut_volumes_the_censored_model_is_least_squares():
    random = np.random.default_rng(1)
    design = np.column_stack([np.ones(300), random.normal(size=300)])
    response = design @ [3.0, -0.5] + random.normal(size=300)
    found, sigma, _ = censored_regression(design, response, np.zeros(300, dtype=bool))
    theirs = sm.OLS(response, design).fit()
    assert found.coefficients[:-1] == pytest.approx(theirs.params, rel=1e-8)
    assert sigma == pytest.approx(np.sqrt(theirs.ssr / 300), rel=1e-8)
    assert np.sqrt(np.diag(found.covariance))[:2] == pytest.approx(
        theirs.bse * np.sqrt(298 / 300), rel=1e-6
    )


def test_copied_rows_do_not_make_the_censored_model_surer():
    random = np.random.default_rng(2)
    design = np.column_stack([np.ones(400), random.normal(size=400)])
    response = design @ [3.0, -0.5] + random.normal(size=400)
    cut = random.random(400) < 0.2
    once, *_ = censored_regression(design, response, cut)
    twice, *_ = censored_regression(
        np.tile(design, (2, 1)), np.tile(response, 2), np.tile(cut, 2), np.tile(np.arange(400), 2)
    )
    assert twice.coefficients == pytest.approx(once.coefficients, abs=1e-7)
    ratio = np.sqrt(np.diag(twice.covariance)[:2] / np.diag(once.covariance)[:2])
    assert ratio == pytest.approx([1, 1], abs=0.1)


def people(seed, size=True):
    random = np.random.default_rng(seed)
    age = np.clip(random.normal(58, 18.5, N), 18, 95)
    male = random.random(N) < 0.5
    height = 169.4 - 0.1185 * age + 13 * male + random.normal(0, 7, N)
    scans = pd.DataFrame(
        {
            "scan_id": [f"s{i}" for i in range(N)],
            "age_years": age,
            "sex": np.where(male, "M", "F"),
            "qc": None,
            "qc_auto": None,
        }
    )
    if size:
        weight = 26 * (height / 100) ** 2 * np.exp(random.normal(0, 0.2, N))
        scans = scans.assign(height_cm=height, weight_kg=weight)
    decades = (age - 50) / 10
    grown = np.log(height / 170) if size else 0.0
    own = 0.2 * random.normal(size=N)
    log_ml = np.log(1500) + np.log1p(TRUTH / 100) * decades + 0.1 * male + grown + own
    return random, scans, decades, own, log_ml


def slopes(scans, log_ml, status, **options):
    """Pooled slope and its standard error by analysis and model."""
    volumes = pd.DataFrame(
        {
            "scan_id": scans["scan_id"],
            "structure": "liver",
            "volume_ml": np.where(status == "absent", np.nan, np.exp(log_ml)),
            "status": status,
        }
    )
    table = sensitivity(cohort_of.build(volumes, scans, **options), SETTINGS)
    pooled = table[table["sex"] == "all"].set_index(["analysis", "model"])
    width = pooled["slope_pct_per_decade_ci_high"] - pooled["slope_pct_per_decade_ci_low"]
    return pooled["slope_pct_per_decade"], width / 3.92


def test_organs_cut_by_a_share_of_themselves_need_complete_cases():
    random, scans, decades, _, log_ml = people(2, size=False)
    cut = random.random(N) < np.clip(0.25 + 0.08 * decades, 0, 1)
    measured = log_ml + np.where(cut, np.log(random.uniform(0.5, 0.98, N)), 0)
    status = np.where(cut, "cut", "ok")
    slope, se = slopes(scans, measured, status)
    as_is, _ = slopes(scans, measured, status, exclude_cut=False)
    assert slope["complete", "M1"] == pytest.approx(TRUTH, abs=3 * se["complete", "M1"])
    assert as_is["complete", "M1"] == pytest.approx(-6.3, abs=0.4)
    assert slope["tobit", "M1"] == pytest.approx(-3.3, abs=0.4)


def test_organs_cut_by_a_field_of_view_of_its_own_size_need_the_censored_model():
    random, scans, _, _, log_ml = people(1, size=False)
    cap = np.log(1500) + 0.22 + 0.2 * random.normal(size=N)
    status = np.where(log_ml > cap, "cut", "ok")
    slope, se = slopes(scans, np.minimum(log_ml, cap), status)
    as_is, _ = slopes(scans, np.minimum(log_ml, cap), status, exclude_cut=False)
    assert slope["tobit", "M1"] == pytest.approx(TRUTH, abs=3 * se["tobit", "M1"])
    assert slope["complete", "M1"] == pytest.approx(-3.3, abs=0.4)
    assert as_is["complete", "M1"] == pytest.approx(-3.1, abs=0.4)


def test_organs_missing_by_height_need_height_in_the_model_or_weights():
    random, scans, decades, _, log_ml = people(1)
    odds = -1 + 0.15 * (scans["height_cm"] - 168) * 0.3 * (decades - 0.5)
    status = np.where(random.random(N) < expit(odds), "absent", "ok")
    slope, se = slopes(scans, log_ml, status)
    assert slope["complete", "M2"] == pytest.approx(TRUTH, abs=3 * se["complete", "M2"])
    assert slope["ipw", "M1"] == pytest.approx(MARGINAL, abs=3 * se["ipw", "M1"])
    assert slope["complete", "M1"] < MARGINAL - 2 * se["complete", "M1"]


def test_organs_missing_by_their_own_size_are_beyond_repair():
    random, scans, decades, own, log_ml = people(1)
    status = np.where(random.random(N) < expit(-1 + 0.15 * own / 0.2 * decades), "absent", "ok")
    slope, se = slopes(scans, log_ml, status)
    assert slope["complete", "M2"] == pytest.approx(-4.7, abs=0.4)
    assert slope["complete", "M2"] < TRUTH - 4 * se["complete", "M2"]
    assert slope["ipw", "M1"] < MARGINAL - 4 * se["ipw", "M1"]


def test_weights_make_the_usable_scans_like_all_of_them():
    random, scans, decades, _, _ = people(3)
    scans["bmi"] = scans["weight_kg"] / (scans["height_cm"] / 100) ** 2
    usable = random.random(N) < expit(1 + 0.5 * decades - 0.05 * (scans["height_cm"] - 168))
    usable = usable.to_numpy()
    weights = inverse_probability_weights(scans, usable, True)[usable]
    assert weights.mean() == pytest.approx(1, abs=0.02)
    for name in ("age_years", "height_cm"):
        values = scans[name].to_numpy()
        off = values[usable].mean() - values.mean()
        left = np.average(values[usable], weights=weights) - values.mean()
        assert abs(off) > 0.5
        assert abs(left) < 0.15 * abs(off)


def test_weights_are_refused_where_they_mean_nothing():
    _, scans, decades, _, _ = people(3, size=False)
    with pytest.raises(EstimateError, match="ANA_TOO_FEW: 10 scans"):
        inverse_probability_weights(scans, np.arange(N) > 5, False)
    with pytest.raises(EstimateError, match="ANA_NOT_CONVERGED"):
        inverse_probability_weights(scans, decades < 1, False)


def test_huber_agrees_with_rlm_of_mass():
    data = stackloss.load_pandas()
    design = np.column_stack([np.ones(21), data.exog])
    found = huber(design, data.endog.to_numpy())
    assert_agrees(found.coefficients, golden("stackloss_huber", "estimate"))
    errors = np.sqrt(np.diag(found.covariance))
    expected = golden("stackloss_huber", "se")["value"].astype(float)
    assert errors == pytest.approx(expected, rel=0.02)  # MASS has another formula


def test_robust_z_is_in_standard_deviations_and_takes_no_notice_of_outliers():
    values = np.random.default_rng(5).normal(3, 2, 20_001)
    z = robust_z(np.append(values, [1e6] * 500))[:20_001]
    assert z.std() == pytest.approx(1, abs=0.06)
    assert robust_z(np.ones(5)).tolist() == [0] * 5


def sensitivity_of(volumes, scans):
    return sensitivity(cohort_of.build(volumes, scans), SETTINGS)


@pytest.fixture(scope="module")
def spoilt():
    """A cohort in which 1 % of the livers, all of the old, are ten times too large."""
    volumes, scans = made_up(2000)
    old = scans.loc[scans["age_years"] > 80, "scan_id"].head(20)
    volumes.loc[volumes["scan_id"].isin(old) & (volumes["label"] == 1), "volume_ml"] *= 10
    return sensitivity_of(volumes, scans)


def test_a_few_wild_volumes_bend_the_main_slope_but_not_the_robust_ones(spoilt):
    def slope(analysis):
        found = row(spoilt, structure="liver", sex="M", analysis=analysis, model="M2")
        return found["slope_pct_per_decade"]

    assert slope("complete") > -5.2
    assert slope("huber") == pytest.approx(-6, abs=0.8)
    assert slope("without_outliers") == pytest.approx(-6, abs=0.8)
    notes = spoilt.query("structure == 'liver' and analysis == 'without_outliers'")["note"]
    assert set(notes) == {"20 outliers left out"}
    stomach = spoilt.query("structure == 'stomach' and analysis == 'without_outliers'")
    assert set(stomach["note"]) == {"0 outliers left out"}


def test_the_complete_analysis_is_that_of_the_slopes_table(tmp_path):
    volumes, scans = made_up(600)
    found = analysed(tmp_path, volumes, scans.drop(columns="site"), quantile_check=False)
    main = found["slopes"].set_index(["structure", "sex", "model"])
    complete = found["sensitivity"].query("analysis == 'complete'")
    assert len(complete) == len(main)
    for _, one in complete.iterrows():
        theirs = main.loc[(one["structure"], one["sex"], one["model"])]
        for end in ("", "_ci_low", "_ci_high"):
            name = f"slope_pct_per_decade{end}"
            assert one[name] == pytest.approx(theirs[name], rel=1e-9)


def sited(shift=0.3, spread=1.0, n=1500):
    """Three sites; that of the old measures more and more widely, ages overlapping."""
    volumes, scans = made_up(n)
    random = np.random.default_rng(3)
    site = np.where(
        random.random(n) < (scans["age_years"] - 10) / 100, "late", random.choice(["a", "b"], n)
    )
    scans["site"] = site
    late = volumes["scan_id"].map(pd.Series(site == "late", index=scans["scan_id"])).to_numpy(bool)
    noise = random.normal(0, spread * 0.2, len(volumes))
    volumes["volume_ml"] *= np.exp(np.where(late, shift + noise, 0))
    return volumes, scans


def test_a_site_that_measures_more_bends_the_slope_unless_sites_are_in_the_model():
    found = sensitivity_of(*sited())
    for analysis, near in (("size_only", False), ("complete", True), ("site_harmonised", True)):
        one = row(found, structure="liver", sex="F", analysis=analysis, model="M2")
        assert (abs(one["slope_pct_per_decade"] + 3) < 1) == near, analysis


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"site": "only"}, "ANA_SITES: 1 site with 20"),
        ({"site": None}, "ANA_SITES: neither site nor scanner"),
    ],
)
def test_one_site_cannot_be_adjusted_for(change, reason):
    volumes, scans = made_up(300)
    found = sensitivity_of(volumes, scans.assign(**change))
    sites = found[found["analysis"].str.startswith("site")]
    assert sites["note"].str.startswith(reason).all()
    assert sites["slope_pct_per_decade"].isna().all()


def test_small_sites_are_left_out_and_counted():
    volumes, scans = made_up(300)
    scans["site"] = np.where(np.arange(300) < 19, "small", np.where(np.arange(300) < 150, "A", "B"))
    found = sensitivity_of(volumes, scans)
    one = row(found, structure="liver", sex="all", analysis="site_harmonised", model="M2")
    assert (one["note"], one["n_used"]) == ("1 sites with fewer than 20 scans left out", 281)


def test_sites_without_ages_in_common_are_refused():
    ages = np.linspace(20, 90, 200)
    site = pd.Series(np.where(ages < 55, "young", "old"))
    with pytest.raises(EstimateError, match="ANA_SITES: no age common to all 2 sites"):
        comparable_sites(site, ages)
    keep, note = comparable_sites(pd.Series(["a", "b"] * 100), ages)
    assert (keep.all(), note) == (True, "")


def test_missing_volumes_are_counted_by_thirds_and_sex():
    volumes, scans = made_up(900)
    old = scans["age_years"] > scans["age_years"].quantile(2 / 3)
    gone = set(scans.loc[old, "scan_id"].iloc[::3])
    volumes["status"] = np.where(
        volumes["scan_id"].isin(gone) & (volumes["structure"] == "liver"), "absent", "ok"
    )
    table = missingness(cohort_of.build(volumes, scans), SETTINGS)
    liver = table[table["structure"] == "liver"].set_index("variable")
    thirds = liver.loc["age_years", "unusable_pct"].tolist()
    assert thirds[:2] == [0, 0]
    assert thirds[2] == pytest.approx(100 / 3, abs=0.5)
    assert liver.loc["age_years", "n_scans"].sum() == 900
    assert liver.loc["sex", "n_unusable"].sum() == len(gone)
    assert (table.loc[table["structure"] != "liver", "n_unusable"] == 0).all()


def test_counts_below_5_are_not_shown():
    volumes, scans = made_up(300)
    volumes.loc[[0, 1, 2], "status"] = "absent"
    table = missingness(cohort_of.build(volumes, scans), SETTINGS)
    shown = table["n_unusable"].dropna()
    assert not shown.between(1, 4).any()
    hidden = table[table["n_unusable"].isna()]
    assert len(hidden)
    assert hidden["unusable_pct"].isna().all()
    assert (hidden["note"] == "a count below 5 is not shown").all()


def test_a_volume_that_qc_excludes_is_no_lower_bound():
    volumes, scans = made_up(300)
    liver = np.flatnonzero(volumes["structure"] == "liver")
    volumes.loc[liver[:60], "status"] = "cut"
    volumes["qc"] = "pass"
    volumes.loc[liver[:20], "qc"] = "exclude"
    found = sensitivity_of(volumes, scans)
    one = row(found, structure="liver", sex="all", analysis="tobit", model="M2")
    assert (one["n_censored"], one["n_used"]) == (40, 280)
    none = row(found, structure="stomach", sex="all", analysis="tobit", model="M2")
    assert none["note"] == "ANA_TOO_FEW: no volume is left out as cut"

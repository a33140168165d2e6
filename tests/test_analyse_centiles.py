"""Analyse: centiles and quantile regression, against printed tables, R, and known truth."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from scipy import stats
from statsmodels.datasets import engel

from analyse_fixture import analysed, made_up
from cohortvol.errors import EstimateError
from cohortvol.stages.analyse.answers.centiles import one_scan_each, subjects_near
from cohortvol.stages.analyse.fits.centile_model import fit as fit_family
from cohortvol.stages.analyse.fits.families import box_cox, box_cox_ratio
from cohortvol.stages.analyse.fits.quantiles import quantile_regression
from golden_values import GOLDEN, assert_agrees, golden


def z_of(volume, power, median, spread):
    return box_cox(np.log(volume / median), power, spread)


def volume_at(z, power, median, spread):
    return median * np.exp(box_cox_ratio(z, power, spread))


AGES = np.array([25.0, 40.0, 55.0, 70.0, 85.0])


def truth(age_years):
    """L, M in mL and S of made-up livers; the median bends, the spread grows with age."""
    a = (age_years - 50) / 10
    return 0.3, 1500 * np.exp(-0.03 * a - 0.01 * a**2), 0.2 * np.exp(0.05 * a)


def drawn(n, seed=0, power=None):
    random = np.random.default_rng(seed)
    ages = random.uniform(20, 90, n)
    lms = truth(ages)
    return ages, volume_at(random.standard_normal(n), lms[0] if power is None else power, *lms[1:])


@pytest.mark.parametrize("check", GOLDEN.loc[GOLDEN["check"] == "who_lms", "fit"].unique())
def test_volume_at_a_z_is_as_printed_in_the_tables_of_who(check):
    rows = GOLDEN[GOLDEN["fit"] == check]
    power, median, spread = (float(part.split("=")[1]) for part in check.split()[1:])
    z = rows["term"].str.removeprefix("z").astype(float).to_numpy()
    found = volume_at(z, power, median, spread)
    assert np.abs(found - rows["value"].astype(float)).max() <= 0.005
    assert z_of(found, power, median, spread) == pytest.approx(z, abs=1e-12)


def test_z_and_volume_are_continuous_where_the_power_is_0():
    z = np.array([-2.0, 0.0, 2.0])
    for power in (0.0, 1e-9, 1e-5, -1e-5):
        found = volume_at(z, power, 100.0, 0.2)
        assert found == pytest.approx(100 * np.exp(0.2 * z), rel=1e-5)
        assert z_of(found, power, 100.0, 0.2) == pytest.approx(z, abs=1e-9)


@pytest.mark.parametrize("power", [-0.5, 0.0, 0.3, 1.0])
def test_planted_l_m_and_s_are_found(power):
    found = fit_family(*drawn(8000, power=power))
    _, median, spread = truth(AGES)
    assert found.shapes[0][0] == pytest.approx(power, abs=0.2)  # its standard error is 0.06
    assert found.median_ml(AGES) == pytest.approx(median, rel=0.02)
    assert found.spread(AGES) == pytest.approx(spread, rel=0.06)


def test_no_other_parameters_are_likelier():
    ages, volumes = drawn(2000)
    found = fit_family(ages, volumes)

    def likelihood(power, median, spread):
        z = z_of(volumes, power, median, spread)
        return np.sum(power * np.log(volumes / median) - np.log(spread) - z**2 / 2)

    best = likelihood(found.shapes[0][0], found.median_ml(ages), found.spread(ages))
    for step in (-1e-3, 1e-3):
        assert best > likelihood(
            found.shapes[0][0] + step, found.median_ml(ages), found.spread(ages)
        )
        bent = np.exp(step * (ages - 50) / 10)
        for other in (np.full(len(ages), np.exp(step)), bent):
            args = found.shapes[0][0], found.median_ml(ages), found.spread(ages)
            assert best > likelihood(args[0], args[1] * other, args[2])
            assert best > likelihood(args[0], args[1], args[2] * other)


def test_units_of_volume_and_origin_of_age_do_not_matter():
    ages, volumes = drawn(1000)
    in_ml, in_litres = fit_family(ages, volumes), fit_family(ages, volumes / 1000)
    shifted = fit_family(ages - 40, volumes)
    assert in_litres.shapes[0][0] == pytest.approx(in_ml.shapes[0][0], abs=1e-6)
    assert in_litres.median_ml(AGES) * 1000 == pytest.approx(in_ml.median_ml(AGES), rel=1e-7)
    assert shifted.centile_ml(AGES - 40, 95) == pytest.approx(in_ml.centile_ml(AGES, 95), rel=1e-7)


@pytest.mark.parametrize("percent", [5, 25, 50, 75, 95])
def test_a_new_person_lies_below_a_centile_as_often_as_it_says(percent):
    """At most 1.0 point off in the mean over each of four age bands, by the planted truth."""
    fits = [fit_family(*drawn(4336, seed=seed)) for seed in range(8)]
    ages = np.linspace(20, 90, 400)
    power, median, spread = truth(ages)
    share = np.mean(
        [
            stats.norm.cdf(z_of(fitted.centile_ml(ages, percent), power, median, spread))
            for fitted in fits
        ],
        axis=0,
    )
    off = 100 * share.reshape(4, 100).mean(axis=1) - percent
    assert np.abs(off).max() <= 1.0


@pytest.mark.parametrize("tau", ["0.05", "0.25", "0.5", "0.75", "0.95"])
def test_quantile_regression_agrees_with_quantreg_of_r(tau):
    data = engel.load_pandas().data
    design = np.column_stack([np.ones(len(data)), data["income"]])
    found = quantile_regression(design, data["foodexp"].to_numpy(), float(tau))
    fit = f"quantile regression foodexp~income tau={tau}"
    assert_agrees(found, golden("engel_rq", "estimate", fit))


def test_quantile_regression_agrees_with_statsmodels():
    random = np.random.default_rng(3)
    design = np.column_stack([np.ones(500), random.normal(size=(500, 2))])
    response = design @ [1.0, 2.0, -1.0] + random.normal(size=500) * np.exp(design[:, 1] / 3)
    for share in (0.1, 0.5, 0.9):
        theirs = sm.QuantReg(response, design).fit(q=share, p_tol=1e-9, max_iter=5000).params
        assert quantile_regression(design, response, share) == pytest.approx(theirs, abs=1e-4)


def test_no_fit_where_ages_or_volumes_do_not_differ():
    ages, volumes = drawn(400)
    with pytest.raises(EstimateError, match="ANA_NO_VARIANCE: all volumes"):
        fit_family(ages, np.full(400, 1500.0))
    with pytest.raises(EstimateError, match="ANA_NO_VARIANCE: all ages"):
        fit_family(np.full(400, 50.0), volumes)


@pytest.mark.parametrize("bands", [(40.0, 60.0), (45.0, 55.0, 65.0)])
def test_ages_in_bands_have_the_centiles_of_their_bands(bands):
    ages = np.repeat(bands, 2000)
    _, median, spread = truth(ages)
    volumes = median * np.exp(spread * np.random.default_rng(5).standard_normal(len(ages)))
    found = fit_family(ages, volumes)
    for band in bands:
        here = volumes[ages == band]
        for percent in (5, 50, 95):
            expected = np.percentile(here, percent)
            assert found.centile_ml(np.array([band]), percent) == pytest.approx(expected, rel=0.03)


def test_one_scan_of_a_subject_is_kept_that_at_the_lowest_age():
    usable = np.array([True, True, True, False, True, True])
    subjects = np.array([0, 0, 1, 1, 2, 2])
    ages = np.array([60.0, 55.0, 40.0, 30.0, 70.0, 70.0])
    assert one_scan_each(usable, subjects, ages).tolist() == [1, 2, 4]


def test_subjects_near_an_age_are_counted_within_half_of_5_years():
    ages = np.array([40.0, 42.5, 45.0, 45.1, 90.0])
    assert subjects_near(ages, np.array([42.5, 45.0, 60.0])).tolist() == [3, 3, 0]


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    return analysed(tmp_path_factory.mktemp("centiles"), *made_up(1600))


@pytest.mark.slow
def test_curves_stay_inside_the_ages_and_in_order(tables):
    curves = tables["centiles"]
    _, scans = made_up(1600)
    for (_, sex), curve in curves.groupby(["structure", "sex"]):
        ages = scans.loc[scans["sex"] == sex, "age_years"]
        assert curve["age_years"].min() == pytest.approx(np.percentile(ages, 1))
        assert curve["age_years"].max() == pytest.approx(np.percentile(ages, 99))
        values = curve[[f"p{c}_ml" for c in (5, 25, 50, 75, 95)]].to_numpy()
        assert (np.diff(values, axis=1) > 0).all()
        assert (curve["n_used"] == len(ages)).all()
    assert curves["note"].isna().all()


def test_quantile_curves_lie_near_those_of_the_family(tables):
    middle = tables["centiles"].query("35 < age_years < 75")
    for c in (5, 25, 50, 75, 95):
        ratio = middle[f"quantile_p{c}_ml"] / middle[f"p{c}_ml"]
        assert np.abs(np.log(ratio)).mean() < 0.05
        assert not np.allclose(ratio, 1)


def test_sparse_ages_are_marked(tables, tmp_path):
    assert tables["centiles"]["sparse"].astype(bool).mean() < 0.3
    few = analysed(tmp_path, *made_up(700))["centiles"]
    assert few["sparse"].astype(bool).all()  # 350 of a sex over 70 years are 25 in 5 years


def test_calibration_counts_who_lies_below(tables):
    bands = tables["calibration"]
    assert bands.groupby(["structure", "sex", "method", "centile"]).size().eq(4).all()
    one = bands[(bands["structure"] == "liver") & (bands["sex"] == "F")]
    assert (
        one[one["centile"] == 50].groupby("method")["n_band"].sum().eq(one["n_used"].iloc[0]).all()
    )
    assert (
        bands["difference_points"] - (bands["observed_pct"] - bands["centile"])
    ).abs().max() < 1e-9
    sampling = 50 / np.sqrt(bands["n_band"].astype(float))
    assert (bands["difference_points"].abs() < 3.5 * sampling).all()


def test_quantile_regression_can_be_switched_off(tmp_path):
    found = analysed(tmp_path, *made_up(700), quantile_check=False)
    assert found["centiles"][[f"quantile_p{c}_ml" for c in (5, 50, 95)]].isna().all(axis=None)
    assert found["centiles"]["p50_ml"].notna().all()
    assert set(found["calibration"]["method"]) == {"model"}


def test_no_centiles_of_fewer_than_300_subjects_of_a_sex(tmp_path):
    found = analysed(tmp_path, *made_up(400))
    assert len(found["centiles"]) == 6
    assert (
        found["centiles"]["note"]
        .str.fullmatch(r"ANA_TOO_FEW: \d+ usable subjects, 300 needed for centiles")
        .all()
    )
    assert found["centiles"]["p50_ml"].isna().all()
    assert found["calibration"].empty


@pytest.mark.slow
def test_a_subject_counts_once_in_centiles(tmp_path):
    volumes, scans = made_up(700)
    again = scans.assign(scan_id=scans["scan_id"] + "_2", age_years=scans["age_years"] + 5)
    more = volumes.assign(scan_id=volumes["scan_id"] + "_2", volume_ml=volumes["volume_ml"] * 3)
    once = analysed(tmp_path / "once", volumes, scans)["centiles"]
    twice = analysed(tmp_path / "twice", pd.concat([volumes, more]), pd.concat([scans, again]))[
        "centiles"
    ]
    pd.testing.assert_frame_equal(once, twice)

"""Analyse: least squares, robust errors, p values and splines, against R, NIST and statsmodels."""

from __future__ import annotations

import math

import numpy as np
import pytest
import statsmodels.api as sm
from scipy import stats
from statsmodels.stats.multitest import multipletests

from cohortvol.errors import EstimateError
from cohortvol.stages.analyse.answers.correlation import correlation
from cohortvol.stages.analyse.fits.regression import (
    bonferroni,
    contrast,
    false_discovery_rate,
    fit,
    natural_spline,
    two_sided_p,
)
from golden_data import WAMPLER, longley, motorcycle, wampler
from golden_values import assert_agrees, golden


def ages_and_volumes(n: int = 400, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    decades = random.uniform(-3, 3, n)
    noise = random.normal(0, 0.1 + 0.05 * np.abs(decades), n)
    return np.column_stack([np.ones(n), decades]), 5 - 0.04 * decades + noise


def test_longley_agrees_with_nist():
    fitted = fit(*longley())
    assert_agrees(fitted.coefficients[:, 0], golden("nist_longley", "estimate"))


@pytest.mark.parametrize("check", WAMPLER)
def test_wampler_polynomials_agree_with_nist(check):
    design, response = wampler(check)
    assert_agrees(fit(design, response).coefficients[:, 0], golden(check, "estimate"))


def test_regression_through_the_origin_agrees_with_nist():
    first = fit(np.arange(60.0, 71)[:, None], np.arange(130.0, 141))
    second = fit(np.array([[4.0], [5.0], [6.0]]), np.array([3.0, 4.0, 4.0]))
    assert_agrees(first.coefficients[0], golden("nist_noint1", "estimate"))
    assert_agrees(second.coefficients[0], golden("nist_noint2", "estimate"))


def test_natural_spline_agrees_with_ns_of_r():
    times, accel, knots = motorcycle()

    def basis(x):
        return np.column_stack([np.ones(len(x)), natural_spline(x, knots)])

    fitted = fit(basis(times), accel)
    coefficients = fitted.coefficients[:, 0]
    residuals = accel - basis(times) @ coefficients
    assert_agrees([(residuals**2).sum()], golden("mcycle_ns", "RSS", "accel ~ ns(times, df=5)"))
    predicted = basis(np.array([10.0, 20.0, 30.0, 40.0])) @ coefficients
    assert_agrees(predicted, golden("mcycle_ns", "prediction_at_times"))


def test_natural_spline_is_straight_outside_its_knots():
    knots = np.array([30.0, 45.0, 55.0, 65.0, 80.0])
    for outside in (np.arange(0.0, 30.0), np.arange(80.0, 120.0)):
        bend = np.diff(natural_spline(outside, knots), n=2, axis=0)
        assert np.abs(bend).max() < 1e-9


def test_hc3_agrees_with_statsmodels():
    design, volumes = ages_and_volumes()
    fitted = fit(design, np.column_stack([volumes, np.exp(volumes)]))
    for k, response in enumerate((volumes, np.exp(volumes))):
        theirs = sm.OLS(response, design).fit(cov_type="HC3", use_t=True)
        ours = contrast(fitted, np.array([0.0, 1.0]), k)
        assert ours.value == pytest.approx(theirs.params[1], rel=1e-11)
        assert ours.se == pytest.approx(theirs.bse[1], rel=1e-9)
        assert [ours.ci_low, ours.ci_high] == pytest.approx(theirs.conf_int()[1], rel=1e-9)
        assert ours.p_value == pytest.approx(theirs.pvalues[1], rel=1e-7)


def test_repeated_subjects_get_cluster_robust_errors_as_in_statsmodels():
    design, volumes = ages_and_volumes()
    subjects = np.repeat(np.arange(200), 2)
    fitted = fit(design, volumes, subjects)
    theirs = sm.OLS(volumes, design).fit(
        cov_type="cluster", cov_kwds={"groups": subjects}, use_t=True
    )
    ours = contrast(fitted, np.array([0.0, 1.0]))
    assert (fitted.se_kind, fitted.degrees_of_freedom) == ("cluster", 199)
    assert ours.se == pytest.approx(theirs.bse[1], rel=1e-9)
    assert ours.ci_low == pytest.approx(theirs.conf_int()[1][0], rel=1e-9)


def test_one_scan_per_subject_is_hc3():
    design, volumes = ages_and_volumes()
    assert fit(design, volumes, np.arange(400)).se_kind == "HC3"


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda x: np.column_stack([x, 3 * x[:, 1] - 2]), "ANA_COLLINEAR"),
        (lambda x: np.column_stack([x, np.zeros(len(x))]), "ANA_COLLINEAR"),
        (lambda x: np.column_stack([x, x[:, 1] * 1e9 + 1e9]), "ANA_COLLINEAR"),
        (lambda x: np.column_stack([x, np.arange(len(x)) == 7]), "ANA_LEVERAGE"),
        (lambda x: np.column_stack([x, np.eye(len(x))]), "ANA_TOO_FEW"),
    ],
)
def test_a_design_that_cannot_be_estimated_yields_no_numbers(spoil, reason):
    design, volumes = ages_and_volumes(50)
    with pytest.raises(EstimateError) as caught:
        fit(spoil(design), volumes)
    assert caught.value.reason == reason


def test_units_of_a_covariate_do_not_make_it_collinear():
    design, volumes = ages_and_volumes()
    scaled = fit(design * [1, 1e-12], volumes)
    assert scaled.coefficients[1, 0] * 1e-12 == pytest.approx(
        fit(design, volumes).coefficients[1, 0], rel=1e-9
    )


@pytest.mark.parametrize(("t", "dof"), [(0.0, 30), (-2.5, 12), (5, 100), (30, 8668), (37, 8668)])
def test_p_agrees_with_scipy_where_that_does_not_underflow(t, dof):
    p_value, log10_p = two_sided_p(t, dof)
    assert p_value == pytest.approx(2 * stats.t.sf(abs(t), dof), rel=1e-12)
    assert log10_p == pytest.approx(math.log10(p_value), rel=1e-9)


def test_log10_p_goes_on_where_p_underflows():
    p_value, log10_p = two_sided_p(45, 8668)
    assert p_value == 0.0
    assert log10_p == pytest.approx(-396.8829073367, abs=1e-9)  # incomplete beta as 2F1
    assert two_sided_p(-45, 8668)[1] == log10_p
    steps = [two_sided_p(t, 8668)[1] for t in np.arange(36, 42, 0.25)]
    assert (np.diff(np.diff(steps)) > -0.2).all()  # no jump where the formula changes
    assert (np.diff(steps) < 0).all()


def test_benjamini_hochberg_agrees_with_r():
    p_values = golden("p_adjust", "p", "input")["value"].to_numpy(dtype=float)
    order = np.random.default_rng(0).permutation(len(p_values))
    found = np.empty(len(p_values))
    found[order] = false_discovery_rate(p_values[order])
    assert_agrees(found, golden("p_adjust", "q", "BH"))
    assert (found < 0.05).sum() == 4
    assert_agrees(bonferroni(p_values), golden("p_adjust", "q", "bonferroni"))


def test_a_p_that_is_not_there_is_no_test():
    p_values = np.array([0.01, np.nan, 0.04, 0.03, np.nan])
    given = ~np.isnan(p_values)
    found = false_discovery_rate(p_values)
    assert found[given] == pytest.approx(multipletests(p_values[given], method="fdr_bh")[1])
    assert np.isnan(found[~given]).all()
    assert bonferroni(p_values)[given] == pytest.approx([0.03, 0.12, 0.09])
    assert np.isnan(false_discovery_rate(np.array([np.nan]))).all()
    assert false_discovery_rate(np.array([])).shape == (0,)


def test_correlation_agrees_with_scipy():
    random = np.random.default_rng(3)
    ages = random.integers(20, 90, 300).astype(float)  # ties
    volumes = 200 - 0.5 * ages + random.normal(0, 30, 300)
    assert correlation(ages, volumes) == pytest.approx(stats.pearsonr(ages, volumes), rel=1e-9)
    ranks = stats.rankdata(ages), stats.rankdata(volumes)
    assert correlation(*ranks) == pytest.approx(stats.spearmanr(ages, volumes), rel=1e-9)
    assert correlation(ages, -2 * ages)[0] == pytest.approx(-1)


def test_intervals_of_uneven_noise_cover_the_truth_as_often_as_they_say():
    random = np.random.default_rng(2)
    decades = random.uniform(-3, 3, 300)
    design = np.column_stack([np.ones(300), decades])
    spread = 0.05 + 0.1 * np.abs(decades)  # classical errors cover about 88 % here
    volumes = -0.03 * decades[:, None] + spread[:, None] * random.normal(size=(300, 1000))
    fitted = fit(design, volumes)
    slopes = [contrast(fitted, np.array([0.0, 1.0]), k) for k in range(1000)]
    covered = np.mean([slope.ci_low < -0.03 < slope.ci_high for slope in slopes])
    assert 0.93 <= covered <= 0.97

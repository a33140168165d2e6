"""Analyse: data sets with values that nobody here wrote, through both ways of fitting."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import statsmodels.api as sm
from scipy import stats
from scipy.linalg import solve_triangular
from statsmodels.datasets import stackloss
from statsmodels.stats.multitest import multipletests

from cohortvol.stages.analyse.answers.correlation import correlation
from cohortvol.stages.analyse.fits.batch import fit_many
from cohortvol.stages.analyse.fits.regression import (
    Fit,
    false_discovery_rate_of_any_dependence,
    fit,
    natural_spline,
    orthonormal,
)
from golden_data import WAMPLER, longley, longley_of_r, motorcycle, wampler
from golden_values import assert_agrees, data_of_r, golden


def by_fit(design: np.ndarray, response: np.ndarray) -> Fit:
    return fit(design, response)


def by_batch(design: np.ndarray, response: np.ndarray) -> Fit:
    """As one of several structures, the others lacking rows."""
    beside = np.column_stack([response, response[::-1], response])
    beside[:2, 1] = np.nan
    found = fit_many(design, beside)[2]
    assert isinstance(found, Fit)
    return found


both_ways = pytest.mark.parametrize("solve", [by_fit, by_batch])


@dataclass(frozen=True)
class Residuals:
    """What follows from a fit and the QR of its design."""

    rss: float
    residuals: np.ndarray
    leverage: np.ndarray
    inverse: np.ndarray
    pull: np.ndarray
    freedom: int

    @property
    def classical_errors(self) -> np.ndarray:
        return np.sqrt(self.rss / self.freedom * (self.inverse**2).sum(axis=1))

    def errors(self, weights: np.ndarray) -> np.ndarray:
        return np.sqrt(((self.pull * (weights * self.residuals)[:, None]) ** 2).sum(axis=0))


def residuals_of(design: np.ndarray, response: np.ndarray) -> Residuals:
    residuals = response - design @ fit(design, response).coefficients[:, 0]
    q, r, length = orthonormal(design)
    inverse = solve_triangular(r, np.eye(len(r))) / length[:, None]
    return Residuals(
        float(residuals @ residuals),
        residuals,
        (q**2).sum(axis=1),
        inverse,
        q @ inverse.T,
        len(design) - design.shape[1],
    )


def f_test(small: Residuals, large: Residuals) -> tuple[float, float]:
    """F of the terms that the larger model has besides, and its p."""
    terms = small.freedom - large.freedom
    value = (small.rss - large.rss) / terms / (large.rss / large.freedom)
    return value, float(stats.f.sf(value, terms, large.freedom))


def errors_of(fitted: Fit) -> np.ndarray:
    return np.sqrt(np.diag(fitted.covariance[0]))


def test_longley_classical_errors_agree_with_nist():
    found = residuals_of(*longley())
    assert_agrees(found.classical_errors, golden("nist_longley", "se"))


@both_ways
def test_longley_in_the_units_of_r_agrees_with_its_estimates_and_hc3(solve):
    design, response = longley_of_r()
    fitted = fit(design, response)
    if solve is by_batch:
        fitted = fit_many(design, np.column_stack([response] * 2))[1]
    assert fitted.se_kind == "HC3"
    assert_agrees(fitted.coefficients[:, 0], golden("longley_hc", "estimate"))
    assert_agrees(errors_of(fitted), golden("longley_hc", "HC3"))


def test_leverage_and_residuals_of_longley_give_all_robust_errors_of_r():
    design, response = longley_of_r()
    found = residuals_of(design, response)
    h, (n, terms) = found.leverage, design.shape
    weights = {
        "HC0": np.ones(n),
        "HC1": np.full(n, np.sqrt(n / (n - terms))),
        "HC2": (1 - h) ** -0.5,
        "HC3": (1 - h) ** -1.0,
        "HC4": (1 - h) ** (-np.minimum(4, n * h / terms) / 2),
    }
    for name, weight in weights.items():
        assert_agrees(found.errors(weight), golden("longley_hc", name))
    assert_agrees(found.classical_errors, golden("longley_hc", "se"))


@pytest.mark.parametrize("check", WAMPLER)
def test_wampler_polynomials_agree_with_nist_in_the_batch(check):
    design, response = wampler(check)
    found = fit_many(design, np.column_stack([response, response[::-1]]))[0]
    assert_agrees(found.coefficients[:, 0], golden(check, "estimate"))


def test_wampler5_residuals_and_errors_agree_with_nist():
    found = residuals_of(*wampler("nist_wampler5"))
    assert_agrees([found.rss], golden("nist_wampler5", "RSS"))
    assert_agrees([np.sqrt(found.rss / found.freedom)], golden("nist_wampler5", "residual_sd"))
    # 13.7 digits are the last bits of one QR; another rounds them another way
    assert_agrees(found.classical_errors, golden("nist_wampler5", "se"), rounding=0.2)


def test_errors_through_the_origin_agree_with_nist():
    x, y = np.arange(60.0, 71)[:, None], np.arange(130.0, 141)
    first = residuals_of(x, y)
    second = residuals_of(np.array([[4.0], [5.0], [6.0]]), np.array([3.0, 4.0, 4.0]))
    assert_agrees(first.classical_errors, golden("nist_noint1", "se"))
    assert_agrees([1 - first.rss / (y @ y)], golden("nist_noint1", "R2_uncentred"))
    assert_agrees(second.classical_errors, golden("nist_noint2", "se"))


@both_ways
def test_hearts_of_cats_grow_with_their_bodies_as_r_says(solve):
    cats = data_of_r("cats")
    male = (cats["Sex"] == "M").to_numpy(float)
    body, heart = cats["Bwt"].to_numpy(float), cats["Hwt"].to_numpy(float)
    one = np.ones(len(cats))
    for check, x, y in (
        ("cats_loglog", np.log(body), np.log(heart)),
        ("cats_linear", body, heart),
    ):
        design = np.column_stack([one, x, male, x * male])
        assert_agrees(solve(design, y).coefficients[:, 0], golden(check, "estimate"))
        assert_agrees(residuals_of(design, y).classical_errors, golden(check, "se"))
    x, y = np.log(body), np.log(heart)
    design = np.column_stack([one, x, male, x * male])
    assert_agrees(errors_of(solve(design, y)), golden("cats_loglog", "HC3"))
    large, small = residuals_of(design, y), residuals_of(design[:, :3], y)
    assert_agrees([large.rss], golden("cats_loglog", "RSS"))
    value, p_value = f_test(small, large)
    assert_agrees([value], golden("cats_loglog", "F"))
    assert_agrees([p_value], golden("cats_loglog", "p"))


@both_ways
def test_creatinine_of_7874_people_changes_with_age_as_r_says(solve):
    people = data_of_r("flchain")
    known = people.dropna(subset=["creatinine"])
    male, age = (known["sex"] == "M").to_numpy(float), known["age"].to_numpy(float)
    design = np.column_stack([np.ones(len(known)), age, male, age * male])
    y = np.log(known["creatinine"].to_numpy(float))
    fit_name = "log(creatinine) ~ age*sex, n=6524"
    fitted = solve(design, y)
    assert fitted.n == 6524
    assert_agrees(fitted.coefficients[:, 0], golden("flchain", "estimate", fit_name))
    assert_agrees(errors_of(fitted), golden("flchain", "HC3", fit_name))
    assert_agrees(residuals_of(design, y).classical_errors, golden("flchain", "se", fit_name))


def test_correlations_of_7874_people_agree_with_r():
    people = data_of_r("flchain")
    age, light = people["age"].to_numpy(float), people["lambda"].to_numpy(float)
    rho, p_value = correlation(stats.rankdata(age), stats.rankdata(light))
    assert_agrees([rho], golden("flchain", "estimate", "Spearman(age, lambda), n=7874"))
    assert_agrees([p_value], golden("flchain", "p"))
    r = correlation(age, np.log(light))[0]
    assert_agrees([r], golden("flchain", "estimate", "Pearson(age, log lambda)"))


def test_the_bend_of_light_chains_with_age_agrees_with_r():
    people = data_of_r("flchain")
    male, age = (people["sex"] == "M").to_numpy(float), people["age"].to_numpy(float)
    y = np.log(people["lambda"].to_numpy(float))
    knots = np.percentile(age, [0, 25, 50, 75, 100])
    spline = natural_spline(age, knots)

    def design(terms: np.ndarray) -> np.ndarray:
        return np.column_stack([np.ones(len(age)), terms, male, terms * male[:, None]])

    straight, bent = residuals_of(design(age[:, None]), y), residuals_of(design(spline), y)
    assert_agrees([straight.rss], golden("flchain_ns", "RSS", "log(lambda) ~ age*sex"))
    assert_agrees([bent.rss], golden("flchain_ns", "RSS", "log(lambda) ~ ns(age,4)*sex"))
    value, p_value = f_test(straight, bent)
    assert_agrees([value], golden("flchain_ns", "F"))
    assert_agrees([p_value], golden("flchain_ns", "p"))


@both_ways
def test_weight_of_17549_people_goes_with_height_as_r_says(solve):
    people = data_of_r("nafld1").dropna(subset=["weight", "height"])
    height, male = np.log(people["height"].to_numpy(float)), people["male"].to_numpy(float)
    design = np.column_stack([np.ones(len(people)), height, male, people["age"], height * male])
    y = np.log(people["weight"].to_numpy(float))
    assert_agrees(solve(design, y).coefficients[:, 0], golden("nafld_weight", "estimate"))
    assert_agrees(residuals_of(design, y).classical_errors, golden("nafld_weight", "se"))


def test_the_spline_of_r_is_tested_against_a_line_as_r_does_and_is_not_that_of_patsy():
    times, accel, knots = motorcycle()
    one = np.ones(len(times))
    line = residuals_of(np.column_stack([one, times]), accel)
    bent = residuals_of(np.column_stack([one, natural_spline(times, knots)]), accel)
    assert_agrees([line.rss], golden("mcycle_ns", "RSS", "accel ~ times"))
    assert_agrees([f_test(line, bent)[0]], golden("mcycle_ns", "F"))
    other = golden("mcycle_ns", "RSS", "patsy cr(df=5) - a different model, must NOT be used")
    assert bent.rss < 0.6 * float(other["value"].iloc[0])


@pytest.mark.parametrize(
    ("check", "norm"),
    [
        ("stackloss_huber", sm.robust.norms.HuberT()),
        ("stackloss_bisquare", sm.robust.norms.TukeyBiweight()),
    ],
)
def test_robust_regression_of_statsmodels_agrees_with_r(check, norm):
    data = stackloss.load_pandas()
    design = sm.add_constant(data.exog).to_numpy()
    fitted = sm.RLM(data.endog.to_numpy(), design, M=norm).fit(maxiter=500, tol=1e-12)
    assert_agrees(fitted.params, golden(check, "estimate"))
    if check == "stackloss_huber":
        scale = fitted.scale * stats.norm.ppf(0.75) / 0.6745  # R rounds the constant of the MAD
        assert_agrees([scale], golden(check, "scale"))
        assert_agrees(fitted.bse, golden(check, "se"))


def test_benjamini_yekutieli_agrees_with_r():
    p_values = golden("p_adjust", "p", "input")["value"].to_numpy(dtype=float)
    order = np.random.default_rng(1).permutation(len(p_values))
    found = np.empty(len(p_values))
    found[order] = false_discovery_rate_of_any_dependence(p_values[order])
    assert_agrees(found, golden("p_adjust", "q", "BY"))
    with_none = false_discovery_rate_of_any_dependence(np.append(p_values, np.nan))
    assert np.isnan(with_none[-1])
    assert_agrees(with_none[:-1], golden("p_adjust", "q", "BY"))


def test_holm_of_statsmodels_which_the_analysis_has_no_use_for_agrees_with_r():
    p_values = golden("p_adjust", "p", "input")["value"].to_numpy(dtype=float)
    assert_agrees(multipletests(p_values, method="holm")[1], golden("p_adjust", "q", "holm"))

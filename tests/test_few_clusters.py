"""Errors of few clusters are those of R's clubSandwich, and intervals cover."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analyse_fixture import analysed, made_up, record, row
from cohortvol.errors import EstimateError
from cohortvol.stages.analyse.fits import random_effects, regression, robust, survey
from cohortvol.stages.analyse.fits.batch import fit_many
from cohortvol.stages.analyse.fits.few_clusters import of_information
from cohortvol.stages.analyse.fits.random_effects import random_intercept
from cohortvol.stages.analyse.fits.regression import contrast, fit, wald
from cohortvol.stages.analyse.fits.robust import huber
from cohortvol.stages.analyse.fits.survey import weighted_to_population
from cohortvol.stages.analyse.robustness import selection
from cohortvol.stages.analyse.robustness.selection import censored_regression
from golden_values import script_of_r

GOLDEN = Path(__file__).parent / "golden_r" / "few_clusters.csv"


def design_of(data):
    return np.column_stack([np.ones(len(data)), data[["age", "male", "treated"]]]).astype(float)


def of_r(model):
    golden = pd.read_csv(GOLDEN)
    return golden[golden["model"] == model].set_index("term")


def assert_is(ours, theirs, freedom):
    for name, value in (
        ("estimate", ours.value), ("se", ours.se), ("p", ours.p_value),
        ("low", ours.ci_low), ("high", ours.ci_high), ("df", freedom),
    ):  # fmt: skip
        assert value == pytest.approx(theirs[name], rel=1e-8), (theirs.name, name)


@pytest.mark.parametrize("way", ["alone", "among many", "weighted"])
def test_estimates_are_those_of_clubsandwich(way):
    data = script_of_r("few_clusters").sample()
    design, response = design_of(data), data["y"].to_numpy()
    cluster = data["cluster"].to_numpy()
    if way == "alone":
        found = fit(design, response, cluster)
    elif way == "weighted":
        found = fit(design, response, cluster, weights=7 * data["weight"].to_numpy())
    else:  # beside a structure that lacks some rows
        responses = np.stack([response, np.where(data["male"] == 1, response, np.nan)], axis=1)
        found = fit_many(design, responses[:, :, None], cluster, ())[0]
    assert found.se_kind == "CR2"
    golden = of_r("weighted" if way == "weighted" else "least_squares")
    for term, weights in enumerate(np.eye(4)):
        freedom = found.few.degrees_of_freedom(weights)
        assert_is(contrast(found, weights), golden.iloc[term], freedom)
    of_all, theirs = wald(found, np.eye(4)[1:]), golden.loc["F of all slopes"]
    assert found.few.of_several(np.eye(4)[1:]) - 2 == pytest.approx(theirs["df"], rel=1e-8)
    assert of_all.p_value == pytest.approx(theirs["p"], rel=1e-8)


def test_what_is_said_within_villages_is_as_with_a_term_for_each():
    data = script_of_r("few_clusters").sample()
    columns = data[["y", "age", "male"]]
    apart = (columns - columns.groupby(data["cluster"]).transform("mean")).to_numpy()
    found = fit(apart[:, 1:], apart[:, 0], data["cluster"].to_numpy()).of(0)
    for weights, term in zip(np.eye(2), ("age", "male"), strict=True):
        freedom = found.few.degrees_of_freedom(weights)
        assert_is(found.contrast(weights), of_r("term_per_village").loc[term], freedom)


def test_a_random_intercept_differs_from_clubsandwich_by_another_root_of_its_covariance():
    data = script_of_r("few_clusters").sample()
    found = random_intercept(
        design_of(data), data["again"].to_numpy(), data["person"].to_numpy(),
        data["cluster"].to_numpy(),
    ).robust  # fmt: skip
    golden = of_r("random_intercept")
    for term, (weights, off) in enumerate(zip(np.eye(4), (0.01, 0.01, 0.01, 0.07), strict=True)):
        ours, theirs = found.contrast(weights), golden.iloc[term]
        assert ours.value == pytest.approx(theirs["estimate"], rel=1e-7)
        assert found.few.degrees_of_freedom(weights) == pytest.approx(theirs["df"], rel=2e-3)
        assert ours.se == pytest.approx(theirs["se"], rel=off)


def test_information_of_least_squares_gives_its_errors():
    data = script_of_r("few_clusters").sample()
    design, cluster = design_of(data), data["cluster"].to_numpy()
    found = fit(design, data["y"].to_numpy(), cluster)
    left = data["y"].to_numpy() - design @ found.coefficients[:, 0]
    parts = [design[cluster == one] for one in range(12)]
    adjusted, few = of_information(np.stack([rows.T @ rows for rows in parts]))
    scores = np.stack([rows.T @ left[cluster == one] for one, rows in enumerate(parts)])
    pulled = np.einsum("gij,gj->gi", adjusted, scores)
    assert pulled.T @ pulled == pytest.approx(found.covariance[0], rel=1e-9)
    for weights in np.eye(4):
        assert few.degrees_of_freedom(weights) == pytest.approx(
            found.few.degrees_of_freedom(weights), rel=1e-9
        )


def test_a_censored_model_of_which_nothing_is_cut_has_nearly_the_errors_of_least_squares():
    data = script_of_r("few_clusters").sample()
    design, response, cluster = design_of(data), data["y"].to_numpy(), data["cluster"].to_numpy()
    found, _, _ = censored_regression(design, response, np.zeros(len(data), dtype=bool), cluster)
    for term, theirs in enumerate(of_r("least_squares").iloc[:4].to_dict("records")):
        weights = np.eye(5)[term]
        assert found.contrast(weights).se == pytest.approx(theirs["se"], rel=0.02)
        assert found.few.degrees_of_freedom(weights) == pytest.approx(theirs["df"], rel=3e-3)


def test_nothing_depends_on_units_or_on_the_order_of_rows():
    data = script_of_r("few_clusters").sample()
    shuffled = data.sample(frac=1, random_state=1)
    units = np.array([1.0, 1e-6, 1e4, 1.0])
    first = fit(design_of(data), data["y"].to_numpy(), data["cluster"].to_numpy())
    other = fit(
        design_of(shuffled) * units, shuffled["y"].to_numpy(), 7 * shuffled["cluster"].to_numpy()
    )
    for term in np.eye(4):
        one, two = contrast(first, term), contrast(other, term * units)
        assert (one.value, one.se, one.ci_low) == pytest.approx((two.value, two.se, two.ci_low))


@pytest.mark.slow
def test_intervals_of_twelve_clusters_cover_where_the_usual_ones_do_not(monkeypatch):
    rng = np.random.default_rng(0)
    data = script_of_r("few_clusters").sample()
    design, cluster = design_of(data), data["cluster"].to_numpy()
    drawn = 0.2 * rng.standard_normal((12, 1000))[cluster]
    drawn = drawn + 0.2 * rng.standard_normal(drawn.shape)

    def covered():
        found = fit(design, drawn, cluster)
        slopes = [contrast(found, np.eye(4)[3], k) for k in range(drawn.shape[1])]
        return np.mean([one.ci_low < 0 < one.ci_high for one in slopes])

    assert covered() >= 0.93
    monkeypatch.setattr(regression, "FEW", 0)
    assert covered() < 0.88


def tobit(design, response, cluster):
    high = response > np.quantile(response, 0.8)
    shown = np.where(high, np.quantile(response, 0.8), response)
    found, _, _ = censored_regression(design, shown, high, cluster)
    return found.contrast(np.eye(5)[3])


def of_huber(design, response, cluster):
    return huber(design, response, cluster).contrast(np.eye(4)[3])


def of_population(design, response, cluster):
    weights = 1 + 9 * (np.arange(len(cluster)) % 4 == 0)
    one = np.zeros(len(cluster))
    return weighted_to_population(design, response, weights, one, cluster).contrast(np.eye(4)[3])


def within_people(design, response, cluster):
    people = np.arange(len(cluster)) // 2
    whole = np.repeat(cluster[::2], 2)[: len(cluster)]  # of people, not of scans
    return random_intercept(design, response, people, whole).robust.contrast(np.eye(4)[3])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "estimate"),
    [
        (selection, tobit),
        (robust, of_huber),
        (survey, of_population),
        (random_effects, within_people),
    ],
)
def test_so_do_those_of_every_other_fit(monkeypatch, module, estimate):
    data = script_of_r("few_clusters").sample()
    design, cluster = design_of(data), data["cluster"].to_numpy()
    rng = np.random.default_rng(1)
    drawn = 0.2 * rng.standard_normal((100, 12))[:, cluster]
    drawn = drawn + 0.2 * rng.standard_normal(drawn.shape)

    def covered():
        found = [estimate(design, response, cluster) for response in drawn]
        return np.mean([one.ci_low < 0 < one.ci_high for one in found])

    assert covered() >= 0.93
    monkeypatch.setattr(module, "FEW", 0)
    assert covered() < 0.9


def test_a_test_of_more_terms_than_clusters_can_carry_is_refused():
    rng = np.random.default_rng(3)
    cluster = np.repeat(np.arange(5), 20)
    design = np.column_stack([np.ones(100), rng.standard_normal((5, 3))[cluster]])
    found = fit(design, rng.standard_normal(100), cluster)
    with pytest.raises(EstimateError, match="ANA_TOO_FEW: too few clusters to test 3 terms"):
        wald(found, np.eye(4)[1:])


def test_the_page_of_a_cohort_of_few_villages_says_so(tmp_path):
    volumes, scans = made_up(600, 4)
    scans["cluster_id"] = [f"v{n % 20}" for n in range(600)]
    found = analysed(tmp_path, volumes, scans)
    slope = row(found["slopes"], structure="liver", sex="all", model="M1")
    assert slope["se_kind"] == "CR2"
    said = record(tmp_path)["sentences"]
    assert any(one.startswith("Some were drawn in groups (cluster_id): ") for one in said)
    assert any("few groups, errors are bias-reduced" in one for one in said)
    assert not any("people have several scans" in one for one in said)

"""Errors of few clusters are those of R's clubSandwich, and intervals cover."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analyse_fixture import analysed, made_up, record, row
from cohortvol.stages.analyse.fits import regression
from cohortvol.stages.analyse.fits.batch import fit_many
from cohortvol.stages.analyse.fits.regression import contrast, fit
from golden_values import script_of_r

GOLDEN = Path(__file__).parent / "golden_r" / "few_clusters.csv"


def design_of(data):
    return np.column_stack([np.ones(len(data)), data[["age", "male", "treated"]]]).astype(float)


@pytest.mark.parametrize("way", ["alone", "among many"])
def test_estimates_are_those_of_clubsandwich(way):
    data = script_of_r("few_clusters").sample()
    design, response = design_of(data), data["y"].to_numpy()
    if way == "alone":
        found = fit(design, response, data["cluster"].to_numpy())
    else:  # beside a structure that lacks some rows
        responses = np.stack([response, np.where(data["male"] == 1, response, np.nan)], axis=1)
        found = fit_many(design, responses[:, :, None], data["cluster"].to_numpy(), ())[0]
    assert found.se_kind == "CR2"
    golden = pd.read_csv(GOLDEN)
    for term, theirs in golden.iterrows():
        ours = contrast(found, np.eye(4)[term])
        for name, value in (
            ("estimate", ours.value), ("se", ours.se), ("p", ours.p_value),
            ("low", ours.ci_low), ("high", ours.ci_high),
        ):  # fmt: skip
            assert value == pytest.approx(theirs[name], rel=1e-8), (term, name)
        assert found.few.degrees_of_freedom(np.eye(4)[term]) == pytest.approx(
            theirs["df"], rel=1e-8
        )


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

"""Worm plots: a quantile of the scores less that of a normal, by hand and by known faults."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from cohortvol.stages.analyse.answers.worms import LEAST_BEYOND, SCORES, worms
from cohortvol.stages.analyse.fits.centile_model import fit

N = 4000
AGES = np.linspace(20, 80, N)
NORMAL = stats.norm.ppf((np.arange(1, N + 1) - 0.5) / N)


def all_ages(z):
    found = worms(z, AGES)
    found = found[found["band"] == 0]
    return found["score"].to_numpy(), found["deviation"].to_numpy()


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        (lambda z: z, lambda x: 0 * x),
        (lambda z: z + 0.3, lambda x: 0 * x + 0.3),
        (lambda z: 1.2 * z, lambda x: 0.2 * x),
        (lambda z: z + 0.1 * z**2, lambda x: 0.1 * x**2),
        (lambda z: z + 0.05 * z**3, lambda x: 0.05 * x**3),
    ],
)
def test_a_level_a_slope_a_bow_and_an_s_are_read_off(changed, expected):
    score, deviation = all_ages(changed(NORMAL))
    assert score.min() == -3
    assert score.max() == 3
    assert deviation == pytest.approx(expected(score), abs=2e-3)


def test_the_band_is_that_of_van_buuren_and_fredriks():
    row = worms(NORMAL, AGES).query("band == 2 and score == -1").iloc[0]
    n = N / 4
    share, density = 0.1586553, np.exp(-0.5) / np.sqrt(2 * np.pi)
    assert row["n_band"] == n
    assert row["limit"] == pytest.approx(
        1.959964 * np.sqrt(share * (1 - share) / n) / density, rel=1e-6
    )


def test_one_in_twenty_leaves_the_band_by_chance():
    rng = np.random.default_rng(0)
    out = [worms(rng.standard_normal(1000), rng.uniform(20, 80, 1000)) for _ in range(60)]
    share = np.mean([(one["deviation"].abs() > one["limit"]).mean() for one in out])
    assert 0.03 < share < 0.06  # order statistics are discrete at the ends


def test_a_fault_at_some_ages_shows_at_these_ages_only():
    rng = np.random.default_rng(1)
    z = np.where(AGES > 65, 1.3, 1.0) * rng.standard_normal(N)
    found = worms(z, AGES)
    outside = (found["deviation"].abs() > found["limit"]).groupby(found["band"]).mean()
    assert outside[4] > 0.5
    assert outside[1:3].max() < 0.3


def test_a_family_without_tails_shows_an_s_where_people_have_them():
    rng = np.random.default_rng(2)
    volumes = 150 * np.exp(0.15 * rng.standard_t(3, N))
    found = worms(fit(AGES, volumes).z(AGES, volumes), AGES).query("band == 0").set_index("score")
    assert found.loc[3.0, "deviation"] > found.loc[3.0, "limit"]
    assert found.loc[-3.0, "deviation"] < -found.loc[-3.0, "limit"]
    assert found.loc[1.0, "deviation"] < -found.loc[1.0, "limit"]


def test_no_quantile_is_that_of_an_extreme_and_bands_of_nobody_are_left_out():
    ages = np.repeat([40.0, 70.0], 150)
    found = worms(stats.norm.ppf((np.arange(300) + 0.5) / 300), ages)
    for band, some in found.groupby("band"):
        n = some["n_band"].iloc[0]
        assert (n * stats.norm.sf(some["score"].abs()) >= LEAST_BEYOND).all(), band
    assert set(found["band"]) < set(range(5))
    assert found.query("band > 0").groupby("band")["n_band"].first().sum() == 300
    assert len(SCORES) == 25

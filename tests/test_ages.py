"""Ages in bands, in whole years and cut down to a highest one: recognised, and what then holds."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from cohortvol.stages.analyse.answers.slopes import trends
from cohortvol.stages.analyse.cohort import ages, usable
from cohortvol.stages.analyse.cohort.settings import Settings

SLOPE = -0.06  # of ln(volume), per decade


def cohort(age, *, true=None, seed=3, **settings):
    """Livers that follow the true age, where the table has another."""
    rng = np.random.default_rng(seed)
    ids = [f"s{i:05d}" for i in range(len(age))]
    true = age if true is None else true
    log_ml = 7.3 + SLOPE * (true - 50) / 10 + 0.1 * rng.standard_normal(len(age))
    volumes = pd.DataFrame({"scan_id": ids, "structure": "liver", "volume_ml": np.exp(log_ml)})
    sex = np.where(np.arange(len(age)) % 2, "F", "M")
    scans = pd.DataFrame({"scan_id": ids, "age_years": age, "sex": sex})
    return usable.build(volumes.assign(status="ok"), scans, **settings)


def interval(found):
    slopes = trends(found, Settings())[0].query("sex == 'all' and model == 'M1'").iloc[0]
    ends = slopes[["slope_pct_per_decade_ci_low", "slope_pct_per_decade_ci_high"]]
    return tuple(np.log1p(ends.to_numpy(dtype=float) / 100))


def drawn(n=3000, seed=1):
    rng = np.random.default_rng(seed)
    return np.clip(rng.normal(66, 13, n), 20, 100)


@pytest.mark.parametrize("width", [2, 5, 10])
@pytest.mark.parametrize("named_by", ["lower end", "middle"])
def test_bands_are_recognised_and_their_slope_holds(width, named_by):
    true = np.random.default_rng(4).uniform(40, 70, 2000)
    band = np.floor(true / width) * width + (width / 2 if named_by == "middle" else 0)
    found = cohort(band, true=true)
    assert ages.step_years(band) == width
    (told,) = ages.said(found)
    assert told.startswith(
        f"Ages come in steps of {width} years, as bands do. Slopes per decade can"
    )
    low, high = interval(found)
    assert low < SLOPE < high
    assert high - low < 0.012


def test_an_open_last_band_does_not_hide_the_others():
    band = np.array([30, 40, 50, 60, 70, 83.0]).repeat(20)
    assert ages.step_years(band) == 10


def test_whole_years_are_said_and_exact_ages_are_not():
    exact = drawn()
    assert ages.said(cohort(exact.round(1))) == []
    (told,) = ages.said(cohort(np.floor(exact[exact < 99])))
    assert told.startswith("Ages are whole years.")
    assert ages.said(cohort(np.floor(drawn(40)))) == []


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("top", [80, 85, 90])
def test_a_highest_age_that_stands_for_higher_ones_is_recognised(top, whole):
    true = drawn()
    given = np.minimum(np.floor(true) if whole else true.round(1), top).astype(float)
    found = cohort(given, true=true)
    told = ages.said(found)
    assert "(top-coded)" in told[-1]
    # too steep, and right without those scans, as the sentence says
    if top == 80:
        assert interval(found)[1] < SLOPE
    low, high = interval(cohort(given, true=true, age_range_years=(0, top - 0.5)))
    assert low < SLOPE < high


@pytest.mark.parametrize("seed", range(10))
def test_nothing_is_said_of_ages_that_just_end(seed):
    rng = np.random.default_rng(seed)
    for given in (
        drawn(seed=seed).round(1)[:800],
        np.floor(drawn(seed=seed))[:800],
        rng.uniform(40, 80, 500).round(1),
        np.floor(rng.uniform(40, 81, 500)),
        np.repeat([70.0, 73, 76, 79], 100),  # visits of people who are all of one age
    ):
        assert not any("top-coded" in text for text in ages.said(cohort(given[given < 99])))

"""Centile families: densities against their integrals, fits against R's gamlss and known truth."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import integrate, stats

from cohortvol.errors import EstimateError
from cohortvol.stages.analyse.fits import centile_choice
from cohortvol.stages.analyse.fits.centile_choice import (
    People,
    choose,
    has_heavy_tails,
    is_uneven,
    trouble,
)
from cohortvol.stages.analyse.fits.centile_model import STARTS, far_out, fit
from cohortvol.stages.analyse.fits.families import FAMILIES
from golden_values import script_of_r

pytestmark = pytest.mark.slow

FOLDER = Path(__file__).parent / "golden_r"
GOLDEN = pd.read_csv(FOLDER / "centile_families.csv")
SHAPES = [
    ("BCCG", (0.0,)),
    ("BCCG", (0.5,)),
    ("BCCG", (-3.0,)),
    ("BCT", (0.5, np.log(4.0))),
    ("BCT", (-2.0, np.log(3.0))),
    ("SHASH", (0.0, 0.0)),
    ("SHASH", (-0.5, 0.3)),
    ("BCCG_low", (0.5, np.log(0.05))),
    ("BCCG_high", (-1.0, np.log(0.02))),
    ("BCCG_both", (0.0, np.log(0.03), np.log(0.04))),
]
LOG_SPREAD = np.log(0.25)
CLOSE = {"BCCG": 1e-5, "BCT": 1e-3, "SHASH": 1e-3}


@pytest.mark.parametrize(("name", "shapes"), SHAPES)
def test_score_and_density_are_of_one_distribution(name, shapes):
    family, ratios = FAMILIES[name], np.array([-1.5, -0.5, -0.1, 0.0, 0.1, 0.4, 1.0])

    def density(ratio):
        return float(np.exp(family.log_density(np.array([ratio]), LOG_SPREAD, *shapes))[0])

    z = family.z(ratios, LOG_SPREAD, *shapes)
    shares = np.diff(stats.norm.cdf(z))
    for share, low, high in zip(shares, ratios[:-1], ratios[1:], strict=True):
        assert integrate.quad(density, low, high)[0] == pytest.approx(share, abs=1e-10)
    assert integrate.quad(density, -12, 12, points=ratios, limit=200)[0] == pytest.approx(
        1, abs=1e-4
    )
    assert family.ratio(z, LOG_SPREAD, *shapes) == pytest.approx(ratios, abs=1e-9)


@pytest.mark.parametrize(("name", "shapes"), SHAPES)
def test_every_volume_has_a_score_and_a_larger_one_a_larger_score(name, shapes):
    ratios = np.log(np.geomspace(1e-4, 1e4, 200))
    z = FAMILIES[name].z(ratios, LOG_SPREAD, *shapes)
    assert not np.isnan(z).any()
    assert (np.diff(z[np.isfinite(z)]) > 0).all()


@pytest.mark.parametrize("data", sorted(GOLDEN["data"].unique()))
@pytest.mark.parametrize("changes", [False, True])
@pytest.mark.parametrize("family", ["BCCG", "BCT", "SHASH"])
def test_fits_are_those_of_gamlss(data, family, changes):
    ages, volumes = script_of_r("centile_families").DATA[data]()
    model = fit(ages, volumes, family, changes, STARTS)
    case = f"{family} age" if changes else family
    rows = GOLDEN[(GOLDEN["data"] == data) & (GOLDEN["family"] == case)].set_index("statistic")
    ratio = np.log(volumes / model.median_ml(ages))
    likelihood = np.sum(FAMILIES[family].log_density(ratio, *model.at(ages)))
    if family != "SHASH":  # gamlss has SHASH of ln y, the others of y
        likelihood -= np.log(volumes).sum()
    assert likelihood >= rows.loc["log_likelihood", "value"] - 1e-4
    for statistic, some in rows.drop("log_likelihood").groupby(level=0):
        places = some["term"].astype(int).to_numpy()
        if statistic == "z":
            found = model.z(ages[places], volumes[places])
            assert found == pytest.approx(some["value"].to_numpy(), abs=CLOSE[family])
        else:
            found = model.centile_ml(ages[places], float(statistic[1:]))
            assert found == pytest.approx(some["value"].to_numpy(), rel=CLOSE[family])


def test_the_stored_values_are_what_gamlss_gives_here(tmp_path):
    if os.environ.get("COHORTVOL_TEST_R") is None or shutil.which("Rscript") is None:
        pytest.skip("fits by R's gamlss are stored; COHORTVOL_TEST_R=1 runs it again")
    here = [sys.executable, FOLDER / "centile_families.py", tmp_path]
    subprocess.run(here, check=True)
    there = ["Rscript", FOLDER / "centile_families.R", tmp_path]
    done = subprocess.run(there, check=True, capture_output=True, text=True)
    (tmp_path / "found.csv").write_text(done.stdout)
    found = pd.read_csv(tmp_path / "found.csv")
    assert found["value"].to_numpy() == pytest.approx(GOLDEN["value"].to_numpy(), rel=1e-5)


def contaminated(seed, n=1000, share=0.03, low=0.05, high=0.3):
    rng = np.random.default_rng(seed)
    ages = rng.uniform(20, 85, n)
    volumes = 160 * np.exp(0.15 * rng.standard_normal(n))
    other = rng.random(n) < share
    volumes[other] *= rng.uniform(low, high, other.sum())
    return ages, volumes


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("low", "high"), [(0.05, 0.3), (3.0, 12.0)])
def test_remnants_and_enlarged_organs_leave_the_centiles_of_the_others(seed, low, high):
    ages, volumes = contaminated(seed, low=low, high=high)
    model = choose(People(ages, volumes))
    for percent in (5, 50, 95):
        below = 100 * np.mean(volumes < model.centile_ml(ages, percent))
        assert abs(below - percent) <= 3.2
    assert model.family != "BCCG"


@pytest.mark.parametrize("seed", range(4))
def test_one_tiny_volume_moves_nothing(seed):
    ages, volumes = contaminated(seed, n=300, share=0)
    at = np.array([30.0, 50.0, 70.0])
    without = choose(People(ages, volumes))
    volumes[7] = 1.0
    with_it = choose(People(ages, volumes))
    for percent in (5, 50, 95):
        moved = with_it.centile_ml(at, percent) / without.centile_ml(at, percent)
        assert moved == pytest.approx(1, abs=0.08)  # three sampling errors at the ends


def test_what_no_family_fits_has_no_centiles():
    rng = np.random.default_rng(0)
    ages = rng.uniform(20, 85, 1000)
    two_kinds = np.where(rng.random(1000) < 0.4, 20.0, 200.0)
    volumes = two_kinds * np.exp(0.02 * rng.standard_normal(1000))
    with pytest.raises(EstimateError, match="ANA_CENTILES: no centiles agree with the sample"):
        choose(People(ages, volumes))


def test_a_wrong_centile_and_a_heavy_tail_are_seen():
    ages, volumes = contaminated(0, share=0)
    model = fit(ages, volumes)
    assert trouble(model, People(ages, volumes)) == ""
    assert trouble(model, People(ages, volumes * 1.05)).endswith("lie below the 25th centile")
    assert not has_heavy_tails(model, People(ages, volumes))
    volumes[:3] = 20.0
    assert has_heavy_tails(model, People(ages, volumes))


def test_a_shape_that_changes_with_age_is_found_and_chosen():
    rng = np.random.default_rng(1)
    ages = rng.uniform(20, 80, 20000)
    power = -1.0 + 0.8 * (ages - 50) / 10
    ratio = FAMILIES["BCCG"].ratio(rng.standard_normal(20000), np.log(0.15), power)
    ((at, change),) = fit(ages, 160 * np.exp(ratio), "BCCG", changes=True).shapes
    assert at == pytest.approx(-1.0, abs=0.25)
    assert change == pytest.approx(0.8, abs=0.12)


@pytest.mark.parametrize(
    ("family", "of_age"),
    [
        ("BCCG", lambda decades: (2.0 * decades,)),
        ("SHASH", lambda decades: (-0.2 - 0.35 * decades, -0.2 + 0 * decades)),
    ],
)
def test_of_each_family_the_first_shape_may_change_where_people_left_out_prefer_it(family, of_age):
    rng = np.random.default_rng(2)
    ages = rng.uniform(20, 80, 2000)
    shapes = of_age((ages - 50) / 10)
    volumes = 160 * np.exp(FAMILIES[family].ratio(rng.standard_normal(2000), np.log(0.2), *shapes))
    people = People(ages, volumes)
    assert is_uneven(fit(ages, volumes), people)
    chosen = choose(people)
    assert chosen.shapes[0][1] != 0
    assert not is_uneven(chosen, people)
    constant = fit(ages, volumes, chosen.family, starts=STARTS)
    truth = FAMILIES[family].ratio(-1.645, np.log(0.2), *of_age((np.array([25.0, 75.0]) - 50) / 10))
    off = [
        np.abs(np.log(model.centile_ml(np.array([25.0, 75.0]), 5) / 160) - truth).max()
        for model in (chosen, constant)
    ]
    assert off[0] < off[1] / 2


def test_a_quarter_by_age_that_does_not_fit_is_seen_and_others_are_then_looked_at(monkeypatch):
    rng = np.random.default_rng(5)
    ages = np.linspace(20, 80, 2000)
    even = People(ages, 160 * np.exp(0.2 * rng.standard_normal(2000)))
    wave = 0.08 * np.sign(np.sin(2 * np.pi * (ages - 20) / 30))  # no spline of five knots follows
    uneven = People(ages, even.volume_ml * np.exp(wave))
    model = uneven.fitted(("BCCG", False))
    assert trouble(model, uneven, centile_choice.DOUBTFUL) == ""
    assert is_uneven(model, uneven)
    assert not is_uneven(even.fitted(("BCCG", False)), even)
    looked_at = []
    monkeypatch.setattr(
        centile_choice, "left_out_loss", lambda _, kind, __: looked_at.append(kind) or 0
    )
    choose(even)
    assert looked_at == []
    choose(uneven)
    assert ("BCCG", False) in looked_at
    assert len(looked_at) > 1


def test_where_no_shape_changes_none_is_let_change(monkeypatch):
    """By the loss over people left out: a line in age is not taken because it fits better."""
    rng = np.random.default_rng(3)
    ages = rng.uniform(20, 85, 1500)
    people = People(ages, 160 * np.exp(0.1 * rng.standard_t(3, 1500)))
    chosen = choose(people)
    assert chosen.family == "BCT"
    assert chosen.shapes[0][1] == 0
    monkeypatch.setattr(centile_choice, "LIKELIER", -np.inf)
    monkeypatch.setattr(centile_choice, "left_out_loss", lambda _, kind, __: -float(kind[1]))
    assert choose(people).shapes[0][1] != 0


@pytest.mark.parametrize("ends", ["low", "high", "both"])
def test_shares_far_out_are_found_and_centiles_between_are_those_of_the_population(ends):
    rng = np.random.default_rng(4)
    n, sd = 2000, 0.15
    ages = rng.uniform(20, 85, n)
    low = rng.random(n) < (0.03 if ends != "high" else 0)
    high = rng.random(n) < (0.02 if ends != "low" else 0)
    ratio = sd * rng.standard_normal(n)
    ratio[low] += np.log(rng.uniform(0.05, 0.3, low.sum()))
    ratio[high] += np.log(rng.uniform(3, 12, high.sum()))
    volumes = 160 * np.exp(ratio)
    counts = far_out(ages, volumes)
    assert [bool(count) for count in counts] == [low.any(), high.any()]
    model = choose(People(ages, volumes))
    assert model.family == f"BCCG_{ends}"
    odds = np.exp([at for at, _ in model.shapes[1:]])
    for share, counted in zip(odds / (1 + odds.sum()), [low, high][ends == "high" :], strict=False):
        assert share == pytest.approx(counted.mean(), abs=0.004)
    below = [100 * np.mean(volumes < model.centile_ml(ages, c)) for c in (5, 25, 50, 75, 95)]
    assert below == pytest.approx([5, 25, 50, 75, 95], abs=1.5)
    near = ~(low | high)
    assert np.std(model.z(ages, volumes)[near]) == pytest.approx(0.93, abs=0.07)


@pytest.mark.parametrize("seed", [37, 105, 231])
def test_small_cohorts_with_a_few_far_out_are_not_refused(seed):
    """No BCCG, BCT or SHASH has as many of these below its centiles as it says."""
    ages, volumes = contaminated(seed, n=300, share=0.05, low=3.0, high=12.0)
    model = choose(People(ages, volumes))
    assert trouble(model, People(ages, volumes)) == ""

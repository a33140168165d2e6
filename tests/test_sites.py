"""Analyse: slopes with age within sites, and between sites whose people differ in age."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from statsmodels.regression.mixed_linear_model import MixedLM

from analyse_fixture import analysed, record, row
from cohortvol.stages import report
from cohortvol.stages.analyse.answers.sites import site_sentences, site_slopes
from cohortvol.stages.analyse.cohort import usable
from cohortvol.stages.analyse.cohort.settings import Settings

KINDS = ("within", "terms", "between")


def tables(seed=1, sites=25, within=-0.03, between=0.06, by="site", n=1000, **columns):
    """Livers that change by `within` per decade, and by `between` with the mean age of a site."""
    rng = np.random.default_rng(seed)
    site = rng.integers(0, sites, n)
    older = rng.normal(0, 8, sites)[site]
    age = 55 + older + rng.uniform(-15, 15, n)
    log_ml = 7.3 + (within * (age - 55 - older) + between * older) / 10
    log_ml = log_ml + 0.05 * rng.standard_normal(sites)[site] + 0.12 * rng.standard_normal(n)
    ids = [f"s{i:04d}" for i in range(n)]
    volumes = pd.DataFrame({"scan_id": ids, "structure": "liver", "volume_ml": np.exp(log_ml)})
    scans = {"scan_id": ids, "age_years": age, "sex": rng.choice(["F", "M"], n)}
    scans = scans | {by: [f"place {i}" for i in site]} | columns
    return volumes.assign(status="ok"), pd.DataFrame(scans)


def page_of(folder):
    given = {name: folder / f"{name}.csv" for name in ("volumes", "scans")}
    page = report.run(folder / "out", **given, out=folder / "report").read_text("utf-8")
    return re.sub(r"\s+", " ", page)


@pytest.mark.slow
def test_slopes_within_and_between_sites_are_those_planted(tmp_path):
    found = analysed(tmp_path, *tables())
    for sex in ("all", "F", "M"):
        one = row(found["site_slopes"], sex=sex, model="M1")
        for kind in KINDS:
            low, high = (one[f"{kind}_pct_per_decade_ci_{end}"] for end in ("low", "high"))
            planted = 100 * np.expm1(0.06 if kind == "between" else -0.03)
            assert low < planted < high
        assert one["q_value"] < 0.01
        assert (one["by"], one["n_sites"]) == ("site", 25)
        assert pd.isna(one["note"])
    mixed = row(found["slopes"], sex="all", model="M1")["slope_pct_per_decade"]
    one = row(found["site_slopes"], sex="all", model="M1")
    assert one["within_pct_per_decade_ci_high"] < mixed < one["between_pct_per_decade"]
    said = [text for text in record(tmp_path)["sentences"] if text.startswith("Volumes change")]
    assert said == [
        "Volumes change with the mean age of the people of a site otherwise than with age within "
        "sites in 1 of 1 structures (q below 0.05): liver. M1 mixes both changes; a model with a "
        "term for every site shows that within."
    ]
    page = page_of(tmp_path)
    assert said[0] in page
    assert '<h3 id="table-site_slopes">Slopes within and between sites</h3>' in page
    assert "in no structure did the two clearly differ" not in page
    assert (tmp_path / "report" / "tables" / "site_slopes.csv").is_file()


@pytest.mark.slow
def test_nothing_is_said_where_sites_differ_in_age_alone(tmp_path):
    found = analysed(tmp_path, *tables(between=-0.03, by="scanner"))
    one = row(found["site_slopes"], sex="all", model="M1")
    assert one["by"] == "scanner"
    assert one["q_value"] > 0.05
    assert not any(text.startswith("Volumes change") for text in record(tmp_path)["sentences"])
    page = page_of(tmp_path)
    assert "table-site_slopes" not in page
    assert "in no structure did the two clearly differ" in page


@pytest.mark.filterwarnings("ignore:The MLE may be on the boundary")
def test_both_fits_are_those_of_statsmodels():
    volumes, scans = tables(sites=80)
    one = row(site_slopes(usable.build(volumes, scans), Settings()), sex="all", model="M1")
    y, age = np.log(volumes["volume_ml"].to_numpy()), scans["age_years"] / 10 - 5.5
    mean, male = age.groupby(scans["site"]).transform("mean"), (scans["sex"] == "M").astype(float)
    design = np.column_stack([np.ones(len(y)), mean, age - mean, male])
    theirs = MixedLM(y, design, pd.factorize(scans["site"])[0]).fit(reml=True)
    for name, value in (("between", theirs.fe_params[1]), ("within", theirs.fe_params[2])):
        assert one[f"{name}_pct_per_decade"] == pytest.approx(100 * np.expm1(value), rel=1e-3)
    own = pd.get_dummies(scans["site"], dtype=float).to_numpy()
    fixed = sm.OLS(y, np.column_stack([age, male, own])).fit()
    assert one["terms_pct_per_decade"] == pytest.approx(100 * np.expm1(fixed.params[0]), rel=1e-9)


def test_few_sites_or_sites_of_one_age_have_no_slope_between_them():
    few = row(site_slopes(usable.build(*tables(sites=5)), Settings()), sex="all", model="M1")
    assert few["note"] == "ANA_TOO_FEW: 5 sites of two scans or more, 6 needed"
    volumes, scans = tables()
    alone = scans.assign(site="one")
    assert site_slopes(usable.build(volumes, alone), Settings()).empty
    same = scans.assign(age_years=30 + 5 * (np.arange(1000) % 2), site=np.arange(1000) // 50)
    same["site"] = same["site"].astype(str)
    note = row(site_slopes(usable.build(volumes, same), Settings()), sex="all", model="M1")["note"]
    assert note.startswith("ANA_COLLINEAR")


def test_size_is_adjusted_for_where_it_is_known():
    rng = np.random.default_rng(2)
    size = {"height_cm": rng.normal(170, 8, 1000), "weight_kg": rng.normal(75, 10, 1000)}
    found = site_slopes(usable.build(*tables(**size)), Settings())
    assert set(found["model"]) == {"M1", "M1 + size"}
    assert found["within_pct_per_decade"].notna().all()


@pytest.mark.slow
def test_the_sentence_holds_in_cohorts_of_any_kind():
    said = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        between = rng.choice([-0.03, 0.0, 0.06])
        made = tables(seed, int(rng.integers(2, 40)), between=between, n=int(rng.integers(30, 400)))
        slopes = site_slopes(usable.build(*made), Settings())
        sentences = site_sentences(slopes, Settings())
        pooled = slopes[slopes["sex"] == "all"].iloc[0]
        assert bool(sentences) == bool(pooled["q_value"] < 0.05)
        if sentences:
            said += 1
            apart = pooled["between_pct_per_decade"] - pooled["within_pct_per_decade"]
            assert abs(apart) > 0.5
    assert 5 < said < 35

"""Analyse: samples drawn with unequal chances, families, people scanned often, ages in bands."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm

from analyse_fixture import analysed, record, row
from cohortvol.errors import EstimateError
from cohortvol.stages import report
from cohortvol.stages.analyse.fits.robust import huber
from cohortvol.stages.analyse.fits.survey import weighted_to_population
from golden_values import script_of_r

FOLDER = Path(__file__).parent / "golden_r"


@pytest.mark.parametrize("design", ["weights", "clusters", "strata"])
def test_population_slopes_are_those_of_svyglm(design):
    data = script_of_r("survey").sample()
    columns = np.column_stack([np.ones(len(data)), data["age"], data["male"]]).astype(float)
    none = np.zeros(len(data), dtype=int)
    found = weighted_to_population(
        columns,
        data["y"].to_numpy(),
        data["w"].to_numpy(),
        data["stratum"].to_numpy() if design == "strata" else none,
        np.arange(len(data)) if design == "weights" else data["cluster"].to_numpy(),
    )
    golden = pd.read_csv(FOLDER / "survey.csv").query("design == @design")
    assert found.coefficients == pytest.approx(golden["estimate"].to_numpy(), rel=1e-9)
    estimates = [found.contrast(weights) for weights in np.eye(3)]
    assert [one.se for one in estimates] == pytest.approx(golden["se"].to_list(), rel=1e-9)
    assert [one.ci_low for one in estimates] == pytest.approx(golden["low"].to_list(), rel=1e-9)
    assert found.degrees_of_freedom == golden["df"].iloc[0]


def test_a_stratum_of_one_cluster_has_no_error():
    columns = np.column_stack([np.ones(30), np.arange(30.0)])
    strata = np.repeat([0, 1, 2], 10)
    with pytest.raises(EstimateError, match="a stratum has one cluster"):
        weighted_to_population(columns, np.sin(np.arange(30.0)), np.ones(30), strata, strata)


def tables(age, log_ml, **columns):
    ids = [f"s{i:05d}" for i in range(len(age))]
    volumes = pd.DataFrame({"scan_id": ids, "structure": "liver", "volume_ml": np.exp(log_ml)})
    scans = pd.DataFrame({"scan_id": ids, "age_years": age, "sex": "F", **columns})
    return volumes.assign(status="ok"), scans


def answer_of(folder, kind):
    """Structures under a heading of the first table of the page, of the tables `analysed` wrote."""
    tables = {name: folder / f"{name}.csv" for name in ("volumes", "scans")}
    page = report.run(folder / "out", **tables, out=folder / "report").read_text("utf-8")
    body = re.search(f'<tbody class="{kind}">(.*?)</tbody>', page, re.DOTALL)
    return re.findall(r'<th scope="row">([^<]*)</th>', body[1]) if body else []


def test_sampling_weights_give_the_slope_of_the_population_beside_that_of_the_sample(tmp_path):
    """Of the ill, whose organs shrink with age, ten times as many were drawn as of the healthy."""
    rng = np.random.default_rng(11)
    n = 4000
    age, ill = rng.uniform(30, 80, n), rng.random(n) < 0.5
    log_ml = 7.3 - np.where(ill, 0.010, 0.002) * (age - 55) + 0.15 * rng.standard_normal(n)
    found = analysed(tmp_path, *tables(age, log_ml, sampling_weight=np.where(ill, 1.0, 10.0)))
    weighted = row(found["sensitivity"], analysis="sampling_weights", sex="F")
    truth = 100 * np.expm1(-(10 * 0.02 + 0.10) / 11)
    low, high = (weighted[f"slope_pct_per_decade_ci_{end}"] for end in ("low", "high"))
    assert low < truth < high
    assert row(found["slopes"], sex="F", model="M1")["slope_pct_per_decade"] < low


def test_a_weight_under_another_name_is_named(tmp_path, caplog):
    rng = np.random.default_rng(5)
    age = rng.uniform(30, 80, 200)
    analysed(tmp_path, *tables(age, 7 + 0.1 * rng.standard_normal(200), pweight=2.0))
    said = "The column pweight of the scans table is not used; it would be under the name "
    assert said + "sampling_weight." in record(tmp_path)["sentences"]
    assert said in caplog.text


def test_errors_are_clustered_by_family(tmp_path):
    rng = np.random.default_rng(6)
    family = np.repeat(np.arange(150), 3)
    age = rng.uniform(30, 80, 150)[family] + rng.normal(0, 2, 450)
    log_ml = 7 + 0.2 * rng.standard_normal(150)[family] + 0.05 * rng.standard_normal(450)
    data = tables(age, log_ml, cluster_id=[f"f{i}" for i in family])
    slope = row(analysed(tmp_path, *data)["slopes"], sex="F", model="M1")
    assert slope["se_kind"] == "cluster"
    design = sm.add_constant(age / 10)
    theirs = sm.OLS(data[0]["volume_ml"].map(np.log).to_numpy(), design).fit(
        cov_type="cluster", cov_kwds={"groups": family}, use_t=True
    )
    low = 100 * np.expm1(theirs.conf_int()[1][0])
    assert slope["slope_pct_per_decade_ci_low"] == pytest.approx(low, rel=1e-9)


@pytest.mark.slow
def test_people_scanned_often_do_not_hide_the_slope_of_people(tmp_path):
    rng = np.random.default_rng(4)
    age = rng.uniform(25, 85, 1000)
    ill = rng.random(1000) < 0.10 * (age < 55)
    times = np.where(ill, 12, 1)
    who = np.repeat(np.arange(1000), times)
    level = 5.3 - 0.004 * (age - 55) + 0.5 * ill + 0.25 * rng.standard_normal(1000)
    at = age[who] + np.concatenate([np.arange(k) * 0.25 for k in times])
    log_ml = level[who] + 0.05 * rng.standard_normal(len(who))
    people = [f"p{i}" for i in who]
    found = analysed(tmp_path, *tables(at, log_ml, subject_id=people))["sensitivity"]
    each = row(found, analysis="one_scan_each", sex="F")
    slope = np.polyfit(age / 10, log_ml[np.r_[0, np.cumsum(times)[:-1]]], 1)[0]
    assert each["slope_pct_per_decade"] == pytest.approx(100 * np.expm1(slope), rel=1e-9)
    assert each["n_used"] == 1000
    assert answer_of(tmp_path, "smaller") == ["Liver"]
    assert "one scan each −" in (tmp_path / "report" / "index.html").read_text("utf-8")
    main = row(found, analysis="complete", model="M1", sex="F")
    assert main["slope_pct_per_decade_ci_high"] < each["slope_pct_per_decade_ci_low"]
    assert row(found, analysis="huber", sex="F")["slope_pct_per_decade"] < -8


def test_robust_errors_of_repeated_people_are_theirs_once_each():
    """Everyone twice with the same volume is everyone once."""
    rng = np.random.default_rng(8)
    design = np.column_stack([np.ones(8000), rng.standard_normal(8000)])
    response = design @ [1.0, 0.5] + rng.standard_t(3, 8000)
    once = huber(design, response, np.arange(8000))
    twice = huber(np.tile(design, (2, 1)), np.tile(response, 2), np.tile(np.arange(8000), 2))
    unit = np.array([0.0, 1.0])
    assert twice.contrast(unit).value == pytest.approx(once.contrast(unit).value, rel=1e-6)
    assert twice.contrast(unit).se == pytest.approx(once.contrast(unit).se, rel=0.05)


def test_one_person_of_two_sexes_and_a_volume_below_zero_are_said(tmp_path):
    rng = np.random.default_rng(9)
    age = rng.uniform(30, 80, 300)
    volumes, scans = tables(age, 7 + 0.1 * rng.standard_normal(300))
    scans["subject_id"] = [f"p{i // 2}" for i in range(300)]
    scans.loc[1, "sex"] = "M"
    volumes.loc[5, "volume_ml"] = -3.0
    analysed(tmp_path, volumes, scans)
    said = record(tmp_path)["sentences"]
    assert "1 person has scans of both sexes: their sex counts as unknown." in said
    assert "1 volume below 0 mL counts as not measured." in said
    assert not any("does not say which organs" in one for one in said)


def test_a_table_that_does_not_say_what_is_cut_is_said_so(tmp_path):
    rng = np.random.default_rng(10)
    volumes, scans = tables(rng.uniform(30, 80, 200), 7 + 0.1 * rng.standard_normal(200))
    analysed(tmp_path, volumes.drop(columns="status"), scans)
    assert any("does not say which organs" in one for one in record(tmp_path)["sentences"])
    assert record(tmp_path)["knows_cut"] is False


@pytest.mark.slow
@pytest.mark.parametrize("width", [5, 10])
def test_a_bend_is_tested_where_ages_come_in_bands(tmp_path, width):
    rng = np.random.default_rng(2)
    age = rng.uniform(40, 70, 3000)
    log_ml = 7.3 - 0.08 * ((age - 55) / 10) ** 2 + 0.18 * rng.standard_normal(3000)
    band = np.floor(age / width) * width + width / 2
    found = analysed(tmp_path, *tables(band, log_ml))
    assert row(found["nonlinearity"], sex="F")["p_value"] < 1e-20
    assert found["centiles"].query("sex == 'F'")["p50_ml"].notna().all()
    knots = record(tmp_path)["spline"]["knots_years"]
    assert knots == sorted(set(knots))
    assert answer_of(tmp_path, "bends") == ["Liver"]

"""Analyse: every scan is counted, equal input gives equal bytes, and bad tables are refused."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from analyse_fixture import PLANTED, analysed, made_up, record, row
from cohortvol.errors import ConfigError, TableError
from cohortvol.stages import analyse


@pytest.mark.slow
def test_every_scan_is_used_or_dropped_for_one_reason(tmp_path):
    volumes, scans = made_up(400)
    scans.loc[0, "age_years"] = np.nan
    scans.loc[1, "sex"] = None
    scans.loc[[2, 3], "height_cm"] = [np.nan, 0]
    scans.loc[4, ["state", "reason"]] = ["quarantined", "SRC_TRUNCATED"]
    scans["qc"] = "pass"
    scans.loc[5, "qc"] = "exclude"
    liver = volumes.index[volumes["structure"] == "liver"]
    volumes.loc[liver[[6, 7]], "status"] = "cut"
    volumes.loc[liver[8], ["status", "volume_ml"]] = ["absent", np.nan]
    volumes.loc[liver[9], "volume_ml"] = 0
    volumes.loc[liver[10], "status"] = "failed"
    volumes["qc"] = "pass"
    volumes.loc[liver[11], "qc"] = "exclude"
    volumes = volumes.drop(liver[12])
    found = analysed(tmp_path / "cut_out", volumes, scans)

    dropped = found["dropped"]
    reasons = dropped[dropped["structure"] == "liver"].set_index("reason")["n"].to_dict()
    assert reasons == {
        "scan not done": 1,
        "scan failed QC": 1,
        "age missing": 1,
        "sex missing": 1,
        "not measured": 2,
        "absent": 1,
        "failed": 1,
        "cut by the field of view": 2,
        "failed QC": 1,
        "size missing (M2 only)": 1,
        "size outside its range (M2 only)": 1,
    }
    m1 = row(found["slopes"], structure="liver", sex="all", model="M1")
    m2 = row(found["slopes"], structure="liver", sex="all", model="M2")
    assert (m1["n_used"], m1["n_dropped"]) == (389, 11)
    assert (m2["n_used"], m2["n_dropped"]) == (387, 13)
    for sex in ("F", "M"):
        both = row(found["slopes"], structure="liver", sex=sex, model="M1")
        rank = row(found["correlations"], structure="liver", sex=sex)
        for counted in (both, rank):
            assert counted["n_used"] + counted["n_dropped"] == (scans["sex"] == sex).sum()
    assert row(found["correlations"], structure="liver", sex="all")["n_used"] == 389
    assert row(found["summary"], structure="liver", sex="all")["n"] == 391  # without age or sex too

    flow = {(step, reason): n for step, reason, n in found["flow"].fillna("").to_numpy()}
    assert flow[("manifest", "")] == 400
    assert flow[("quarantined", "SRC_TRUNCATED")] == 1
    assert flow[("done", "")] == 399
    assert flow[("unusable", "scan failed QC")] == 1
    assert flow[("unusable", "age missing")] == 1
    assert flow[("unusable", "sex missing")] == 1
    assert flow[("usable for trends", "")] == 396
    assert flow[("with height and weight", "")] == 394

    kept = analysed(tmp_path / "cut_in", volumes, scans, exclude_cut=False)
    assert row(kept["slopes"], structure="liver", sex="all", model="M1")["n_used"] == 391
    assert any("lower bounds" in said for said in record(tmp_path / "cut_in")["sentences"])


def test_needed_columns_are_enough_and_the_lack_of_size_is_said(tmp_path):
    volumes, scans = made_up(300)
    found = analysed(
        tmp_path,
        volumes[["scan_id", "structure", "volume_ml"]],
        scans[["scan_id", "age_years", "sex"]],
    )
    assert set(found["slopes"]["model"]) == {"M1"}
    assert list(dict.fromkeys(found["slopes"]["structure"])) == sorted(PLANTED)
    assert any("no result is adjusted for body size" in s for s in record(tmp_path)["sentences"])


@pytest.mark.slow
def test_parquet_and_csv_in_any_row_order_give_equal_bytes(tmp_path):
    volumes, scans = made_up(500)
    analysed(tmp_path / "csv", volumes, scans)
    (tmp_path / "parquet").mkdir()
    shuffled = volumes.sample(frac=1, random_state=1), scans.sample(frac=1, random_state=2)
    paths = [tmp_path / "parquet" / name for name in ("volumes.parquet", "scans.parquet")]
    for frame, path in zip(shuffled, paths, strict=True):
        frame.to_parquet(path)
    analyse.run(*paths, tmp_path / "parquet" / "out")
    names = sorted(path.name for path in (tmp_path / "csv" / "out").iterdir())
    own = {"analyse.json", "files.sha256"}  # these say where the tables came from
    assert len(names) == 2 * len(analyse.SCHEMAS) + len(own)
    for name in set(names) - own:
        first, second = (tmp_path / kind / "out" / name for kind in ("csv", "parquet"))
        assert first.read_bytes() == second.read_bytes(), name
    before = (tmp_path / "csv" / "out" / "analyse.json").read_bytes()
    analysed(tmp_path / "csv", volumes, scans)
    assert (tmp_path / "csv" / "out" / "analyse.json").read_bytes() == before


def test_an_empty_cohort_gives_empty_tables(tmp_path):
    volumes, scans = made_up(8)
    found = analysed(tmp_path, volumes[:0], scans)
    assert found["slopes"].empty
    assert row(found["flow"], step="manifest")["n"] == 8


@pytest.mark.slow
def test_table_1_counts_who_is_missing_and_hides_small_cells(tmp_path):
    volumes, scans = made_up(200)
    scans["height_cm"], scans["weight_kg"] = 200.0, 100.0
    scans.loc[:9, "height_cm"] = np.nan
    scans.loc[:2, "site"] = "tiny"
    scans.loc[3:7, "site"] = "small"
    found = analysed(tmp_path / "hidden", volumes, scans)["table1"]
    assert row(found, variable="scans", level="n", group="all")["n"] == 200
    assert row(found, variable="height_cm", level="missing", group="all")["value"] == "10 (5.0 %)"
    bmi = row(found, variable="bmi", level="median (IQR)", group="all")
    assert (bmi["value"], bmi["n"]) == ("25.0 (25.0–25.0)", 190)
    tiny = row(found, variable="site", level="tiny", group="all")
    assert tiny["value"] == "<5"
    assert row(found, variable="site", level="small", group="all")["value"] == "5 (2.5 %)"
    assert pd.isna(tiny["n"])
    ages = np.percentile(scans["age_years"], [50, 25, 75])
    shown = row(found, variable="age_years", level="median (IQR)", group="all")["value"]
    assert shown == f"{ages[0]:.1f} ({ages[1]:.1f}–{ages[2]:.1f})"
    shown = analysed(tmp_path / "shown", volumes, scans, suppress_below=0)["table1"]
    assert row(shown, variable="site", level="tiny", group="all")["value"] == "3 (1.5 %)"


@pytest.mark.slow
def test_several_segmentation_models_await_a_choice(tmp_path):
    volumes, scans = made_up(300)
    both = pd.concat([volumes.assign(model="first"), volumes.assign(model="second")])
    both.loc[both["model"] == "second", "volume_ml"] *= 2
    with pytest.raises(ConfigError, match="2 segmentation models: first, second"):
        analysed(tmp_path / "none", both, scans)
    with pytest.raises(ConfigError, match="did you mean 'second'"):
        analysed(tmp_path / "wrong", both, scans, segmentation_model="secnd")
    first, second = (
        analysed(tmp_path / name, both, scans, segmentation_model=name)["slopes"]
        for name in ("first", "second")
    )
    assert second["mean_volume_ml"].to_numpy() == pytest.approx(2 * first["mean_volume_ml"])


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda v, s: (v.drop(columns="volume_ml"), s), "column missing: volume_ml"),
        (lambda v, s: (v, s.drop(columns="age_years")), "column missing: age_years"),
        (lambda v, s: (v, s.assign(sex="female")), "column sex: 20 values.*'female'"),
        (lambda v, s: (v, s.assign(age_years="48Y")), "column age_years: 20.*'48Y'"),
        (lambda v, s: (v.assign(status="border"), s), "column status: 60.*'border'"),
        (lambda v, s: (v, s.assign(state="ready")), "column state: 20.*'ready'"),
        (lambda v, s: (pd.concat([v, v[:1]]), s), "twice.*sub-00000 liver"),
        (lambda v, s: (v, pd.concat([s, s[:1]])), "twice.*'sub-00000'"),
        (lambda v, s: (v.assign(scan_id="other"), s), "no scan_id of the volumes table"),
        (lambda v, s: (v.assign(volume_ml=np.inf), s), "column volume_ml: 60"),
    ],
)
def test_a_table_that_cannot_be_used_is_refused_by_name(tmp_path, spoil, message):
    with pytest.raises(TableError, match=message):
        analysed(tmp_path, *spoil(*made_up(20)))
    assert not (tmp_path / "out").exists()


def test_a_quarantined_row_may_share_its_id_with_a_scan_that_is_done(tmp_path):
    volumes, scans = made_up(30)
    twin = scans[:1].assign(state="quarantined", reason="MAN_DUPLICATE", age_years=np.nan)
    found = analysed(tmp_path, volumes, pd.concat([scans, twin]))
    pooled = row(found["slopes"], structure="liver", sex="all", model="M1")
    assert (pooled["n_used"], pooled["n_dropped"]) == (30, 1)


def test_a_missing_table_and_a_misspelt_setting_are_named(tmp_path):
    with pytest.raises(TableError, match=r"nowhere\.csv: no such file"):
        analyse.run(tmp_path / "nowhere.csv", tmp_path / "scans.csv", tmp_path)
    with pytest.raises(ConfigError, match="'exclude_cuts'; did you mean 'exclude_cut'"):
        analyse.run(tmp_path, tmp_path, tmp_path, exclude_cuts=True)


@pytest.mark.slow
def test_the_record_says_what_was_done_with_what(tmp_path):
    analysed(tmp_path, *made_up())
    said = record(tmp_path)
    assert said["settings"]["age_center"] == 50
    assert said["counts"]["scans"] == said["counts"]["usable_for_trends"] == 2000
    assert said["inputs"]["volumes"]["file"] == "volumes.csv"
    assert len(said["inputs"]["scans"]["sha256"]) == 64
    assert len(said["spline"]["knots_years"]) == 5
    assert said["findings"]["M2"] >= 6
    assert str(tmp_path) not in json.dumps(said)

"""Status: how far a cohort is, and what happened to one scan."""

import json
import os
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from itertools import count

import pandas as pd
import pytest

from cohortvol import assemble, status, tables
from cohortvol.errors import FINISHED_WITH_PROBLEMS, OK, TEMPORARY, ConfigError, TableError
from results_folder import (
    MODEL,
    ResultsFolder,
    ingest_row,
    manifest_row,
    segment_row,
    volume_row,
)


@pytest.fixture
def results(tmp_path):
    return ResultsFolder(tmp_path / "results")


def summary(results):
    return status.summary(results.write().folder)


def only(results, *scan_ids):
    """Leave only these scans in the manifest and the tables."""
    results.manifest = results.manifest[results.manifest["scan_id"].isin(scan_ids)]
    for stage in (results.ingest, results.segment, results.measure):
        for shard in list(stage):
            stage[shard] = [row for row in stage[shard] if row["scan_id"] in scan_ids]
            if shard not in set(results.manifest["shard"]):
                del stage[shard]


# --- states and stages -----------------------------------------------------------------------


def test_states_of_a_cohort_that_every_stage_is_through_with(results):
    told = summary(results)
    assert told["states"] == {
        "done": 3,
        "skipped": 1,
        "quarantined": 3,
        "failed": 2,
        "waiting": 0,
    }
    assert told["scans"] == 9
    assert told["model"] == MODEL


def test_states_are_the_same_before_and_after_assembling(results):
    before = summary(results)
    assemble.run(results.folder, MODEL)
    after = status.summary(results.folder)
    assert not before["assembled"]
    assert after["assembled"]
    assert after["states"] == before["states"]
    assert after["reasons"] == before["reasons"]


def test_states_always_add_up_to_the_manifest(results):
    stages = (results.measure, results.segment, results.ingest)
    for stage in stages:
        for shard in ("0001", "0000"):
            del stage[shard]
            for path in results.folder.glob(f"*/**/{shard}.parquet"):
                path.unlink()
            told = summary(results)
            assert sum(told["states"].values()) == 9
    assert told["states"]["waiting"] == 7
    assert told["states"]["quarantined"] == 2


def test_stages_count_what_they_are_through_with(results):
    del results.measure["0001"], results.segment["0001"]
    told = summary(results)
    assert told["stages"] == {
        "ingest": {"finished": 7, "of": 7},
        "segment": {"finished": 2, "of": 5},
        "measure": {"finished": 2, "of": 5},
    }


def test_receipts_of_a_shard_at_work_are_counted(results):
    del results.measure["0001"], results.segment["0001"]
    results.receipt("0001", "sub-05")
    results.receipt("0001", "sub-06")
    results.receipt("0001", "sub-07.started")
    told = summary(results)
    assert told["stages"]["segment"] == {"finished": 4, "of": 5}
    assert told["states"]["waiting"] == 3


def test_a_table_older_than_what_it_is_made_from_does_not_count(results):
    results.write()
    os.utime(results.folder / "ingest" / "0000.parquet")  # as a new ingest would leave it
    told = status.summary(results.folder)
    assert told["stages"]["segment"]["finished"] == 3
    assert told["states"]["waiting"] == 2


def test_a_changed_manifest_means_that_the_final_tables_are_to_be_made_again(results):
    results.write()
    assemble.run(results.folder, MODEL)
    os.utime(results.folder / "manifest" / "scans.parquet")
    assert not status.summary(results.folder)["assembled"]


def test_a_cohort_without_any_result_is_all_waiting(results):
    results.ingest, results.segment, results.measure = {}, {}, {}
    told = summary(results)
    assert told["states"]["waiting"] == 7
    assert told["model"] is None
    assert told["exit_code"] == TEMPORARY
    assert "no scan segmented yet" in status.render_summary(told)


# --- exit codes ------------------------------------------------------------------------------


def exit_code_after_assembling(results):
    results.write()
    assert status.summary(results.folder)["exit_code"] == TEMPORARY
    assemble.run(results.folder, MODEL)
    return status.summary(results.folder)["exit_code"]


def test_all_done_exits_0(results):
    only(results, "sub-01", "sub-03")
    assert exit_code_after_assembling(results) == OK


def test_scans_left_out_by_a_stated_rule_are_no_problem(results):
    only(results, "sub-01", "sub-04")
    assert exit_code_after_assembling(results) == OK


@pytest.mark.parametrize("scan_id", ["sub-02", "sub-05", "sub-07"])
def test_a_quarantined_or_failed_scan_exits_3(results, scan_id):
    only(results, "sub-01", "sub-06", scan_id)
    assert exit_code_after_assembling(results) == FINISHED_WITH_PROBLEMS


# --- reasons ---------------------------------------------------------------------------------


def test_reasons_come_most_frequent_first_with_what_to_do(results):
    told = summary(results)["reasons"]
    assert [(row["reason"], row["state"], row["n_scans"]) for row in told] == [
        ("ID_DUPLICATE", "quarantined", 2),
        ("BUG_GRID", "failed", 1),
        ("RUN_GPU_OOM", "failed", 1),
        ("SRC_TRUNCATED", "quarantined", 1),
        ("DCM_LOCALIZER", "skipped", 1),
    ]
    assert all(row["sentence"] and row["what_to_do"] for row in told)


def test_data_found_at_fault_by_measure_are_quarantined(results):
    for row in results.measure["0001"][2:]:
        row["reason"] = "SRC_CHANGED"
    assert summary(results)["states"]["quarantined"] == 4


# --- pace ------------------------------------------------------------------------------------


def test_rate_and_time_left_come_from_receipts_while_a_shard_is_at_work(results):
    del results.measure["0001"], results.segment["0001"]
    for row in results.segment["0000"]:
        row["started_utc"] = None
    now = time.time()
    for seconds_ago, scan_id in ((90, "sub-05"), (30, "sub-06")):
        path = results.receipt("0001", scan_id)
        os.utime(path, (now - seconds_ago, now - seconds_ago))
    told = summary(results)
    assert told["scans_per_hour"] == pytest.approx(60, abs=0.1)
    assert told["seconds_left"] == 60  # sub-07


def test_rate_of_finished_shards_comes_from_their_tables(results):
    del results.measure["0001"], results.segment["0001"]
    now = datetime.now(UTC)
    for seconds_ago, row in zip((100, 60), results.segment["0000"], strict=True):
        started = now - timedelta(seconds=seconds_ago + 40)
        row |= {"started_utc": started.isoformat(timespec="milliseconds"), "seconds": 40.0}
    told = summary(results)
    assert told["scans_per_hour"] == pytest.approx(90, abs=0.1)
    assert told["seconds_left"] == 120  # three scans of shard 0001


def test_an_idle_cohort_promises_no_end(results):
    del results.measure["0001"], results.segment["0001"]
    told = summary(results)  # its scans were segmented long ago
    assert told["seconds_left"] is None
    assert told["last_finished_utc"] == "2026-01-01T10:00:02+00:00"
    assert "last scan segmented 2026-01-01" in status.render_summary(told)


# --- errors ----------------------------------------------------------------------------------


def test_a_folder_without_a_manifest_says_what_to_do(tmp_path):
    with pytest.raises(ConfigError, match="cohortvol manifest"):
        status.summary(tmp_path)


def test_several_models_must_be_chosen_from(results):
    results.write()
    (results.folder / "segment" / "other").mkdir()
    with pytest.raises(ConfigError, match="--model: other, toy"):
        status.summary(results.folder)
    assert status.summary(results.folder, model=MODEL)["states"]["done"] == 3


def test_a_misspelt_model_names_the_right_one(results):
    results.write()
    with pytest.raises(ConfigError, match="did you mean 'toy'"):
        status.summary(results.folder, model="tov")


def test_a_damaged_table_is_named(results):
    results.write()
    path = results.folder / "segment" / MODEL / "0001.parquet"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(TableError, match=r"0001\.parquet: damaged"):
        status.summary(results.folder)


# --- text ------------------------------------------------------------------------------------


def test_the_text_shows_states_progress_and_reasons(results):
    del results.measure["0001"]
    text = status.render_summary(summary(results))
    assert "9 scans in 2 shards" in text
    assert "2 waiting" in text  # sub-06 and sub-07, to be measured
    assert "measure" in text
    assert "SRC_TRUNCATED" in text
    assert "Run the workflow" in text
    assert all(len(line) <= 100 for line in text.splitlines()[1:])


def test_the_summary_can_be_written_as_json(results):
    assert json.loads(json.dumps(summary(results)))["scans"] == 9


# --- one scan --------------------------------------------------------------------------------


def test_a_finished_scan_is_followed_through_every_stage(results):
    results.write()
    assemble.run(results.folder, MODEL)
    told = status.explain(results.folder, "sub-03")
    assert told["state"] == "done"
    assert [step["stage"] for step in told["steps"]] == [
        "manifest",
        "ingest",
        "segment",
        "measure",
        "assemble",
    ]
    assert [row["structure"] for row in told["volumes"]] == ["liver", "spleen"]
    said = [reason["reason"] for reason in told["reasons"]]
    assert said == ["QC_TRUNCATED_FOV", "CLN_AGE_MISSING"]
    assert told["commands"] == []
    text = status.render_explanation(told)
    assert "line 6" in text
    assert "900.0" in text


def test_a_volume_is_shown_with_its_interval_and_what_that_is_worth(results):
    kind = "calibrated 95 % on simulated scans"
    known = {"volume_low_ml": 1440.0, "volume_high_ml": 1560.04, "interval": kind}
    results.measure["0000"][0] |= known
    results.segment["0000"][0] |= {"softmax_labels": [1], "spread_ratio": [0.0123]}
    told = status.explain(results.write().folder, "sub-01")
    assert told["volumes"][0].items() >= known.items()
    text = status.render_explanation(told, width=140)
    assert f"1440.0 to 1560.0  {kind}" in text
    assert "0.0123" not in text
    results.measure["0000"][0] |= {"interval": None}
    assert "low_to_high_ml" not in status.render_explanation(
        status.explain(results.write().folder, "sub-01")
    )


def test_what_only_the_image_or_the_cohort_can_tell_is_told_too(results):
    results.ingest["0000"][2] = ingest_row("sub-03", warnings="QC_INTENSITY")
    results.write()
    assemble.run(results.folder, MODEL)
    path = results.folder / "volumes.parquet"
    volumes = tables.read_table(path, tables.VOLUMES)
    spleen = (volumes["scan_id"] == "sub-03") & (volumes["structure"] == "spleen")
    volumes.loc[spleen, "qc_flags"] = "QC_OUTLIER_COHORT"
    tables.write_table(path, volumes, tables.VOLUMES)
    told = [reason["reason"] for reason in status.explain(results.folder, "sub-03")["reasons"]]
    of_scan = ["CLN_AGE_MISSING", "QC_INTENSITY"]
    assert told == ["QC_TRUNCATED_FOV", "QC_OUTLIER_COHORT", *of_scan]


def test_a_quarantined_scan_is_told_why_and_what_to_do(results):
    told = status.explain(results.write().folder, "sub-02")
    assert told["state"] == "quarantined"
    assert told["steps"][-1]["facts"]["detail"] == "10 of 90 bytes"
    assert told["reasons"][0]["what_to_do"]
    assert told["commands"][0].startswith(f"cohortvol ingest --shard {results.folder}/manifest")


def test_a_failed_scan_is_told_how_to_run_its_shard_again_from_there(results):
    told = status.explain(results.write().folder, "sub-05")
    assert told["state"] == "failed"
    assert [command.split()[1] for command in told["commands"]] == [
        "segment",
        "measure",
        "assemble",
    ]
    assert f"--folder {results.folder}/segment/toy/0001 " in told["commands"][0]


def test_a_scan_that_cannot_be_measured_is_to_be_segmented_again(results):
    told = status.explain(results.write().folder, "sub-07")
    assert (told["state"], told["reasons"][0]["reason"]) == ("failed", "BUG_GRID")
    assert told["commands"][0].startswith("cohortvol segment")


def test_a_scan_says_what_it_waits_for(results):
    del results.measure["0001"], results.segment["0001"]
    told = status.explain(results.write().folder, "sub-06")
    assert told["state"] == "waiting for segment"
    results.receipt("0001", "sub-06", versions={"torch": "2.13"}, seconds=1.5)
    told = status.explain(results.folder, "sub-06")
    assert told["state"] == "waiting for measure"
    assert told["steps"][-1]["facts"]["torch_version"] == "2.13"


def test_every_manifest_row_of_a_duplicated_id_is_told(results):
    told = status.explain(results.write().folder, "sub-08")
    assert [step["outcome"] for step in told["steps"]] == [
        "line 4, quarantined",
        "line 8, quarantined",
    ]
    assert told["state"] == "quarantined"
    assert told["reasons"][0]["reason"] == "ID_DUPLICATE"


def test_an_unknown_scan_names_the_nearest_one(results):
    with pytest.raises(ConfigError, match="did you mean 'sub-01'"):
        status.explain(results.write().folder, "sub_01")


# --- size ------------------------------------------------------------------------------------


def test_a_large_cohort_is_summed_up_fast(tmp_path):
    results = ResultsFolder(tmp_path)
    shards = [f"{number:04d}" for number in range(40)]
    scans = {shard: [f"sub-{shard}-{n:02d}" for n in range(64)] for shard in shards}
    line = count(2)
    results.manifest = pd.DataFrame(
        [manifest_row(next(line), scan, shard) for shard in shards for scan in scans[shard]]
    )
    results.ingest = {shard: [ingest_row(scan) for scan in scans[shard]] for shard in shards}
    results.segment = {
        shard: [segment_row(scan, shard) for scan in scans[shard]] for shard in shards[:30]
    }
    results.measure = {
        shard: [volume_row(scan, "liver", 1500.0) for scan in scans[shard]] for shard in shards[:25]
    }
    results.write()
    start = time.perf_counter()
    told = status.summary(tmp_path)
    assert time.perf_counter() - start < 1  # about 1 ms a shard; 100,000 scans are 1,563
    assert told["states"]["done"] == 25 * 64
    assert told["stages"]["segment"] == {"finished": 30 * 64, "of": 40 * 64}


def test_status_loads_neither_pandas_nor_torch():
    code = "import sys, cohortvol.status; print({'pandas', 'torch'} & set(sys.modules))"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "set()"

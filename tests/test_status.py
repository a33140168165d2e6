"""Status: which state every scan of a cohort is in, and what is said of the whole."""

import json
import os
import subprocess
import sys
import time
from itertools import count

import pandas as pd
import pytest

from cohortvol.errors import FINISHED_WITH_PROBLEMS, OK, TEMPORARY, ConfigError, TableError
from cohortvol.stages import assemble
from cohortvol.tools import status
from results_folder import MODEL, ResultsFolder, ingest_row, manifest_row, segment_row, volume_row


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


@pytest.mark.parametrize("assembled", [False, True])
def test_status_loads_neither_pandas_nor_torch(results, assembled):
    """Nor does it while it runs: pyarrow loads pandas for some of what it can do."""
    results.write()
    if assembled:
        assemble.run(results.folder, MODEL)
    code = (
        "import sys; from cohortvol.tools import status;"
        "print(status.digest(status.summary(sys.argv[1])));"
        "print({'pandas', 'torch'} & set(sys.modules))"
    )
    words = [sys.executable, "-c", code, results.folder]
    told = subprocess.run(words, capture_output=True, text=True, check=True)
    assert told.stdout.splitlines()[1] == "set()"

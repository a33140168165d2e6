"""Status: shards to look at, what jobs took, and jobs in the queue of Slurm."""

import json
import os
import time
from datetime import UTC, datetime, timedelta

import pytest

from cohortvol.compute.cluster import remember
from cohortvol.stages import assemble
from cohortvol.tools import status
from results_folder import MODEL, ResultsFolder


@pytest.fixture
def results(tmp_path):
    return ResultsFolder(tmp_path / "results")


def summary(results):
    return status.summary(results.write().folder)


# --- shards to look at -----------------------------------------------------------------------


def left_by_a_job(results, stage, shard, seconds_ago=5.0, **run):
    """The record and the log of a job, last written so long ago."""
    folder = results.folder / stage / ("" if stage == "ingest" else MODEL)
    started = datetime.now(UTC) - timedelta(seconds=seconds_ago + 60)
    facts = {"exit_code": None, "host": "n7", "started_utc": started.isoformat(), "device": "cpu"}
    facts |= {"seconds": 60.0, "seconds_network": 30.0}
    record, log = folder / f"{shard}.resources.json", results.folder / f"logs/{stage}/{shard}.log"
    for path, text in ((record, json.dumps({"runs": [facts | run]})), (log, "words\n")):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        os.utime(path, (time.time() - seconds_ago,) * 2)


def aged(results, seconds):
    """Write the folder as if all of it were so many seconds old."""
    results.write()
    for path in results.folder.rglob("*"):
        os.utime(path, (time.time() - seconds,) * 2)


def without(results, *stages):
    for stage in stages:
        del getattr(results, stage)["0001"]
    aged(results, 10_000)


@pytest.mark.parametrize("exit_code", [64, 70, 75])
@pytest.mark.parametrize("stage", ["ingest", "segment", "measure"])
def test_a_shard_whose_job_ended_without_a_table_is_to_be_looked_at(results, stage, exit_code):
    stages = ("ingest", "segment", "measure")
    without(results, *stages[stages.index(stage) :])
    left_by_a_job(results, stage, "0001", exit_code=exit_code)
    (row,) = status.summary(results.folder)["trouble"]
    assert (row["problem"], row["shard"], row["stage"]) == ("ended", "0001", stage)
    assert (row["exit_code"], row["host"]) == (exit_code, "n7")
    assert row["log"] == str(results.folder / f"logs/{stage}/0001.log")
    text = status.render_summary(status.summary(results.folder))
    assert f"(exit {exit_code})" in text


@pytest.mark.parametrize(("seconds_ago", "silent"), [(60, False), (1000, True)])
def test_a_shard_whose_job_is_not_heard_of_any_more_is_to_be_looked_at(
    results, seconds_ago, silent
):
    without(results, "segment", "measure")
    left_by_a_job(results, "segment", "0001", seconds_ago)
    told = status.summary(results.folder)["trouble"]
    assert [row["problem"] for row in told] == ["silent"] * silent


def test_a_receipt_is_a_sign_of_life(results):
    without(results, "segment", "measure")
    left_by_a_job(results, "segment", "0001", 1000)
    results.receipt("0001", "sub-05")
    assert status.summary(results.folder)["trouble"] == []


def test_a_job_that_died_before_it_could_say_anything_left_a_log(results):
    without(results, "segment", "measure")
    left_by_a_job(results, "segment", "0001", 1000)
    (results.folder / f"segment/{MODEL}/0001.resources.json").unlink()
    (row,) = status.summary(results.folder)["trouble"]
    assert (row["problem"], row["host"]) == ("silent", None)


@pytest.mark.parametrize("exit_code", [70, None])
@pytest.mark.parametrize("stages", [["segment", "measure"], ["measure"]])
def test_a_job_of_before_the_shard_was_changed_says_nothing(results, stages, exit_code):
    without(results, *stages)
    left_by_a_job(results, stages[0], "0001", 20_000, exit_code=exit_code)
    assert status.summary(results.folder)["trouble"] == []


def test_a_shard_in_which_many_scans_failed_is_to_be_looked_at(results):
    for row in results.segment["0001"]:
        row |= {"state": "failed", "reason": "RUN_GPU_OOM"}
    (row,) = summary(results)["trouble"]
    assert (row["problem"], row["n_failed"], row["n_scans"]) == ("failed scans", 3, 3)
    assert "failed on 3 of 3 scans" in status.render_summary(status.summary(results.folder))


def test_the_slowest_shard_comes_first_with_its_host(results):
    without(results, "segment", "measure")
    left_by_a_job(results, "segment", "0001")
    for seconds_ago, scan_id in ((90, "sub-05"), (30, "sub-06")):
        path = results.receipt("0001", scan_id)
        os.utime(path, (time.time() - seconds_ago,) * 2)
    slowest = status.summary(results.folder)["slowest"]
    assert [row["shard"] for row in slowest] == ["0001", "0000"]
    assert slowest[0]["seconds_per_scan"] == pytest.approx(60, abs=0.2)
    assert (slowest[0]["host"], slowest[0]["n_segmented"], slowest[0]["n_scans"]) == ("n7", 2, 3)
    assert "n7" in status.render_summary(status.summary(results.folder))


def test_gpu_time_is_that_of_all_jobs_and_unknown_without_any(results):
    results.write()
    assert status.summary(results.folder)["gpu_seconds"] is None
    left_by_a_job(results, "segment", "0000", device="cpu")
    assert status.summary(results.folder)["gpu_seconds"] == 0
    left_by_a_job(results, "segment", "0001", device="cuda")
    told = status.summary(results.folder)
    assert (told["gpu_seconds"], told["gpu_seconds_network"]) == (60.0, 30.0)
    assert "GPUs held for 60 s, 50% of it in the network" in status.render_summary(told)
    assemble.run(results.folder, MODEL)
    assert status.summary(results.folder)["gpu_seconds"] == 60.0


# --- jobs in the queue -----------------------------------------------------------------------


@pytest.fixture
def squeue(tmp_path, monkeypatch):
    """Put a `squeue` into PATH that prints these lines."""

    def put(script):
        program = tmp_path / "bin" / "squeue"
        program.parent.mkdir(exist_ok=True)
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")

    return put


def test_jobs_of_this_cohort_are_counted_with_what_they_wait_for(results, squeue):
    remember(results.folder, "cohortvol_1f")
    squeue(
        '[ "$*" = "${*%--name=cohortvol_1f}" ] && exit 1\n'
        "echo '1|RUNNING|rule_segment_wildcards_0000|gpu|2:00:00|16000M|None'\n"
        "echo '2|PENDING|rule_segment_wildcards_0001|gpu|4:00:00|32000M|PartitionTimeLimit'\n"
        "echo '3|PENDING|rule_ingest_wildcards_0002|cpu|1:00:00|4000M|Priority'\n"
        "echo '4|COMPLETING|rule_ingest_wildcards_0003|cpu|1:00:00|4000M|None'"
    )
    told = summary(results)
    assert told["jobs"] == {"running": 1, "pending": 2, "completing": 1}
    by_reason = {row["reason"]: row for row in told["waiting"]}
    assert "`runtime`" in by_reason["PartitionTimeLimit"]["what_to_do"]
    assert by_reason["Priority"] == {"reason": "Priority", "n_jobs": 1, "what_to_do": None}
    lines = status.render_summary(told)
    assert "jobs on Slurm: 1 running, 2 pending, 1 completing" in lines
    assert "1 pending (PartitionTimeLimit): set a shorter `runtime`" in lines


@pytest.mark.parametrize("script", ["sleep 10", "echo down >&2; exit 1"])
def test_a_slurm_that_does_not_answer_is_none(results, squeue, script):
    remember(results.folder, "cohortvol_1f")
    squeue(script)
    start = time.monotonic()
    assert summary(results)["jobs"] is None
    assert time.monotonic() - start < 5


@pytest.mark.parametrize("noted", [False, True])
def test_without_slurm_or_a_run_there_no_job_is_told(results, monkeypatch, noted):
    monkeypatch.setenv("PATH", "/nowhere")
    if noted:
        remember(results.folder, "cohortvol_1f")
    assert summary(results)["jobs"] is None

"""Status: how far a cohort is, and what happened to one scan."""

import contextlib
import fcntl
import json
import os
import pty
import signal
import struct
import subprocess
import sys
import termios
import time
from datetime import UTC, datetime, timedelta
from itertools import count

import pandas as pd
import pytest

from cohortvol.compute.cluster import remember
from cohortvol.errors import FINISHED_WITH_PROBLEMS, OK, TEMPORARY, ConfigError, TableError
from cohortvol.stages import assemble
from cohortvol.store import schemas, tables
from cohortvol.tools import status
from cohortvol.tools.status.counting import Places, count_shards
from cohortvol.tools.status.pace import Shard, pace
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


def at_work(name, n_scans, ends, starts=(), life=None):
    return Shard(name, n_scans, list(ends), list(starts), life=life)


def finished(name, ends):
    return Shard(name, len(ends), list(ends), finished=True)


def test_many_shards_that_begin_at_once_promise_no_more_than_they_keep():
    """50 jobs end their first scan within a second, 100 s after they were started."""
    shards = [at_work(str(n), 60, [100 + n / 50], [0.0], 100.0) for n in range(50)]
    told = pace(shards, float("-inf"), now=101.0)
    assert told["scans_per_hour"] == pytest.approx(50 / 101 * 3600, rel=0.01)


def test_the_end_is_not_before_the_slowest_shard_is_through():
    fast = [finished(str(n), range(n, 3600, 36)) for n in range(10)]
    last = at_work("last", 30, [3400.0, 3500.0, 3600.0], life=3600.0)
    told = pace([*fast, last], float("-inf"), now=3600.0)
    assert told["scans_per_hour"] > 900
    assert told["seconds_left"] == 27 * 100  # and not 27 / 1000 h


def test_a_pause_lowers_no_rate():
    night = 8 * 3600
    before = [10.0 * n for n in range(100)]
    after = [before[-1] + night + 10.0 * n for n in range(1, 4)]
    shard = at_work("0000", 200, before + after, [0.0, before[-1] + night], after[-1])
    told = pace([shard], float("-inf"), now=after[-1])
    assert told["scans_per_hour"] == 360.0
    assert told["seconds_left"] == 970
    short = [*before, *(before[-1] + 1200 + 10.0 * n for n in range(1, 4))]
    told = pace([at_work("0000", 200, short, life=short[-1])], float("-inf"), now=short[-1])
    assert told["scans_per_hour"] == 360.0


def test_work_that_is_taken_up_again_promises_an_end_before_its_first_scan():
    shard = at_work("0000", 30, [10.0 * n for n in range(20)], life=90_000.0)
    assert pace([shard], float("-inf"), now=90_010.0)["seconds_left"] == 100
    shard.life = 190.0
    assert pace([shard], float("-inf"), now=90_010.0)["seconds_left"] is None


def test_the_rate_reaches_back_only_as_far_as_all_scans_are_known():
    """Of the shards that were finished before 1000 s, only one is among those read."""
    early = finished("0", [990.0])
    late = [finished(str(n), range(1000 + n, 1100, 10)) for n in range(1, 10)]
    told = pace([early, *late], 1000.0, now=1100.0)
    assert told["scans_per_hour"] == pytest.approx(0.9 * 3600, rel=0.03)


def test_tables_that_are_younger_than_their_scans_tell_no_rate():
    """As in a results folder that was copied."""
    told = pace([finished("0", [10.0, 20.0])], 1000.0, now=1100.0)
    assert (told["scans_per_hour"], told["seconds_left"]) == (None, None)


def test_the_latest_tables_are_enough_for_the_rate(results, monkeypatch):
    monkeypatch.setattr("cohortvol.tools.status.counting.TABLES_FOR_RATE", 1)
    del results.measure["0001"]
    now = datetime.now(UTC)
    for shard, rows in results.segment.items():
        for number, row in enumerate(rows):
            started = now - timedelta(seconds=(300 if shard == "0000" else 100) - 20 * number)
            row |= {"started_utc": started.isoformat(), "seconds": 20.0}
    results.write()
    for shard, seconds_ago in (("0000", 260), ("0001", 40)):
        path = results.folder / "segment" / MODEL / f"{shard}.parquet"
        for table in (results.folder / "ingest" / path.name, path):
            os.utime(table, (time.time() - seconds_ago,) * 2)
    progress = count_shards(Places(results.folder, MODEL), {"0000": 3, "0001": 4}, time.time())
    assert [shard.name for shard in progress.shards] == ["0001"]
    assert progress.since == pytest.approx(time.time() - 40, abs=5)


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


# --- one line, and again and again -----------------------------------------------------------


def test_a_line_for_a_mail_says_it_all(results, monkeypatch):
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    told = summary(results) | {"scans": 8672, "assembled": False, "seconds_left": 7200}
    told |= {"scans_per_hour": 410.4, "last_finished_utc": "2026-01-01T10:00:00+00:00"}
    told["states"] = {"done": 8120, "skipped": 0, "quarantined": 31, "failed": 2, "waiting": 519}
    end = datetime.now(UTC) + timedelta(hours=2)
    assert status.digest(told) == (
        "cohort results: 8,120 of 8,672 done, 31 quarantined, 2 failed; 410/h; "
        f"done about {end:%a %H:%M}"
    )
    told |= {"seconds_left": None, "trouble": [{}, {}]}
    assert status.digest(told).endswith(
        "2 failed; last scan segmented 2026-01-01 10:00; 2 shards to look at"
    )


def test_the_line_of_a_finished_cohort_says_so(results):
    results.write()
    told = status.digest(status.summary(results.folder))
    assert told.endswith("; final tables still to be assembled")
    assemble.run(results.folder, MODEL)
    assert status.digest(status.summary(results.folder)) == (
        "cohort results: finished, 3 of 9 done, 1 skipped, 3 quarantined, 2 failed"
    )


WATCH = "import sys; from cohortvol import cli; sys.exit(cli.run(sys.argv[1:]))"


def watching(results, *words, **options):
    """`cohortvol status --watch` in a process of its own."""
    command = [sys.executable, "-c", WATCH, "status", "--results", results.folder, "--watch"]
    environment = {**os.environ, "PYTHONPATH": ":".join(sys.path), "COLUMNS": "100"}
    return subprocess.Popen(
        [*command, "--interval", "1", *words],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        **options,
    )


def test_watching_ends_by_itself_with_the_exit_code_of_the_cohort(results):
    results.write()
    watcher = watching(results)
    first = watcher.stdout.readline()
    assert "cohort results: 3 of 9 done" in first
    assemble.run(results.folder, MODEL)
    rest = watcher.communicate(timeout=60)[0].splitlines()
    assert "finished, 3 of 9 done" in rest[-1]
    assert watcher.returncode == FINISHED_WITH_PROBLEMS


def test_watching_is_ended_by_ctrl_c_without_a_traceback(results):
    results.write()
    watcher = watching(results, "--json")
    assert json.loads(watcher.stdout.readline())["scans"] == 9
    watcher.send_signal(signal.SIGINT)
    rest, _ = watcher.communicate(timeout=60)
    assert [json.loads(line)["scans"] for line in rest.splitlines()] == [9] * len(rest.splitlines())
    assert watcher.returncode == TEMPORARY


def test_on_a_terminal_it_is_shown_in_place_and_stays_at_the_end(results):
    results.write()
    ours, theirs = pty.openpty()
    command = [sys.executable, "-c", WATCH, "status", "--results", results.folder, "--watch"]
    environment = {**os.environ, "PYTHONPATH": ":".join(sys.path), "TERM": "xterm"}
    watcher = subprocess.Popen(
        [*command, "--interval", "1"], env=environment, stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    fcntl.ioctl(ours, termios.TIOCSWINSZ, struct.pack("HHHH", 12, 80, 0, 0))  # 12 lines
    screen = b""
    while b"Ctrl-C ends this" not in screen:
        screen += os.read(ours, 4096)
    assemble.run(results.folder, MODEL)
    with contextlib.suppress(OSError):  # Linux tells so that the other side is closed
        while piece := os.read(ours, 4096):
            screen += piece
    assert watcher.wait(60) == FINISHED_WITH_PROBLEMS
    assert b"\x1b[2K" in screen  # lines are cleared before they are drawn again
    last = screen.decode().rpartition("\x1b[2K")[2]
    assert "3 done" in last
    assert "Ctrl-C" not in last
    assert "Finished. `cohortvol explain" in last


def test_a_table_that_stays_the_same_is_read_once(results, monkeypatch):
    results.write()
    summary_before = status.summary(results.folder)
    monkeypatch.setattr("cohortvol.tools.status.reading.count_states", None)
    monkeypatch.setattr("cohortvol.tools.status.reading.failures", None)
    assert status.summary(results.folder) == summary_before


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
    volumes = tables.read_table(path, schemas.VOLUMES)
    spleen = (volumes["scan_id"] == "sub-03") & (volumes["structure"] == "spleen")
    volumes.loc[spleen, "qc_flags"] = "QC_OUTLIER_COHORT"
    tables.write_table(path, volumes, schemas.VOLUMES)
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

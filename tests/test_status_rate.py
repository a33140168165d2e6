"""Status: how fast scans are finished, and when the last will be."""

import os
import time
from datetime import UTC, datetime, timedelta

import pytest

from cohortvol.tools import status
from cohortvol.tools.status.counting import Places, count_shards
from cohortvol.tools.status.pace import Shard, pace
from results_folder import MODEL, ResultsFolder


@pytest.fixture
def results(tmp_path):
    return ResultsFolder(tmp_path / "results")


def summary(results):
    return status.summary(results.write().folder)


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

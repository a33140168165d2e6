"""Status: a cohort in one line, and watched until it ends."""

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

import pytest

from cohortvol.errors import FINISHED_WITH_PROBLEMS, TEMPORARY
from cohortvol.stages import assemble
from cohortvol.tools import status
from results_folder import MODEL, ResultsFolder


@pytest.fixture
def results(tmp_path):
    return ResultsFolder(tmp_path / "results")


def summary(results):
    return status.summary(results.write().folder)


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

"""Files that seem to be of the future, after the clock was set back."""

import os
import time

import pytest

from cohortvol.tools.verify.clock import bring_to_present
from results_folder import ResultsFolder

DAY_SECONDS = 86_400


@pytest.fixture
def results(tmp_path):
    return ResultsFolder(tmp_path / "results").write().folder


def in_order(results):
    paths = sorted(results.rglob("*.parquet"), key=lambda path: path.stat().st_mtime_ns)
    return [str(path.relative_to(results)) for path in paths]


def later(path, seconds):
    at = path.stat().st_mtime + seconds
    os.utime(path, (at, at))


def test_files_of_the_future_get_times_of_the_past_and_keep_their_order(results):
    paths = [results / name for name in in_order(results)]
    for number, path in enumerate(reversed(paths[2:])):
        later(path, DAY_SECONDS + number)
    before, past = in_order(results), paths[1].stat().st_mtime_ns
    assert bring_to_present(results) == len(paths) - 2
    assert in_order(results) == before
    times = [(results / name).stat().st_mtime_ns for name in before]
    assert times[1] == past
    assert past < times[2] < times[-1] < past + 1_000_000  # before all that came after the jump
    assert bring_to_present(results) == 0


def test_the_difference_of_two_clocks_is_no_future(results):
    before = in_order(results)
    later(results / before[0], 5)
    assert bring_to_present(results) == 0
    assert (results / before[0]).stat().st_mtime > time.time()


def test_a_folder_of_the_future_alone_comes_to_the_present(results):
    for path in results.rglob("*"):
        if path.is_file():
            later(path, DAY_SECONDS)
    before = in_order(results)
    bring_to_present(results)
    assert in_order(results) == before
    assert all(path.stat().st_mtime < time.time() for path in results.rglob("*.parquet"))

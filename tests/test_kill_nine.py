"""A short run of ``benchmarks/kill_nine.py``: real kills of the real worker."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).resolve().parents[1] / "benchmarks" / "kill_nine.py"


def summary(*command):
    run = subprocess.run([sys.executable, *command], capture_output=True, text=True, timeout=600)
    assert run.stdout, run.stderr
    line, _, found = run.stdout.partition("\n")
    return run.returncode, line, json.loads(found)


@pytest.mark.parametrize("store", ["files", "packed"])
def test_fifteen_kills_tear_lose_and_double_nothing(store):
    options = ("--kills", "15", "--scans", "3", "--seed", "2", "--store", store)
    code, line, found = summary(SCRIPT, *options)
    assert found["what"] == []
    assert code == 0
    assert {found[name] for name in ("torn", "lost", "duplicated", "differing")} == {0}
    assert found["kills"] == 15
    assert 0 < found["inside_writes"] < 15
    assert found["acknowledged"] > 0
    assert line.startswith("15 kills, ")

"""A worker in which nothing moves ends itself, and a scan that hangs it is given up in the end."""

import json
import subprocess
import sys
import threading
import time

import pytest

from cohortvol.models.networks import Source, import_nnunet
from cohortvol.stages.segment import run_shard
from cohortvol.stages.segment.watchdog import Watchdog
from nnunet_fixture import results_folder
from segment_cohort import AFFINE, Shard, scan, write_scan

HANGING = """
import sys, threading
from pathlib import Path
from cohortvol.stages.segment import Segmenter, pipeline, run_shard, watchdog
ingest, model, folder, out = map(Path, sys.argv[1:5])
quick = Segmenter.prepare
def prepare(self, data, affine):
    if data.shape[0] == 31:
        threading.Event().wait()
    return quick(self, data, affine)
Segmenter.prepare = prepare
pipeline.LEAST_SECONDS.update(cuda=1.0, cpu=1.0)
pipeline.Watchdog = lambda note, least: watchdog.Watchdog(note, least, look_every_seconds=0.1)
run_shard(ingest=ingest, model=model, folder=folder, out=out, threads=1, device="cpu")
"""


@pytest.fixture
def shard(tmp_path):
    """Three scans, of which s1 is one voxel longer."""
    source = Source(results_folder(tmp_path / "nnunet"))
    model = import_nnunet([source], tmp_path / "models/tiny", model_id="tiny", licence="test")
    images = {f"s{n}": tmp_path / f"s{n}.nii.gz" for n in range(3)}
    for n, path in enumerate(images.values()):
        write_scan(path, scan(n, (31 if n == 1 else 30, 24, 20)), AFFINE)
    return Shard(tmp_path / "results", model.folder, images)


def hang(shard):
    return subprocess.run(
        [sys.executable, "-c", HANGING, *map(str, shard.arguments().values())],
        capture_output=True, text=True,
        env={"PYTHONPATH": ":".join(sys.path), "OMP_NUM_THREADS": "1", "PATH": "/usr/bin:/bin"},
    )  # fmt: skip


@pytest.mark.slow
def test_a_scan_on_which_nothing_moves_is_given_up_and_the_others_are_finished(shard):
    first = hang(shard)
    assert first.returncode == 75
    assert "nothing has moved" in first.stderr
    assert "in prepare" in first.stderr
    mark = shard.folder / "s1.started.json"
    assert json.loads(mark.read_text())["hung"]
    mark.write_text(json.dumps(json.loads(mark.read_text()) | {"starts": 3}))
    assert run_shard(**shard.arguments(), device="cpu") == {"segmented": 2, "failed": 1}
    assert shard.table().loc["s1", "reason"] == "RUN_TIMEOUT"


@pytest.fixture
def ended(monkeypatch):
    """Set when the process would have ended."""
    happened = threading.Event()
    monkeypatch.setattr(Watchdog, "_end", lambda dog: happened.set())
    return happened


def test_a_worker_that_moves_is_left_alone(ended):
    with Watchdog(lambda: None, lambda: 0.3, look_every_seconds=0.02) as dog:
        for _ in range(20):
            time.sleep(0.03)
            dog.moved()
    assert not ended.is_set()


def test_a_standstill_is_measured_by_the_longest_scan(ended):
    with Watchdog(lambda: None, lambda: 0.05, look_every_seconds=0.02) as dog:
        dog.moved(scan_seconds=1000.0)
        time.sleep(0.3)
        assert not ended.is_set()
    with Watchdog(lambda: None, lambda: 0.05, look_every_seconds=0.02):
        assert ended.wait(10)


def test_time_in_which_the_process_was_stopped_does_not_count(ended, monkeypatch):
    clock = iter(range(0, 10_000_000, 1000))
    monkeypatch.setattr("cohortvol.stages.segment.watchdog.time.monotonic", lambda: next(clock))
    with Watchdog(lambda: None, lambda: 60.0, look_every_seconds=0.01):
        time.sleep(0.2)
    assert not ended.is_set()

"""The workflow on a real Slurm: python tests/slurm/lab.py run -- python -m pytest tests/slurm"""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cohortvol.simulate import run as simulate

REPOSITORY = Path(__file__).resolve().parents[2]
N_SCANS = 24
SHARD_SIZE = 12
RUN = re.compile(r"cohortvol_[0-9a-f-]{36}\n")
TABLES = ("volumes.parquet", "scans.parquet", "analyse/slopes.parquet")


def cluster_is_up():
    return shutil.which("sinfo") and not subprocess.run(["sinfo"], capture_output=True).returncode


pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(not cluster_is_up(), reason="no Slurm here; tests/slurm/lab.py starts one"),
]


def command(manifest, results, *words):
    return [
        sys.executable, "-m", "snakemake", *words, "--config", f"manifest={manifest}",
        f"results={results}", f"shard_size={SHARD_SIZE}", "segment={threads: 1, device: cpu}",
    ]  # fmt: skip


def on_slurm(manifest, results):
    return command(
        manifest, results, "--profile", "slurm", "--seconds-between-status-checks", "3"
    )  # fmt: skip


def run(words):
    done = subprocess.run(words, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-5000:]
    return done.stderr


def start(words):
    return subprocess.Popen(
        words, cwd=REPOSITORY, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def jobs(*words):
    words = ["squeue", "--me", "--noheader", "--format=%A %k", *words]
    asked = subprocess.run(words, capture_output=True, text=True, check=True)
    return [line.split(maxsplit=1) for line in asked.stdout.splitlines()]


def receipts(results):
    return {
        path.name: path.read_bytes()
        for path in results.glob("segment/*/*/*.json")
        if not path.name.endswith(".started.json")
    }


def wait_for(condition, limit_seconds=240):
    end = time.monotonic() + limit_seconds
    while time.monotonic() < end:
        if found := condition():
            return found
        time.sleep(0.2)
    raise AssertionError("it did not come to that")


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    out = tmp_path_factory.mktemp("source")
    simulate.run(out, n=N_SCANS, seed=21)
    return out / "manifest.csv"


@pytest.fixture(scope="module")
def local(manifest, tmp_path_factory):
    results = tmp_path_factory.mktemp("local") / "results"
    run(command(manifest, results, "--cores", "2"))
    return results


def test_whatever_is_killed_no_finished_scan_is_segmented_again(manifest, local, tmp_path):
    results = tmp_path / "results"
    driver = start(on_slurm(manifest, results))
    wait_for(lambda: len(receipts(results)) >= N_SCANS // 6)
    comments = wait_for(lambda: [comment for _, comment in jobs() if "segment" in comment])
    assert comments[0].startswith("rule_segment_wildcards_0")  # a shard, no scan
    os.killpg(driver.pid, signal.SIGKILL)
    driver.wait()
    assert jobs()  # they go on without their driver
    before = receipts(results)

    driver = start(on_slurm(manifest, results))
    running = wait_for(
        lambda: [job for job, comment in jobs("--states=RUNNING") if "segment" in comment]
    )
    assert RUN.match((results / ".slurm-run").read_text())
    subprocess.run(["scontrol", "requeue", running[0]], check=True)
    if len(running) > 1:
        subprocess.run(["scancel", running[1]], check=True)
    _, said = driver.communicate(timeout=800)
    assert driver.returncode == 0, said[-5000:]
    assert "Slurm jobs of a run that was killed here were cancelled" in said
    assert "LockException" not in said
    after = receipts(results)
    assert {name: after[name] for name in before} == before
    assert len(after) == N_SCANS
    for name in TABLES:
        assert (results / name).read_bytes() == (local / name).read_bytes(), name
    assert not jobs()
    assert not (results / ".slurm-run").exists()


def test_a_run_with_nothing_to_do_submits_nothing(manifest, local):
    assert "Nothing to be done" in run(on_slurm(manifest, local))
    assert not jobs()

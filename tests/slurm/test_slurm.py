"""The workflow on a real Slurm: python tests/slurm/lab.py run -- python -m pytest tests/slurm"""

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

from cohortvol.compute.cluster import name_of_run
from cohortvol.compute.resources import runs
from cohortvol.errors import IN_USE
from cohortvol.tools.simulate import run as simulate

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


def command(manifest, results, *words, shard_size=SHARD_SIZE, threads=1):
    return [
        sys.executable, "-m", "snakemake", *words, "--config", f"manifest={manifest}",
        f"results={results}", f"shard_size={shard_size}",
        f"segment={{threads: {threads}, device: cpu}}",
    ]  # fmt: skip


def on_slurm(manifest, results, *words, **settings):
    profile = ("--profile", "slurm", "--seconds-between-status-checks", "3")
    return command(manifest, results, *words, *profile, **settings)


def run(words):
    done = subprocess.run(words, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-5000:]
    return done.stderr


def start(words, **environment):
    return subprocess.Popen(
        words,
        cwd=REPOSITORY,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, **environment},
    )


def jobs(name, *words, fields="%A %k"):
    """Jobs of a run."""
    words = ["squeue", f"--name={name}", "--noheader", f"--format={fields}", *words]
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


# --- what outgrows its job; it goes on while the other tests do

FIRST_MB, FIRST_MINUTES = 2000, 2
VSIZE_FACTOR = 2  # of the lab
NEEDS = {
    "small": (0, 0), "wide": (1.5, 0), "wider": (3, 0), "small2": (0, 0), "small3": (0, 0),
    "slow1": (0, 25), "slow2": (0, 25), "slow3": (0, 25), "slow4": (0, 25), "slow5": (0, 25),
}  # fmt: skip
"""Of a scan: memory in units of what a job has at first, and seconds that it takes to read."""
SHARD_OF_NEEDS = len(NEEDS) // 2

NEEDING = """
    import sys

    if "segment" in sys.orig_argv[1:4]:
        import time
        import numpy as np
        from cohortvol.stages.segment import pipeline

        read = pipeline._read_and_prepare

        def reserved_mb():
            with open("/proc/self/status") as status:
                return next(int(line.split()[1]) / 1024 for line in status if "VmSize" in line)

        def read_what_needs_more(claimed, segmenter):
            units, seconds = {needs}[claimed.result().work.scan_id]
            time.sleep(seconds)
            more = units * {first_mb} - 1200 - reserved_mb()
            taken = np.empty(int(max(more, 0) * 2**20), np.uint8)
            return read(claimed, segmenter)

        pipeline._read_and_prepare = read_what_needs_more
"""


@pytest.fixture(scope="module")
def outgrown(manifest, tmp_path_factory):
    """A run of a shard with scans that need 1.5 and 3 times the memory that its job has at first,
    and of one that needs more than its time."""
    place = tmp_path_factory.mktemp("outgrown")
    code = textwrap.dedent(NEEDING).format(needs=NEEDS, first_mb=VSIZE_FACTOR * FIRST_MB)
    (place / "sitecustomize.py").write_text(code)
    with open(manifest, newline="") as stream:
        images = [manifest.parent / row["image"] for row in csv.DictReader(stream)]
    lines = [f"{name},{image}" for name, image in zip(NEEDS, images, strict=False)]
    (place / "scans.csv").write_text("\n".join(["scan_id,image", *lines]) + "\n")
    results = place / "results"
    words = [
        *(segment_table(results, shard) for shard in ("0000", "0001")),
        "--set-resources",
        f"segment:mem_mb={FIRST_MB} * attempt",
        f"segment:runtime=({FIRST_MINUTES} if wildcards.shard == '0001' else 30) * attempt",
        "segment:slurm_extra='--signal=TERM@20'",
    ]
    driver = start(
        on_slurm(place / "scans.csv", results, *words, shard_size=SHARD_OF_NEEDS),
        PYTHONPATH=str(place),
    )
    yield driver, results
    if driver.poll() is None:
        os.killpg(driver.pid, signal.SIGKILL)


def segment_table(results, shard):
    return str(results / "segment" / "embedded-v2" / f"{shard}.parquet")


def test_whatever_is_killed_no_finished_scan_is_segmented_again(
    manifest, local, outgrown, tmp_path
):
    results = tmp_path / "results"
    driver = start(on_slurm(manifest, results))
    wait_for(lambda: len(receipts(results)) >= N_SCANS // 6)
    first = name_of_run(results)
    comments = wait_for(lambda: [comment for _, comment in jobs(first) if "segment" in comment])
    assert comments[0].startswith("rule_segment_wildcards_0")  # a shard, no scan

    other = subprocess.run(
        on_slurm(manifest, results, shard_size=5), cwd=REPOSITORY, capture_output=True, text=True
    )
    assert other.returncode == IN_USE, other.stderr
    assert f"process {driver.pid} on" in other.stderr
    assert jobs(first)  # nobody cancelled them
    os.killpg(driver.pid, signal.SIGKILL)
    driver.wait()
    assert jobs(first)  # they go on without their driver
    before = receipts(results)

    driver = start(on_slurm(manifest, results))
    second = wait_for(lambda: name_of_run(results) not in (first, None) and name_of_run(results))
    running = wait_for(
        lambda: [job for job, what in jobs(second, "--states=RUNNING") if "segment" in what]
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
    assert not jobs(second)
    assert not (results / ".slurm-run").exists()


def test_a_run_with_nothing_to_do_submits_nothing(manifest, local):
    said = run(on_slurm(manifest, local))
    assert "Nothing to be done" in said
    assert "has been submitted" not in said


class Said:
    """What a run says, line by line, and when."""

    def __init__(self, driver):
        self.lines = []
        self._reader = threading.Thread(target=self._read, args=[driver.stderr], daemon=True)
        self._reader.start()

    def _read(self, stream):
        for line in stream:
            self.lines.append((time.monotonic(), line))

    def when(self, words):
        """When this was said first; a wait for it has an end."""
        return wait_for(lambda: [at for at, line in self.lines if words in line])[0]

    def all(self):
        self._reader.join()
        return "".join(line for _, line in self.lines)


def limit(partition, minutes):
    words = ["scontrol", "update", f"PartitionName={partition}", f"MaxTime={minutes}"]
    subprocess.run(words, check=True)


def test_a_job_that_can_never_start_is_named_within_a_minute(manifest, tmp_path):
    """First more than the partition gives, then a limit that is lowered, then a job too large."""
    results = tmp_path / "results"
    ingested = str(results / "ingest" / "0000.parquet")
    partition = ("--default-resources", "mem_mb=2000", "slurm_partition=short")
    larger = ("--set-resources", "ingest:mem_mb=100000")
    driver = start(on_slurm(manifest, results, ingested, *partition, *larger, shard_size=1))
    said = Said(driver)
    try:
        wait_for(lambda: name_of_run(results))
        limit("short", 5)
        fields = "%T %r"
        wait_for(lambda: jobs(name_of_run(results), fields=fields))
        since = time.monotonic()
        assert said.when("does not start: PartitionTimeLimit") - since < 60
        status = [Path(sys.executable).with_name("cohortvol"), "status", "--results", results]
        shown = subprocess.run(status, capture_output=True, text=True).stdout
        assert "1 pending (PartitionTimeLimit): set a shorter `runtime`" in shown, shown
    except BaseException:
        os.killpg(driver.pid, signal.SIGKILL)
        raise
    finally:
        limit("short", 10)
    assert driver.wait(timeout=240) == 0, said.all()
    told = said.all()
    assert "attempt 1 of ingest asks for 30,000 MB in place of 100,000" in told
    assert "attempt 1 of ingest asks for 10 minutes in place of 60" in told

    table = segment_table(results, "0000")
    since = time.monotonic()
    driver = start(on_slurm(manifest, results, table, *partition, shard_size=1, threads=9))
    said = Said(driver)
    assert said.when("Slurm refused a job of segment: CPU count per node") - since < 60
    assert driver.wait(timeout=240) == 1
    assert "set fewer threads: segment.threads" in said.all()


def test_what_outgrows_its_job_is_finished_by_jobs_that_ask_for_more(outgrown):
    driver, results = outgrown
    _, said = driver.communicate(timeout=600)
    assert driver.returncode == 0, said[-5000:]
    ids = {shard: [] for shard in ("0000", "0001")}
    for shard, of_shard in ids.items():
        of_shard += re.findall(rf"SLURM jobid (\d+) \(log: .*/rule_segment/{shard}/", said)
    name = re.search(r"SLURM run ID: (\S+)", said)[1]
    asked = {job: words.split() for job, words in jobs(name, "--states=all", fields="%A %m %l")}
    memory = [asked[job][0] for job in ids["0000"]]
    minutes = [asked[job][1] for job in ids["0001"]]
    print(f"memory of the jobs of a shard: {memory}; time of those of another: {minutes}")
    assert memory == ["2000M", "4000M", "6000M"]
    assert minutes in (["2:00", "4:00"], ["2:00", "4:00", "6:00"])
    n_finished = 0
    for shard, of_shard in ids.items():
        started = runs(Path(segment_table(results, shard)).with_suffix(".resources.json"))
        assert [run["slurm_job"] for run in started] == of_shard  # each once
        n_finished += sum(run["n_scans"] or 0 for run in started)
    assert n_finished <= len(NEEDS)  # none twice; a job that was killed does not say how many
    ended = {
        name.removesuffix(".json"): json.loads(text) for name, text in receipts(results).items()
    }
    assert {name: receipt["state"] for name, receipt in ended.items()} == dict.fromkeys(
        NEEDS, "segmented"
    )

"""resources: what jobs take, on record, and what to ask for in the next cohort."""

import errno
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from cohortvol import cli
from cohortvol.compute import installation, profiles, resources
from cohortvol.errors import TemporaryError
from cohortvol.store.files import commit_json
from cohortvol.tools import status
from results_folder import MODEL, ResultsFolder
from segment_cohort import Shard, scan, write_scan

ROOT = Path(__file__).resolve().parents[1]


def run_of(**values):
    """A run of a job of segment on a GPU: 64 scans at 10 s each, after 20 s of start-up."""
    return {
        "device": "cuda",
        "exit_code": 0,
        "gpu_memory_mb": 5120,
        "gpu_name": "a GPU",
        "host": "n1",
        "memory_mb": 6100,
        "n_scans": 64,
        "seconds": 660.0,
        "seconds_cpu": 1320.0,
        "seconds_network": 495.0,
        "seconds_startup": 20.0,
        "slurm_job": None,
        "started_utc": "2026-01-01T10:00:00.000+00:00",
    } | values


def write_record(results, stage, shard, *runs):
    folder = results.folder / stage / ("" if stage == "ingest" else MODEL)
    commit_json(folder / f"{shard}.resources.json", {"runs": list(runs)})


@pytest.fixture
def results(tmp_path):
    return ResultsFolder(tmp_path / "results").write()


# --- the record ------------------------------------------------------------------------------


JOB = """
import sys, time
from pathlib import Path
from cohortvol.errors import TemporaryError
from cohortvol.compute.resources import recorded
with recorded(Path(sys.argv[1])) as job:
    job.ready()
    held = bytearray(60_000_000)
    held[::4096] = b"x" * len(held[::4096])
    del held
    for _ in range(3):
        job.count(seconds_network=0.5)
    time.sleep(0.3)
    if sys.argv[2] == "killed":
        import os
        os._exit(9)
    if sys.argv[2] == "stopped":
        raise TemporaryError("told to")
"""


def record_of_job(tmp_path, end="ended"):
    table = tmp_path / "0003.parquet"
    environment = {**os.environ, "PYTHONPATH": ":".join(sys.path), "SLURM_JOB_ID": "17"}
    subprocess.run([sys.executable, "-c", JOB, table, end], env=environment, capture_output=True)
    return json.loads((tmp_path / "0003.resources.json").read_text())["runs"]


def test_a_job_leaves_what_it_took(tmp_path):
    (run,) = record_of_job(tmp_path)
    assert (run["exit_code"], run["n_scans"], run["seconds_network"]) == (0, 3, 1.5)
    assert 0.3 <= run["seconds"] < 60
    assert 0 < run["seconds_startup"] < run["seconds"] - 0.3
    assert 0 < run["seconds_cpu"] <= run["seconds"] * os.cpu_count() + 0.1
    assert 70 < run["memory_mb"] < 400  # 57 MiB held at once, beside Python
    assert run["slurm_job"] == "17"
    assert (run["device"], run["gpu_memory_mb"]) == (None, None)  # unknown is not 0


def test_memory_is_of_the_job_and_not_of_the_process_that_started_it(tmp_path):
    ballast = b"x" * 500_000_000  # Linux counts it into the ru_maxrss of a child
    (run,) = record_of_job(tmp_path)
    assert run["memory_mb"] < len(ballast) / 2**20


@pytest.mark.parametrize(("end", "exit_code"), [("stopped", 75), ("killed", None)])
def test_a_job_that_came_to_no_end_is_on_record(tmp_path, end, exit_code):
    assert record_of_job(tmp_path, end)[-1]["exit_code"] == exit_code


def test_runs_are_added_up_to_a_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(resources, "MOST_RUNS", 2)
    for number in range(3):
        resources.Job(tmp_path / "record.json", started_utc=str(number)).write(0)
    told = resources.runs(tmp_path / "record.json")
    assert [run["started_utc"] for run in told] == ["1", "2"]


def test_a_job_at_work_is_on_record_a_minute_behind_at_most(tmp_path, monkeypatch):
    job = resources.Job(tmp_path / "record.json")
    job.count()
    assert resources.runs(tmp_path / "record.json") == []
    monkeypatch.setattr(resources, "SECONDS_BETWEEN_WRITES", 0.0)
    job.count()
    (run,) = resources.runs(tmp_path / "record.json")
    assert (run["n_scans"], run["exit_code"]) == (2, None)


def test_a_record_that_cannot_be_written_or_read_stops_no_job(tmp_path, monkeypatch):
    (tmp_path / "0000.resources.json").write_text('{"runs": [{"started_utc"')

    def full(*_):
        raise TemporaryError("no space left")

    with resources.recorded(tmp_path / "0000.parquet") as job:
        job.count()
    assert len(resources.runs(tmp_path / "0000.resources.json")) == 1
    monkeypatch.setattr(resources, "commit_json", full)
    with resources.recorded(tmp_path / "0001.parquet") as job:
        job.count()


@pytest.mark.slow
def test_the_jobs_of_a_shard_are_recorded_beside_their_tables(tmp_path, request):
    """The commands that the rules run, on two scans and one file that is none."""
    model = Path(__file__).resolve().parents[1] / "models" / "embedded-v2"
    images = {f"s{n}": tmp_path / f"s{n}.nii.gz" for n in range(2)}
    for n, path in enumerate(images.values()):
        write_scan(
            path,
            100 * scan(n, (24, 24, 16)),
            [[4, 0, 0, 0], [0, 4, 0, 0], [0, 0, 6, 0], [0, 0, 0, 1]],
        )
    shard = Shard(tmp_path / "results", model, images)
    words = ["segment", "--ingest", shard.ingest, "--model", model, "--folder", shard.folder]
    assert cli.run([*map(str, words), "--out", str(shard.out), "--threads", "1"]) == 0
    (run,) = resources.runs(resources.record_of(shard.out))
    assert (run["n_scans"], run["device"], run["gpu_memory_mb"]) == (2, "cpu", None)
    assert 0 < run["seconds_network"] < run["seconds"]
    in_network = shard.table()["seconds_network"].sum()
    assert run["seconds_network"] == pytest.approx(in_network, abs=0.01)
    out = shard.results / "measure" / "tiny" / "0000.parquet"
    words = ["measure", "--segment", shard.out, "--ingest", shard.ingest, "--model", model]
    words += ["--results", shard.results, "--out", out]
    assert cli.run([str(word) for word in words]) == 0
    (run,) = resources.runs(resources.record_of(out))
    assert (run["n_scans"], run["exit_code"]) == (2, 0)


# --- the report ------------------------------------------------------------------------------


def test_times_memory_and_shares_of_the_jobs_are_told(results):
    write_record(
        results, "segment", "0000", run_of(exit_code=75, n_scans=10, seconds=120.0), run_of()
    )
    write_record(results, "segment", "0001", run_of(n_scans=32, seconds=340.0, memory_mb=7000))
    told = status.report(results.folder)
    assert told["stages"]["segment"] == {
        "jobs": 3,
        "jobs_ended_early": 1,
        "jobs_without_end": 0,
        "scans": 106,
        "job_scans_median": 48,
        "job_seconds_median": 500.0,
        "job_seconds_longest": 660.0,
        "startup_seconds_median": 20.0,
        "seconds_per_scan": 10.0,
        "cores_busy": 3.54,
        "memory_mb": 7000,
    }
    assert told["network_fraction"] == pytest.approx(3 * 495 / 1120, abs=0.001)
    assert (told["gpu_seconds"], told["gpu_memory_mb"]) == (1120.0, 5120)
    assert (told["scan_seconds_median"], told["scan_seconds_p95"]) == (2.0, 2.0)


def test_a_shard_size_is_suggested_with_which_a_job_takes_45_minutes(results):
    results.manifest = results.manifest.loc[results.manifest.index.repeat(100)].iloc[:600]
    results.write()
    write_record(results, "segment", "0000", run_of())
    wanted = status.report(results.folder)["suggested"]
    assert wanted["shard_size"] == 260  # (45 min - 20 s) / 10 s
    assert wanted["set_resources"]["segment"] == {"mem_mb": 9500, "runtime": 90}


def test_jobs_of_a_good_length_are_left_as_they_are(results):
    write_record(results, "segment", "0000", run_of(n_scans=200, seconds=2020.0))
    wanted = status.report(results.folder)["suggested"]
    assert wanted["shard_size"] is None
    assert wanted["set_resources"]["segment"]["runtime"] == 70
    assert "shard_size" not in status.render_report(status.report(results.folder))


def test_no_shard_is_to_be_larger_than_the_cohort(results):
    write_record(results, "segment", "0000", run_of(n_scans=2, seconds=22.0))
    assert status.report(results.folder)["suggested"]["shard_size"] == 7


def test_without_a_record_nothing_is_told_and_nothing_suggested(results):
    told = status.report(results.folder)
    assert told["stages"] == {}
    assert told["network_fraction"] is None
    assert told["gpu_seconds"] is None
    assert told["suggested"] == {"shard_size": None, "set_resources": {}}
    assert "no job has left a record" in status.render_report(told)


def test_what_is_suggested_can_be_pasted(results):
    for stage in ("ingest", "segment", "measure"):
        write_record(results, stage, "0000", run_of(device=None if stage == "ingest" else "cpu"))
    text = status.render_report(status.report(results.folder), width=80)
    pasted = text[text.index("    set-resources:") :]
    asked = yaml.safe_load(pasted)["set-resources"]
    assert asked["segment"]["mem_mb"] == "9500 * attempt"
    assert set(asked) == {"ingest", "segment", "measure"}
    assert all(len(line) <= 80 for line in text.splitlines()[1:])


def test_what_is_pasted_keeps_what_the_profile_has_beside_it(results):
    write_record(results, "segment", "0000", run_of())
    write_record(results, "ingest", "0000", run_of(device=None))
    shipped = profiles.by_rule(profiles.together([str(ROOT / "profiles" / "slurm")]))
    kept = shipped | {"analyse": {"mem_mb": 32000, "slurm_partition": "large"}}
    text = status.render_report(status.report(results.folder), profile=kept)
    asked = yaml.safe_load(text[text.index("    set-resources:") :])["set-resources"]
    assert asked["segment"]["mem_mb"] == "9500 * attempt"
    assert profiles.asks_for_gpu(asked["segment"])
    assert asked["segment"]["slurm_extra"] == shipped["segment"]["slurm_extra"]
    assert asked["analyse"] == kept["analyse"]
    assert set(asked) == {"ingest", "segment", "analyse"}


def test_a_job_leaves_the_versions_it_worked_with(tmp_path):
    (run,) = record_of_job(tmp_path)
    assert run["versions"] == installation.versions()


def test_versions_that_jobs_had_and_this_machine_has_not_are_told(results, monkeypatch):
    monkeypatch.setattr(
        status.resources, "versions", lambda: {"torch": "2.13.0", "numpy": "2.4.6", "pandas": "3.0"}
    )
    same = {"torch": "2.13.0", "numpy": "2.4.6"}
    write_record(results, "segment", "0000", run_of(host="n1", versions=same))
    assert status.report(results.folder)["other_versions"] == []
    other = same | {"torch": "2.12.1+cu130", "libc": "glibc 2.28"}
    write_record(
        results, "segment", "0001",
        *(run_of(host=f"n{i}", versions=other, started_utc=f"2026-01-0{i}T10:00:00.000+00:00")
          for i in range(2, 7)),
    )  # fmt: skip
    write_record(results, "measure", "0000", run_of(device=None))  # of an older version of ours
    (row,) = status.report(results.folder)["other_versions"]
    assert (row["package"], row["here"], row["there"]) == ("torch", "2.13.0", "2.12.1+cu130")
    assert row["hosts"] == ["n2", "n3", "n4", "n5", "n6"]
    text = status.render_report(status.report(results.folder))
    assert "torch: 2.12.1+cu130 on n2, n3, n4 and 2 more, 2.13.0 here." in text
    assert "Jobs had other versions" in status.closing_words(results.folder, MODEL, since=0.0)
    late = status.closing_words(results.folder, MODEL, since=time.time())
    assert "Jobs had other versions" not in late


def test_a_gpu_that_waits_for_the_host_is_told(results):
    write_record(results, "segment", "0000", run_of(seconds_network=200.0))
    text = status.render_report(status.report(results.folder))
    assert "in the network for 30% of their time" in text
    assert "The GPU waited for the host" in text


def test_a_run_ends_with_the_accounts_and_the_logs_of_failed_jobs(results):
    (results.folder / "measure" / MODEL / "0001.parquet").unlink()
    write_record(results, "segment", "0000", run_of())
    write_record(results, "measure", "0001", run_of(exit_code=70, device=None))
    log = results.folder / "logs" / "measure" / "0001.log"
    log.parent.mkdir(parents=True)
    log.write_text("one\ntwo\nthree\nfour\nthis is a bug\n")
    text = status.closing_words(results.folder, MODEL, since=0.0)
    assert text.startswith("cohort results: 2 of 9 done")
    assert "No scan was segmented in this run" not in text
    assert "No scan was segmented in this run" in status.closing_words(
        results.folder, MODEL, since=time.time()
    )
    assert "1 job of segment: 6.1 GB at most, 75% of their time in the network" in text
    assert "a bug of ours (exit 70)" in text
    assert text.endswith("  two\n  three\n  four\n  this is a bug\n")


def test_a_run_that_finished_ends_with_where_its_page_and_its_volumes_are(results):
    assert "Page: " not in status.closing_words(results.folder, MODEL, since=0.0)
    page, volumes = results.folder / "report" / "index.html", results.folder / "volumes.parquet"
    page.parent.mkdir()
    page.touch()
    volumes.touch()
    text = status.closing_words(results.folder, MODEL, since=0.0)
    assert text.endswith(f"\nPage: {page}\nVolumes: {volumes}\n")
    assert "Page: " not in status.closing_words(results.folder, MODEL, 0.0, [("report", "")])


def test_a_run_that_has_no_results_yet_ends_without_words(tmp_path):
    assert status.closing_words(tmp_path, MODEL, since=0.0) == ""


def test_a_run_that_failed_is_not_called_finished(results, tmp_path):
    """Even where every scan is, as when the report cannot be written."""
    log = tmp_path / "report.log"
    log.write_text("one\ntwo\nthree\nfour\nno space left\n")
    jobs = [("analyse", ""), ("report", str(log)), ("report", str(log))]
    text = status.closing_words(results.folder, MODEL, time.time(), jobs)
    first, *_ = text.splitlines()
    assert first.startswith("cohort results: NOT finished, analyse, report failed; "), text
    assert " of 9 done" in first
    assert text.endswith(f"\nEnd of {log}:\n  two\n  three\n  four\n  no space left\n"), text
    unknown = status.closing_words(results.folder, MODEL, time.time(), [])
    assert unknown.startswith("cohort results: NOT finished, the run failed; ")


def test_a_run_that_failed_before_there_was_anything_says_so(tmp_path):
    text = status.closing_words(tmp_path, MODEL, 0.0, [("manifest", "")])
    assert text == f"cohort {tmp_path.name}: NOT finished, manifest failed\n"


def test_a_disk_on_which_not_even_a_log_could_be_written_is_told(results, monkeypatch):
    def full(handle):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    text = status.closing_words(results.folder, MODEL, time.time(), [("report", "none.log")])
    assert f"{results.folder}: no space left to write it (IO_NO_SPACE" in text, text


def test_the_report_takes_no_pandas_and_no_torch(results):
    code = (
        "import sys; from cohortvol import cli; cli.run(sys.argv[1:]);"
        "print({'pandas', 'torch'} & set(sys.modules))"
    )
    words = ["resources", "--results", str(results.folder), "--json"]
    told = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True)
    assert told.stdout.rstrip().endswith("set()"), told.stderr


def test_the_age_of_a_process_is_that_of_the_process():
    code = "import time; time.sleep(0.5); from cohortvol.compute import resources as r; "
    code += "print(r.seconds_since_start())"
    start = time.monotonic()
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 0.5 <= float(told.stdout) <= time.monotonic() - start + 0.02

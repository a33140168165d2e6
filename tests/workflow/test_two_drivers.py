"""Two runs in one results folder, with the real Snakemake: one works, the other is told of it."""

import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

import warm
from cohortvol.store.locks import IN_USE, claim
from workflow_run import REPOSITORY, arguments, command

pytestmark = pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="reads /proc")


@pytest.fixture
def manifests(tmp_path):
    """Two tables of scans that are not there: the stages run, and no network is loaded."""
    made = []
    for name in ("a", "b"):
        path = tmp_path / f"{name}.csv"
        path.write_text(f"scan_id,image\n{name}1,{name}1.nii.gz\n{name}2,{name}2.nii.gz\n")
        made.append(path)
    return made


@contextmanager
def held_still(words, sign):
    """A run that is stopped as soon as a file of it is there, as Ctrl-Z does, and then killed."""
    run = subprocess.Popen(words, cwd=REPOSITORY, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        end = time.monotonic() + 120
        while not is_there(sign):
            assert run.poll() is None, f"ended with {run.returncode} before {sign} was there"
            assert time.monotonic() < end, f"{sign} did not come"
            time.sleep(0.01)
        os.killpg(run.pid, signal.SIGSTOP)
        yield run
    finally:
        with suppress(ProcessLookupError):
            os.killpg(run.pid, signal.SIGKILL)
        run.wait()


def is_there(sign):
    """The lock names its holder once it is held."""
    return sign.exists() and (sign.name != IN_USE or sign.stat().st_size > 0)


def holders(path):
    """Numbers of the processes that have a file open."""
    found = set()
    for place in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            if os.path.samefile(place, path):
                found.add(int(place.parts[2]))
        except OSError:
            continue
    return found


def files(results):
    return {path: path.stat().st_mtime_ns for path in results.rglob("*") if path.name != IN_USE}


def second_runs(manifests, results):
    """The same again; another cohort with other settings, through a link; times alone."""
    mine, other = manifests
    link = results.with_name("link")
    link.symlink_to(results)
    return (
        arguments(mine, results),
        arguments(other, link, "--forceall", shard_size=1),
        arguments(mine, results, "--touch"),
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("moment", "which"),
    [(IN_USE, [1]), ("logs/ingest/0000.log", [0, 2])],
    ids=["planning", "working"],
)
def test_one_works_and_the_other_ends_with_73_and_changes_nothing(
    manifests, tmp_path, moment, which
):
    results = tmp_path / "results"
    with held_still(command(manifests[0], results), results / moment) as first:
        before = files(results)
        seconds = second_runs(manifests, results)
        for words in (seconds[number] for number in which):
            ended = warm.run("snakemake", *words, cwd=REPOSITORY)
            said = f"{' '.join(words)}\n{ended.stderr}"
            assert ended.returncode == 73, said
            assert f"process {first.pid} on " in ended.stderr, said
            assert ", since 2" in ended.stderr, said
            assert files(results) == before, said
        dry = arguments(manifests[1], results, "--dry-run")
        ended = warm.run("snakemake", *dry, cwd=REPOSITORY)
        assert ended.returncode == 0, ended.stderr
        assert holders(results / IN_USE) == {first.pid}
        os.kill(first.pid, signal.SIGKILL)  # the driver alone: what it started lives on
        first.wait()
        claim(results).close()


@pytest.mark.slow
def test_outputs_are_not_deleted_under_a_run(manifests, tmp_path):
    results = tmp_path / "results"
    words = arguments(manifests[0], results, "--delete-all-output")
    with claim(results):
        (results / "manifest").mkdir()
        index = results / "manifest" / "index.tsv"
        index.write_text("shard\tn_scans\n")
        ended = warm.run("snakemake", *words, cwd=REPOSITORY)
        assert ended.returncode == 73, ended.stderr
        assert index.exists()


@pytest.mark.slow
def test_a_job_on_another_machine_works_for_the_run_that_holds_the_folder(manifests, tmp_path):
    """As a cluster starts it: this process is not the one that holds the lock."""
    results = tmp_path / "results"
    words = [
        sys.executable, "-m", "snakemake", str(results / "manifest/index.tsv"), "--cores", "1",
        "--mode", "remote", "--force", "--nolock", "--retries", "0", "--no-hooks",
        "--config", f"manifest={manifests[0]}", f"results={results}",
    ]  # fmt: skip
    with claim(results):
        ended = subprocess.run(words, cwd=REPOSITORY, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert (results / "manifest/index.tsv").exists()

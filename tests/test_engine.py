"""What `cohortvol.workflow.engine` takes for granted, asked of the Snakemake that is installed."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

SNAKEFILE = """
import json
from pathlib import Path
from cohortvol.workflow import engine

configfile: "ours.yaml"

def tell(when, **more):
    told = {
        "when": when,
        "config_files": [str(path) for path in engine.config_files(workflow)],
        "given_settings": engine.given_settings(workflow),
        "lints": engine.lints(),
        "deletes": engine.deletes(),
        "is_driver": engine.is_driver(workflow),
        "is_dry_run": engine.is_dry_run(workflow),
        "touches": engine.touches(workflow),
        "runs_jobs": engine.runs_jobs(workflow),
        "submits_to_slurm": engine.submits_to_slurm(workflow),
        "forced_by_user": engine.forced_by_user(workflow),
        **more,
    }
    with open("told.jsonl", "a") as stream:
        stream.write(json.dumps(told) + "\\n")

def asked(wildcards):
    tell("planned", rules={rule.name: [*rule.resources] for rule in engine.rules_of(workflow)})
    if config.get("force"):
        engine.force(workflow, ["b.txt"], instead_of=["a.txt"])
    return engine.ancient("given.txt")

onstart:
    tell("started", slurm_run_name=engine.slurm_run_name(workflow),
         has_executor=hasattr(workflow.scheduler, "_executor"))

onerror:
    tell("failed", failed_jobs=engine.failed_jobs(workflow))

if config.get("without_gpu"):
    engine.leave_the_gpu(workflow, "b")

rule all:
    default_target: True
    input: "a.txt", "b.txt"

rule a:
    input: asked
    output: "a.txt"
    run:
        tell("in a job")
        Path(output[0]).write_text("a")

rule b:
    output: "b.txt"
    log: "b.log"
    retries: config.get("retries", 0)
    resources:
        mem_mb=lambda wildcards, attempt: 100 * attempt,
    shell: "test ! -e fail && echo b > {output}"
"""


@pytest.fixture
def asked(tmp_path):
    """Runs Snakemake in a folder of its own; what each moment of the run was told."""
    (tmp_path / "Snakefile").write_text(SNAKEFILE)
    (tmp_path / "ours.yaml").write_text("of_ours: 1\n")
    (tmp_path / "theirs.yaml").write_text("of_theirs: 1\n")
    (tmp_path / "given.txt").touch()

    def run(*words: str, code: int = 0) -> dict[str, dict[str, object]]:
        (tmp_path / "told.jsonl").unlink(missing_ok=True)
        command = [sys.executable, "-m", "snakemake", *words]
        if not {"--lint"} & set(words):
            command += ["--cores", "1"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == code, done.stderr
        told = tmp_path / "told.jsonl"
        lines = told.read_text().splitlines() if told.exists() else []
        return {line["when"]: line for line in map(json.loads, reversed(lines))}  # the first

    run.folder = tmp_path
    return run


def made(asked) -> set[str]:
    return {path.name for path in asked.folder.glob("?.txt")}


def test_files_of_settings_come_in_the_order_in_which_they_win(asked):
    told = asked("--configfile", "theirs.yaml", "--config", "number=1", "word=no")["planned"]
    names = [Path(path).name for path in told["config_files"]]
    assert names == ["ours.yaml", "theirs.yaml"]
    assert told["given_settings"].keys() == {"number", "word"}


def test_files_of_the_command_line_can_stand_in_for_the_workflows(asked):
    told = asked("--configfile", "theirs.yaml", "--replace-workflow-config")["planned"]
    assert [Path(path).name for path in told["config_files"]] == ["theirs.yaml"]


def test_the_driver_is_told_from_its_jobs(asked):
    told = asked()
    assert (told["planned"]["is_driver"], told["in a job"]["is_driver"]) == (True, False)


def test_a_run_is_told_from_what_only_looks(asked):
    runs = asked()["planned"]
    assert (runs["runs_jobs"], runs["is_dry_run"], runs["touches"]) == (True, False, False)
    assert runs["submits_to_slurm"] is False
    looks = asked("--dry-run", "--forceall")["planned"]
    assert (looks["runs_jobs"], looks["is_dry_run"]) == (False, True)
    touches = asked("--touch", "--forceall")["planned"]
    assert touches["touches"] is True


def test_what_deletes_and_runs_no_job_is_known(asked):
    asked()
    told = asked("--delete-all-output", "--forceall")["planned"]
    assert (told["deletes"], told["lints"]) == (True, False)
    assert made(asked) == set()


def test_what_the_user_forces_is_known(asked):
    asked()
    assert asked("--forcerun", "a")["planned"]["forced_by_user"] == ["a"]
    assert asked("--forceall")["planned"]["forced_by_user"] is None
    assert asked()["planned"]["forced_by_user"] == []


def test_a_job_runs_whose_output_is_forced_and_no_other(asked):
    asked()
    before = {name: (asked.folder / name).stat().st_mtime_ns for name in ("a.txt", "b.txt")}
    asked("--config", "force=true")
    after = {name: (asked.folder / name).stat().st_mtime_ns for name in before}
    assert after["a.txt"] == before["a.txt"]
    assert after["b.txt"] > before["b.txt"]


def test_no_time_of_what_is_ancient_is_compared(asked):
    asked()
    (asked.folder / "given.txt").write_text("newer")
    assert "in a job" not in asked()


def test_a_job_that_failed_is_named_with_its_log(asked):
    (asked.folder / "fail").touch()
    assert asked(code=1)["failed"]["failed_jobs"] == [["b", "b.log"]]


def test_a_job_that_was_repeated_with_success_is_not_named(asked):
    (asked.folder / "fail").touch()
    assert asked("--config", "retries=2", code=1)["failed"]["failed_jobs"] == [["b", "b.log"]]


def test_every_rule_is_there_with_its_name(asked):
    assert set(asked()["planned"]["rules"]) == {"all", "a", "b"}


def test_the_scheduler_holds_the_executor_whose_jobs_slurm_knows_by_name(asked):
    told = asked()["started"]
    assert told["has_executor"] is True
    assert told["slurm_run_name"] is None
    slurm = pytest.importorskip("snakemake_executor_plugin_slurm")
    assert "self.run_uuid" in inspect.getsource(slurm.Executor)


def test_a_rule_can_be_spared_the_gpu_that_a_profile_gives_it(asked):
    given = ("--set-resources", "b:gpu=1", "b:slurm_partition='gpu'", "b:runtime=5")
    theirs = {"gpu", "slurm_partition", "runtime"}
    assert theirs <= {*asked(*given)["planned"]["rules"]["b"]}
    asked("--delete-all-output", "--forceall")
    spared = asked(*given, "--config", "without_gpu=true")["planned"]["rules"]["b"]
    assert theirs & {*spared} == {"runtime"}

"""The workflow as Snakemake sees it: clean, planned without tables, and short in its errors."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import warm
from cohortvol.store.locks import claim

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent


def run(*words):
    """Run Snakemake in the repository root, as a person would there."""
    return warm.run("snakemake", *map(str, words), cwd=ROOT)


@pytest.fixture
def model(tmp_path):
    """A model folder with a card that can be read, and with no file that it names."""
    files = {
        f"parts/main/{name}": "0" * 64
        for name in ("fold_0.safetensors", "plans.json", "dataset.json")
    }
    part = {
        "name": "main",
        "configuration": "3d_fullres",
        "trainer": "nnUNetTrainer",
        "folds": ["0"],
        "labels": {"1": "liver"},
        "files": files,
    }
    card = {
        "id": "tiny",
        "title": "tiny",
        "licence": "CC0-1.0",
        "source": "",
        "citation": "",
        "orientation": "RAS",
        "default_profile": "nnunet",
        "profiles": ["nnunet"],
        "parts": [part],
        "labels": {"1": "liver"},
    }
    folder = tmp_path / "models" / "tiny"
    folder.mkdir(parents=True)
    (folder / "card.json").write_text(json.dumps(card), encoding="utf-8")
    return folder


@pytest.fixture
def settings(tmp_path, model):
    """What `--config` is given for a cohort of two scans."""
    manifest = tmp_path / "scans.csv"
    manifest.write_text("scan_id,image\nsub-01,a.nii.gz\nsub-02,b.nii.gz\n", encoding="utf-8")
    return {"manifest": manifest, "results": tmp_path / "results", "model": model}


def snakemake(settings, *options):
    """Run the workflow with these settings."""
    words = [f"{name}={value}" for name, value in settings.items()]
    return run("--cores", "1", *options, "--config", *words)


def last_lines(ended, start="cohortvol: "):
    """What was printed from the message of ours on."""
    return ended.stderr[ended.stderr.index(start) :].splitlines()


def test_snakemake_finds_nothing_to_complain_about(model):
    ended = run("--lint", "--config", f"model={model}")
    assert ended.returncode == 0, ended.stderr
    assert "Congratulations" in ended.stderr


def test_rules_are_formatted():
    words = BIN / "snakefmt", "--check", "Snakefile", "workflow"
    ended = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr


def test_a_dry_run_plans_the_manifest_first_and_makes_nothing(settings):
    ended = snakemake(settings, "--dry-run")
    assert ended.returncode == 0, ended.stderr
    planned = ended.stdout + ended.stderr
    assert "checkpoint manifest:" in planned
    assert "DAG of jobs will be updated after completion" in planned
    assert "\nreport " in planned, "the last stage is not wanted"
    assert not settings["results"].exists()


def test_the_slurm_profile_is_found_by_its_name_and_gives_segment_a_gpu(settings):
    ended = snakemake(settings, "--dry-run", "--profile", "slurm")
    assert ended.returncode == 0, ended.stderr
    assert "Using profiles slurm and workflow specific profile" in ended.stderr
    profile = yaml.safe_load((ROOT / "slurm" / "config.yaml").read_text(encoding="utf-8"))
    assert profile["set-resources"]["segment"]["gpu"] == 1


def test_no_job_prints_its_log_which_names_scans_into_that_of_the_cluster():
    """Every job loads the default profile; its output is Slurm's file, outside the results."""
    profile = yaml.safe_load((ROOT / "profiles" / "default" / "config.yaml").read_text())
    assert "show-failed-logs" not in profile


def test_what_holds_everywhere_is_in_the_default_profile_alone():
    profiles = {
        name: yaml.safe_load((ROOT / "profiles" / name / "config.yaml").read_text(encoding="utf-8"))
        for name in ("default", "local", "slurm")
    }
    assert profiles["default"]["rerun-triggers"] == ["mtime"]
    for name in ("local", "slurm"):
        assert profiles["default"].keys() & profiles[name].keys() == set()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"shard_sise": 4}, "unknown setting 'shard_sise'; did you mean 'shard_size'?"),
        ({"manifest": "no/such.csv"}, "manifest: no such file: no/such.csv"),
        ({"model": "embeded-v1"}, "no model 'embeded-v1' in models"),
        ({"results": "/proc/cohort"}, "/proc/cohort: cannot be written"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_setting_that_cannot_be_used_is_a_short_message(settings, change, message):
    ended = snakemake({**settings, **change}, "--dry-run")
    assert ended.returncode == 64
    lines = last_lines(ended)
    assert message in lines[0]
    assert len(lines) <= 3
    assert "Traceback" not in ended.stderr


def test_a_model_that_is_not_what_its_card_says_stops_the_run_before_any_job(settings):
    ended = snakemake(settings)
    assert ended.returncode == 64
    assert last_lines(ended)[0] == (
        "cohortvol: model tiny: its files are not the ones its card names (MOD_CHECKSUM)"
    )
    assert not (settings["results"] / "manifest").exists()


def test_the_run_reads_settings_by_the_rules_of_yaml_1_2(settings, tmp_path):
    site, more = tmp_path / "site.yaml", tmp_path / "more.yaml"
    site.write_text("sex_codes: {no: F, 1: M}\nshard_size: 012\nage_range_years: [1, 99]\n")
    more.write_text("age_range_years: [2, 98]\n")
    ended = snakemake(settings, "--dry-run", "--printshellcmds", "--configfile", site, more)
    assert ended.returncode == 0, ended.stderr
    planned = ended.stdout + ended.stderr
    assert "--shard-size 12 " in planned
    assert "--age-range-years 2 98" in planned
    assert '"no": "F"' in planned
    assert '"False"' not in planned


def test_a_results_folder_in_use_is_left_alone(settings):
    with claim(settings["results"]):
        ended = snakemake(settings)
    assert ended.returncode == 73
    assert f"process {os.getpid()} on" in last_lines(ended)[0]


@pytest.fixture
def segmenting(settings):
    """Run the job of segment of a shard, whose model lacks its weights: it ends with 64."""

    def run_it(*options):
        table = settings["results"] / "segment" / "tiny" / "0000.parquet"
        ended = snakemake(settings, table, "--no-hooks", "--printshellcmds", *options)
        assert ended.returncode == 1, ended.stderr
        starts = 1 + ended.stderr.count("Trying to restart job")
        return starts, [*dict.fromkeys(re.findall(r"--attempts-left (-?\d+)", ended.stderr))]

    (settings["results"]).mkdir()
    assert snakemake(
        settings, settings["results"] / "ingest" / "0000.parquet", "--no-hooks"
    ).returncode == 0  # fmt: skip
    return run_it


def test_an_attempt_is_a_job_and_the_worker_knows_how_many_are_left(segmenting):
    assert segmenting() == (4, ["3", "2", "1", "0"])
    in_a_job = ("--mode", "remote", "--force", "--nolock", "--retries", "0", "--attempt")
    assert segmenting(*in_a_job, "6") == (1, ["0"])  # of a site with more retries


RULE = re.compile(r"^rule (\w+):\n(.*?)(?=^\S|\Z)", re.MULTILINE | re.DOTALL)
GO_ON = {"train_fold"}
"""Rules that go on from where the time limit ended them, so that more time is not needed."""


def test_every_attempt_of_what_a_cluster_runs_asks_for_more():
    """But for what runs beside the run itself, and the last step of training, a copy."""
    for path in sorted((ROOT / "workflow").rglob("*.smk")):
        for name, body in RULE.findall(path.read_text(encoding="utf-8")):
            if "localrule: True" in body or "shell:" not in body or name == "import_parts":
                continue
            assert re.search(r"mem_mb=.*\* attempt", body), f"{path.name}: {name}"
            assert name in GO_ON or re.search(r"runtime=.*\* attempt", body), name


def test_a_comparison_with_a_model_that_was_not_run_is_told_before_any_job(settings):
    ended = snakemake(settings | {"agreement": "{model: other}"}, "--dry-run")
    assert ended.returncode == 64
    assert last_lines(ended)[0].endswith(f"no such file: {settings['results']}/measure/other")


def test_a_table_of_plausible_volumes_that_is_not_there_is_told_before_any_job(settings, tmp_path):
    own = tmp_path / "own.tsv"
    settings = settings | {"measure": f"{{plausible_ml: {own}, expected: []}}"}
    assert "measure.plausible_ml: no such file" in snakemake(settings, "--dry-run").stderr
    own.write_text("structure\tmin_ml\tmax_ml\tsource\n", encoding="utf-8")
    assert snakemake(settings, "--dry-run").returncode == 0

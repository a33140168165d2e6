"""The folder of a study, and `cohortvol run`, which is a call of Snakemake and no more."""

from __future__ import annotations

import sys

import pytest

from cohortvol import cli, config
from cohortvol.shipped import path_of
from cohortvol.tools import study


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty folder to stand in, on a machine without a scheduler."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(study.shutil, "which", lambda program: None)
    return tmp_path


@pytest.fixture
def called(monkeypatch):
    """What `cohortvol run` becomes: its words, in place of the process."""
    words = []
    monkeypatch.setattr("os.execv", lambda program, given: words.extend(given))
    return words


def files_of(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.*"))


def test_a_study_has_few_files_and_its_settings_are_the_defaults(here, capsys):
    assert cli.run(["init", "my-study"]) == 0
    told = capsys.readouterr().out
    assert "cd my-study" in told
    assert "slurm" not in told
    made = here / "my-study"
    assert files_of(made) == [
        *(".gitignore", "README.md", "config.yaml", "local/config.yaml"),
        "profiles/default/config.yaml",
    ]
    own = {"manifest": "scans.csv", "results": "results"}
    assert config.load(made / "config.yaml") == config.defaults() | own
    assert len((made / "Snakefile").read_text().splitlines()) < 20


def test_a_profile_lies_there_for_a_scheduler_that_is_found_or_named(here, monkeypatch):
    assert cli.run(["init", "named", "--scheduler", "slurm"]) == 0
    monkeypatch.setattr(study.shutil, "which", lambda program: "/usr/bin/sbatch")
    assert cli.run(["init", "found"]) == 0
    packaged = path_of("profiles/slurm/config.yaml").read_bytes()
    for made in ("named", "found"):
        assert (here / made / "slurm" / "config.yaml").read_bytes() == packaged


def test_an_unknown_scheduler_is_told_with_the_known_ones(here, capsys):
    assert cli.run(["init", "x", "--scheduler", "slurn"]) == 64
    assert "did you mean 'slurm'" in capsys.readouterr().err
    assert not (here / "x").exists()


def test_a_study_is_made_beside_ones_own_files_and_never_over_them(here, capsys):
    (here / "config.yaml").write_text("shard_size: 7\n")
    assert cli.run(["init", "."]) == 64
    assert "holds a study already, or part of one: config.yaml" in capsys.readouterr().err
    assert files_of(here) == ["config.yaml"]
    (here / "config.yaml").rename(here / "mine.yaml")
    assert cli.run(["init", "."]) == 0
    assert (here / "mine.yaml").read_text() == "shard_size: 7\n"


def test_run_takes_the_study_of_this_folder_and_all_cores(here, called):
    study.write(here, [])
    assert cli.run(["run", "scans.csv", "--results", "r"]) == 0
    start = [sys.executable, "-m", "snakemake"]
    given = ["--config", "manifest=scans.csv", "results=r"]
    assert called == [*start, "--cores", "all", *given]


def test_run_without_a_study_takes_that_of_the_package_on_its_defaults(here, called):
    assert cli.run(["run", "scans.csv"]) == 0
    at = called.index
    assert called[at("--snakefile") + 1] == str(path_of("study/Snakefile"))
    assert called[at("--configfile") + 1] == str(path_of("config/config.yaml"))
    assert called[at("--workflow-profile") + 1] == str(path_of("profiles/default"))


@pytest.mark.parametrize(
    ("given", "passed"),
    [
        (["--cores", "4"], ["--cores", "4"]),
        (["--cores=4", "-n"], ["--cores=4", "-n"]),
        (["-j2"], ["-j2"]),
        (["-c"], ["-c"]),
        (["--profile", "slurm"], ["--profile", "slurm"]),
        (["-n"], ["--cores", "all", "-n"]),
        (["--forcerun", "report"], ["--cores", "all", "--forcerun", "report"]),
        (
            ["--config", "model=m", "report={title: A b}", "-n", "-C", "results=s"],
            [*("--cores", "all", "-n"), "--config", "model=m", "report={title: A b}", "results=s"],
        ),
    ],
    ids=" ".join,
)
def test_options_of_snakemake_pass_through(here, called, given, passed):
    study.write(here, [])
    assert cli.run(["run", *given]) == 0
    assert called[3:] == passed


def test_settings_given_twice_are_those_of_config(here, called):
    assert cli.run(["run", "a.csv", "--config", "manifest=b.csv"]) == 0
    assert called[-3:] == ["--config", "manifest=a.csv", "manifest=b.csv"]  # the last counts


def test_a_table_behind_the_options_is_not_taken_for_a_file_to_make(here, called, capsys):
    assert cli.run(["run", "--cores", "4", "scans.csv"]) == 64
    assert "cohortvol run scans.csv --cores 4" in capsys.readouterr().err
    assert called == []


def test_settings_shows_every_setting_with_its_default(capsys):
    assert cli.run(["settings"]) == 0
    assert capsys.readouterr().out == path_of("config/config.yaml").read_text()


def test_the_settings_of_the_folder_one_stands_in_are_found(here):
    assert str(config.here()) == "config/config.yaml"
    study.write(here, [])
    assert str(config.here()) == "config.yaml"

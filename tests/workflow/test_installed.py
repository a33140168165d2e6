"""The wheel in an empty environment: two studies at once, one that moved, one that is upgraded.

Tables are those of the way through the repository, byte for byte.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

import cohortvol
from cohortvol.tools.study import FILES
from workflow_run import REPOSITORY, run, tables_of

pytest.importorskip("hatchling", reason="builds the wheel")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

N_SCANS = 3
STUDY = "results"
TABLES = ("volumes.parquet", "scans.parquet")
SNAKEMAKE = "#!{}\nimport sys\nfrom snakemake.cli import main\nsys.exit(main())\n"


class Installed:
    """An environment that holds the wheel alone, and a home that holds nothing."""

    def __init__(self, folder: Path) -> None:
        made = folder / "wheels"
        build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", made]
        subprocess.run(build, cwd=REPOSITORY, check=True, capture_output=True)
        (self.wheel,) = made.glob("*.whl")
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "env"], check=True)
        self.bin = folder / "env" / "bin"
        (self.packages,) = folder.glob("env/lib/*/site-packages")
        # All that cohortvol needs is taken from here, and cohortvol itself is not.
        (self.packages / "further.pth").write_text(sysconfig.get_path("purelib") + "\n")
        snakemake = self.bin / "snakemake"
        snakemake.write_text(SNAKEMAKE.format(self.bin / "python"))
        snakemake.chmod(0o700)
        (folder / "home").mkdir()
        self.environment = {
            "HOME": str(folder / "home"),
            "PATH": f"{self.bin}:/usr/bin:/bin",
            "OMP_NUM_THREADS": "1",
            "MPLBACKEND": "Agg",
        }
        options = "--no-index --no-deps --ignore-installed --quiet".split()
        self.call(folder, "python", "-m", "pip", "install", *options, self.wheel)

    def start(self, folder: Path, *words: str | Path, **more: str) -> subprocess.Popen[str]:
        """A command in a folder."""
        return subprocess.Popen(
            [self.bin / words[0], *words[1:]],
            cwd=folder,
            env=self.environment | more,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def call(self, folder: Path, *words: str | Path, **more: str) -> str:
        """What a command said, which must have ended well."""
        return ended(self.start(folder, *words, **more))

    def plan(self, study: Path, **more: str) -> dict[str, dict[str, object]]:
        """What the next run of a study will do."""
        told = self.call(study, "cohortvol", "plan", "--json", **more)
        return dict(json.loads(told))


def ended(started: subprocess.Popen[str]) -> str:
    said, _ = started.communicate()
    assert started.returncode == 0, said[-5000:]
    return said


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    return Installed(tmp_path_factory.mktemp("installed"))


@pytest.fixture(scope="module")
def scans(simulated, tmp_path_factory):
    folder = tmp_path_factory.mktemp("scans") / "source"
    simulated(folder, N_SCANS)
    return folder / "manifest.csv"


@pytest.fixture(scope="module")
def studies(installed, scans, tmp_path_factory):
    """Two studies that ran at the same time, the second up to its tables; what the first said."""
    folder = tmp_path_factory.mktemp("empty")
    started = []
    for name, words in (
        ("first", ["cohortvol", "run", scans, "--cores", "1"]),
        ("second", ["snakemake", "results/files.sha256", "--cores", "1"]),
    ):
        installed.call(folder, "cohortvol", "init", name)
        config = folder / name / "config.yaml"
        config.write_text(config.read_text().replace("manifest: scans.csv", f"manifest: {scans}"))
        started.append(installed.start(folder / name, *words))
    said, _ = [ended(one) for one in started]
    return folder / "first", folder / "second", said


def receipts(results):
    """What was segmented, and when."""
    return {path.name: path.read_bytes() for path in results.glob("segment/*/*/*.json")}


def test_the_wheel_holds_what_a_study_needs_and_is_small(installed):
    shared = installed.packages / "cohortvol" / "share"
    needed = {*FILES.values(), "profiles/slurm/config.yaml", "constraints.txt", "reports/page.html"}
    assert {name for name in needed if not (shared / name).is_file()} == set()
    assert [path.name for path in (shared / "models").iterdir()] == ["embedded-v2"]
    assert installed.wheel.stat().st_size < 10e6
    tables = {path.suffix for path in (shared / "config").iterdir()} & {".csv", ".tsv", ".parquet"}
    assert tables == set(), "a table beside the settings may name people"


def test_two_studies_at_once_have_the_tables_of_the_repository(studies, scans, tmp_path):
    first, second, said = studies
    results = tmp_path / "results"
    run(scans, results)
    for name in TABLES:
        there = (results / name).read_bytes()
        assert (first / STUDY / name).read_bytes() == there, name
        assert (second / STUDY / name).read_bytes() == there, name
    names = {path.name for path in (results / "analyse").glob("*.*")}
    assert len(names) > 50
    for name in names:
        there = (results / "analyse" / name).read_bytes()
        assert (first / STUDY / "analyse" / name).read_bytes() == there, name
    assert (first / STUDY / "report" / "index.html").is_file()
    assert receipts(first / STUDY).keys() == receipts(results).keys()
    assert f"finished, {N_SCANS} of {N_SCANS} done" in said


def test_a_study_on_another_path_has_nothing_to_do(installed, studies, tmp_path):
    moved = tmp_path / "another" / "place"
    shutil.copytree(studies[1], moved, copy_function=shutil.copy)  # with other times
    shutil.rmtree(moved / ".snakemake")
    found = installed.plan(moved)
    assert found["scans"]["finished"] == N_SCANS
    assert set(found["jobs"]) == {"analyse", "report"}, "which this study never had"


def test_after_an_upgrade_what_is_cheap_is_made_again_and_no_scan_is_segmented(
    installed, studies, tmp_path
):
    newer = tmp_path / "newer" / "cohortvol"
    shutil.copytree(installed.packages / "cohortvol", newer)
    for path in (newer / "__init__.py", *newer.glob("share/workflow/*.smk")):
        text = path.read_text(encoding="utf-8")
        path.write_text(text.replace(f'"{cohortvol.__version__}"', '"9.0.0"'), encoding="utf-8")
    study = studies[1]
    upgraded = {"PYTHONPATH": str(newer.parent)}
    found = installed.plan(study, **upgraded)
    assert found["scans"]["finished"] == N_SCANS
    assert set(found["jobs"]) == {"measure 0000", "assemble", "analyse", "report"}
    before = receipts(study / STUDY)
    tables = {name: (study / STUDY / name).read_bytes() for name in TABLES}
    installed.call(study, "snakemake", tables_of(Path(STUDY)), "--cores", "1", **upgraded)
    assert receipts(study / STUDY) == before
    assert {name: (study / STUDY / name).read_bytes() for name in TABLES} == tables


def test_a_package_older_than_the_study_is_refused_with_what_to_do(installed, studies, tmp_path):
    study = shutil.copytree(studies[1], tmp_path / "study")
    snakefile = study / "Snakefile"
    snakefile.write_text(snakefile.read_text().replace(cohortvol.__version__, "9.0.0"))
    started = installed.start(study, "snakemake", "--cores", "1", "-n")
    said, _ = started.communicate()
    assert started.returncode == os.EX_USAGE
    assert "pip install 'cohortvol>=9.0.0'" in said
    assert "Traceback" not in said

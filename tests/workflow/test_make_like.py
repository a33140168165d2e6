"""The stand-in for Snakemake beside Snakemake: the same jobs, the same tables, step by step."""

import base64
import copy
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from make_like import MakeLike
from threshold_cohort import (
    TOO_SHORT,
    Row,
    Settings,
    Source,
    image_bytes,
    threshold_in_place_of_the_network,
)

REPOSITORY = Path(__file__).resolve().parents[2]
RESULTS = Path("results")
TABLES = ("volumes.parquet", "scans.parquet")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

# The rules up to assemble: the pages behind them are drawn from the final tables alone.
SNAKEFILE = "\n".join(
    [
        f'configfile: "{REPOSITORY}/config/config.yaml"',
        *(
            f'include: "{REPOSITORY}/workflow/rules/{rule}.smk"'
            for rule in ("common", "manifest", "ingest", "segment", "measure", "assemble")
        ),
        "rule all:",
        "    default_target: True",
        '    input: "<results>/files.sha256", "<results>/manifest/index.tsv", shard_tables',
        "",
    ]
)

# Python imports a module of this name when it starts: the threshold in place of the network.
SITE = """
import sys, types
class Infer(types.ModuleType):
    def __getattr__(self, name):
        if name != "Segmenter":
            raise AttributeError(name)
        from threshold_cohort import ThresholdSegmenter
        return ThresholdSegmenter
sys.modules["cohortvol.segment.infer"] = Infer("cohortvol.segment.infer")

import errno, os
if full := os.environ.get("NO_SPACE_FOR"):
    replace = os.replace
    def refused(source, target):
        if os.fspath(target).endswith(full):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        replace(source, target)
    os.replace = refused
"""


class Pair:
    """Two results folders of one source: Snakemake works in one, the stand-in in the other."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.source = Source(folder / "source")
        self.settings = Settings()
        self.make_like = MakeLike(RESULTS)

    @property
    def places(self) -> tuple[Path, Path]:
        return self.folder / "snakemake", self.folder / "make_like"

    def run(self, *forced: str) -> list[str]:
        """Run both, and compare what they did; the jobs."""
        self.source.write()
        self.source.model(self.settings)
        asked, done = self._snakemake(forced), self._make_like(forced)
        assert sorted(done) == sorted(asked)
        left, right = self.places
        for name in TABLES:
            assert (left / RESULTS / name).read_bytes() == (right / RESULTS / name).read_bytes()
        return sorted(done)

    def _snakemake(self, forced: tuple[str, ...] = ()) -> list[str]:
        wanted = self.settings
        workdir = self.places[0]
        done = subprocess.run(
            [
                sys.executable, "-m", "snakemake", "--cores", "2",
                "--snakefile", str(self.folder / "Snakefile"),
                "--workflow-profile", str(REPOSITORY / "profiles" / "default"),
                *(["--forcerun", *forced] if forced else []),
                "--config", f"manifest={self.source.manifest}", f"results={RESULTS}",
                f"withdrawals={self.source.withdrawals}", "bad_rows=quarantine", "previews=false",
                f"shard_size={wanted.shard_size}", f"model={wanted.model}",
                f"models_dir={self.source.folder / 'models'}",
                f"ingest={{min_slices: {wanted.min_slices}}}",
                f"segment={{profile: {wanted.profile or 'null'}, workers: {wanted.workers}}}",
                f"measure={{min_largest_fraction: {wanted.min_largest_fraction}}}",
                f"assemble={{outlier_max_z: {wanted.outlier_max_z}}}",
            ],
            cwd=workdir, capture_output=True, text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(
                [str(self.folder / "site"), str(REPOSITORY / "src"), str(REPOSITORY / "tests")])},
        )  # fmt: skip
        if "NO_SPACE_FOR" in os.environ:
            assert done.returncode != 0
        else:
            assert done.returncode == 0, done.stderr[-5000:]
        started = re.split(r"^(?:local)?(?:rule|checkpoint) ", done.stderr, flags=re.M)[1:]
        jobs = [
            f"{text.partition(':')[0]} {''.join(re.findall('wildcards: shard=([0-9]+)', text))}"
            for text in started
        ]
        return [job.strip() for job in jobs if job != "all "]

    def _make_like(self, forced: tuple[str, ...]) -> list[str]:
        os.chdir(self.places[1])
        with threshold_in_place_of_the_network():
            done = self.make_like.run(self.source, self.settings, forced=forced)
        assert done.good, done.failed
        return done.ran

    def each(self) -> tuple[Path, ...]:
        return tuple(place / RESULTS for place in self.places)

    def delete(self, pattern: str) -> None:
        for results in self.each():
            sorted(results.glob(pattern))[0].unlink()

    def cut(self, pattern: str) -> None:
        for results in self.each():
            path = sorted(results.glob(pattern))[0]
            path.write_bytes(path.read_bytes()[:-100])

    def kill_the_job_of(self, table: Path) -> None:
        """As if it had been killed after it wrote its table, and before that was remembered."""
        marks = self.places[0] / ".snakemake" / "incomplete"
        (marks / base64.b64encode(bytes(table)).decode()).touch()
        self.make_like.unfinished.add(table)

    def forget(self) -> None:
        shutil.rmtree(self.places[0] / ".snakemake")
        self.make_like.forget()


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """Both after a first run of five scans in two shards, and a copy of all that."""
    pair = Pair(tmp_path_factory.mktemp("pair") / "now")
    (pair.folder / "site").mkdir(parents=True)
    (pair.folder / "site" / "sitecustomize.py").write_text(SITE)
    (pair.folder / "Snakefile").write_text(SNAKEFILE)
    for place in pair.places:
        place.mkdir()
    for n in range(5):
        pair.source.write_image(f"{n}.nii.gz", image_bytes(n))
        pair.source.rows.append(Row(f"sub-{n}", f"person-{n}", f"{n}.nii.gz", 40 + n))
    here = os.getcwd()
    jobs = pair.run()
    os.chdir(here)
    assert len(jobs) == 8
    shutil.copytree(pair.folder, pair.folder.parent / "saved")
    return pair


@pytest.fixture
def pair(first, monkeypatch):
    """As after the first run, at the same place, as Snakemake remembers names of files."""
    shutil.rmtree(first.folder)
    shutil.copytree(first.folder.parent / "saved", first.folder)
    monkeypatch.chdir(first.folder)
    again = Pair(first.folder)
    again.source = copy.deepcopy(first.source)
    again.make_like.records = dict(first.make_like.records)
    return again


OF_SHARD_0 = ["ingest 0000", "measure 0000", "segment 0000"]


def test_what_was_not_changed_is_not_run_and_what_was_is_as_far_as_it_reaches(pair):
    assert pair.run() == []
    pair.source.write_image("1.nii.gz", image_bytes(7))
    assert pair.run() == []
    assert pair.run("manifest") == ["assemble", *OF_SHARD_0[:1], "manifest", *OF_SHARD_0[1:]]
    pair.settings = replace(pair.settings, min_largest_fraction=0.5, notes="a word")
    assert pair.run() == ["assemble", "measure 0000", "measure 0001"]
    pair.settings = replace(pair.settings, workers=1, shard_size=2)
    pair.run()


def test_damaged_and_missing_tables_are_made_again(pair):
    pair.delete("measure/*/0001.parquet")
    pair.cut("ingest/0000.parquet")
    pair.run()
    pair.delete("manifest/scans.parquet")
    assert pair.run() == ["manifest"]
    pair.delete("manifest/shards.parquet")
    assert pair.run() == []
    pair.delete("manifest/shards/0000.parquet")
    pair.delete("manifest/index.tsv")
    pair.run()
    pair.settings = replace(pair.settings, weights="b")
    pair.delete("segment/*/0000.parquet")
    pair.run()


def test_rows_come_and_go_and_the_memory_is_lost(pair):
    pair.source.write_image("9.nii.gz", image_bytes(9)[:TOO_SHORT])
    pair.source.rows.append(Row("sub-9", "person-9", "9.nii.gz", 50))
    pair.source.rows.pop(3)
    pair.run()
    pair.forget()
    assert pair.run() == []
    pair.kill_the_job_of(RESULTS / "ingest" / "0001.parquet")
    pair.source.withdrawn.append("person-1")
    pair.run()
    pair.settings = replace(pair.settings, outlier_max_z=4.0)
    pair.source.rows[0].age_years = 77
    pair.source.write()
    os.utime(pair.source.manifest, (10**9, 10**9))
    assert pair.run() == ["assemble", "manifest"]


def test_a_manifest_stage_for_which_there_was_no_space_is_run_again(pair, monkeypatch):
    pair.source.rows.append(replace(pair.source.rows[0], scan_id="sub-9"))
    pair.source.write()
    monkeypatch.setenv("NO_SPACE_FOR", "manifest/scans.parquet")
    assert pair._snakemake() == ["manifest"]
    monkeypatch.delenv("NO_SPACE_FOR")
    assert {"manifest", "ingest 0001", "assemble"} <= set(pair._snakemake())

"""The stand-in for Snakemake beside Snakemake: the same jobs, the same tables, step by step.

Before each run, ``snakemake -n`` and ``cohortvol plan`` say what it will do.
"""

import copy
import os
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from driven import Driven, clone
from make_like import STAGES, MakeLike
from threshold_cohort import (
    TOO_SHORT,
    Row,
    Settings,
    Source,
    image_bytes,
    threshold_in_place_of_the_network,
)

RESULTS = Path("results")
TABLES = ("volumes.parquet", "scans.parquet")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


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

    @property
    def snakemake(self) -> Driven:
        return Driven(self.places[0], self.source, str(RESULTS), self.settings)

    def run(self, *forced: str) -> list[str]:
        """Run both, and compare what they did with what was told; the jobs."""
        words = ("--forcerun", *forced) if forced else ()
        driven = self.snakemake
        listed, counts = driven.told(*words)
        plan = None if forced else sorted(name for name in driven.plan() if _is_of_stages(name))
        asked, done = driven.run(*words), self._make_like(forced)
        assert sorted(done) == sorted(asked)
        assert plan is None or plan == sorted(asked)
        told = {rule: n for rule, n in counts.items() if rule in STAGES}
        assert told == dict(Counter(job.split()[0] for job in asked))
        # Behind the manifest stage Snakemake itself lists no jobs of shards yet.
        behind = [job for job in asked if "manifest" not in asked or " " not in job]
        if "manifest" in asked:  # and it lists whatever reads what that stage will write
            assert set(behind) <= set(listed)
        else:
            assert listed == sorted(behind)
        left, right = self.places
        for name in TABLES:
            assert (left / RESULTS / name).read_bytes() == (right / RESULTS / name).read_bytes()
        return sorted(done)

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
        """As if it had been killed after it wrote its table, and before that was recorded."""
        for results in self.each():
            (results / "made_of" / table).with_suffix(".json").unlink()

    def forget(self) -> None:
        shutil.rmtree(self.places[0] / ".snakemake")


def _is_of_stages(job: str) -> bool:
    return job.split()[0] in STAGES


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """Both after a first run of five scans in two shards, and a copy of all that."""
    pair = Pair(tmp_path_factory.mktemp("pair") / "now")
    clone(pair.places[0], short=True)
    pair.places[1].mkdir()
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
    return again


OF_SHARD_0 = ["ingest 0000", "measure 0000", "segment 0000"]


def test_what_was_not_changed_is_not_run_and_what_was_is_as_far_as_it_reaches(pair):
    assert pair.run() == []
    pair.source.write_image("1.nii.gz", image_bytes(7))
    assert pair.run() == ["assemble", *OF_SHARD_0[:1], "manifest", *OF_SHARD_0[1:]]
    pair.settings = replace(pair.settings, min_largest_fraction=0.5, notes="a word")
    assert pair.run() == ["assemble", "measure 0000", "measure 0001"]
    pair.settings = replace(pair.settings, workers=1, shard_size=2)
    assert pair.run() == ["manifest"]
    assert pair.run("segment") == [
        "assemble",
        *(f"{rule} {shard}" for rule in ("measure", "segment") for shard in ("0000", "0001")),
    ]


def test_damaged_and_missing_tables_are_made_again(pair):
    pair.delete("measure/*/0001.parquet")
    pair.cut("ingest/0000.parquet")
    pair.run()
    pair.delete("manifest/scans.parquet")
    assert pair.run() == ["manifest"]
    pair.delete("manifest/shards.parquet")
    assert pair.run() == ["manifest"]
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
    pair.kill_the_job_of(Path("ingest/0001.parquet"))
    pair.source.withdrawn.append("person-1")
    pair.run()
    pair.settings = replace(pair.settings, outlier_max_z=4.0)
    pair.source.rows[0].age_years = 77
    pair.source.write()
    os.utime(pair.source.manifest, (10**9, 10**9))
    assert pair.run() == ["assemble", "manifest"]


def test_a_manifest_stage_for_which_there_was_no_space_is_run_again(pair):
    pair.source.rows.append(replace(pair.source.rows[0], scan_id="sub-9"))
    pair.source.write()
    full = {"NO_SPACE_FOR": "manifest/scans.parquet"}
    assert pair.snakemake.run(code=1, **full) == ["manifest"]
    assert {"manifest", "ingest 0001", "assemble"} <= set(pair.snakemake.run())

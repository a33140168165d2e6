"""Cohorts that keep no label maps: the same numbers, nothing segmented twice."""

import shutil
from functools import partial

import pandas as pd
import pytest

from cohortvol import cli
from cohortvol.store.schemas import KEPT
from cohortvol.store.tables import read_table
from cohortvol.tools.verify.folder import verify
from workflow_run import run, tables_of

MODEL = "embedded-v2"
N_SCANS = 5

snakemake = partial(run, shard_size=3)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def source(simulated, tmp_path_factory):
    out = tmp_path_factory.mktemp("source")
    simulated(out, N_SCANS + 1)
    rows = pd.read_csv(out / "manifest.csv", dtype=str)
    rows.iloc[:N_SCANS].to_csv(out / "five.csv", index=False)
    return out


@pytest.fixture(scope="module")
def kept(source, tmp_path_factory):
    """Tables and pictures of a cohort with label maps."""
    results = tmp_path_factory.mktemp("kept") / "results"
    snakemake(source / "five.csv", results, tables_of(results))
    return results


@pytest.fixture(scope="module")
def bare(source, kept, tmp_path_factory):
    """Results made from the beginning without keeping label maps."""
    results = tmp_path_factory.mktemp("bare") / "results"
    snakemake(source / "five.csv", results, keep_label_maps="false")
    return results


def label_maps(results):
    return sorted(path.name for path in results.rglob("*_dseg.nii.gz"))


def receipts(results):
    """Bytes of every receipt; they hold the time of segmentation."""
    return {path.name: path.read_bytes() for path in results.glob(f"segment/{MODEL}/*/sub-*.json")}


def test_volumes_and_pictures_are_those_of_a_cohort_that_keeps_them(kept, bare):
    assert len(label_maps(kept)) == N_SCANS
    assert label_maps(bare) == []
    assert (bare / "volumes.parquet").read_bytes() == (kept / "volumes.parquet").read_bytes()
    assert (bare / "scans.parquet").read_bytes() == (kept / "scans.parquet").read_bytes()
    pictures = [path.relative_to(kept) for path in kept.glob("measure/*/previews/*.parquet")]
    assert len(pictures) == 2
    assert all((bare / name).read_bytes() == (kept / name).read_bytes() for name in pictures)
    assert verify(bare, deep=True)["problems"] == []


def test_nothing_is_segmented_again_for_a_new_scan_or_a_lost_table(source, bare, tmp_path):
    results = shutil.copytree(bare, tmp_path / "results")
    before = receipts(results)
    done = snakemake(source / "five.csv", results, keep_label_maps="false")
    assert "Nothing to be done" in done.stderr
    (results / f"measure/{MODEL}/0000.parquet").unlink()
    (results / f"segment/{MODEL}/0001.parquet").unlink()
    grown = shutil.copy(source / "manifest.csv", source / "six.csv")
    snakemake(grown, results, keep_label_maps="false")
    after = receipts(results)
    assert before.items() <= after.items()
    assert len(after) == N_SCANS + 1
    assert label_maps(results) == []
    assert len(pd.read_parquet(results / "scans.parquet").query("state == 'done'")) == N_SCANS + 1
    assert verify(results, deep=True)["problems"] == []


def test_label_maps_go_when_the_setting_is_changed_and_come_back_with_it(source, tmp_path):
    manifest, results = tmp_path / "two.csv", tmp_path / "results"
    rows = pd.read_csv(source / "five.csv", dtype=str).iloc[:2]
    rows.assign(image=[str(source / image) for image in rows["image"]]).to_csv(manifest)
    snakemake(manifest, results, tables_of(results))
    before, volumes = receipts(results), (results / "volumes.parquet").read_bytes()
    snakemake(manifest, results, tables_of(results), keep_label_maps="false")
    assert label_maps(results) == []
    assert receipts(results) == before
    changed = "{min_largest_fraction: 0.5}"
    snakemake(manifest, results, tables_of(results), keep_label_maps="false", measure=changed)
    again = receipts(results)
    assert all(again[name] != before[name] for name in before)
    snakemake(manifest, results, tables_of(results))
    assert len(label_maps(results)) == 2
    assert not list(results.glob(f"measure/{MODEL}/kept/*.parquet"))
    assert (results / "volumes.parquet").read_bytes() == volumes


def test_rows_that_stand_in_for_label_maps_are_repaired_and_withdrawn(source, bare, tmp_path):
    results = shutil.copytree(bare, tmp_path / "results")
    volumes = (results / "volumes.parquet").read_bytes()
    before = receipts(results)
    kept = results / f"measure/{MODEL}/kept"
    for lost in (kept / "0000.parquet", kept / "previews" / "0000.parquet"):
        content = lost.read_bytes()
        lost.unlink()
        assert [one.path for one in verify(results)["problems"]] == [
            lost.relative_to(results).as_posix()
        ]
        lost.write_bytes(content)
    (kept / "0001.parquet").write_bytes(b"no table")
    done = snakemake(source / "five.csv", results, tables_of(results), keep_label_maps="false")
    assert "kept/0001.parquet: a damaged table" in done.stderr
    again = receipts(results)
    assert sum(again[name] != before[name] for name in before) == 2
    assert (results / "volumes.parquet").read_bytes() == volumes
    gone = pd.read_csv(source / "five.csv", dtype=str).iloc[0]
    withdrawn = tmp_path / "list.txt"
    withdrawn.write_text(f"{gone['subject_id']}\n")
    snakemake(
        source / "five.csv",
        results,
        tables_of(results),
        keep_label_maps="false",
        withdrawals=withdrawn,
    )
    left = read_table(results / f"measure/{MODEL}/kept/0000.parquet", KEPT)
    assert gone["scan_id"] not in set(left["scan_id"])
    assert {name: again[name] for name in receipts(results)} == receipts(results)


def test_what_needs_label_maps_says_so(source, bare, tmp_path, capsys):
    refused = snakemake(
        source / "five.csv", bare, keep_label_maps="false", agreement="{model: other}", code=64
    )
    assert "label maps are compared, and keep_label_maps is false" in refused.stderr
    command = ["bids-derivatives", "--results", str(bare), "--out", str(tmp_path / "out")]
    assert cli.run(command) == 64
    assert "keep_label_maps" in capsys.readouterr().err

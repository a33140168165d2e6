"""No scan ever changes its shard, and only what changed is written."""

from __future__ import annotations

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cohortvol.stages import manifest
from cohortvol.stages.manifest import assign_shards, changed_images
from cohortvol.store.schemas import SHARD, SHARDS
from cohortvol.store.tables import read_table

NO_SHARDS = pd.DataFrame(columns=["scan_id", "shard"])


@pytest.mark.slow
@settings(deadline=None, derandomize=True, max_examples=100)
@given(
    cohorts=st.lists(
        st.lists(st.integers(0, 60).map(str), unique=True, max_size=40), min_size=1, max_size=6
    ),
    sizes=st.lists(st.integers(1, 9), min_size=6, max_size=6),
)
def test_no_scan_ever_moves_however_the_cohort_changes(cohorts, sizes):
    shards = NO_SHARDS
    seen: dict[str, str] = {}
    for cohort, size in zip(cohorts, sizes, strict=False):
        shards = assign_shards(cohort, shards, size)
        now = dict(zip(shards["scan_id"], shards["shard"], strict=True))
        assert len(now) == len(shards)
        assert set(now) == set(seen) | set(cohort)
        assert {scan: now[scan] for scan in seen} == seen
        seen = now
    numbers = sorted({int(shard) for shard in seen.values()})
    assert numbers == list(range(len(numbers)))
    assert shards["shard"].value_counts().max() <= max(sizes) if len(shards) else True


def test_a_new_scan_fills_the_last_shard_and_a_removed_one_keeps_its_place():
    first = assign_shards(["a", "b", "c"], NO_SHARDS, 2)
    assert first["shard"].tolist() == ["0000", "0000", "0001"]
    later = assign_shards(["c", "d", "e"], first, 2)
    assert later["scan_id"].tolist() == ["a", "b", "c", "d", "e"]
    assert later["shard"].tolist() == ["0000", "0000", "0001", "0001", "0002"]


def cohort(tmp_path, ids):
    for scan_id in ids:
        image = tmp_path / f"{scan_id}.nii"
        if not image.exists():
            image.write_bytes(b"x" * 10)
    rows = "".join(f"{scan_id},{scan_id}.nii\n" for scan_id in ids)
    path = tmp_path / "scans.csv"
    path.write_text("scan_id,image\n" + rows)
    return path


def times(folder):
    return {path.name: path.stat().st_mtime_ns for path in folder.glob("*.parquet")}


def test_only_shards_whose_content_changed_are_written_again(tmp_path):
    results = tmp_path / "results"
    shards = results / "manifest" / "shards"
    manifest.run(cohort(tmp_path, ["a", "b", "c"]), results, shard_size=2)
    before = times(shards)
    manifest.run(cohort(tmp_path, ["a", "b", "c"]), results, shard_size=2)
    assert times(shards) == before
    manifest.run(cohort(tmp_path, ["a", "b", "c", "d", "e"]), results, shard_size=2)
    after = times(shards)
    assert after["0000.parquet"] == before["0000.parquet"]
    assert after["0001.parquet"] != before["0001.parquet"]
    assert set(after) == {"0000.parquet", "0001.parquet", "0002.parquet"}


def test_a_changed_image_rewrites_its_shard_alone(tmp_path):
    results = tmp_path / "results"
    manifest.run(cohort(tmp_path, ["a", "b", "c"]), results, shard_size=2)
    before = times(results / "manifest" / "shards")
    (tmp_path / "c.nii").write_bytes(b"y" * 11)
    manifest.run(cohort(tmp_path, ["a", "b", "c"]), results, shard_size=2)
    after = times(results / "manifest" / "shards")
    assert [name for name in after if after[name] != before[name]] == ["0001.parquet"]
    table = read_table(results / "manifest" / "shards" / "0001.parquet", SHARD)
    assert table["n_bytes"].tolist() == [11]


def test_a_shard_without_scans_disappears_and_comes_back_in_its_place(tmp_path):
    results = tmp_path / "results"
    index = results / "manifest" / "index.tsv"
    manifest.run(cohort(tmp_path, ["a", "b", "c"]), results, shard_size=2)
    manifest.run(cohort(tmp_path, ["a", "b"]), results, shard_size=2)
    assert index.read_text() == "shard\tn_scans\n0000\t2\n"
    assert not (results / "manifest" / "shards" / "0001.parquet").exists()
    manifest.run(cohort(tmp_path, ["c", "a", "b"]), results, shard_size=2)
    assert index.read_text() == "shard\tn_scans\n0000\t2\n0001\t1\n"


def test_a_lost_assignment_is_rebuilt_from_the_shards(tmp_path):
    results = tmp_path / "results"
    manifest.run(cohort(tmp_path, ["c", "b", "a"]), results, shard_size=2)
    (results / "manifest" / "shards.parquet").unlink()
    manifest.run(cohort(tmp_path, ["a", "b", "c"]), results, shard_size=2)
    shards = read_table(results / "manifest" / "shards.parquet", SHARDS)
    assert dict(zip(shards["scan_id"], shards["shard"], strict=True)) == {
        "c": "0000",
        "b": "0000",
        "a": "0001",
    }


def test_a_missing_image_is_no_fault_of_the_manifest(tmp_path):
    results = tmp_path / "results"
    path = cohort(tmp_path, ["s1"])
    (tmp_path / "s1.nii").unlink()
    manifest.run(path, results)
    table = read_table(results / "manifest" / "shards" / "0000.parquet", SHARD)
    assert table["n_bytes"].isna().all()


def test_a_file_written_over_in_a_folder_is_seen_until_its_scan_is_done(tmp_path):
    results, series = tmp_path / "results", tmp_path / "s1.nii"
    (series / "more").mkdir(parents=True)
    slices = [series / "1.dcm", series / "more" / "2.dcm"]
    for path in slices:
        path.write_bytes(b"x" * 10)
    manifest.run(cohort(tmp_path, ["s1"]), results)
    table = read_table(results / "manifest" / "shards" / "0000.parquet", SHARD)
    assert table["n_bytes"].tolist() == [20]
    assert [changed_images(results, done, True) for done in ((), ("s1",))] == [0, 0]
    own = series.stat(), slices[1].parent.stat()
    slices[1].write_bytes(b"y" * 10)
    assert (series.stat(), slices[1].parent.stat()) == own, "a folder's time is of its names"
    assert [changed_images(results, done, True) for done in ((), ("s1",))] == [1, 0]
    assert changed_images(results, ("s1",), False) == 0
    (series / "3.dcm").write_bytes(b"z")
    assert changed_images(results, ("s1",), True) == 1

"""What the next run would do with each scan, told before it does it."""

import json
import os

import pandas as pd
import pytest

from cohortvol import cli
from cohortvol.models.card import load_card, segmentation_key
from cohortvol.models.folders import find_model
from cohortvol.store.files import commit_json
from cohortvol.store.schemas import INGEST, SEGMENT
from cohortvol.store.tables import append_rows, write_table

MODEL = "embedded-v2"


@pytest.fixture
def cohort(tmp_path):
    """Nine scans in shards of three: two shards ingested, the first of them segmented."""
    images = [tmp_path / f"s{n}.nii.gz" for n in range(9)]
    for image in images:
        image.write_bytes(b"image")
    write_manifest(tmp_path, images)
    words = ["--manifest", str(tmp_path / "scans.csv"), "--results", str(tmp_path / "results")]
    assert cli.run(["manifest", *words, "--shard-size", "3"]) == 0
    key = segmentation_key(load_card(find_model(MODEL, "models")))
    for shard, scans in (("0000", range(3)), ("0001", range(3, 6))):
        rows = [{"scan_id": f"s{n}", "state": "ready"} for n in scans]
        rows[-1]["state"] = "quarantined"
        put(tmp_path, f"ingest/{shard}.parquet", rows, INGEST)
    states = [("s0", "segmented", key), ("s1", "segmented", "of other weights")]
    rows = [dict(zip(("scan_id", "state", "segmentation_key"), row, strict=True)) for row in states]
    put(tmp_path, f"segment/{MODEL}/0000.parquet", rows, SEGMENT)
    commit_json(tmp_path / f"results/segment/{MODEL}/0001/s3.json", rows[0] | {"scan_id": "s3"})
    return tmp_path


def write_manifest(folder, images):
    names = [image.name.partition(".")[0] for image in images]
    rows = pd.DataFrame({"scan_id": names, "image": images, "age_years": 50, "sex": "F"})
    rows.to_csv(folder / "scans.csv", index=False)


def put(folder, name, rows, columns):
    path = folder / "results" / name
    write_table(path, append_rows(rows, columns), columns)


def told(folder, capsys, *words):
    files = ["--manifest", str(folder / "scans.csv"), "--results", str(folder / "results")]
    assert cli.run(["plan", *files, "--model", MODEL, *words]) == 0
    return capsys.readouterr().out


def test_every_scan_has_one_fate(cohort, capsys):
    found = json.loads(told(cohort, capsys, "--json"))
    assert found["scans"] == {
        "finished": 2, "refused": 2, "new": 0, "changed": 0, "outdated": 1, "waiting": 4
    }  # fmt: skip
    assert (found["rows"], found["unusable"], found["gone"]) == (9, 0, 0)
    assert (found["shards"], found["shards_to_segment"]) == (3, 3)


def test_new_changed_and_lost_scans_are_told_apart(cohort, capsys):
    images = [cohort / f"s{n}.nii.gz" for n in (0, 3, 10, 11)]
    for image in images[2:]:
        image.write_bytes(b"new")
    os.utime(images[0], ns=(1, 1))
    write_manifest(cohort, images)
    found = json.loads(told(cohort, capsys, "--json"))
    assert {name: n for name, n in found["scans"].items() if n} == {
        "finished": 1, "new": 2, "changed": 1
    }  # fmt: skip
    assert found["gone"] == 7
    text = told(cohort, capsys)
    assert "7  left the manifest or were withdrawn: their rows go" in text
    assert f"To segment with {MODEL}: at most 3 scans in 1 of 2 shards and in new ones." in text


def test_a_finished_cohort_needs_no_gpu(cohort, capsys):
    write_manifest(cohort, [cohort / "s0.nii.gz", cohort / "s3.nii.gz"])
    assert f"Nothing to segment with {MODEL}: no GPU is needed." in told(cohort, capsys)


def test_without_results_every_scan_is_new_and_nothing_is_written(tmp_path, capsys):
    (tmp_path / "scans.csv").write_text("scan_id,image\na,a.nii.gz\na,a.nii.gz\nb,b.nii.gz\n")
    found = json.loads(told(tmp_path, capsys, "--json"))
    assert (found["scans"]["new"], found["unusable"], found["shards"]) == (1, 2, 0)
    assert [name for name in found["jobs"] if name.endswith("0000")] == [
        "ingest 0000", "segment 0000", "measure 0000"
    ]  # fmt: skip
    assert not (tmp_path / "results").exists()


def test_jobs_are_told_with_how_many_there_are_and_why(cohort, capsys):
    text = told(cohort, capsys)
    assert "Jobs of the next run: 13." in text
    assert "  ingest       3 of 3  it is not known what it was made of (2); other" in text

"""The whole workflow on simulated scans, with the embedded model: run, killed, grown, shrunk."""

import json
import os
import random
import shutil
import signal
import subprocess
import time
from functools import partial

import pandas as pd
import pytest

import warm
from cohortvol.tools.simulate import run as simulate
from cohortvol.tools.simulate.compare import volumes_against_truth
from workflow_run import REPOSITORY, command, run, tables_of

MODEL = "embedded-v2"
N_SCANS = 17
TABLES = ("volumes.parquet", "scans.parquet")
SETTINGS = {"bad_rows": "quarantine", "shard_size": 5}

snakemake = partial(run, **SETTINGS)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def receipts(results):
    """Bytes of every scan's receipt; they hold the time of segmentation."""
    found = results.glob(f"segment/{MODEL}/*/sub-????.json")
    return {path.name: path.read_bytes() for path in found}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    out = tmp_path_factory.mktemp("source")
    simulate.run(out, n=N_SCANS, seed=11, broken=True)
    return out


@pytest.fixture(scope="module")
def calm(source, tmp_path_factory):
    """Results of an undisturbed run, of which every process was started from nothing."""
    results = tmp_path_factory.mktemp("calm") / "results"
    words = command(source / "manifest.csv", results, **SETTINGS)
    done = subprocess.run(words, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-5000:]
    return results


@pytest.fixture
def copy(calm, tmp_path):
    """The finished results in a folder of the test's own, times of files kept."""
    return shutil.copytree(calm, tmp_path / "results")


def test_every_manifest_row_ends_in_one_state_with_a_reason(source, calm):
    manifest = pd.read_csv(source / "manifest.csv", dtype=str)
    scans = pd.read_parquet(calm / "scans.parquet")
    assert list(scans["scan_id"]) == list(manifest["scan_id"])
    assert set(scans["state"]) == {"done", "quarantined"}
    assert scans.loc[scans["state"] != "done", "reason"].notna().all()
    assert scans.loc[scans["state"] == "done", "reason"].isna().all()


def test_every_planted_fault_has_the_reason_it_should(source, calm):
    scans = pd.read_parquet(calm / "scans.parquet")
    found = scans.groupby("scan_id")["reason"].first()
    expected = {
        "truncated": "SRC_TRUNCATED",
        "bad checksum": "SRC_GZIP_CORRUPT",
        "empty file": "SRC_EMPTY",
        "missing file": "SRC_MISSING",
        "not an image": "SRC_NOT_NIFTI",
        "NaN voxels": "VOX_NONFINITE",
        "conflicting geometry": "GEO_ZOOM_CONFLICT",
        "localizer": "IMG_TOO_FEW_SLICES",
        "constant": "VOX_CONSTANT",
        "duplicate id": "ID_DUPLICATE",
    }
    faults = pd.read_csv(source / "faults.csv").set_index("fault")["scan_id"]
    assert {fault: found[faults[fault]] for fault in expected} == expected
    assert pd.isna(found[faults["missing age"]])
    swapped = scans.set_index("scan_id").loc[faults["fat-water swap"]]
    assert (swapped["state"], swapped["qc"]) == ("done", "exclude")
    assert "QC_FW_SWAP" in swapped["qc_flags"].split(";")


def test_the_report_and_its_figures_are_there(calm):
    page = (calm / "report" / "index.html").read_text()
    assert "and a trend needs 10: no trends with age" in page
    for kind in ("pdf", "svg", "png", "csv"):
        assert list((calm / "report" / "figures").glob(f"*.{kind}")), kind


def test_every_measured_scan_is_drawn_and_stands_in_the_private_table_of_tiles(calm):
    scans = pd.read_parquet(calm / "scans.parquet")
    done = set(scans.loc[scans["state"] == "done", "scan_id"])
    tables = calm.glob(f"measure/{MODEL}/previews/*.parquet")
    drawn = pd.concat([pd.read_parquet(table) for table in tables])
    assert set(drawn["scan_id"]) == done
    assert drawn["png"].notna().all()
    page = (calm / "report" / "index.html").read_text()
    tiles = pd.read_csv(calm / "contact_sheet.csv")
    assert set(tiles["scan_id"]) == done
    assert all(f"<b>{tile}</b>" in page for tile in tiles["tile"])


def test_the_embedded_model_finds_the_organs_of_scans_it_has_not_seen(source, calm):
    accuracy = volumes_against_truth(source, calm).set_index("structure")
    assert (accuracy["dice_mean"] > 0.8).all(), accuracy.to_string()


def test_a_second_run_does_nothing(source, copy):
    before = {path: path.stat().st_mtime_ns for path in copy.rglob("*.parquet")}
    done = snakemake(source / "manifest.csv", copy)
    assert "Nothing to be done" in done.stderr + done.stdout
    assert {path: path.stat().st_mtime_ns for path in copy.rglob("*.parquet")} == before


def test_touching_an_image_segments_nothing(source, copy):
    before = receipts(copy)
    scans = pd.read_parquet(copy / "scans.parquet")
    done = scans.loc[scans["state"] == "done", "scan_id"].iloc[0]
    image = source / "images" / f"{done}.nii.gz"
    dated = image.stat()
    os.utime(image)
    try:
        done_again = snakemake(source / "manifest.csv", copy, tables_of(copy))
    finally:
        os.utime(image, ns=(dated.st_atime_ns, dated.st_mtime_ns))
    assert "rule ingest" in done_again.stderr
    assert receipts(copy) == before


def test_three_new_scans_are_segmented_and_no_old_one(source, copy, tmp_path):
    simulate.run(tmp_path / "more", n=3, seed=12)
    new = pd.read_csv(tmp_path / "more" / "manifest.csv", dtype=str)
    new["scan_id"] = "new-" + new["scan_id"]
    new["image"] = [str(tmp_path / "more" / image) for image in new["image"]]
    old = pd.read_csv(source / "manifest.csv", dtype=str)
    old["image"] = [str(source / image) for image in old["image"]]
    pd.concat([old, new]).to_csv(tmp_path / "manifest.csv", index=False)
    before = receipts(copy)
    snakemake(tmp_path / "manifest.csv", copy, tables_of(copy))
    assert receipts(copy) == before
    added = sorted(path.name for path in copy.glob(f"segment/{MODEL}/*/new-*.json"))
    assert added == [f"new-sub-000{index}.json" for index in (1, 2, 3)]
    scans = pd.read_parquet(copy / "scans.parquet")
    assert (scans["state"] == "done").sum() == len(before) + 3


def test_a_removed_scan_leaves_the_tables_and_nothing_is_segmented(source, copy, tmp_path):
    old = pd.read_csv(source / "manifest.csv", dtype=str)
    old["image"] = [str(source / image) for image in old["image"]]
    scans = pd.read_parquet(copy / "scans.parquet")
    gone = scans.loc[scans["state"] == "done", "scan_id"].iloc[0]
    old[old["scan_id"] != gone].to_csv(tmp_path / "manifest.csv", index=False)
    before = receipts(copy)
    snakemake(tmp_path / "manifest.csv", copy, tables_of(copy))
    assert receipts(copy) == before
    for table in TABLES:
        assert gone not in set(pd.read_parquet(copy / table)["scan_id"])


def test_a_new_title_draws_the_report_and_segments_nothing(source, copy):
    tables = [path for path in copy.rglob("*.parquet") if "report" not in path.parts]
    before = {path: path.stat().st_mtime_ns for path in tables}
    done = snakemake(source / "manifest.csv", copy, report='{"title": "Another title"}')
    assert "No scan was segmented in this run" in done.stderr
    assert "Another title" in (copy / "report" / "index.html").read_text()
    assert {path: path.stat().st_mtime_ns for path in tables} == before


def test_killed_three_times_it_ends_in_the_same_bytes_and_segments_nothing_twice(
    source, calm, tmp_path
):
    results = tmp_path / "results"
    chance = random.Random(3)  # noqa: S311
    wanted = len(receipts(calm))
    seen = {}
    for kill in range(3):
        driver = subprocess.Popen(
            command(source / "manifest.csv", results, tables_of(results), **SETTINGS),
            cwd=REPOSITORY,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        while len(receipts(results)) <= min(kill, wanted - 2) and driver.poll() is None:
            time.sleep(0.05)
        time.sleep(chance.uniform(0, 1.5))
        os.killpg(driver.pid, signal.SIGKILL)
        driver.wait()
        now = receipts(results)
        assert seen.items() <= now.items(), "a finished scan was segmented again"
        seen = now
    snakemake(source / "manifest.csv", results, tables_of(results))
    now = receipts(results)
    assert seen.items() <= now.items(), "a finished scan was segmented again"
    assert len(now) == wanted
    for table in TABLES:
        assert (results / table).read_bytes() == (calm / table).read_bytes(), table
    for table in calm.glob(f"measure/{MODEL}/previews/*.parquet"):
        assert (results / table.relative_to(calm)).read_bytes() == table.read_bytes(), table


def test_status_counts_what_the_tables_hold(calm):
    done = warm.run("cohortvol", "status", "--results", calm, "--json", cwd=REPOSITORY)
    assert done.returncode == 3, done.stderr
    scans = pd.read_parquet(calm / "scans.parquet")
    assert json.loads(done.stdout)["states"]["done"] == (scans["state"] == "done").sum()


def test_decisions_assemble_and_report_again_and_measure_nothing(source, copy, tmp_path):
    scans = pd.read_parquet(copy / "scans.parquet")
    shown = scans.loc[(scans["state"] == "done") & (scans["qc"] != "exclude"), "scan_id"].iloc[0]
    table = tmp_path / "decisions.csv"
    head = "scan_id,structure,decision,reviewer,date,note"
    table.write_text(f"{head}\n{shown},,exclude,ab,2026-11-20,blurred\n")
    kept = [copy / stage for stage in ("ingest", "segment", "measure")]
    before = {path: path.stat().st_mtime_ns for stage in kept for path in stage.rglob("*.parquet")}
    snakemake(source / "manifest.csv", copy, decisions=table)
    after = pd.read_parquet(copy / "scans.parquet").set_index("scan_id")
    assert after.loc[shown, ["qc", "review"]].tolist() == ["exclude", "exclude"]
    assert after.loc[shown, "qc_auto"] != "exclude"
    assert "1 scan excluded" in (copy / "report" / "index.html").read_text()
    table.write_text(f"{head}\n{shown},,accept,ab,2026-11-21,sharp after all\n")
    snakemake(source / "manifest.csv", copy, decisions=table, report="{public: true}")
    assert "Made to be passed on" in (copy / "report" / "index.html").read_text()
    after = pd.read_parquet(copy / "scans.parquet").set_index("scan_id")
    assert after.loc[shown, "review"] == "accept"
    assert {path: path.stat().st_mtime_ns for path in before} == before

"""BIDS in, keys through, BIDS out: the whole workflow, with ids that must not come out again."""

import csv
import json
import re
import shutil
import time

import pandas as pd
import pytest

import dicom_fixture
import warm
from bids_fixture import people, write_dataset
from cohortvol.store.keys import keys_of_scans
from planted import found_in, written
from workflow_run import REPOSITORY, run

CANARY = re.compile(rb"CANARY|Kanarienv|\xe9\x9b\x80")
ODD = ["CANARY/../Doe", 'O\'CANARY "x" $(rm) *\nKanarienvo\u0308gel', "雀" * 100]
"""Ids of a plain manifest; the first two are NIfTI, the last is DICOM."""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def snakemake(*words, **settings):
    done = run(*words, **settings)
    return done.stdout + done.stderr


def cohortvol(*words):
    done = warm.run("cohortvol", *words, cwd=REPOSITORY)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def images(simulated, tmp_path_factory):
    folder = tmp_path_factory.mktemp("simulated")
    simulated(folder, 3)
    return sorted((folder / "images").glob("*.nii.gz"))


@pytest.fixture(scope="module")
def dataset(images, tmp_path_factory):
    """Two subjects with a scan, one of them with a session; one without row, one without image."""
    names = [
        "sub-CANARYa/anat/sub-CANARYa_T2w.nii.gz",
        "sub-CANARYb/ses-CANARYv/anat/sub-CANARYb_ses-CANARYv_run-1_T1w.nii.gz",
        "sub-CANARYc/anat/sub-CANARYc_T1w.nii.gz",
    ]
    files = {
        "participants.tsv": people(
            ("sub-CANARYa", 48, "F"), ("sub-CANARYb", 60, "male"), ("sub-CANARYd", 70, "M")
        ),
        "T2w.json": {"MagneticFieldStrength": 1.5, "PatientName": "CANARY"},
        **{name: image.read_bytes() for name, image in zip(names, images, strict=True)},
    }
    return write_dataset(tmp_path_factory.mktemp("data") / "bids", files)


@pytest.fixture(scope="module")
def plain(dataset, tmp_path_factory):
    """Results of the dataset under its own names."""
    results = tmp_path_factory.mktemp("plain") / "results"
    assert "checkpoint manifest" in snakemake(dataset, results, "--dry-run")
    assert not results.exists()
    snakemake(dataset, results)
    return results


@pytest.fixture(scope="module")
def hashed(images, tmp_path_factory):
    """Results of a table with ids that are refused without keys, and when the run began."""
    folder = tmp_path_factory.mktemp("table")
    given = [shutil.copy(image, folder / f"CANARY{n}.nii.gz") for n, image in enumerate(images[:2])]
    given.append(dicom_fixture.write_series(folder / "CANARY series"))
    with (folder / "manifest.csv").open("w", newline="", encoding="utf-8") as stream:
        rows = csv.writer(stream)
        rows.writerow(["scan_id", "image", "subject_id", "session_id", "age_years", "sex"])
        rows.writerows(
            [scan_id, image, f"CANARY {n}", "CANARY visit", 50, "F"]
            for n, (scan_id, image) in enumerate(zip(ODD, given, strict=True))
        )
        rows.writerow(["CANARY bad", "CANARY.nii", "", "", "CANARY", "F"])
    began = time.time()
    results = folder / "results"
    snakemake(folder / "manifest.csv", results, hash_ids="true", bad_rows="quarantine")
    return results, began


def test_a_dataset_goes_through_and_every_participant_has_one_state(plain):
    scans = pd.read_parquet(plain / "scans.parquet").set_index("scan_id")
    assert scans["state"].to_dict() == {
        "sub-CANARYa_T2w": "done",
        "sub-CANARYb_ses-CANARYv_run-1_T1w": "done",
        "sub-CANARYc_T1w": "skipped",
        "sub-CANARYd": "quarantined",
    }
    assert scans.loc["sub-CANARYa_T2w", "field_strength_t"] == 1.5
    assert scans.loc["sub-CANARYb_ses-CANARYv_run-1_T1w", "sex"] == "M"


def test_a_second_run_of_a_dataset_does_nothing_until_a_scan_is_added(plain, dataset, tmp_path):
    assert "Nothing to be done" in snakemake(dataset, plain)
    new = dataset / "sub-CANARYd/anat/sub-CANARYd_T1w.nii.gz"
    new.parent.mkdir(parents=True)
    new.write_bytes(b"")
    try:
        told = snakemake(dataset, plain, "--dry-run")
    finally:
        shutil.rmtree(new.parents[1])
    assert "checkpoint manifest" in told
    assert "manifest or withdrawals changed" in told


def test_a_folder_that_is_no_dataset_is_a_short_message(tmp_path):
    done = run(tmp_path, tmp_path / "results", code=64)
    assert "without dataset_description.json" in done.stderr
    assert "Traceback" not in done.stderr


def test_derivatives_of_a_dataset_keep_its_names(plain, tmp_path):
    cohortvol("bids-derivatives", "--results", plain, "--out", tmp_path / "out")
    found = {str(path.relative_to(tmp_path / "out")) for path in tmp_path.rglob("*_dseg.nii.gz")}
    stem = "sub-CANARYb/ses-CANARYv/anat/sub-CANARYb_ses-CANARYv_run-1_space-T1w"
    assert found == {
        "sub-CANARYa/anat/sub-CANARYa_space-T2w_seg-embeddedv2_dseg.nii.gz",
        f"{stem}_seg-embeddedv2_dseg.nii.gz",
    }


def test_odd_ids_and_dicom_are_measured_under_keys(hashed):
    results, _ = hashed
    scans = pd.read_parquet(results / "scans.parquet").set_index("scan_id")
    keys = keys_of_scans(results)
    assert set(keys.values()) == set(scans.index)
    assert (scans["state"] == "done").sum() == 3
    bad = scans.loc[keys["CANARY bad"]]
    assert (bad["state"], bad["reason"]) == ("quarantined", "CLN_AGE_UNPARSED")
    found = json.loads(cohortvol("explain", ODD[0], "--results", results, "--json"))
    assert (found["scan_id"], found["state"]) == (keys[ODD[0]], "done")


def test_no_id_stands_in_any_byte_but_in_the_private_folder(hashed):
    results, began = hashed
    cohortvol("bids-derivatives", "--results", results, "--out", results / "derivatives")
    files = written(results, began)
    private = [path for path in files if results / "private" in path.parents]
    public = [path for path in files if path not in private]
    assert len(public) > 50
    assert not [path for path in public if found_in(CANARY, path)]
    assert [path.name for path in private if found_in(CANARY, path)] == ["ids.csv"]

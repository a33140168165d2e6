"""A cohort of every fault at once, with strings planted that must not come out again."""

import csv
import gzip
import re
import time

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

import dicom_fixture
import nifti_files
from planted import found_in, written
from workflow_run import run

N_GOOD = 3
HEADER_CANARIES = ("CANARYDESCRIP", "CANARYAUX", "CANARYDB", "CANARYINTENT", "CANARYEXTENSION")
PATH_CANARY = "CANARYPATH"
CANARY = re.compile(rb"CANARY[-A-Z]*|19610203")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def expected(simulated, tmp_path_factory):
    """scan_id to (image, reason); no reason for a scan that must be done."""
    folder = tmp_path_factory.mktemp("source") / PATH_CANARY
    simulated(folder / "simulated", N_GOOD)
    images = sorted((folder / "simulated").rglob("*.nii.gz"))[:N_GOOD]
    scans = {f"good-{n}": (with_canaries(image), None) for n, image in enumerate(images)}
    scans["good-dicom"] = (dicom_fixture.write_series(folder / "series"), None)
    for kind, faults in (("nifti", nifti_files.FAULTS), ("dicom", dicom_fixture.FAULTS)):
        for n, (reason, _, make) in enumerate(faults):
            own = folder / f"{kind}-{n:03d}"
            if kind == "nifti":
                own.mkdir()
            scans[own.name] = (make(own), reason)
    return scans


@pytest.fixture(scope="module")
def finished(expected, tmp_path_factory):
    """Results folder, and when the run began."""
    folder = tmp_path_factory.mktemp("run")
    with (folder / "manifest.csv").open("w", newline="") as stream:
        rows = csv.writer(stream)
        rows.writerow(["scan_id", "image", "age_years", "sex"])
        rows.writerows([name, image, 50, "F"] for name, (image, _) in expected.items())
    began = time.time()
    run(folder / "manifest.csv", folder / "results", shard_size=20)
    return folder / "results", began


def with_canaries(image):
    """The image with text in every place of its header that holds some."""
    loaded = nib.load(image)
    header = loaded.header
    header["descrip"], header["aux_file"] = "CANARYDESCRIP", "CANARYAUX"
    header["db_name"], header["intent_name"] = "CANARYDB", "CANARYINTENT"
    header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"CANARYEXTENSION"))
    nib.save(nib.Nifti1Image(np.asanyarray(loaded.dataobj), loaded.affine, header), image)
    assert set(re.findall(rb"CANARY[A-Z]+", gzip.decompress(image.read_bytes()))) == {
        text.encode() for text in HEADER_CANARIES
    }
    return image


def test_every_row_ends_in_one_state_with_the_reason_it_should(expected, finished):
    results, _ = finished
    scans = pd.read_parquet(results / "scans.parquet").set_index("scan_id")
    assert list(scans.index) == list(expected)
    found = {name: reason if isinstance(reason, str) else None for name, reason in
             scans["reason"].items()}  # fmt: skip
    assert found == {name: reason for name, (_, reason) in expected.items()}
    good = scans.index.str.startswith("good")
    assert (scans.loc[good, "state"] == "done").all()
    assert scans.loc[~good, "state"].isin(["quarantined", "skipped"]).all()


def test_no_scan_leaves_a_traceback(finished):
    results, _ = finished
    logs = list(results.rglob("*.log"))
    assert logs
    assert not [log for log in logs if "Traceback" in log.read_text()]


def test_a_broken_scan_has_no_number(expected, finished):
    results, _ = finished
    volumes = pd.read_parquet(results / "volumes.parquet")
    measured = set(volumes.loc[volumes["volume_ml"].notna(), "scan_id"])
    assert measured <= {name for name, (_, reason) in expected.items() if reason is None}


def test_nothing_planted_comes_out_but_the_paths_that_stages_read(finished):
    results, began = finished
    hits = {path: found for path in written(results, began) if (found := found_in(CANARY, path))}
    private = [*results.glob("manifest/**/*.parquet"), *results.glob("ingest/*.parquet")]
    assert set(hits) <= set(private)
    assert set().union(*hits.values()) == {PATH_CANARY.encode()}  # so the search does find


def test_no_scan_is_named_in_the_report(expected, finished):
    results, _ = finished
    text = b"".join(path.read_bytes() for path in (results / "report").rglob("*.html"))
    assert not [name for name in expected if name.encode() in text]

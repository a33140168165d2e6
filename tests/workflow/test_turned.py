"""A scan whose header lies: left out with what it looks like, until a person accepts it."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from cohortvol.models.orientation import look
from cohortvol.store.schemas import SCANS
from cohortvol.store.tables import read_table
from workflow_run import run

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

BACKWARDS = "mirrored front to back"


@pytest.fixture(scope="module")
def source(simulated, tmp_path_factory):
    """Six scans, of one that can be told the voxels mirrored and the header as it was."""
    out = tmp_path_factory.mktemp("source")
    simulated(out, 6)
    for scan in pd.read_csv(out / "manifest.csv")["scan_id"]:
        path = out / "images" / f"{scan}.nii.gz"
        image = nib.load(path)
        axis = [code in "AP" for code in nib.aff2axcodes(image.affine)].index(True)
        mirrored = np.flip(np.asanyarray(image.dataobj), axis)
        if look(mirrored, image.affine).is_turned:
            nib.save(nib.Nifti1Image(mirrored, image.affine, image.header), path)
            (out / "turned.txt").write_text(scan)
            return out
    raise AssertionError("none of the scans can be told from its mirror image")


def test_a_mirrored_scan_enters_no_result_until_a_person_accepts_it(source, tmp_path):
    scan, results = (source / "turned.txt").read_text(), tmp_path / "results"
    run(source / "manifest.csv", results)
    row = read_table(results / "scans.parquet", SCANS).set_index("scan_id").loc[scan]
    assert (row["state"], row["qc"], row["body_orientation"]) == ("done", "exclude", BACKWARDS)
    assert "QC_ORIENTATION" in row["qc_flags"]
    dropped = pd.read_csv(results / "analyse" / "dropped.csv")
    assert (dropped.query("reason == 'scan failed QC'")["n"] == 1).all()
    assert BACKWARDS in (results / "report" / "index.html").read_text(encoding="utf-8")

    decisions = tmp_path / "decisions.csv"
    head = "scan_id,structure,decision,reviewer,date,note"
    decisions.write_text(f"{head}\n{scan},*,accept,KL,2026-11-29,situs inversus\n")
    run(source / "manifest.csv", results, decisions=decisions)
    row = read_table(results / "scans.parquet", SCANS).set_index("scan_id").loc[scan]
    assert (row["qc"], row["qc_auto"]) == ("pass", "exclude")
    assert row["body_orientation"] == BACKWARDS
    dropped = pd.read_csv(results / "analyse" / "dropped.csv")
    assert dropped.query("reason == 'scan failed QC'").empty

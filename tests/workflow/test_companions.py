"""Fat fractions of a cohort, with label maps made elsewhere, through the real workflow."""

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from cohortvol import cli
from cohortvol.tools.verify.folder import verify
from workflow_run import run, tables_of

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

NAMES = {1: "liver", 2: "kidney_right", 3: "kidney_left", 4: "spleen"}
PLANTED = {"sub-0001": 3.0, "sub-0002": 11.5, "sub-0003": 27.0}
"""Fat fractions of livers, %."""


def write_fat_fraction(source, scan_id, liver_pct, shift_mm=0.0):
    """A map in tenths of a percent, with noise: the liver, other organs 2 %, what is left 60 %."""
    drawn = nib.load(source / "labels" / f"{scan_id}.nii.gz")
    labels = np.asarray(drawn.dataobj)
    percent = np.select([labels == 1, labels > 0], [liver_pct, 2.0], 60.0)
    noise = np.random.default_rng(len(scan_id)).normal(0, 2, labels.shape)
    tenths = np.rint(10 * np.abs(percent + noise)).astype(np.int16)
    affine = drawn.affine.copy()
    affine[2, 3] += shift_mm
    path = source / "maps" / f"{scan_id}_ff.nii.gz"
    path.parent.mkdir(exist_ok=True)
    nib.save(nib.Nifti1Image(tenths, affine), path)


@pytest.fixture
def source(simulated, tmp_path):
    """Three simulated scans with a label map and a map of the fat fraction each."""
    simulated(tmp_path, 3)
    table = pd.DataFrame({"label": NAMES.keys(), "structure": NAMES.values()})
    table.to_csv(tmp_path / "labels.csv", index=False)
    words = ["models", "label-table", str(tmp_path / "labels.csv"), "--id", "drawn"]
    assert cli.run([*words, "--models-dir", str(tmp_path / "models")]) == 0
    for scan_id, liver_pct in PLANTED.items():
        write_fat_fraction(tmp_path, scan_id, liver_pct)
    rows = pd.read_csv(tmp_path / "manifest.csv", dtype=str)
    rows["dseg"] = "labels/" + rows["scan_id"] + ".nii.gz"
    rows["companion_fat_fraction"] = "maps/" + rows["scan_id"] + "_ff.nii.gz"
    rows.to_csv(tmp_path / "scans.csv", index=False)
    return tmp_path


def test_fat_fractions_stand_beside_volumes_and_follow_what_they_were_made_of(source):
    results = source / "results"
    settings = {
        "model": source / "models" / "drawn",
        "companions": "{fat_fraction: {factor: 0.1}}",
        "keep_label_maps": "false",
    }

    def livers(**more):
        run(source / "scans.csv", results, tables_of(results), **settings, **more)
        table = pd.read_parquet(results / "companions.parquet")
        assert table["companion"].eq("fat_fraction").all()
        assert table["unit"].eq("%").all()
        return table[table["structure"] == "liver"].set_index("scan_id")

    found = livers()
    assert np.abs(found["median"] - pd.Series(PLANTED)).max() < 0.5
    assert np.abs(found["mean"] - pd.Series(PLANTED)).max() < 0.5
    volumes = pd.read_parquet(results / "volumes.parquet")
    assert "companions" not in volumes
    of_livers = volumes[volumes["structure"] == "liver"].set_index("scan_id")
    pd.testing.assert_series_equal(found["n_voxels"], of_livers["n_voxels"])

    write_fat_fraction(source, "sub-0002", 40.0)
    write_fat_fraction(source, "sub-0003", PLANTED["sub-0003"], shift_mm=9.0)
    again = livers()
    assert abs(again.loc["sub-0002", "median"] - 40) < 0.5
    assert again.loc["sub-0003", "reason"] == "IMG_COMPANION_GRID"
    assert np.isnan(again.loc["sub-0003", "median"])
    pd.testing.assert_series_equal(again.loc["sub-0001"], found.loc["sub-0001"])
    pd.testing.assert_frame_equal(pd.read_parquet(results / "volumes.parquet"), volumes)
    flags = pd.read_parquet(results / "scans.parquet").set_index("scan_id")["qc_flags"].fillna("")
    assert flags.str.contains("W_COMPANION_UNUSED").tolist() == [False, False, True]

    (source / "gone.txt").write_text("sub-0002\n")
    assert livers(withdrawals=source / "gone.txt").index.tolist() == ["sub-0001", "sub-0003"]
    problems = [one.path for one in verify(results, deep=True)["problems"]]
    assert not [path for path in problems if not path.startswith(("analyse", "report"))]

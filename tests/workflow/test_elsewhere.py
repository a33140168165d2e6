"""A cohort of label maps that were made elsewhere, through the real workflow and without a GPU."""

import shutil

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from cohortvol import cli
from cohortvol.tools.verify.folder import verify
from workflow_run import run, tables_of

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

NAMES = {1: "liver", 2: "kidney_right", 3: "kidney_left", 4: "spleen"}


@pytest.fixture
def source(simulated, tmp_path):
    """Three simulated scans; of the second the label map is a file per structure."""
    simulated(tmp_path, 3)
    table = pd.DataFrame({"label": NAMES.keys(), "structure": NAMES.values()})
    table.to_csv(tmp_path / "labels.csv", index=False)
    words = ["models", "label-table", str(tmp_path / "labels.csv"), "--id", "drawn"]
    assert cli.run([*words, "--models-dir", str(tmp_path / "models")]) == 0
    whole = nib.load(tmp_path / "labels" / "sub-0002.nii.gz")
    voxels = np.asarray(whole.dataobj)
    for label, name in NAMES.items():
        place = tmp_path / "labels" / "sub-0002" / f"{name}.nii.gz"
        place.parent.mkdir(exist_ok=True)
        nib.save(nib.Nifti1Image((voxels == label).astype(np.uint8), whole.affine), place)
    rows = pd.read_csv(tmp_path / "manifest.csv", dtype=str)
    rows["dseg"] = "labels/" + rows["scan_id"] + [".nii.gz", "", ".nii.gz"]
    rows.to_csv(tmp_path / "scans.csv", index=False)
    return tmp_path


def receipts(results):
    return {path.stem: path.read_bytes() for path in results.glob("segment/drawn/*/sub-*.json")}


def test_label_maps_made_elsewhere_become_volumes_and_a_change_is_seen(source, capsys):
    results = source / "results"
    settings = {"model": source / "models" / "drawn"}

    def snakemake(*words):
        return run(source / "scans.csv", results, *words, **settings)

    snakemake(tables_of(results))
    volumes = pd.read_parquet(results / "volumes.parquet").set_index(["scan_id", "structure"])
    assert set(volumes["profile"]) == {"elsewhere"}
    for scan_id in ("sub-0001", "sub-0002", "sub-0003"):
        drawn = nib.load(source / "labels" / f"{scan_id}.nii.gz")
        voxel_ml = abs(np.linalg.det(drawn.affine[:3, :3])) / 1000
        for label, name in NAMES.items():
            n_voxels = int((np.asarray(drawn.dataobj) == label).sum())
            assert volumes.loc[(scan_id, name), "n_voxels"] == n_voxels
            assert volumes.loc[(scan_id, name), "volume_ml"] == pytest.approx(n_voxels * voxel_ml)
    before = receipts(results)
    assert len(before) == 3

    table = str(results / "segment" / "drawn" / "0000.parquet")
    told = snakemake(table, "--dry-run", "--profile", "slurm", "--forcerun", "segment")
    planned = (told.stdout + told.stderr).split("rule segment:")[1]
    assert "gpu=0" in planned
    assert "gpu=1" not in planned

    words = ["plan", "--manifest", source / "scans.csv", "--results", results]
    changed = source / "labels" / "sub-0002" / "liver.nii.gz"
    shutil.copy(source / "labels" / "sub-0002" / "spleen.nii.gz", changed)
    assert cli.run([*map(str, words), "--model", str(settings["model"])]) == 0
    shown = capsys.readouterr().out
    assert "images of another size or time: 1" in shown
    assert "1  have another image or label map" in shown
    snakemake(tables_of(results))
    after = receipts(results)
    assert {name for name in before if before[name] != after[name]} == {"sub-0002"}
    states = pd.read_parquet(results / "scans.parquet").set_index("scan_id")
    assert states.loc["sub-0002", ["state", "reason"]].tolist() == ["quarantined", "DSEG_OVERLAP"]
    found = [one.path for one in verify(results, deep=True)["problems"]]
    assert not [path for path in found if not path.startswith(("analyse", "report"))]

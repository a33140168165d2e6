"""Finished label maps as BIDS derivatives: names of the standard, whole files, nothing stale."""

import csv
import json
import re

import numpy as np
import pandas as pd
import pytest

from cohortvol.anatomy.nifti import nifti_gz
from cohortvol.errors import ConfigError
from cohortvol.store.files import sha256_of
from cohortvol.store.schemas import MANIFEST, SCANS, VOLUMES
from cohortvol.store.tables import append_rows, write_table
from cohortvol.tools import derivatives
from cohortvol.tools.derivatives.names import names_of

MODEL = "my-v1"
IDS = {
    "sub-01_ses-a_run-2_acq-x_T2w": "sub-01/ses-a/anat/sub-01_ses-a_acq-x_run-2_space-T2w_seg-myv1",
    "sub-01_T1w": "sub-01/anat/sub-01_space-T1w_seg-myv1",
    "sub-01_inv-1_part-mag_MP2RAGE": "sub-01/anat/sub-01_part-mag_space-MP2RAGE_seg-myv1_desc-inv1",
    "007_x": "sub-007x/anat/sub-007x_seg-myv1",
    "s_0123456789abcdef": "sub-s0123456789abcdef/anat/sub-s0123456789abcdef_seg-myv1",
}  # fmt: skip
BROKEN = "sub-02_T1w"


class Results:
    """A results folder with label maps; `states` by scan_id may be changed before `write`."""

    def __init__(self, folder, ids=tuple(IDS)):
        self.folder = folder
        self.states = dict.fromkeys(ids, "done") | {BROKEN: "quarantined"}

    def write(self):
        shard = f"segment/{MODEL}/0000"
        (self.folder / shard).mkdir(parents=True, exist_ok=True)
        (self.folder / shard / "dseg.tsv").write_text("index\tname\n1\tliver\n2\tmade_up\n")
        scans, volumes, manifest = [], [], []
        for number, (scan_id, state) in enumerate(self.states.items()):
            subject = scan_id.partition("_")[0]
            image = f"/data/{subject}/anat/{scan_id}.nii.gz"
            manifest.append({"scan_id": scan_id, "subject_id": subject, "image": image})
            scan = {"manifest_line": number + 2, "scan_id": scan_id, "state": state}
            scan |= {"subject_id": subject, "qc_flags": "QC_OUTLIER"}
            if state == "done":
                path = self.folder / shard / f"{scan_id}_dseg.nii.gz"
                path.write_bytes(nifti_gz(np.full((4, 4, 4), number, np.uint8), np.eye(4)))
                scan |= {"label_map": f"{shard}/{path.name}", "label_map_sha256": sha256_of(path)}
                scan |= {"model": MODEL, "profile": "p", "segmentation_key": "k", "qc": "flag"}
                scan |= {"cohortvol_version": "9.9"}
            scans.append(scan)
            row = {"scan_id": scan_id, "structure": "liver", "label": 1, "volume_ml": 1500.5}
            volumes.append(row | {"n_voxels": 7, "status": "ok", "qc": "pass", "cut_by_fov": False})
            absent = {"scan_id": scan_id, "structure": "kidneys", "status": "absent"}
            volumes.append(absent | {"qc": "exclude"})
        write_table(self.folder / "scans.parquet", append_rows(scans, SCANS), SCANS)
        write_table(self.folder / "volumes.parquet", append_rows(volumes, VOLUMES), VOLUMES)
        table = append_rows(manifest, MANIFEST)
        write_table(self.folder / "manifest/scans.parquet", table, MANIFEST)
        return self.folder


@pytest.fixture
def results(tmp_path):
    return Results(tmp_path / "results")


def files_of(out):
    return {str(path.relative_to(out)): path for path in out.rglob("*") if path.is_file()}


def content_of(out):
    return {name: path.read_bytes() for name, path in files_of(out).items()}


def test_every_scan_that_is_done_has_its_three_files_and_no_other_has(results, tmp_path):
    assert derivatives.run(results.write(), tmp_path / "out") == 0
    ends = ("_dseg.nii.gz", "_dseg.json", "_morph.tsv")
    of_scans = {name for name in files_of(tmp_path / "out") if name.startswith("sub-")}
    assert of_scans == {stem + end for stem in IDS.values() for end in ends}
    for scan_id, stem in IDS.items():
        label_map = results.folder / f"segment/{MODEL}/0000/{scan_id}_dseg.nii.gz"
        assert (tmp_path / "out" / f"{stem}_dseg.nii.gz").samefile(label_map)
        about = json.loads((tmp_path / "out" / f"{stem}_dseg.json").read_text())
        assert about["ScanId"] == scan_id


ORDER = "sub ses task acq ce rec run echo part space chunk seg desc".split()
"""Of the entities that rules/files/deriv/imaging.yaml of the standard's schema (1.11) allows for
``anat_discrete_segmentation``, those that we write, in the order of rules/entities.yaml."""


@pytest.mark.parametrize(
    "scan_id",
    [
        *IDS,
        "sub-1_chunk-2_echo-1_rec-x_ce-gd_task-rest_run-1_T1w",
        "sub-1_ses-2_flip-1_mt-on_space-MNI_desc-preproc_MTS",
    ],
)
def test_entities_stand_in_the_order_of_the_standard(scan_id):
    done = pd.DataFrame({"scan_id": [scan_id]})
    stem = names_of(done, "m")[scan_id].stem
    pairs = [part.split("-") for part in stem.split("_")]
    assert all(len(pair) == 2 and re.fullmatch("[0-9A-Za-z+]+", pair[1]) for pair in pairs)
    places = [ORDER.index(key) for key, _ in pairs]
    assert places == sorted(set(places))


def test_tables_name_labels_by_code_and_missing_is_na(results, tmp_path):
    derivatives.run(results.write(), tmp_path / "out")
    with open(tmp_path / "out/dseg.tsv", newline="") as stream:
        labels = list(csv.DictReader(stream, delimiter="\t"))
    assert labels == [
        {"index": "1", "name": "liver", "snomed_code": "10200004", "laterality": "none"},
        {"index": "2", "name": "made_up", "snomed_code": "n/a", "laterality": "n/a"},
    ]
    with open(tmp_path / "out" / f"{IDS['sub-01_T1w']}_morph.tsv", newline="") as stream:
        liver, kidneys = csv.DictReader(stream, delimiter="\t")
    assert (liver["index"], liver["volume_ml"], liver["cut_by_fov"]) == ("1", "1500.5", "false")
    assert (kidneys["index"], kidneys["volume_ml"], kidneys["n_voxels"]) == ("n/a",) * 3


def test_the_dataset_says_what_made_it_and_what_it_was_made_of(results, tmp_path):
    derivatives.run(results.write(), tmp_path / "out", source="doi:10.1/x")
    about = json.loads((tmp_path / "out/dataset_description.json").read_text())
    assert about["DatasetType"] == "derivative"
    assert about["GeneratedBy"][0]["Version"] == "9.9"
    assert MODEL in about["GeneratedBy"][0]["Description"]
    assert about["SourceDatasets"] == [{"DOI": "doi:10.1/x"}]
    sidecar = json.loads((tmp_path / "out" / f"{IDS['sub-01_T1w']}_dseg.json").read_text())
    assert sidecar["Sources"] == ["bids:source:sub-01/anat/sub-01_T1w.nii.gz"]


def test_no_path_is_told_without_a_source(results, tmp_path):
    derivatives.run(results.write(), tmp_path / "out")
    text = b"".join(content for name, content in content_of(tmp_path / "out").items()
                    if not name.endswith(".gz"))  # fmt: skip
    assert b"/data" not in text
    assert str(tmp_path).encode() not in text


def test_a_second_run_changes_nothing_and_two_folders_are_equal(results, tmp_path):
    derivatives.run(results.write(), tmp_path / "out")
    before = {path: path.stat().st_mtime_ns for path in files_of(tmp_path / "out").values()
              if "sub-" in str(path)}  # fmt: skip
    derivatives.run(results.folder, tmp_path / "out")
    assert {path: path.stat().st_mtime_ns for path in before} == before
    derivatives.run(results.folder, tmp_path / "copy", copy=True)
    assert content_of(tmp_path / "out") == content_of(tmp_path / "copy")


def test_a_copy_is_no_link_and_a_link_can_become_one(results, tmp_path):
    place = tmp_path / "out" / f"{IDS['007_x']}_dseg.nii.gz"
    derivatives.run(results.write(), tmp_path / "out")
    assert place.stat().st_nlink == 2
    derivatives.run(results.folder, tmp_path / "out", copy=True)
    assert place.stat().st_nlink == 1


def test_where_there_are_no_links_it_copies(results, tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr("os.link", refuse)
    assert derivatives.run(results.write(), tmp_path / "out") == 0
    place = tmp_path / "out" / f"{IDS['007_x']}_dseg.nii.gz"
    assert place.stat().st_nlink == 1
    assert not [name for name in files_of(tmp_path / "out") if name.endswith(".tmp")]


def test_a_scan_that_is_done_no_more_is_taken_away_and_nothing_else(results, tmp_path):
    out = tmp_path / "out"
    derivatives.run(results.write(), out)
    own = out / "sub-01" / "anat" / "notes.txt"
    own.write_text("mine")
    results.states |= {"sub-01_T1w": "failed", "007_x": "failed"}
    derivatives.run(results.write(), out)
    assert not list((out / "sub-01/anat").glob("*space-T1w*"))
    assert own.read_text() == "mine"
    assert not (out / "sub-007x").exists()
    assert (out / "sub-s0123456789abcdef").exists()


@pytest.mark.parametrize("fault", ["changed", "missing"])
def test_a_label_map_that_is_not_what_the_table_says_is_not_written(results, tmp_path, fault):
    path = results.write() / f"segment/{MODEL}/0000/007_x_dseg.nii.gz"
    path.unlink()
    if fault == "changed":
        path.write_bytes(b"other")
    assert derivatives.run(results.folder, tmp_path / "out") == 1
    assert not [name for name in files_of(tmp_path / "out") if "007" in name]


def test_scans_that_would_share_a_name_are_refused_together(tmp_path):
    with pytest.raises(ConfigError, match="a_1, a-1"):
        derivatives.run(Results(tmp_path / "r", ("a_1", "a-1", "b")).write(), tmp_path / "out")


def test_a_folder_that_holds_something_else_is_left_alone(results, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "data.txt").write_text("mine")
    with pytest.raises(ConfigError, match="holds something else"):
        derivatives.run(results.write(), tmp_path / "out")
    assert list(files_of(tmp_path / "out")) == ["data.txt"]


def test_results_without_a_finished_scan_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="no scan is done"):
        derivatives.run(Results(tmp_path / "r", ()).write(), tmp_path / "out")

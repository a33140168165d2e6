"""Zips and tars of images: the same voxels as of the folder, and nothing left behind."""

from __future__ import annotations

import gzip
import json

import nibabel as nib
import numpy as np
import pytest

from archive_fixture import ENDS, files_of, packed, reason_of, small
from cohortvol.errors import ScanError, TemporaryError
from cohortvol.stages.ingest import archive
from cohortvol.stages.manifest.folder import from_folder
from cohortvol.stages.manifest.shards import changed, file_facts
from cohortvol.store.keys import Keys
from cohortvol.store.removals import names_of_image
from cohortvol.store.schemas import SERIES
from cohortvol.store.tables import read_table
from cohortvol.tools.dicom_seg.source import Chosen, find_slices
from dicom_converted import ingested


@pytest.mark.parametrize("end", ENDS)
def test_an_archive_of_a_session_gives_the_voxels_and_the_rows_of_its_folder(
    tmp_path, session, end
):
    path = packed(tmp_path / f"person{end}", files_of(session))
    images = {"a": session, "b": path}
    table, out = ingested(tmp_path, images, dixon=("water",))
    assert set(table["state"]) == {"ready"}
    ours = table.drop(columns=["image"])
    assert ours.loc["a"].equals(ours.loc["b"]), ours.T
    series = read_table(out.parent / "series" / out.name, SERIES)
    series = series.sort_values("series", ignore_index=True)  # largest first, then by file names
    listed = [rows.drop(columns="scan_id") for _, rows in series.groupby("scan_id")]
    assert listed[0].to_csv(index=False) == listed[1].to_csv(index=False)
    assert listed[1]["n_images"].sum() == 25
    folder, from_zip = (nib.load(table.loc[name, "image"]) for name in "ab")
    np.testing.assert_array_equal(folder.dataobj, from_zip.dataobj)


def test_only_files_that_are_used_are_laid_on_the_disk(tmp_path, session, monkeypatch):
    laid = []
    lay = archive.Archive.lay
    monkeypatch.setattr(
        archive.Archive, "lay", lambda self, paths: laid.append(len(paths)) or lay(self, paths)
    )
    path = packed(tmp_path / "person.tar.gz", files_of(session))
    table, _ = ingested(tmp_path, {"a": path}, dixon=("fat",))
    assert (table.loc["a", "state"], laid) == ("ready", [12])


def test_all_channels_of_a_model_come_out_of_one_archive(tmp_path, session):
    path = packed(tmp_path / "person.zip", files_of(session))
    table, _ = ingested(tmp_path, {"a": session, "b": path}, channels=("water", "fat"))
    assert set(table["state"]) == {"ready"}
    assert table["voxels_sha256"].nunique() == 1


def nifti_bytes(seed=0, packed_as=gzip.compress):
    voxels = np.random.default_rng(seed).integers(0, 1000, (40, 36, 12)).astype(np.int16)
    image = nib.Nifti1Image(voxels, np.diag([2.0, 2.0, 5.0, 1.0]))
    image.header.set_xyzt_units("mm")
    return packed_as(image.to_bytes())


@pytest.mark.parametrize("end", ENDS)
def test_a_nifti_image_in_an_archive_is_read_with_its_sidecar(tmp_path, end):
    content, said = nifti_bytes(), json.dumps({"AcquisitionTime": "10:30:00"}).encode()
    plain = tmp_path / "plain.nii.gz"
    plain.write_bytes(content)
    plain.with_name("plain.json").write_bytes(said)
    path = packed(
        tmp_path / f"person{end}",
        [("x/t1.json", said), ("x/t1.nii.gz", content), ("readme.txt", b"?"), ("x/._t1.nii", b"?")],
    )
    table, out = ingested(tmp_path, {"a": plain, "b": path})
    assert set(table["state"]) == {"ready"}
    same = ["voxels_sha256", "header_time_of_day_h", "intensity_max", "warnings", "n_slices"]
    same = [name for name in same if name in table]
    assert table.loc["a", same].equals(table.loc["b", same])
    assert table.loc["b", "header_time_of_day_h"] == 10.5
    image = nib.load(table.loc["b", "image"])
    np.testing.assert_array_equal(image.dataobj, nib.load(plain).dataobj)
    series = read_table(out.parent / "series" / out.name, SERIES)
    assert series[["scan_id", "n_images", "reason"]].values.tolist() == [
        ["b", 2, "DCM_FOREIGN_FILE"]
    ]


def test_which_of_several_nifti_images_is_meant_is_not_guessed(tmp_path):
    files = [("a.nii.gz", nifti_bytes()), ("b.nii", nifti_bytes(1, bytes))]
    path = packed(tmp_path / "a.zip", files)
    assert reason_of(tmp_path, path) == ("SRC_ARCHIVE_SEVERAL", "2 NIfTI images")


def test_an_archive_elsewhere_is_not_read(tmp_path, session):
    path = packed(tmp_path / "a.zip", files_of(session))
    assert reason_of(tmp_path, path, allow_roots=(str(session),))[0] == "SRC_OUTSIDE_ROOT"
    images = {"a": path}
    table, _ = ingested(tmp_path, images, dixon=("fat",), allow_roots=(str(tmp_path),))
    assert table.loc["a", "state"] == "ready"


def test_an_archive_that_changes_while_it_is_read_is_told(tmp_path, session, monkeypatch):
    path = packed(tmp_path / "a.zip", files_of(session))
    lay = archive.Archive.lay

    def replaced(self, paths):
        packed(path, [(f"other/{n}", content) for n, (_, content) in enumerate(files_of(session))])
        lay(self, paths)

    monkeypatch.setattr(archive.Archive, "lay", replaced)
    assert reason_of(tmp_path, path, dixon=("fat",))[0] == "SRC_CHANGED"


def test_a_full_temporary_folder_pauses_the_run(tmp_path, session, monkeypatch):
    def full(*_args):
        raise OSError(28, "No space left on device")

    path = packed(tmp_path / "a.zip", files_of(session))
    monkeypatch.setattr(archive, "open", full, raising=False)
    with pytest.raises(TemporaryError, match="IO_NO_SPACE"):
        ingested(tmp_path, {"a": path}, dixon=("fat",))


def test_a_change_of_the_archive_is_seen_and_its_name_is_looked_for(tmp_path):
    path = packed(tmp_path / "1000011_20201_2_0.zip", small(1))
    facts = ("a", str(path), *file_facts(path))
    assert changed([facts]) == set()
    packed(path, small(2))
    assert changed([facts]) == {"a"}
    assert names_of_image("/data/bulk/1000011_20201_2_0.zip") == {
        "/data/bulk/1000011_20201_2_0.zip",
        "1000011_20201_2_0.zip",
    }


def test_a_folder_of_archives_gives_a_manifest(tmp_path):
    for name in ("1000011_20201_2_0.zip", "b.tar.gz", "c.TGZ"):
        (tmp_path / name).touch()
    assert [*from_folder(tmp_path)["scan_id"]] == ["1000011_20201_2_0", "b", "c"]


def test_a_link_in_place_of_an_archive_keeps_its_end(tmp_path):
    link = Keys(tmp_path, bytes(32)).link("s_0", "/data/person.tar.gz")
    assert link.endswith("/s_0.tar.gz")


def test_images_in_an_archive_are_not_referred_to(tmp_path, session):
    path = packed(tmp_path / "a.zip", files_of(session))
    with pytest.raises(ScanError, match="SRC_UNSUPPORTED_FORMAT: an archive"):
        find_slices(path, Chosen("0", "", None), (36, 40, 12), np.eye(4))

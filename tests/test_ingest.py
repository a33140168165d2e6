"""Ingest takes the volume that was asked for, and makes one row of each scan of a shard."""

from __future__ import annotations

import gzip
import logging
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from cohortvol.anatomy import geometry
from cohortvol.errors import TableError, TemporaryError
from cohortvol.stages import ingest
from cohortvol.stages.ingest import Rules, check_scan
from cohortvol.stages.segment.images import read_image
from cohortvol.store.schemas import INGEST, SHARD
from cohortvol.store.tables import read_table, write_table
from nifti_files import AFFINE, image_voxels, nifti, reason_of, saved, spoilt

# --- one volume of several -------------------------------------------------------------------


def two_volumes(**header):
    first = image_voxels()
    return nifti(np.stack([first, first[::-1] + 7], axis=-1), header=header)


def test_the_volume_that_was_asked_for_becomes_an_image_of_its_own(tmp_path):
    path = saved(tmp_path, two_volumes(descrip=b"CANARY", intent_name=b"CANARY"))
    shard = shard_of(tmp_path, s1=path, s2=saved(tmp_path, nifti(), "one.nii"))
    table = ingest.run(shard, tmp_path / "ingest" / "0017.parquet", Rules(volume=2))
    table = table.set_index("scan_id")
    assert table["state"].tolist() == ["ready", "ready"]
    assert table.loc["s1", "warnings"] == "W_VOLUME_SELECTED"
    assert table["volume"].fillna(0).tolist() == [2, 0]
    assert table.loc["s2", "image"] == str(tmp_path / "one.nii")
    image = Path(table.loc["s1", "image"])
    assert image == tmp_path / "ingest" / "0017" / "s1.nii.gz"
    chosen = read_image(image, table.loc["s1", "image_sha256"])  # as segment and measure read it
    np.testing.assert_array_equal(chosen.data, image_voxels()[::-1] + 7)
    np.testing.assert_allclose(chosen.affine, AFFINE, atol=1e-5)
    assert check_scan(image)["warnings"] is None
    assert b"CANARY" not in gzip.decompress(image.read_bytes())


@pytest.mark.parametrize("dtype", ["i2", "i4", "i8", "f4", "f8"])
@pytest.mark.parametrize("big_endian", [False, True])
def test_a_chosen_volume_keeps_its_scaled_values(tmp_path, dtype, big_endian):
    voxels = np.stack([image_voxels(), image_voxels()[:, ::-1]], axis=-1).astype(dtype)
    for slope in (1.0, 0.5):
        data = nifti(voxels, header={"scl_slope": slope, "scl_inter": 0}, big_endian=big_endian)
        shard = shard_of(tmp_path, s1=saved(tmp_path, data))
        row = ingest.run(shard, tmp_path / "out.parquet", Rules(volume=2)).iloc[0]
        chosen = read_image(Path(row["image"]), row["image_sha256"])
        np.testing.assert_array_equal(chosen.data, slope * image_voxels()[:, ::-1])


@pytest.mark.parametrize("volume", [None, 3])
def test_without_the_number_of_a_volume_that_is_there_none_is_taken(tmp_path, volume):
    path = saved(tmp_path, two_volumes())
    assert reason_of(path, Rules(volume=volume)) == "IMG_4D"
    found = check_scan(saved(tmp_path, nifti()), Rules(volume=volume))  # of one alone it is silent
    assert (found["warnings"], "volume" in found) == (None, False)


def test_vectors_are_no_volumes_to_choose_from(tmp_path):
    data = nifti(header={"dim": (slice(0, 6), [5, 24, 20, 4, 1, 3])})
    assert reason_of(saved(tmp_path, data), Rules(volume=1)) == "IMG_4D"


def test_a_fault_in_the_chosen_volume_counts_and_one_in_another_does_not(tmp_path):
    voxels = np.stack([image_voxels("float32"), spoilt((0, 0, 0), np.nan)], axis=-1)
    path = saved(tmp_path, nifti(voxels))
    assert check_scan(path, Rules(volume=1))["warnings"] == "W_VOLUME_SELECTED"
    assert reason_of(path, Rules(volume=2)) == "VOX_NONFINITE"


# --- a shard ---------------------------------------------------------------------------------


def shard_of(tmp_path, **images):
    table = pd.DataFrame({"scan_id": list(images), "image": [str(p) for p in images.values()]})
    path = tmp_path / "0017.parquet"
    write_table(path, table, SHARD)
    return path


def test_the_sequence_of_the_manifest_says_which_part_of_a_dixon_image_it_is(tmp_path):
    image = saved(tmp_path, nifti(), "good.nii")
    table = pd.DataFrame(
        {
            "scan_id": ["s1", "s2", "s3"],
            "image": str(image),
            "sequence": ["T1 DIXON_W", "T2 fat sat", None],
        }
    )
    write_table(tmp_path / "0017.parquet", table, SHARD)
    rows = ingest.run(tmp_path / "0017.parquet", tmp_path / "ingest" / "0017.parquet")
    assert rows.set_index("scan_id")["dixon"].dropna().to_dict() == {"s1": "water"}


def test_a_shard_gives_one_row_per_scan_in_order(tmp_path, caplog):
    good = saved(tmp_path, nifti(), "good.nii")
    cut = saved(tmp_path, gzip.compress(nifti())[:-9], "cut.nii.gz")
    sheared_image = saved(tmp_path, nifti(spoilt((0, 0, 0), np.nan)), "nan.nii")
    shard = shard_of(tmp_path, s3=good, s1=cut, s2=sheared_image)
    out = tmp_path / "out" / "0017.parquet"
    with caplog.at_level(logging.INFO):
        ingest.run(shard, out)
    table = read_table(out, INGEST).set_index("scan_id")
    assert table["state"].to_dict() == {"s1": "quarantined", "s2": "quarantined", "s3": "ready"}
    assert table["reason"].dropna().to_dict() == {"s1": "SRC_TRUNCATED", "s2": "VOX_NONFINITE"}
    assert table["detail"]["s2"] == "1 of 5760 voxels, 0.00017"
    assert table["image_sha256"].notna().to_dict() == {"s1": False, "s2": True, "s3": True}
    assert "0017: 2 quarantined, 1 ready" in caplog.text
    lines = [record.getMessage() for record in caplog.records]
    assert sum(line.startswith("s2: quarantined VOX_NONFINITE 1 of 5760") for line in lines) == 1
    assert sum(line.startswith("s3: ready, ") and line.endswith(" s") for line in lines) == 1


def test_the_same_shard_gives_the_same_bytes(tmp_path):
    shard = shard_of(tmp_path, s1=saved(tmp_path, nifti()), s2=tmp_path / "nowhere.nii")
    ingest.run(shard, tmp_path / "a.parquet")
    ingest.run(shard, tmp_path / "b.parquet")
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()


def test_a_bug_on_one_scan_is_its_row_and_the_shard_goes_on(tmp_path, monkeypatch, caplog):
    caplog.set_level(logging.INFO, "cohortvol")  # text of errors is told at DEBUG only
    shard = shard_of(tmp_path, s1=saved(tmp_path, nifti(), "a.nii"), s2=saved(tmp_path, nifti()))
    check = ingest.check_voxels
    calls = []

    def fail_first(voxels, rules):
        calls.append(voxels.shape)
        if len(calls) == 1:
            raise KeyError("name of a person")
        return check(voxels, rules)

    monkeypatch.setattr(ingest, "check_voxels", fail_first)
    table = ingest.run(shard, tmp_path / "out.parquet")
    assert table["state"].tolist() == ["failed", "ready"]
    assert table["reason"].tolist()[0] == "BUG_UNEXPECTED"
    assert "test_ingest.py" in caplog.text
    assert "name of a person" not in caplog.text
    assert table["detail"].str.fullmatch(r"KeyError [0-9a-f]{12}").tolist()[0]


def test_equal_crashes_have_one_hash_and_others_another(tmp_path, monkeypatch, caplog):
    caplog.set_level(logging.INFO, "cohortvol")
    images = {f"s{n}": saved(tmp_path, nifti(), f"Doe_Jane_{n}.nii") for n in range(4)}
    errors = iter([KeyError("Doe"), KeyError("/data/Doe.nii"), ValueError("Doe"), None])
    check = ingest.check_voxels

    def crash(voxels, rules):
        error = next(errors)
        if error is not None:
            raise error
        return check(voxels, rules)

    monkeypatch.setattr(ingest, "check_voxels", crash)
    table = ingest.run(shard_of(tmp_path, **images), tmp_path / "out.parquet")
    assert table["state"].tolist() == ["failed", "failed", "failed", "ready"]
    first, second, third, _ = table["detail"]
    assert first == second
    assert third.startswith("ValueError ")
    assert "Doe" not in caplog.text + "".join(table["detail"].dropna())


def test_running_out_of_memory_is_a_matter_for_the_job(tmp_path, monkeypatch):
    shard = shard_of(tmp_path, s1=saved(tmp_path, nifti()))

    def fail(*args):
        raise MemoryError

    monkeypatch.setattr(ingest, "check_voxels", fail)
    with pytest.raises(TemporaryError, match="s1: not enough memory"):
        ingest.run(shard, tmp_path / "out.parquet")


def test_a_path_at_which_no_file_can_be_is_that_of_no_file(tmp_path):
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    shard = shard_of(
        tmp_path,
        a=tmp_path.joinpath(*["long"] * 1000) / "a.nii.gz",
        b=tmp_path / f"{'b' * 300}.nii.gz",
        c=tmp_path / "circle" / "c.nii.gz",
        d=f"{tmp_path}/\0d.nii.gz",
        e=saved(tmp_path, nifti()) / "inside" / "e.nii.gz",
    )
    table = ingest.run(shard, tmp_path / "out.parquet")
    assert set(table["state"]) == {"quarantined"}, table[["scan_id", "state", "reason", "detail"]]
    assert set(table["reason"]) == {"SRC_MISSING"}
    assert list(table["detail"].str.contains("too long").fillna(False))[:2] == [True, True]


def test_a_missing_shard_table_is_an_error(tmp_path):
    with pytest.raises(TableError):
        ingest.run(tmp_path / "0000.parquet", tmp_path / "out.parquet")


# --- real scans ------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_real_abdominal_scans_are_usable(shared_data):
    images = [
        *sorted((shared_data / "chaos_mr_t2spir" / "images").glob("*.nii.gz")),
        *sorted((shared_data / "ukat_renal_mr").glob("*/*dual_echo_e[12].nii.gz")),
        *sorted((shared_data / "ukat_renal_mr").glob("*/01001*product_auto_e[12].nii.gz")),
        *sorted((shared_data / "ukat_renal_mr").glob("*/0044*default_e[12].nii.gz")),
        shared_data / "totalsegmentator_refs" / "example_mr_sm.nii.gz",
    ]
    assert len(images) > 20
    for image in images:
        found = check_scan(image)
        affine = nib.load(image).affine
        assert found["voxel_ml"] == pytest.approx(geometry.voxel_volume_ml(affine), rel=1e-6)
        assert found["orientation"] == geometry.orientation(affine)


def test_the_label_maps_beside_them_are_not_taken_for_scans(shared_data):
    labels = sorted((shared_data / "chaos_mr_t2spir" / "labels").glob("*.nii.gz"))
    assert {reason_of(path) for path in labels} == {"VOX_LOW_ENTROPY"}

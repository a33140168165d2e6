"""Label maps that were made elsewhere: taken where they can be, and a reason where they cannot."""

from __future__ import annotations

import gzip

import nibabel as nib
import numpy as np
import pytest

from cohortvol.errors import ScanError
from cohortvol.stages.segment.elsewhere import LabelMaps
from cohortvol.stages.segment.receipts import Work
from elsewhere_fixture import OBLIQUE, SHAPE, Scan, labels_of, write
from segment_cohort import AFFINE


@pytest.fixture
def scan(tmp_path):
    return Scan(tmp_path)


# ---- what is taken -------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int32, np.float32, np.float64])
def test_a_label_map_is_taken_as_it_is_in_whatever_type_it_is_stored(scan, dtype):
    voxels = labels_of()
    taken = scan.take(write(scan.folder / "one.nii.gz", voxels.astype(dtype)))
    assert taken.dtype == np.uint8
    np.testing.assert_array_equal(taken, voxels)


def test_a_file_per_structure_gives_the_same_as_one_of_all(scan):
    voxels = labels_of()
    folder = scan.masks(voxels, milz=255, last=9)
    np.testing.assert_array_equal(scan.take(folder), voxels)
    flat = [path.rename(scan.folder / f"7_{path.name}") for path in folder.iterdir()]
    np.testing.assert_array_equal(scan.take(scan.folder / "7_*.nii.gz"), voxels)
    for path in flat:
        name = path.name.removeprefix("7_").removesuffix(".nii.gz")
        (scan.folder / "by_name" / name).mkdir(parents=True)
        path.rename(scan.folder / "by_name" / name / "seven.nii.gz")
    np.testing.assert_array_equal(scan.take(scan.folder / "by_name" / "*" / "seven.nii.gz"), voxels)


def test_axes_stored_in_another_order_are_turned_to_those_of_the_scan(scan):
    voxels = labels_of()
    ras = nib.as_closest_canonical(nib.Nifti1Image(voxels, OBLIQUE))
    assert ras.shape != SHAPE
    nib.save(ras, scan.folder / "ras.nii.gz")
    np.testing.assert_array_equal(scan.take(scan.folder / "ras.nii.gz"), voxels)


def test_a_header_that_was_rounded_is_on_the_same_grid(scan):
    voxels = labels_of()
    rounded = write(scan.folder / "one.nii.gz", voxels, OBLIQUE.round(3))
    np.testing.assert_array_equal(scan.take(rounded), voxels)


def test_labels_that_are_no_result_become_background_and_others_may_be_put_together(tmp_path):
    rows = ("1\tupper\tlung_left", "2\tlower\tlung_left", "3\tx\t", "300\tliver\tliver")
    text = "\n".join(["label\tname\tstructure", *rows, ""])
    scan = Scan(tmp_path, text)
    voxels = labels_of(labels=(0, 1, 2, 3)).astype(np.uint16)
    voxels[0] = 300
    expected = np.select([voxels == 300, (voxels == 1) | (voxels == 2)], [300, 1])
    taken = scan.take(write(tmp_path / "one.nii", voxels))
    assert taken.dtype == np.uint16
    np.testing.assert_array_equal(taken, expected)
    np.testing.assert_array_equal(scan.take(scan.masks(voxels)), expected)
    assert scan.card.labels == {1: "lung_left", 300: "liver"}


def test_an_empty_label_map_is_one_in_which_nothing_was_found(scan):
    empty = np.zeros(SHAPE, np.uint8)
    assert not scan.take(write(scan.folder / "one.nii.gz", empty)).any()
    assert not scan.take(scan.masks(empty)).any()


OVERLAPPING = "index\tname\tlayer\n1\tliver\t0\n2\tspleen\t0\n3\tskeletal_muscle\t1\n"


def test_structures_that_overlap_are_taken_in_layers(tmp_path):
    scan = Scan(tmp_path, OVERLAPPING)
    below = labels_of(1, (0, 1, 2))
    muscle = labels_of(2, (0, 3))
    layered = np.stack([below, muscle], axis=-1)
    np.testing.assert_array_equal(scan.take(write(tmp_path / "both.nii.gz", layered)), layered)
    for name, mask in (("liver", below == 1), ("spleen", below == 2), ("skeletal_muscle", muscle)):
        write(tmp_path / "masks" / f"{name}.nii", (mask > 0).astype(np.uint8))
    np.testing.assert_array_equal(scan.take(tmp_path / "masks"), layered)
    one = scan.take(write(tmp_path / "one.nii.gz", np.where(below, below, muscle)))
    np.testing.assert_array_equal(one, np.stack([below, np.where(below, 0, muscle)], axis=-1))
    upper = scan.take(tmp_path / "both.nii.gz", roi=("skeletal_muscle",))
    np.testing.assert_array_equal(upper, muscle)
    wrong = write(tmp_path / "wrong.nii.gz", np.stack([muscle, below], axis=-1))
    assert scan.refused(wrong) == ("DSEG_UNKNOWN_LABEL", "1, 2, 3")


def test_of_a_file_per_structure_only_those_wanted_need_be_there(scan):
    voxels = labels_of()
    folder = scan.masks(voxels)
    (folder / "milz.nii.gz").unlink()
    assert scan.refused(folder) == ("DSEG_MISSING", "no file of milz")
    np.testing.assert_array_equal(scan.take(folder, roi=("liver",)), voxels == 1)


# ---- what is refused -----------------------------------------------------------------------------


def shifted(mm: float) -> np.ndarray:
    return nib.affines.from_matvec(np.eye(3), [mm, 0, 0]) @ OBLIQUE


@pytest.mark.parametrize(
    ("voxels", "affine", "reason", "said"),
    [
        (labels_of()[1:], OBLIQUE, "DSEG_GRID", "11 x 11 x 9 voxels"),
        (labels_of(), shifted(0.5), "DSEG_GRID", "up to 0.5 mm away"),
        (labels_of(), OBLIQUE * [1.02, 1, 1, 1], "DSEG_GRID", "2.040"),
        (labels_of(), AFFINE, "DSEG_GRID", "mm away"),
        (labels_of()[::-1], OBLIQUE @ np.diag([-1, 1, 1, 1]), "DSEG_GRID", "mm away"),
        (labels_of() + np.uint8(3), OBLIQUE, "DSEG_UNKNOWN_LABEL", "3, 4, 5, 12"),
        (labels_of() * np.float32(0.5), OBLIQUE, "DSEG_VALUES", "no whole numbers"),
        (labels_of() * np.float32(np.nan), OBLIQUE, "DSEG_VALUES", "no whole numbers"),
        (-labels_of().astype(np.int16), OBLIQUE, "DSEG_VALUES", "labels from -9 to 0"),
        (labels_of() * np.int32(10000), OBLIQUE, "DSEG_VALUES", "to 90000"),
        (labels_of() + 1j, OBLIQUE, "DSEG_VALUES", "complex"),
        (np.stack([labels_of()] * 2, -1), OBLIQUE, "DSEG_VALUES", "2 volumes"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_no_label_map_of_the_scan_has_a_reason(scan, voxels, affine, reason, said):
    found, detail = scan.refused(write(scan.folder / "one.nii.gz", voxels, affine))
    assert found == reason
    assert said in detail


def test_a_header_without_axes_is_not_taken_for_that_of_the_scan(scan):
    image = nib.Nifti1Image(labels_of(), OBLIQUE)
    image.set_sform(None, code=0)
    image.set_qform(None, code=0)
    nib.save(image, scan.folder / "one.nii.gz")
    assert scan.refused(scan.folder / "one.nii.gz")[0] == "DSEG_GRID"


def test_files_that_are_missing_or_damaged_have_a_reason(scan):
    assert scan.refused(None) == ("DSEG_MISSING", "the manifest names none")
    assert scan.refused(scan.folder / "nowhere.nii.gz") == ("DSEG_MISSING", "")
    (scan.folder / "empty").mkdir()
    assert scan.refused(scan.folder / "empty") == ("DSEG_MISSING", "")
    whole = write(scan.folder / "one.nii.gz", labels_of()).read_bytes()
    damaged = bytearray(whole)
    damaged[-6] ^= 1  # its checksum
    for content, reason in (
        (b"", "DSEG_EMPTY"),
        (b"not an image", "DSEG_UNREADABLE"),
        (whole[: len(whole) // 2], "DSEG_UNREADABLE"),
        (bytes(damaged), "DSEG_UNREADABLE"),
        (gzip.decompress(whole)[:-100], "DSEG_UNREADABLE"),
    ):
        (scan.folder / "one.nii.gz").write_bytes(content)
        assert scan.refused(scan.folder / "one.nii.gz")[0] == reason
    folder = scan.masks(labels_of())
    (folder / "liver.nii").write_bytes(b"")
    assert scan.refused(folder) == ("DSEG_UNREADABLE", "two files of liver")


def test_masks_that_overlap_or_hold_several_labels_have_a_reason(scan):
    folder = scan.masks(labels_of())
    write(folder / "milz.nii.gz", (labels_of() == 1).astype(np.uint8))
    n_voxels = int((labels_of() == 1).sum())
    assert scan.refused(folder) == ("DSEG_OVERLAP", f"{n_voxels} voxels of milz and liver")
    write(folder / "milz.nii.gz", labels_of())
    reason, detail = scan.refused(folder)
    assert (reason, detail) == (
        "DSEG_UNKNOWN_LABEL",
        "milz: values 1, 2, 9, where a mask has 0 and 1",
    )


def test_bytes_that_ingest_did_not_see_are_not_taken(scan):
    path = write(scan.folder / "one.nii.gz", labels_of())
    work = Work("one", scan.image, "", "given", "elsewhere", "", dseg=str(path), dseg_sha256="0")
    with pytest.raises(ScanError, match="DSEG_CHANGED"):
        LabelMaps(scan.card).read(work)

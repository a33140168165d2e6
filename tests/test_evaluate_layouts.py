"""Evaluation: the layouts in which people have label maps, and what is refused of them."""

import json

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from cohortvol.anatomy.nifti import nifti_gz
from cohortvol.errors import ScanError
from cohortvol.tools.evaluate import Model, Settings, run
from cohortvol.tools.evaluate.datasets import find_cases, find_label_maps, id_of, read_expert
from cohortvol.tools.evaluate.labels import LabelMap, read_nifti, vocabulary
from cohortvol.tools.evaluate.measures import measure_pair
from labelled_bodies import AFFINE, NAMES, body, renamed, save

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    "name", ["label_12.nii.gz", "image_12.nii.gz", "12_dseg.nii", "12_0000.nii.gz", "12.nii.gz"]
)
def test_the_names_of_files_lead_to_one_scan(tmp_path, name):
    assert id_of(tmp_path / name) == "12"


def dicom_slices(folder, places_mm, first=1):
    pydicom = pytest.importorskip("pydicom")
    folder.mkdir(parents=True)
    for number, z_mm in enumerate(places_mm, start=first):
        header = pydicom.Dataset()
        header.SOPClassUID = "1.2.840.10008.5.1.4.1.1.4"
        header.SOPInstanceUID = f"1.2.3.{number}"
        header.InstanceNumber = number
        header.ImagePositionPatient = [-30.0, -20.0, float(z_mm)]
        header.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        header.PixelSpacing = [1.5, 1.25]
        header.SliceThickness = 9.0
        header.file_meta = pydicom.dataset.FileMetaDataset()
        header.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
        # Names in an order of their own, as in the challenge's data.
        header.save_as(folder / f"i{99 - number:04d}.dcm", enforce_file_format=True)


def png_slices(folder, grey):
    folder.mkdir(parents=True)
    for number in range(grey.shape[2]):
        plane = np.ascontiguousarray(grey[:, :, number].T)
        Image.fromarray(plane).save(folder / f"IMG-{number + 1}.png")


@pytest.mark.parametrize("step_mm", [3.0, -3.0])
def test_a_case_of_chaos_mr_is_read_as_it_is_given_out(tmp_path, step_mm):
    """Columns run to the left and rows to the back, so the array is flipped against RAS+."""
    stored = body()[::-1, ::-1] if step_mm > 0 else body()[::-1, ::-1, ::-1]
    case = tmp_path / "MR" / "7" / "T2SPIR"
    dicom_slices(case / "DICOM_anon", 100 + step_mm * np.arange(12))
    png_slices(case / "Ground", stored * 63)
    (found,) = find_cases(tmp_path, "auto", None)
    assert (found.scan_id, found.subject_id, found.layout) == ("MR_7_T2SPIR", "MR_7", "chaos")
    expert = read_expert(found)
    affine = AFFINE.copy()
    affine[:3, 3] = [30 - 1.25 * 23, 20 - 1.5 * 19, 100 + min(0, 11 * step_mm)]
    rows = measure_pair(expert, LabelMap(body(), affine, NAMES), tolerance_mm=3)
    assert {row["structure"]: row["dice"] for row in rows} == dict.fromkeys(NAMES, 1.0)


def test_a_case_of_chaos_that_lacks_an_organ_keeps_the_names_of_the_others(tmp_path):
    dicom_slices(tmp_path / "7" / "DICOM_anon", 3.0 * np.arange(12))
    png_slices(tmp_path / "7" / "Ground", body(without=["kidney_right"]) * 63)
    expert = read_expert(find_cases(tmp_path, "chaos", None)[0])
    assert (expert.voxels == expert.labels["spleen"]).sum() == (body() == 4).sum()
    assert not (expert.voxels == expert.labels["kidney_right"]).any()


def test_a_slice_that_is_missing_is_noticed(tmp_path):
    dicom_slices(tmp_path / "7" / "DICOM_anon", [0, 3, 9, 12])
    png_slices(tmp_path / "7" / "Ground", body()[..., :4] * 63)
    with pytest.raises(ScanError, match="uneven"):
        read_expert(find_cases(tmp_path, "chaos", None)[0])


def test_amos_is_read_with_the_names_of_its_own_table(tmp_path):
    amos = renamed(vocabulary("amos22"))
    save(tmp_path / "labelsTr" / "amos_0507.nii.gz", amos)
    save(tmp_path / "imagesTr" / "amos_0507.nii.gz", amos)
    names = {"0": "background", "1": "spleen", "2": "right kidney", "3": "left kidney",
             "6": "liver", "8": "arota"}  # fmt: skip
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": names}))
    (case,) = find_cases(tmp_path, "auto", None)
    assert (case.layout, case.scan_id, case.image.name) == ("amos", "amos_0507", "amos_0507.nii.gz")
    expert = read_expert(case)
    assert expert.labels["aorta"] == 8
    assert (expert.voxels == expert.labels["kidney_left"]).sum() == (body() == 3).sum()


def test_masks_of_the_totalsegmentator_dataset_make_one_label_map_even_where_they_overlap(tmp_path):
    masks = tmp_path / "s0001" / "segmentations"
    for name, label in NAMES.items():
        save(masks / f"{name}.nii.gz", (body() == label).astype(np.uint8))
    save(masks / "pancreas.nii.gz", (body() == 1).astype(np.uint8))
    save(masks / "gallbladder.nii.gz", np.zeros_like(body()))
    save(tmp_path / "s0001" / "mri.nii.gz", body())
    (case,) = find_cases(tmp_path, "auto", None)
    assert (case.layout, case.scan_id, case.image.name) == (
        "totalsegmentator", "s0001", "mri.nii.gz",
    )  # fmt: skip
    rows = measure_pair(read_expert(case), read_expert(case), tolerance_mm=3)
    found = {row["structure"]: row.get("dice") for row in rows}
    assert found == dict.fromkeys([*NAMES, "pancreas"], 1.0) | {"gallbladder": None}


def test_names_in_the_header_of_totalsegmentators_output_are_read(shared_data):
    folder = shared_data / "totalsegmentator_refs"
    found = find_label_maps(folder)["example_seg_mr"]
    named = read_nifti(found, None)
    assert {name: named.labels[name] for name in NAMES} == {
        "liver": 5, "kidney_right": 2, "kidney_left": 3, "spleen": 1,
    }  # fmt: skip


def test_a_label_map_without_names_is_a_row_with_a_reason(tmp_path):
    save(tmp_path / "expert" / "1.nii.gz", body())
    save(tmp_path / "model" / "1.nii.gz", body())
    pairs = run(
        tmp_path / "expert", [Model("one", tmp_path / "model")], tmp_path / "out",
        expert_labels="chaos_mr",
    )  # fmt: skip
    assert pairs["reason"].tolist() == ["EVAL_NO_NAMES"]


def test_the_sample_submission_of_chaos_has_its_published_figures(shared_data, tmp_path):
    """Published: Dice 0.978, RAVD 0.665 %, ASSD 0.734, MSSD 14."""
    folder = shared_data / "chaos_ct_eval" / "Data_3D"
    pairs = run(
        folder, [Model("sample", folder / "Segmentation")], tmp_path,
        settings=Settings(n_bootstrap=100),
    )  # fmt: skip
    (row,) = pairs.to_dict("records")
    assert round(row["dice"], 5) == 0.97843
    assert round(row["absolute_volume_error_pct"], 5) == 0.66453
    assert round(row["assd_mm"], 3) == 0.734
    assert row["mssd_mm"] == 14
    assert round(row["expert_ml"]) == 1417


def test_outlines_of_other_people_read_as_label_maps_have_their_left_kidney_left(shared_data):
    for outline in sorted((shared_data / "ukat_renal_mr").glob("*/*_roi-L.nii.gz")):
        right = outline.with_name(outline.name.replace("roi-L", "roi-R"))
        labels = np.zeros(nib.load(outline).shape, dtype=np.uint8)
        labels[np.asarray(nib.load(right).dataobj) > 0] = 2
        labels[np.asarray(nib.load(outline).dataobj) > 0] = 3
        expert = LabelMap(labels, nib.load(outline).affine, NAMES)
        rows = {row["structure"]: row for row in measure_pair(expert, expert, tolerance_mm=3)}
        assert rows["kidney_left"]["dice"] == rows["kidney_right"]["dice"] == 1, outline.name
        assert rows["kidney_left"]["warning"] is None


def test_what_is_no_label_map_is_refused_with_a_reason(tmp_path):
    halves = np.full((4, 4, 4), 0.5, dtype=np.float32)
    for name, content in (
        ("halves.nii.gz", nifti_gz(halves, np.eye(4))),
        ("text.nii.gz", b"no image"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ScanError, match="EVAL_UNREADABLE"):
            read_nifti(tmp_path / name, {"liver": 1})

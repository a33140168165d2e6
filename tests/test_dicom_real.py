"""Real DICOM series: each is the expected image, or has its own reason."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
from matplotlib.image import imread

from cohortvol.stages.measure import structure_volumes
from dicom_converted import converted, refused

pytestmark = pytest.mark.slow


def cases(shared_data):
    return shared_data / "dicom2nifti_cases" / "tests" / "data"


GOOD = [
    "ge/anatomical/001", "ge/anatomical/001_implicit",
    "generic/anatomical/001", "generic/anatomical/001_implicit",
    "generic/anatomical/002_non_isotropic", "generic/compressed/001",
    "generic/compressed_j2k/001", "generic/compressed_jpeg/001",
    "generic/compressed_jpegls/001", "generic/compressed_rle/001",
    "hitachi/anatomical/001", "hitachi/anatomical/001_implicit",
    "philips/anatomical/001", "philips/anatomical/001_implicit",
    "philips_enhanced/anatomical/001", "philips_enhanced/anatomical/001_implicit",
    "siemens/anatomical/001", "siemens/anatomical/001_implicit",
]  # fmt: skip
REFUSED = {
    "failing/gantrytilting/001": "DCM_TILT",
    "failing/notavolume/001": "DCM_DUPLICATE_POSITION",
    "failing/slicecount/001": "IMG_TOO_FEW_SLICES",
    "failing/sliceincrement/001": "DCM_MISSING_SLICE",
    "failing/sliceincrement/002": "DCM_TILT",
    "failing/sliceorientation/001": "DCM_LOCALIZER",
    "ge/anatomical/001_single_slice": "IMG_TOO_FEW_SLICES",
    "generic/rgb/001": "PHI_BURNED_IN",
}
MAGNITUDE_AND_PHASE = "philips/anatomical/002"


@pytest.mark.parametrize("case", GOOD)
def test_a_real_series_is_the_expected_image(shared_data, tmp_path, case):
    source = cases(shared_data) / case
    image, *_ = converted(source, tmp_path, min_slices=2)
    expected = nib.load(source.with_name(f"{source.name}_ground_truth.nii.gz"))
    expected = nib.as_closest_canonical(nib.squeeze_image(expected))
    found = nib.as_closest_canonical(image)
    np.testing.assert_allclose(found.affine, expected.affine, atol=1e-3)
    np.testing.assert_allclose(found.get_fdata(), expected.get_fdata(), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("case", REFUSED)
def test_a_real_series_that_is_no_volume_has_its_own_reason(shared_data, tmp_path, case):
    error = refused(cases(shared_data) / case, tmp_path, modality=("MR", "CT"), min_slices=3)
    assert error.reason == REFUSED[case]


def test_of_magnitude_and_phase_in_one_folder_the_magnitude_is_taken(shared_data, tmp_path):
    source = cases(shared_data) / MAGNITUDE_AND_PHASE
    image, _, codes, series = converted(source, tmp_path, min_slices=2)
    assert (image.shape, codes) == ((768, 768, 4), [])
    assert {row["reason"] for row in series} == {None, "DCM_NOT_MAGNITUDE"}


def test_every_real_series_there_is_has_its_test(shared_data):
    folders = {path.parent for path in cases(shared_data).rglob("*.dcm")}
    names = {path.relative_to(cases(shared_data)).as_posix() for path in folders}
    assert names - {*GOOD, *REFUSED, MAGNITUDE_AND_PHASE} == set()


def test_104_frames_are_13_positions_of_two_echoes_and_four_kinds(shared_data, tmp_path):
    source = shared_data / "dbdicom_renal_dicom" / "MULTIFRAME" / "IM_0014"
    assert refused(source, tmp_path).reason == "DCM_AMBIGUOUS_SERIES"
    image, _, _, series = converted(source, tmp_path, echo=1)
    assert image.shape == (128, 128, 13)
    assert [row["n_positions"] for row in series] == [13] * 8
    np.testing.assert_allclose(image.header.get_zooms(), [3.0, 3.0, 5.5], atol=0.01)


@pytest.mark.parametrize(
    ("folder", "step_mm", "n"),
    [
        ("totalsegmentator_refs/example_ct_dicom", 2.0, 20),
        ("chaos_ct_eval/Data_3D/DICOM_anon", 2.0, 78),
    ],
)
def test_slices_are_as_far_apart_as_they_say_and_not_as_thick(
    shared_data, tmp_path, folder, step_mm, n
):
    image, *_ = converted(shared_data / folder, tmp_path, modality=("CT",))
    assert image.header.get_zooms()[2] == pytest.approx(step_mm, abs=1e-4)
    assert image.shape[2] == n


def test_an_expert_liver_has_the_volume_of_the_true_step_and_not_of_the_thickness(
    shared_data, tmp_path
):
    folder = shared_data / "chaos_ct_eval" / "Data_3D"
    image, *_ = converted(folder / "DICOM_anon", tmp_path, modality=("CT",))
    outlines = [imread(path) for path in sorted((folder / "Ground").glob("*.png"))]
    liver = np.stack([(outline > 0).T for outline in outlines], axis=-1).astype(np.uint8)
    volume_ml = structure_volumes(liver, image.affine, {1: "liver"})["volume_ml"].item()
    assert round(volume_ml) == 1417  # 2268 mL at the thickness of 3.2 mm

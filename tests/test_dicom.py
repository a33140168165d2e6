"""DICOM folders: the right series or none, on its true grid, with every fault named."""

from __future__ import annotations

import gc
import os
import shutil

import numpy as np
import pytest
from pydicom.encaps import encapsulate, generate_frames
from pydicom.fileset import FileSet
from pydicom.uid import JPEG2000Lossless, JPEGLSLossless, RLELossless

import dicom_fixture
from cohortvol.errors import InstallationError
from cohortvol.stages.ingest.dicom import conversion
from cohortvol.stages.ingest.dicom import folder as dicom_folder
from dicom_converted import N, converted, expected_volume, ingested, refused
from dicom_fixture import FAULTS, STEP_MM, pixels, write_enhanced, write_series

pytestmark = pytest.mark.slow


def test_slices_are_sorted_by_position_and_their_distance_is_not_their_thickness(tmp_path):
    image, _, codes, series = converted(write_series(tmp_path / "a"), tmp_path)
    np.testing.assert_array_equal(np.asarray(image.dataobj), expected_volume())
    row_mm, column_mm = dicom_fixture.SPACING_MM
    expected = np.diag([-column_mm, -row_mm, STEP_MM, 1.0])  # DICOM counts to left and back
    expected[:3, 3] = [20.0, 25.0, 100.0]
    np.testing.assert_allclose(image.affine, expected, atol=1e-5)
    assert codes == []
    assert [row["chosen"] for row in series] == [True]


def test_one_echo_of_an_enhanced_file_has_its_own_frames_and_slope(tmp_path):
    path = write_enhanced(tmp_path / "x" / "enhanced.dcm")
    for echo in (1, 2):
        image, _, _, series = converted(path, tmp_path, echo=echo)
        expected = 0.5 * echo * expected_volume(seed=echo - 1)
        np.testing.assert_allclose(image.get_fdata(), expected, rtol=1e-6)
        assert sorted(row["n_images"] for row in series) == [N, N]


@pytest.mark.parametrize("syntax", [JPEG2000Lossless, JPEGLSLossless, RLELossless])
def test_a_packed_series_is_unpacked(tmp_path, syntax):
    folder = write_series(tmp_path / "a", change=dicom_fixture.pack(syntax))
    image, _, codes, _ = converted(folder, tmp_path)
    np.testing.assert_array_equal(np.asarray(image.dataobj), expected_volume())
    assert codes == []


@pytest.mark.parametrize("syntax", [JPEG2000Lossless, JPEGLSLossless, RLELossless])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_packed_pixels_that_end_early_are_found_in_any_slice(tmp_path, syntax, share):
    """dcm2niix fills up what is missing, and the slices looked at may be others."""

    def cut(image, k):
        image.PixelData = np.sort(pixels(k), axis=None).tobytes()  # packs well
        dicom_fixture.pack(syntax)(image, k)
        if k == 3:
            packed = next(generate_frames(image.PixelData, number_of_frames=1))
            image.PixelData = encapsulate([packed[: int(share * len(packed))]])

    folder = write_series(tmp_path / "a", change=cut)
    rows_are_counted = syntax == RLELossless
    reason = "DCM_UNREADABLE_FILE" if rows_are_counted else "SRC_TRUNCATED"
    assert refused(folder, tmp_path).reason == reason


def test_missing_decoders_stop_the_run_before_any_scan(tmp_path, monkeypatch):
    images = {"a": write_series(tmp_path / "a"), "b": write_series(tmp_path / "b", seed=1)}
    monkeypatch.setattr(conversion, "_has_decoder", lambda syntax: syntax != RLELossless)
    with pytest.raises(InstallationError, match=r"\(ENV_CODEC_MISSING\): RLE Lossless\n"):
        ingested(tmp_path, images)
    monkeypatch.undo()
    monkeypatch.setattr(conversion, "DCM2NIIX", str(tmp_path / "nowhere"))
    with pytest.raises(InstallationError, match=r"\(ENV_CODEC_MISSING\): dcm2niix\n"):
        ingested(tmp_path, images)
    assert not (tmp_path / "ingest").exists()
    ingested(tmp_path / "nifti", {"a": tmp_path / "scan.nii.gz"})  # is not asked for decoders


def test_dates_that_were_moved_for_privacy_are_marked(tmp_path):
    folder = write_series(tmp_path / "a", LongitudinalTemporalInformationModified="MODIFIED")
    assert converted(folder, tmp_path)[2] == ["CLN_DATE_SHIFTED"]
    folder = write_series(tmp_path / "b", LongitudinalTemporalInformationModified="UNMODIFIED")
    assert converted(folder, tmp_path)[2] == []


@pytest.mark.filterwarnings("ignore:Implicitly cleaning up:ResourceWarning")
def test_a_media_directory_is_not_followed_wherever_it_points(tmp_path):
    folder = write_series(tmp_path / "a")
    elsewhere = write_series(tmp_path / "elsewhere", seed=1, StudyID="1")
    directory = FileSet()
    for path in elsewhere.iterdir():
        directory.add(path)
    directory.write(tmp_path / "media")
    del (
        directory
    )  # pydicom leaves its temporary folder to the collector, which may come in any test
    gc.collect()
    content = (tmp_path / "media" / "DICOMDIR").read_bytes()
    (folder / "DICOMDIR").write_bytes(content)
    (folder / "INDEX").write_bytes(content)  # the same under a name that says nothing
    (folder / "media").mkdir()
    image, _, codes, series = converted(folder, tmp_path)
    np.testing.assert_array_equal(np.asarray(image.dataobj), expected_volume())
    left_out = {row["reason"]: row["n_images"] for row in series if not row["chosen"]}
    assert (codes, left_out) == ([], {"DCM_NO_IMAGE": 1, "W_DUPLICATE_FILE": 1})


def test_one_echo_of_a_classic_series_is_chosen_by_number(tmp_path):
    make = next(make for _, name, make in FAULTS if name == "two echoes in a series")
    image, _, _, series = converted(make(tmp_path / "a"), tmp_path, echo=2)
    stored = np.stack([pixels(k + N).T for k in range(N)], axis=-1)
    np.testing.assert_array_equal(np.asarray(image.dataobj), stored)
    assert sorted(row["echo_time_ms"] for row in series) == [2.4, 4.8]


def test_a_folder_that_may_not_be_read_leaves_no_slice_out_in_silence(tmp_path, monkeypatch):
    folder = write_series(tmp_path / "a")
    walk = os.walk

    def refuse(top, onerror):
        onerror(PermissionError(13, "denied"))
        return walk(top)

    monkeypatch.setattr(dicom_folder.os, "walk", refuse)
    assert refused(folder, tmp_path).reason == "SRC_PERMISSION"


def test_a_slice_that_lies_elsewhere_is_not_read(tmp_path):
    folder, elsewhere = write_series(tmp_path / "a"), tmp_path / "elsewhere"
    elsewhere.mkdir()
    slice_ = min(folder.iterdir())
    slice_.rename(elsewhere / slice_.name)
    slice_.symlink_to(elsewhere / slice_.name)
    assert converted(folder, tmp_path)[0].shape[2] == N
    assert refused(folder, tmp_path, allow_roots=(str(folder),)).reason == "SRC_OUTSIDE_ROOT"


def test_a_file_larger_than_any_image_is_not_read(tmp_path):
    folder = write_series(tmp_path / "a")
    with (folder / "IM9999").open("wb") as stream:
        stream.truncate(1 << 40)  # takes no space on the disk
    assert refused(folder, tmp_path).reason == "IMG_TOO_LARGE"


def test_a_scaling_that_varies_is_applied_slice_by_slice_and_marked(tmp_path):
    def scale(image, k):
        image.RescaleSlope, image.RescaleIntercept = 1.0 + k, 3.0

    image, _, codes, _ = converted(write_series(tmp_path / "a", change=scale), tmp_path)
    expected = expected_volume() * (1.0 + np.arange(N)) + 3.0
    np.testing.assert_allclose(image.get_fdata(), expected, rtol=1e-6)
    assert "W_SCALE_VARIES" in codes
    assert "QC_ODD_SLICE" not in codes


def test_a_scaling_that_one_slice_alone_has_is_a_matter_for_a_person(tmp_path):
    def scale(image, k):
        image.RescaleSlope, image.RescaleIntercept = 2.0 if k == 4 else 1.9, 0.0

    codes = converted(write_series(tmp_path / "a", change=scale), tmp_path)[2]
    assert codes[:2] == ["W_SCALE_VARIES", "QC_ODD_SLICE"]


def test_files_that_are_no_images_do_not_disturb(tmp_path):
    folder = write_series(tmp_path / "a")
    for name in ("DICOMDIR", "notes.txt", ".hidden", "series.json"):
        (folder / name).write_bytes(b"not an image")
    image, _, codes, series = converted(folder, tmp_path)
    assert image.shape[2] == N
    assert codes == []
    assert series[-1] | {"n_images": 4, "reason": "DCM_FOREIGN_FILE"} == series[-1]


def test_a_file_that_is_there_twice_is_taken_once(tmp_path):
    folder = write_series(tmp_path / "a", ImagesInAcquisition=N)
    one = next(folder.iterdir())
    (folder / "deeper").mkdir()
    shutil.copy(one, folder / "deeper" / "copy")
    image, _, codes, _ = converted(folder, tmp_path)
    assert image.shape[2] == N
    assert codes == ["W_DUPLICATE_FILE"]


def test_one_file_twice_may_stand_for_another_where_nothing_says_how_many_there_are(tmp_path):
    folder = write_series(tmp_path / "a")
    files = sorted(folder.iterdir())
    shutil.copy(files[3], files[0])  # over the file of the last slice
    image, _, codes, _ = converted(folder, tmp_path)
    assert image.shape[2] == N - 1
    assert codes == ["W_DUPLICATE_FILE", "DCM_COUNT_UNUSUAL"]
    whole = write_series(tmp_path / "b")
    shutil.copytree(whole, whole / "again")
    assert converted(whole, tmp_path)[2] == ["W_DUPLICATE_FILE"]


def test_a_number_of_images_other_than_promised_is_marked(tmp_path):
    folder = write_series(tmp_path / "a", leave_out=[0], ImagesInAcquisition=N)
    assert converted(folder, tmp_path)[2] == ["DCM_COUNT_UNUSUAL"]


def test_a_series_whose_numbers_do_not_start_at_1_is_marked(tmp_path):
    assert converted(write_series(tmp_path / "a", leave_out=[0]), tmp_path)[2] == [
        "DCM_COUNT_UNUSUAL"
    ]

    def later(image, _k):
        image.InstanceNumber += 300

    assert converted(write_series(tmp_path / "b", change=later), tmp_path)[2] == []


def test_an_end_slice_without_an_image_is_marked(tmp_path):
    def lose(image, k):
        if k == N - 1:
            image.PixelData = bytes(len(image.PixelData))

    assert converted(write_series(tmp_path / "a", change=lose), tmp_path)[2] == ["DCM_EMPTY_SLICE"]


@pytest.mark.parametrize(
    ("reason", "make"),
    [(reason, make) for reason, _, make in FAULTS],
    ids=[f"{reason}: {name}" for reason, name, _ in FAULTS],
)
def test_a_fault_has_its_own_reason(tmp_path, reason, make):
    assert refused(make(tmp_path / "a"), tmp_path).reason == reason
    assert not (tmp_path / "converted" / "scan.nii.gz").exists()


def test_pixels_that_nothing_can_unpack_are_no_image(tmp_path, monkeypatch):
    folder = write_series(tmp_path / "a", change=dicom_fixture.pack(RLELossless))
    monkeypatch.setattr(conversion, "_has_decoder", lambda _syntax: False)
    assert converted(folder, tmp_path)[2] == ["W_NOT_COMPARED"]
    monkeypatch.setattr(conversion, "DCM2NIIX", "false")
    assert refused(folder, tmp_path).reason == "DCM_CONVERSION"


def test_without_the_converters_image_the_slices_are_put_together(tmp_path, monkeypatch):
    monkeypatch.setattr(conversion, "DCM2NIIX", "false")
    image, _, codes, _ = converted(write_series(tmp_path / "a"), tmp_path)
    np.testing.assert_array_equal(image.get_fdata(), expected_volume())
    assert codes == ["W_CONVERTER_DIFFERS"]

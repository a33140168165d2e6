"""DICOM folders: the right series or none, on its true grid, with every fault named."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from matplotlib.image import imread
from pydicom.encaps import encapsulate, generate_frames
from pydicom.fileset import FileSet
from pydicom.uid import JPEG2000Lossless, JPEGLSLossless, RLELossless

import dicom_fixture
from cohortvol.errors import InstallationError, ScanError
from cohortvol.stages import ingest
from cohortvol.stages.ingest import Rules
from cohortvol.stages.ingest.dicom import conversion, to_nifti
from cohortvol.stages.ingest.dicom import folder as dicom_folder
from cohortvol.stages.measure import structure_volumes
from cohortvol.store.schemas import INGEST, SERIES, SHARD
from cohortvol.store.tables import append_rows, read_table, write_table
from dicom_fixture import FAULTS, STEP_MM, pixels, write_enhanced, write_series

pytestmark = pytest.mark.slow

N = 12


def converted(source, tmp_path, **rules):
    """Image, covariates, flags and rows of the table SERIES."""
    series = []
    out = tmp_path / "converted" / "scan.nii.gz"
    covariates, codes = to_nifti(source, out, Rules(**rules), series)
    return nib.load(out), covariates, codes, series


def refused(source, tmp_path, **rules):
    with pytest.raises(ScanError) as error:
        converted(source, tmp_path, **rules)
    return error.value


def expected_volume(seed=0, n=N):
    return np.stack([pixels(k, seed).T for k in range(n)], axis=-1)


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


def test_a_media_directory_is_not_followed_wherever_it_points(tmp_path):
    folder = write_series(tmp_path / "a")
    elsewhere = write_series(tmp_path / "elsewhere", seed=1, StudyID="1")
    directory = FileSet()
    for path in elsewhere.iterdir():
        directory.add(path)
    directory.write(tmp_path / "media")
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


# --- faults


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


# --- the choice among series


@pytest.fixture
def session(tmp_path):
    """A Dixon acquisition of four parts, a coronal series, a localizer and a contrast series."""
    folder = tmp_path / "session"
    for seed, part in enumerate(("IN_PHASE", "OPP_PHASE", "W", "F")):
        derived = "DERIVED" if part in ("W", "F") else "ORIGINAL"
        write_series(
            folder / part, seed=seed,
            ImageType=[derived, "PRIMARY", "M", part], SeriesDescription="t1_vibe_dixon",
        )  # fmt: skip

    def coronal(image, k):
        image.ImagePositionPatient = [-20.0, 100.0 + STEP_MM * k, 30.0]
        image.ImageOrientationPatient = [1.0, 0.0, 0.0, 0.0, 0.0, -1.0]

    write_series(folder / "haste", change=coronal, seed=4, SeriesDescription="t2_haste_cor")
    write_series(folder / "loc", n_slices=3, seed=5, SeriesDescription="localizer")
    write_series(
        folder / "late", seed=6, SeriesDescription="t1_vibe_late", ContrastBolusAgent="agent"
    )
    return folder


@pytest.mark.parametrize(
    ("rules", "seed"),
    [
        ({"dixon": ("in_phase",)}, 0),
        ({"dixon": ("opposed_phase",)}, 1),
        ({"dixon": ("water", "in_phase")}, 2),
        ({"dixon": ("fat",)}, 3),
        ({"plane": ("coronal", "axial")}, 4),
        ({"sequence": "haste|trufi"}, 4),
        ({"contrast": "with"}, 6),
        ({"contrast": "without", "plane": ("axial",), "dixon": ("in_phase", "water")}, 0),
    ],
)
def test_the_rule_singles_out_one_series_and_every_other_has_its_reason(
    session, tmp_path, rules, seed
):
    image, _, _, series = converted(session, tmp_path, **rules)
    stored = {values.tobytes() for values in np.asarray(image.dataobj).T.swapaxes(1, 2)}
    assert {pixels(k, seed).T.tobytes() for k in range(N)} == stored
    assert len(series) == 7
    assert [row["chosen"] for row in series].count(True) == 1
    assert all((row["reason"] is None) == row["chosen"] for row in series)


def test_several_that_fit_are_no_choice(session, tmp_path):
    error = refused(session, tmp_path)
    assert error.reason == "DCM_AMBIGUOUS_SERIES"
    assert error.detail == "6 series fit the rules; 1 others left out"


def test_none_that_fits_is_named_after_the_largest(session, tmp_path):
    assert refused(session, tmp_path, plane=("sagittal",)).reason == "DCM_NOT_WANTED"


def test_a_derived_series_can_be_allowed(tmp_path):
    folder = write_series(tmp_path / "a", ImageType=["DERIVED", "PRIMARY", "MPR"])
    assert converted(folder, tmp_path, derived="allow")[0].shape[2] == N


# --- through ingest


def ingested(tmp_path, images, **rules):
    shard, out = tmp_path / "shards" / "0000.parquet", tmp_path / "ingest" / "0000.parquet"
    rows = [{"scan_id": name, "image": str(image)} for name, image in images.items()]
    write_table(shard, append_rows(rows, SHARD), SHARD)
    ingest.run(shard, out, Rules(min_entropy_bits=0.1, fov_range_mm=(30, 2500), **rules))
    return read_table(out, INGEST).set_index("scan_id"), out


def test_a_folder_becomes_an_image_that_went_through_every_check(tmp_path):
    good = write_series(tmp_path / "good")
    bad = write_series(tmp_path / "bad", leave_out=[3])
    scout = write_series(tmp_path / "scout", SeriesDescription="localizer")
    table, out = ingested(tmp_path, {"good": good, "bad": bad, "scout": scout})
    assert table["state"].to_dict() == {"good": "ready", "bad": "quarantined", "scout": "skipped"}
    assert table["reason"].dropna().to_dict() == {
        "bad": "DCM_MISSING_SLICE", "scout": "DCM_LOCALIZER"
    }  # fmt: skip
    image = Path(table.loc["good", "image"])
    assert image == out.parent / "0000" / "good.nii.gz"
    assert table.loc["good", ["n_i", "n_j", "n_k"]].tolist() == [36, 40, N]
    headers = [name for name in INGEST if name.startswith("header_")]
    assert table.loc["good", headers].tolist() == [
        57.0, "F", "2018-04-03", "SIEMENS Aera", 1.5, "GR"
    ]  # fmt: skip
    series = read_table(out.parent / "series" / "0000.parquet", SERIES).set_index("scan_id")
    assert series["chosen"].to_dict() == {"good": True, "bad": True, "scout": False}


def test_the_part_of_a_dixon_acquisition_is_kept_where_the_header_declares_it(tmp_path):
    images = {}
    for name, image_type, description in (
        ("typed", "F", "t1_vibe"),
        ("described", "M", "dixon_W"),
        ("untold", "M", "water excitation"),
    ):
        kind = ["ORIGINAL", "PRIMARY", "M", image_type]
        images[name] = write_series(tmp_path / name, ImageType=kind, SeriesDescription=description)
    table, _ = ingested(tmp_path, images)
    assert table["dixon"].dropna().to_dict() == {"typed": "fat", "described": "water"}


def test_the_same_folder_gives_the_same_bytes(tmp_path):
    folder = write_series(tmp_path / "a")
    first, _ = ingested(tmp_path / "one", {"a": folder})
    second, _ = ingested(tmp_path / "two", {"a": folder})
    assert first.loc["a", "image_sha256"] == second.loc["a", "image_sha256"]


@pytest.mark.filterwarnings("ignore:Invalid value for VR")  # said of our writing it
def test_nothing_of_a_person_is_in_what_is_written(tmp_path, caplog, capfd, recwarn):
    folder = write_series(
        tmp_path / "a", SeriesDescription="CANARY description t1", PatientAge="CANARY AGE",
        StudyTime="CANARY TIME",
    )  # fmt: skip
    recwarn.clear()
    caplog.clear()
    broken = write_series(tmp_path / "b", SeriesDescription="CANARY localizer", leave_out=[3])
    with caplog.at_level("DEBUG"):
        _, out = ingested(tmp_path, {"a": folder, "b": broken})
    written = [path for path in out.parent.rglob("*") if path.is_file()]
    assert len(written) == 3
    for path in written:
        content = path.read_bytes()
        if path.name.endswith(".gz"):
            content = nib.load(path).to_bytes()
        if path.suffix == ".parquet":
            content = pd.read_parquet(path).to_csv().encode()
        assert b"CANARY" not in content.upper(), path.name
        assert b"19610203" not in content
    said = capfd.readouterr()
    warned = "".join(str(warning.message) for warning in recwarn)
    assert "CANARY" not in (caplog.text + said.out + said.err + warned).upper()


def test_the_place_of_a_folder_is_checked_too(tmp_path):
    folder = write_series(tmp_path / "a")
    table, _ = ingested(tmp_path, {"a": folder}, allow_roots=(str(tmp_path / "elsewhere"),))
    assert table.loc["a", "reason"] == "SRC_OUTSIDE_ROOT"
    table, _ = ingested(tmp_path, {"a": folder}, allow_roots=(str(tmp_path),))
    assert table.loc["a", "state"] == "ready"


# --- real series


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

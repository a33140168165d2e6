"""Label maps written back as DICOM: in place, voxel for voxel, with codes and volumes."""

from __future__ import annotations

import shutil
import sys
from importlib.util import find_spec

import numpy as np
import pydicom
import pytest

from cohortvol.anatomy import structures
from cohortvol.anatomy.nifti import nifti_gz
from cohortvol.cli import run as cohortvol
from cohortvol.errors import ConfigError, InstallationError
from cohortvol.store.schemas import VOLUMES
from cohortvol.store.tables import read_table
from cohortvol.tools import dicom_seg
from dicom_fixture import SECRETS, write_enhanced, write_series
from dicom_seg_fixture import MODEL, NAMES, Results, content_of, measurements, put_back

needs_highdicom = pytest.mark.skipif(
    find_spec("highdicom") is None,
    reason="highdicom is not installed: pip install 'cohortvol[dicom-seg]'",
)
pytestmark = pytest.mark.filterwarnings(
    "ignore::UserWarning:highdicom", "ignore::UserWarning:pydicom"
)


@pytest.fixture
def results(tmp_path):
    """Two classic series, one read as it is and one that a tilt of the table has turned."""

    def tilted(image, k):
        c, s = np.cos(0.3), np.sin(0.3)
        image.ImageOrientationPatient = [1, 0, 0, 0, c, s]
        image.ImagePositionPatient = [-20.0, -25.0 - 5 * k * s, 100 + 5 * k * c]

    images = {
        "plain": write_series(tmp_path / "in/plain", seed=1),
        "tilted": write_series(tmp_path / "in/tilted", seed=2, change=tilted),
    }
    return Results(tmp_path / "results", images)


@needs_highdicom
def test_a_segmentation_is_the_label_map_in_every_voxel_and_in_place(results, tmp_path):
    counts = dicom_seg.run(results.write(), tmp_path / "out")
    assert (counts.written, counts.problems) == (2, 0)
    for scan_id in results.ids:
        labels, affine = results.labels(scan_id)
        path = tmp_path / "out" / f"{scan_id}_seg1.dcm"
        np.testing.assert_array_equal(put_back(path, labels, affine), labels)


@needs_highdicom
def test_highdicom_reads_the_same_on_the_grid_of_the_images(results, tmp_path):
    from highdicom.seg import segread

    dicom_seg.run(results.write(), tmp_path / "out")
    for scan_id in results.ids:
        labels, affine = results.labels(scan_id)
        seg = segread(tmp_path / "out" / f"{scan_id}_seg1.dcm")
        images = [pydicom.dcmread(p) for p in (tmp_path / "in" / scan_id).iterdir()]
        images.sort(key=lambda image: image.InstanceNumber)
        assert seg.get_default_dimension_index_pointers()
        arrays = seg.get_pixels_by_source_instance(
            [image.SOPInstanceUID for image in images],
            combine_segments=True, assert_missing_frames_are_empty=True,
        )  # fmt: skip
        own = {number: seg.get_segment_description(number).SegmentLabel
               for number in seg.segment_numbers}  # fmt: skip
        indices = np.zeros(max(own) + 1, np.uint8)
        for number, name in own.items():
            indices[number] = next(label for label, one in NAMES.items() if one == name)
        np.testing.assert_array_equal(indices[arrays].transpose(2, 1, 0), labels)
        volume = seg.get_volume(combine_segments=True)
        shift = np.diag([-1.0, -1, 1, 1]) @ volume.affine  # slices, rows, columns to RAS
        first = np.linalg.inv(affine) @ shift @ [0, 0, 0, 1]
        np.testing.assert_allclose(first[:2], 0, atol=1e-3)
        np.testing.assert_allclose(
            np.abs(np.linalg.det(shift[:3, :3])), np.abs(np.linalg.det(affine[:3, :3])), rtol=1e-5
        )


@needs_highdicom
def test_segments_have_codes_sides_and_the_study_of_their_images(results, tmp_path):
    dicom_seg.run(results.write(), tmp_path / "out")
    seg = pydicom.dcmread(tmp_path / "out/plain_seg1.dcm")
    image = pydicom.dcmread(next((tmp_path / "in/plain").iterdir()))
    for name in ("PatientID", "PatientName", "StudyInstanceUID", "FrameOfReferenceUID"):
        assert seg[name].value == image[name].value
    assert seg.SeriesInstanceUID != image.SeriesInstanceUID
    by_name = {one.SegmentLabel: one for one in seg.SegmentSequence}
    assert set(by_name) == {
        "liver",
        "kidney_left",
        "made_up",
        "patella",
    }  # nothing that is not there
    codes = {
        name: (kind.CodeValue, kind.CodingSchemeDesignator, modifier and modifier[0].CodeValue)
        for name, one in by_name.items()
        for kind in one.SegmentedPropertyTypeCodeSequence
        for modifier in [kind.get("SegmentedPropertyTypeModifierCodeSequence")]
    }
    assert codes == {
        "liver": ("10200004", "SCT", None),
        "kidney_left": ("64033007", "SCT", "7771000"),
        "patella": ("64234005", "SCT", "51440002"),
        "made_up": ("made_up", "99COHORTVOL", None),
    }
    assert "made_up" not in structures.load()


@needs_highdicom
def test_the_report_has_the_volumes_that_may_be_told_and_says_what_they_are_worth(
    results, tmp_path
):
    dicom_seg.run(results.write(), tmp_path / "out")
    volumes = read_table(results.folder / "volumes.parquet", VOLUMES)
    for scan_id in results.ids:
        told = measurements(tmp_path / "out" / f"{scan_id}_sr.dcm")
        rows = volumes[(volumes["scan_id"] == scan_id) & volumes["volume_ml"].notna()]
        expected = dict(zip(rows["structure"], rows["volume_ml"], strict=True))
        assert set(told) == {"liver", "kidney_left", "made_up"}  # the patella is excluded
        for name, (volume_ml, _) in told.items():
            assert volume_ml == pytest.approx(expected[name], rel=1e-9)
        assert told["liver"][1] == ["cut_by_fov"]
        assert told["kidney_left"][1] == ["QC_OUTLIER"]
    report = pydicom.dcmread(tmp_path / "out/plain_sr.dcm")
    assert report.ContentTemplateSequence[0].TemplateIdentifier == "1500"


@needs_highdicom
def test_one_echo_of_an_enhanced_file_is_found_again(tmp_path):
    results = Results(
        tmp_path / "results", {"e": write_enhanced(tmp_path / "in/IM1")}, echo=2
    )  # fmt: skip
    assert dicom_seg.run(results.write(), tmp_path / "out").written == 1
    labels, affine = results.labels("e")
    np.testing.assert_array_equal(put_back(tmp_path / "out/e_seg1.dcm", labels, affine), labels)


@needs_highdicom
def test_of_several_channels_the_images_of_one_are_referred_to(tmp_path):
    for seed, kind in enumerate(("IN_PHASE", "OPP_PHASE")):
        image_type = ["ORIGINAL", "PRIMARY", "M", kind]
        write_series(tmp_path / "in" / kind, seed=seed, ImageType=image_type)
    both = ("in_phase", "opposed_phase")
    results = Results(tmp_path / "results", {"a": tmp_path / "in"}, channels=both)
    assert dicom_seg.run(results.write(), tmp_path / "out").written == 1
    labels, affine = results.labels("a")
    np.testing.assert_array_equal(put_back(tmp_path / "out/a_seg1.dcm", labels, affine), labels)


@needs_highdicom
def test_layers_that_overlap_are_segmentations_of_one_series(tmp_path):
    results = Results(tmp_path / "results", {"a": write_series(tmp_path / "in/a")}, n_layers=2)
    dicom_seg.run(results.write(), tmp_path / "out")
    labels, affine = results.labels("a")
    objects = [tmp_path / f"out/a_seg{layer}.dcm" for layer in (1, 2)]
    for layer, path in enumerate(objects):
        np.testing.assert_array_equal(
            put_back(path, labels[..., layer], affine), labels[..., layer]
        )
    first, second = map(pydicom.dcmread, objects)
    assert first.SeriesInstanceUID == second.SeriesInstanceUID
    assert first.SOPInstanceUID != second.SOPInstanceUID


CASES = "dicom2nifti_cases/tests/data"


@needs_highdicom
@pytest.mark.slow
@pytest.mark.parametrize(
    ("place", "rules"),
    [
        (f"{CASES}/siemens/anatomical/001", {}),
        (f"{CASES}/philips/anatomical/002", {}),
        (f"{CASES}/philips_enhanced/anatomical/001", {}),
        (f"{CASES}/generic/compressed_jpegls/001", {}),
        ("dbdicom_renal_dicom/MULTIFRAME/IM_0014", {"echo": 1}),
    ],
)
def test_real_series_go_back_to_where_they_came_from(shared_data, tmp_path, place, rules):
    results = Results(tmp_path / "results", {"real": shared_data / place}, min_slices=2, **rules)
    assert dicom_seg.run(results.write(), tmp_path / "out").written == 1
    labels, affine = results.labels("real")
    np.testing.assert_array_equal(put_back(tmp_path / "out/real_seg1.dcm", labels, affine), labels)
    assert set(measurements(tmp_path / "out/real_sr.dcm")) == {"liver", "kidney_left", "made_up"}


@needs_highdicom
def test_images_whose_identifiers_were_taken_away_cannot_be_referred_to(tmp_path):
    def stripped(image, _k):
        image.StudyInstanceUID = ""

    images = {"a": write_series(tmp_path / "in/a", change=stripped)}
    counts = dicom_seg.run(Results(tmp_path / "results", images).write(), tmp_path / "out")
    assert (counts.written, dict(counts.without_images)) == (0, {"DCM_NO_UID": 1})


@needs_highdicom
def test_what_is_there_is_left_and_what_a_stopped_run_lacks_is_made(results, tmp_path):
    out = tmp_path / "out"
    dicom_seg.run(results.write(), out)
    before = content_of(out)
    again = dicom_seg.run(results.folder, out)
    assert (again.written, again.as_they_were) == (0, 2)
    assert content_of(out) == before
    (out / "records/plain.json").unlink()  # as after a kill between objects and record
    (out / "plain_sr.dcm").unlink()
    (out / "tilted_seg1.dcm").write_bytes(b"damaged")
    mended = dicom_seg.run(results.folder, out)
    assert (mended.written, mended.as_they_were) == (2, 0)
    assert set(content_of(out)) == set(before)
    uid = pydicom.dcmread(out / "plain_seg1.dcm").SOPInstanceUID
    labels, affine = results.labels("plain")
    results.put("plain", np.roll(labels, 1, axis=0), affine)
    assert dicom_seg.run(results.write(), out).written == 1
    assert pydicom.dcmread(out / "plain_seg1.dcm").SOPInstanceUID != uid


@needs_highdicom
def test_scans_that_are_not_written_are_counted_and_what_was_written_of_them_goes(
    results, tmp_path, capsys
):
    out = tmp_path / "out"
    dicom_seg.run(results.write(), out)
    results.qc["plain"] = "exclude"
    image = tmp_path / "nifti.nii.gz"
    grey = np.random.default_rng(0).integers(0, 900, (40, 40, 12)).astype(np.int16)
    image.write_bytes(nifti_gz(grey, np.diag([2.0, 2, 4, 1])))
    more = Results(tmp_path / "more", {"nifti": image, **{
        name: tmp_path / "in" / name for name in results.ids
    }})  # fmt: skip
    more.qc["plain"] = "exclude"
    assert cohortvol(["dicom-seg", "--results", str(more.write()), "--out", str(out)]) == 0
    told = capsys.readouterr().out
    assert "1 scans written, 0 as they were" in told
    assert "1 did not come as DICOM" in told
    assert "1 excluded by quality control" in told
    assert "2 files removed" in told
    assert {path.name for path in out.glob("*.dcm")} == {"tilted_seg1.dcm", "tilted_sr.dcm"}
    assert {path.name for path in (out / "records").iterdir()} == {"tilted.json"}


@needs_highdicom
def test_images_and_label_maps_that_are_gone_or_changed_are_counted(results, tmp_path, capsys):
    def told(out):
        words = ["dicom-seg", "--results", str(results.folder), "--out", str(tmp_path / out)]
        assert cohortvol(words) == 3
        return capsys.readouterr().out

    results.write()
    first, *_ = sorted((tmp_path / "in/plain").iterdir())
    shutil.move(first, tmp_path / "slice")
    assert "1 whose images could not be found again (DCM_MISSING_SLICE)" in told("one")
    moved = pydicom.dcmread(tmp_path / "slice")
    moved.ImagePositionPatient[0] += 1.0
    moved.save_as(first)
    assert "1 whose images could not be found again (SRC_CHANGED)" in told("two")
    shutil.rmtree(tmp_path / "in/plain")
    results.place("tilted").unlink()
    said = told("three")
    assert "1 whose images could not be found again (SRC_MISSING)" in said
    assert "1 whose label map is gone or changed" in said
    assert not list((tmp_path / "three").glob("*.dcm"))


@needs_highdicom
def test_an_empty_label_map_is_no_object(results, tmp_path):
    labels, affine = results.labels("plain")
    results.put("plain", np.zeros_like(labels), affine)
    counts = dicom_seg.run(results.write(), tmp_path / "out")
    assert (counts.written, counts.empty) == (1, 1)


@needs_highdicom
def test_hashed_ids_are_written_with_names_only_when_asked(results, tmp_path, caplog):
    results.write()
    (results.folder / "private").mkdir()
    (results.folder / "private/ids.csv").write_text("key,id\n")
    out = tmp_path / "out"
    with pytest.raises(ConfigError, match="ids are hashed"):
        dicom_seg.run(results.folder, out)
    assert not out.exists()
    assert dicom_seg.run(results.folder, out, identified=True).written == 2
    assert out.stat().st_mode & 0o077 == 0
    assert not any(path.stat().st_mode & 0o077 for path in out.glob("*.dcm"))
    assert not any(secret in caplog.text for secret in SECRETS.values())


@needs_highdicom
@pytest.mark.filterwarnings("always")
def test_nothing_of_a_person_is_said(tmp_path, capfd, caplog, recwarn):
    odd = {"PatientName": "CANARY", "PatientAge": "CANARY AGE"}  # neither is as it should be
    images = {"a": write_series(tmp_path / "in/a", **odd)}
    results = Results(tmp_path / "results", images).write()
    recwarn.clear()
    with caplog.at_level("DEBUG"):
        assert dicom_seg.run(results, tmp_path / "out").written == 1
    said = capfd.readouterr()
    warned = "".join(str(warning.message) for warning in recwarn)
    assert "CANARY" not in (caplog.text + said.out + said.err + warned).upper()


@needs_highdicom
def test_results_without_label_maps_and_folders_of_others_are_refused(results, tmp_path):
    results.write()
    other = tmp_path / "other"
    other.mkdir()
    (other / "mine.txt").touch()
    with pytest.raises(ConfigError, match="holds something else"):
        dicom_seg.run(results.folder, other)
    (results.folder / "measure" / MODEL / "kept").mkdir(parents=True)
    with pytest.raises(ConfigError, match="keep_label_maps"):
        dicom_seg.run(results.folder, tmp_path / "out")


def test_without_highdicom_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "highdicom", None)
    with pytest.raises(InstallationError, match=r"pip install 'cohortvol\[dicom-seg\]'"):
        dicom_seg.run(tmp_path, tmp_path / "out")

"""Folders as scanners and archives really fill them: with more than one sound series in them."""

from __future__ import annotations

import numpy as np
import pytest
from pydicom import dcmread, filereader
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.sequence import Sequence
from pydicom.uid import RLELossless

from cohortvol.errors import ScanError
from cohortvol.stages.ingest import Rules
from cohortvol.stages.ingest.dicom import conversion
from cohortvol.stages.ingest.dicom.choice import choose
from cohortvol.stages.ingest.dicom.completeness import account, check_damage
from cohortvol.stages.ingest.dicom.folder import read_folder
from cohortvol.stages.ingest.dicom.stacks import ordered, stacks_of
from dicom_converted import N, converted, expected_volume
from dicom_fixture import STEP_MM, write_enhanced, write_series

_OF_PIXELS = (
    "PixelData", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation",
    "SamplesPerPixel", "PhotometricInterpretation",
)  # fmt: skip


def looked_at(folder, **rules):
    """What a folder holds, and the choice among its stacks; nothing is converted."""
    found = read_folder(folder, Rules(**rules))
    return found, choose(stacks_of(found.frames), Rules(**rules))


@pytest.mark.parametrize(
    ("sop", "named"),
    [("1.2.840.10008.5.1.4.1.1.66", "raw data"), ("1.2.840.10008.5.1.4.1.1.4.2", "spectroscopy")],
)
@pytest.mark.parametrize("pixels", [None, b""])
def test_an_object_with_a_matrix_and_no_pixels_is_no_image(tmp_path, sop, named, pixels):
    folder = write_series(tmp_path / "session")
    beside = dcmread(min(folder.iterdir()))
    for name in _OF_PIXELS if pixels is None else ():
        delattr(beside, name)
    beside.SOPClassUID = beside.file_meta.MediaStorageSOPClassUID = sop
    if pixels is not None:
        beside.PixelData = pixels
    beside.save_as(folder / named, enforce_file_format=True)
    found, choice = looked_at(folder)
    assert len(choice.chosen) == 1
    assert len(ordered(*choice.chosen).frames) == N
    assert [(row["reason"], row["n_images"]) for row in account(found)] == [("DCM_NO_IMAGE", 1)]


def _said_by_the_standard(image, part):
    image.ComplexImageComponent = part


def _said_by_ge(image, part):
    image.Manufacturer = "GE MEDICAL SYSTEMS"
    block = image.private_block(0x0043, "GEMS_PARM_01", create=True)
    block.add_new(0x2F, "SS", ["MAGNITUDE", "PHASE", "REAL", "IMAGINARY"].index(part))


@pytest.mark.parametrize("part", ["PHASE", "REAL", "IMAGINARY"])
@pytest.mark.parametrize("say", [_said_by_the_standard, _said_by_ge])
def test_of_magnitude_and_another_part_in_one_series_the_magnitude_is_taken(tmp_path, say, part):
    def change(image, k):
        say(image, "MAGNITUDE" if k < N else part)
        image.ImageType = ["ORIGINAL", "PRIMARY", "OTHER"]
        image.ImagePositionPatient = [-20.0, -25.0, 100.0 + STEP_MM * (k % N)]

    _, choice = looked_at(write_series(tmp_path / "series", n_slices=2 * N, change=change))
    assert len(choice.chosen) == 1
    assert {frame.component for frame in choice.chosen[0].frames} == {"MAGNITUDE"}
    assert sorted((row["reason"] or "", row["detail"] or "") for row in choice.series) == [
        ("", ""), ("DCM_NOT_MAGNITUDE", part.lower()),
    ]  # fmt: skip


def test_a_phase_image_that_only_its_frames_betray_is_left_out(tmp_path):
    def change(image):
        for frame in image.PerFrameFunctionalGroupsSequence:
            kind = frame.MRImageFrameTypeSequence[0]
            kind.FrameType, kind.ComplexImageComponent = (
                ["ORIGINAL", "PRIMARY", "T1", "NONE"],
                "PHASE",
            )

    write_enhanced(tmp_path / "series" / "IM1", echoes=(2.0,), change=change)
    _, choice = looked_at(tmp_path / "series")
    assert [row["reason"] for row in choice.series] == ["DCM_NOT_MAGNITUDE"]


@pytest.mark.parametrize("echoes", [(2.0,), (2.0, 4.0)])
def test_the_header_of_a_packed_file_is_not_read_again_for_every_frame(
    tmp_path, monkeypatch, echoes
):
    reads: list[int] = []
    read = filereader.read_partial

    def counted(*args, **named):
        reads.append(1)
        return read(*args, **named)

    def pack_all(image):
        image.compress(RLELossless, generate_instance_uid=False)

    folder = tmp_path / "series"
    write_enhanced(folder / "IM1", echoes=echoes, change=pack_all)
    monkeypatch.setattr(filereader, "read_partial", counted)
    image, *_ = converted(folder, tmp_path, echo=1)
    assert len(reads) < N / 2
    assert np.array_equal(np.asarray(image.dataobj), 0.5 * expected_volume())


def _dynamic(folder, *, numbered):
    def change(image, k):
        phase = k // N
        image.ImagePositionPatient = [-20.0, -25.0, 100.0 + STEP_MM * (k % N)]
        image.AcquisitionTime = f"1010{10 + 8 * phase}"
        if numbered:
            image.TemporalPositionIdentifier = phase + 1

    return write_series(folder, n_slices=3 * N, change=change)


@pytest.mark.parametrize("numbered", [True, False])
@pytest.mark.parametrize(("phase", "first"), [(1, 1), (2, N + 1), ("last", 2 * N + 1)])
def test_of_a_dynamic_series_the_phase_that_is_asked_for_is_the_scan(
    tmp_path, numbered, phase, first
):
    folder = _dynamic(tmp_path / "series", numbered=numbered)
    _, choice = looked_at(folder, phase=phase)
    assert len(choice.chosen) == 1
    numbers = [frame.facts.InstanceNumber for frame in ordered(*choice.chosen).frames]
    assert numbers == list(range(first, first + N))
    told = [row["detail"] for row in choice.series if not row["chosen"]]
    assert len(told) == 2
    assert all(detail.endswith("of 3") for detail in told)
    assert {row["reason"] for row in looked_at(folder)[1].series} == {"DCM_AMBIGUOUS_SERIES"}


def _dynamic_in_series(folder, times=(101010, 101018, 101026), **fields):
    """Each phase a series of its own, described with its number; the last comes first by name."""
    for phase, time in enumerate(times, start=1):
        write_series(
            folder / str(9 - phase), SeriesDescription=f"Ph{phase}/t1_dyn",
            AcquisitionTime=str(time), FrameOfReferenceUID="1.2.3", **fields,
        )  # fmt: skip
    return folder


@pytest.mark.parametrize(("phase", "told"), [(1, "Ph1"), (2, "Ph2"), (3, "Ph3"), ("last", "Ph3")])
def test_of_phases_that_are_series_of_their_own_the_one_that_is_asked_for_is_the_scan(
    tmp_path, phase, told
):
    folder = _dynamic_in_series(tmp_path / "session")
    write_series(folder / "other", SeriesDescription="t2_haste", FrameOfReferenceUID="1.2.3")
    _, choice = looked_at(folder, phase=phase, sequence="dyn")
    assert [stack.first.told("SeriesDescription") for stack in choice.chosen] == [f"{told}/t1_dyn"]
    details = [row["detail"] for row in choice.series if not row["chosen"]]
    assert sum(str(detail).endswith("of 3") for detail in details) == 2
    assert choice.error is None


def test_phases_that_are_series_are_not_guessed(tmp_path):
    folder = _dynamic_in_series(tmp_path / "session")
    assert looked_at(folder)[1].error.reason == "DCM_AMBIGUOUS_SERIES"
    assert looked_at(folder, phase=4)[1].error.reason == "DCM_NOT_WANTED"
    again = _dynamic_in_series(tmp_path / "again", times=(101010, 101010))
    assert looked_at(again, phase=1)[1].error.reason == "DCM_AMBIGUOUS_SERIES"
    elsewhere = _dynamic_in_series(tmp_path / "elsewhere", times=(101010,))
    _dynamic_in_series(elsewhere / "b", times=(101018,), change=_at_steps_of(4.0, digits=3))
    assert looked_at(elsewhere, phase=2)[1].error.reason == "DCM_NOT_WANTED"


def _retrieved_again(image, name):
    """The file of an image as another retrieval leaves it."""
    image.RetrieveAETitle = "ARCHIVE2"
    image.save_as(name, enforce_file_format=True)


def test_images_that_were_retrieved_twice_are_taken_once(tmp_path):
    folder = write_series(tmp_path / "series")
    for path in sorted(folder.iterdir()):
        _retrieved_again(dcmread(path), folder / f"again-{path.name}")
    found, choice = looked_at(folder)
    assert len(choice.chosen) == 1
    assert len(ordered(*choice.chosen).frames) == N
    assert [(row["reason"], row["n_images"]) for row in account(found)] == [("W_DUPLICATE_FILE", N)]


@pytest.mark.parametrize("name", ["EchoTime", "RescaleSlope", "PixelSpacing", "PixelData"])
def test_two_images_of_one_identifier_that_differ_in_what_counts_are_no_copies(tmp_path, name):
    folder = write_series(tmp_path / "series")
    image = dcmread(min(folder.iterdir()))
    changed = {"PixelSpacing": [1.0, 1.0], "PixelData": bytes(len(image.PixelData))}
    setattr(image, name, changed.get(name, 3.0))
    _retrieved_again(image, folder / "again")
    found, _ = looked_at(folder)
    assert len(found.frames) == N + 1


def _without_preamble(folder):
    for path in sorted(folder.iterdir()):
        image = dcmread(path)
        content = DicomBytesIO()
        content.is_little_endian, content.is_implicit_VR = True, True
        write_dataset(content, image)
        path.write_bytes(content.getvalue())
    return folder


def test_images_without_the_preamble_of_dicom_are_read(tmp_path):
    folder = _without_preamble(write_series(tmp_path / "series"))
    image, *_ = converted(folder, tmp_path)
    assert np.array_equal(np.asarray(image.dataobj), expected_volume())


def test_without_the_preamble_and_without_a_converter_slices_are_put_together(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(conversion, "_images_of_dcm2niix", lambda *_: iter(()))
    folder = _without_preamble(write_series(tmp_path / "series"))
    image, *_ = converted(folder, tmp_path)
    assert np.array_equal(np.asarray(image.dataobj), expected_volume())


@pytest.mark.parametrize("name", ["scans.xlsx", "scans.xls", "notes.docx", "scans.ods"])
def test_a_spreadsheet_beside_the_images_is_listed(tmp_path, name):
    folder = write_series(tmp_path / "series")
    (folder / name).write_bytes(b"PK\3\4" + bytes(400))
    found, choice = looked_at(folder)
    check_damage(found, choice)
    assert [row["reason"] for row in account(found)] == ["DCM_FOREIGN_FILE"]


def test_a_file_that_cannot_be_read_is_named_unless_names_are_hidden(tmp_path):
    folder = write_series(tmp_path / "series")
    (folder / "IM9999").write_bytes(b"junk" * 100)
    with pytest.raises(ScanError, match=f"IM9999: .* 1 damaged among {N + 1} images"):
        check_damage(*looked_at(folder))
    link = tmp_path / "private" / "images" / "s_0123456789abcdef"
    link.parent.mkdir(parents=True)
    link.symlink_to(folder)
    with pytest.raises(ScanError, match=f"^DCM_UNREADABLE_FILE: [^:]*1 damaged among {N + 1}"):
        check_damage(*looked_at(link))


def _at_steps_of(step_mm, *, digits, off_mm=0.0):
    def change(image, k):
        z = 100.0 + step_mm * k + (off_mm if k == 5 else 0.0)
        image.ImagePositionPatient = [-20.0, -25.0, round(z, digits)]

    return change


def test_positions_rounded_to_a_tenth_lie_on_the_grid_of_first_and_last(tmp_path):
    folder = write_series(tmp_path / "series", change=_at_steps_of(2.23, digits=1))
    image, _, codes, _ = converted(folder, tmp_path)
    assert "W_POSITIONS_ROUNDED" in codes
    assert image.affine[2, 2] == pytest.approx(round(11 * 2.23, 1) / 11, abs=1e-4)
    assert np.array_equal(np.asarray(image.dataobj), expected_volume())


@pytest.mark.parametrize(("digits", "off_mm"), [(1, 0.2), (2, 0.08)])
def test_steps_that_rounding_does_not_explain_are_irregular(tmp_path, digits, off_mm):
    change = _at_steps_of(2.2, digits=digits, off_mm=off_mm)
    _, choice = looked_at(write_series(tmp_path / "series", change=change))
    with pytest.raises(ScanError) as raised:
        ordered(*choice.chosen)
    assert raised.value.reason == "DCM_SPACING_IRREGULAR"


@pytest.mark.parametrize("slices", [{3}, set(range(6))])
def test_slices_of_one_series_with_another_pixel_spacing_are_refused(tmp_path, slices):
    def change(image, k):
        if k in slices:
            image.PixelSpacing = [1.6, 2.0]

    _, choice = looked_at(write_series(tmp_path / "series", change=change))
    with pytest.raises(ScanError, match="another PixelSpacing"):
        ordered(*choice.chosen)


def test_echo_times_of_a_legacy_converted_file_are_found_where_the_conversion_put_them(tmp_path):
    def convert(image):
        image.SOPClassUID = image.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.4.4"
        for frame in image.PerFrameFunctionalGroupsSequence:
            kept = Dataset()
            kept.EchoTime = frame.MREchoSequence[0].EffectiveEchoTime
            frame.UnassignedPerFrameConvertedAttributesSequence = Sequence([kept])
            del frame.MREchoSequence

    folder = tmp_path / "series"
    write_enhanced(folder / "IM1", change=convert)
    _, choice = looked_at(folder, echo=2)
    assert len(choice.chosen) == 1
    assert choice.chosen[0].first.echo_time_ms == 4.0
    assert len(ordered(*choice.chosen).frames) == N

"""DICOM folders with one damaged file: what is wrong never becomes a number in silence."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.encaps import generate_frames
from pydicom.uid import JPEG2000Lossless, RLELossless, generate_uid

import dicom_damage
from cohortvol.errors import ScanError
from cohortvol.stages.ingest import Rules
from cohortvol.stages.ingest.dicom import to_nifti
from cohortvol.stages.ingest.dicom.conversion import SAME_LENGTH
from cohortvol.stages.ingest.dicom.jpeg2000 import bytes_more, packets_hold
from cohortvol.stages.ingest.dicom.rle import rows_come_out
from dicom_damage import (
    ACCEPTED,
    DAMAGES,
    N_SLICES,
    SOUND,
    answer,
    cases,
    damaged,
    ingested,
    scanned,
    slices_in_order,
)

pytestmark = pytest.mark.slow

N_CASES = 60


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """A sound folder of every kind, with its row of the ingest table."""
    work = tmp_path_factory.mktemp("sound")
    folders = {kind: make(work / f"k{n}") for n, (kind, make) in enumerate(SOUND.items())}
    rows = ingested({folder.name: folder for folder in folders.values()}, work)
    return {kind: (folder, rows.loc[folder.name]) for kind, folder in folders.items()}


def refused(folder, tmp_path, **rules):
    with pytest.raises(ScanError) as error:
        to_nifti(folder, tmp_path / "scan.nii.gz", Rules(**rules), [])
    return error.value


def test_a_sound_folder_of_every_kind_is_ready_without_a_mark(sound):
    found = {kind: (row["state"], str(row["warnings"])) for kind, (_, row) in sound.items()}
    assert found == dict.fromkeys(SOUND, ("ready", "nan"))


def test_no_damaged_folder_is_taken_for_good_with_other_voxels(sound, tmp_path):
    """Some of benchmarks/damaged_dicom.py."""
    todo = {f"c{n:03d}": case for n, case in enumerate(cases(N_CASES, seed=1))}
    folders = {name: damaged(case, sound[case.sound][0], tmp_path / name)
               for name, case in todo.items()}  # fmt: skip
    rows = ingested(folders, tmp_path)
    assert set(rows["state"]) <= {"ready", "quarantined", "skipped"}
    said = {case: answer(rows.loc[name], sound[case.sound][1]) for name, case in todo.items()}
    assert [case for case, one in said.items() if one == ACCEPTED] == []


HEADS = [
    "cut at 300 bytes", "cut at 500 bytes", "cut at 1000 bytes", "bytes 400 to 800 zeros",
    "zeros after the mark", "random after the mark", "file meta alone",
]  # fmt: skip


@pytest.mark.parametrize("at", [0, -1, 7])
@pytest.mark.parametrize("damage", HEADS)
def test_a_file_that_bears_the_mark_and_is_no_image_is_a_damaged_one(tmp_path, damage, at):
    folder = scanned(tmp_path / "a")
    path = slices_in_order(folder)[at]
    DAMAGES[damage](path, np.random.default_rng(0), [])
    assert path.read_bytes()[128:132] == b"DICM"
    error = refused(folder, tmp_path)
    assert error.reason == "DCM_UNREADABLE_FILE", error


@pytest.mark.parametrize(
    "name",
    ["SeriesInstanceUID", "EchoTime", "ImageType", "TemporalPositionIdentifier",
     "ImagePositionPatient"],
)  # fmt: skip
@pytest.mark.parametrize("at", [0, -1])
def test_a_slice_whose_header_sets_it_apart_is_missed(tmp_path, name, at):
    folder = scanned(tmp_path / "a")
    path = slices_in_order(folder)[at]
    image = dcmread(path)
    other = {
        "SeriesInstanceUID": generate_uid(), "EchoTime": 9.9, "TemporalPositionIdentifier": 2,
        "ImageType": ["ORIGINAL", "PRIMARY", "M", "NORM"], "ImagePositionPatient": None,
    }  # fmt: skip
    setattr(image, name, other[name])
    image.save_as(path)
    assert refused(folder, tmp_path).reason == "DCM_MISSING_SLICE"


def test_every_file_of_a_folder_is_accounted_for(tmp_path):
    folder = dicom_damage.session(tmp_path / "a")
    shutil.copy(slices_in_order(folder)[4], folder / "copy")
    files = [path for path in folder.rglob("*") if path.is_file()]
    series = []
    to_nifti(folder, tmp_path / "scan.nii.gz", Rules(), series)
    assert sum(row["n_images"] for row in series) == len(files)
    assert {row["reason"]: row["n_images"] for row in series} == {
        None: N_SLICES, "DCM_NOT_MAGNITUDE": N_SLICES, "DCM_LOCALIZER": 3, "DCM_NO_IMAGE": 1,
        "DCM_FOREIGN_FILE": 1, "W_DUPLICATE_FILE": 1,
    }  # fmt: skip


def test_a_damaged_file_of_another_kind_of_series_is_no_matter(tmp_path):
    folder = dicom_damage.session(tmp_path / "a")
    for other in ("loc", "phase"):
        path = min((folder / other).iterdir())
        path.write_bytes(path.read_bytes()[:-100])
    series = []
    to_nifti(folder, tmp_path / "scan.nii.gz", Rules(), series)
    found = [(row["reason"], row["n_images"]) for row in series]
    assert found.count(("SRC_TRUNCATED", 1)) == 2
    path = min((folder / "loc").iterdir())
    path.write_bytes(path.read_bytes()[:500])  # now nothing says of which series it is
    assert refused(folder, tmp_path).reason == "DCM_UNREADABLE_FILE"


def test_one_file_does_not_speak_for_all(tmp_path):
    """Whichever file comes first by its name, what most of them say is what is believed."""
    folder = scanned(tmp_path / "a")
    path = min(folder.iterdir())
    image = dcmread(path)
    image.PatientAge, image.Modality, image.SeriesDescription = "017Y", "CR", "localizer"
    image.save_as(path)
    known, codes = to_nifti(folder, tmp_path / "scan.nii.gz", Rules(), [])
    assert (known["header_age_years"], codes) == (57.0, ["W_CONVERTER_DIFFERS"])


@pytest.mark.parametrize("name", ["LargestImagePixelValue", "SmallestImagePixelValue"])
def test_a_changed_pixel_is_found_where_headers_tell_the_ends(tmp_path, name):
    folder = scanned(tmp_path / "a")
    for k, path in enumerate(slices_in_order(folder)):
        image = dcmread(path)
        values = dicom_damage.slice_of(k)
        image.add_new(0x00280106, "US", int(values.min()))
        image.add_new(0x00280107, "US", int(values.max()))
        if k == 9:
            at = values.argmax() if name.startswith("L") else values.argmin()
            values.flat[at] += 1
            image.PixelData = values.tobytes()
        image.save_as(path)
    error = refused(folder, tmp_path)
    assert error.reason == "DCM_UNREADABLE_FILE"
    assert name in error.detail


@pytest.mark.parametrize("at", range(64, 3000, 117))
def test_a_count_of_rle_that_was_changed_is_found(tmp_path, at):
    folder = scanned(tmp_path / "a", "rle")
    image = dcmread(min(folder.iterdir()))
    assert image.file_meta.TransferSyntaxUID == RLELossless
    frame = bytearray(next(generate_frames(image.PixelData, number_of_frames=1)))
    assert rows_come_out(frame, image.Rows, image.Columns)
    frame[at : at + 200] = bytes(200)  # runs of one byte
    assert not rows_come_out(frame, image.Rows, image.Columns)


@pytest.mark.parametrize("at", range(60, 4000, 197))
@pytest.mark.parametrize("filling", [b"\0", b"\xff", b"\x40"])
def test_a_sector_of_jpeg_2000_that_was_lost_is_found(tmp_path, at, filling):
    """Decoders make a picture of most of these."""
    folder = scanned(tmp_path / "a", "jpeg2000")
    image = dcmread(min(folder.iterdir()))
    frame = bytearray(next(generate_frames(image.PixelData, number_of_frames=1)))
    assert packets_hold(frame)
    frame[at : at + 512] = filling * 512
    assert not packets_hold(frame)


@pytest.mark.parametrize("lost", [range(70, 73), range(500, 3000)])
def test_jpeg_2000_from_which_bytes_are_lost_does_not_come_out(tmp_path, lost):
    image = dcmread(min(scanned(tmp_path / "a", "jpeg2000").iterdir()))
    frame = bytearray(next(generate_frames(image.PixelData, number_of_frames=1)))
    assert packets_hold(frame)
    del frame[lost.start : lost.stop]
    assert not packets_hold(frame)


@pytest.mark.parametrize("seed", range(12))
def test_jpeg_2000_of_random_bytes_is_not_as_long_as_it_must_be(tmp_path, seed):
    """16 to 512 bytes: the decoder makes a picture of most, and its grey values are plausible."""
    rng = np.random.default_rng(seed)
    image = dcmread(min(scanned(tmp_path / "a", "jpeg2000").iterdir()))
    frame = bytearray(next(generate_frames(image.PixelData, number_of_frames=1)))
    assert bytes_more(bytes(frame), image.BitsStored) in (0, 1)
    size = (16, 64, 512)[seed % 3]
    at = int(rng.integers(200, len(frame) - size - 8))
    frame[at : at + size] = rng.bytes(size)
    more = bytes_more(bytes(frame), image.BitsStored)
    assert more is None or abs(more) > SAME_LENGTH or not packets_hold(frame)


def test_jpeg_2000_of_another_library_is_of_equal_lengths(shared_data):
    folder = shared_data / "dicom2nifti_cases/tests/data/generic/compressed_j2k"
    more = [
        bytes_more(next(generate_frames(image.PixelData, number_of_frames=1)), image.BitsStored)
        for image in map(dcmread, sorted(folder.rglob("*.dcm")))
    ]
    assert len(more) == 4
    assert 0 <= max(more) - min(more) < SAME_LENGTH


def test_jpeg_2000_of_scanners_comes_out(shared_data):
    folders = ("totalsegmentator_refs/example_ct_dicom", "dicom2nifti_cases/tests/data/generic")
    frames = [
        frame
        for folder in folders
        for path in sorted((shared_data / folder).rglob("*"))
        if path.is_file() and path.read_bytes()[128:132] == b"DICM"
        for image in [dcmread(path)]
        if image.file_meta.TransferSyntaxUID == JPEG2000Lossless
        for frame in generate_frames(image.PixelData, number_of_frames=1)
    ]
    assert len(frames) >= 20
    assert all(map(packets_hold, frames))

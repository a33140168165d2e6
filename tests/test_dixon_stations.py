"""Four contrasts of six stations, as a folder, as a zip and in one enhanced file: one image."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from archive_fixture import files_of, packed
from cohortvol.stages.ingest.dicom.frames import DIXON_PARTS
from dicom_converted import converted, ingested
from dicom_fixture import DIXON_PARTS as CODES
from dicom_fixture import STEP_MM, write_enhanced
from test_dicom_stations import OVERLAP, N, whole, write_station

STATIONS = 6
DEEP = STATIONS * (N - OVERLAP) + OVERLAP
SLOPE = {part: 0.5 + 0.25 * n for n, part in enumerate(CODES)}
FRAME_TYPES = {
    "in_phase": "IN_PHASE", "opposed_phase": "OUT_PHASE", "water": "WATER", "fat": "FAT"
}  # fmt: skip


def bodies():
    return {part: whole(DEEP, seed) for seed, part in enumerate(CODES)}


def write_folder(folder):
    for part, body in bodies().items():
        for number in range(STATIONS):
            write_station(
                folder / f"{part}{number}", number, body, RescaleSlope=SLOPE[part],
                RescaleIntercept=0, ImageType=["DERIVED", "PRIMARY", "M", CODES[part]],
            )  # fmt: skip
    return folder


def write_one_file(path, order=None):
    """The same in an enhanced file: MIXED as a whole, frames told by type, place and stack."""
    frames, stored = [], []
    of_part = bodies()
    for number in range(STATIONS):
        for k in range(N):
            for part, body in of_part.items():
                at = number * (N - OVERLAP) + k
                frames.append(_frame(part, number, k, 100.0 + STEP_MM * at))
                stored.append(body[:, :, at])
    order = range(len(frames)) if order is None else order(len(frames))

    def change(image):
        image.ImageType = ["DERIVED", "PRIMARY", "T1", "MIXED"]
        image.PerFrameFunctionalGroupsSequence = Sequence([frames[n] for n in order])
        image.NumberOfFrames = len(frames)
        image.PixelData = np.stack([stored[n] for n in order]).tobytes()

    write_enhanced(path, change=change)
    return path.parent


def _frame(part, number, k, z):
    groups = {
        "PlanePositionSequence": {"ImagePositionPatient": [-20.0, -25.0, z]},
        "MREchoSequence": {"EffectiveEchoTime": 2.4},
        "MRImageFrameTypeSequence": {"FrameType": ["DERIVED", "PRIMARY", "T1", FRAME_TYPES[part]]},
        "FrameContentSequence": {"StackID": str(number + 1), "InStackPositionNumber": k + 1},
        "PixelValueTransformationSequence": {
            "RescaleSlope": SLOPE[part], "RescaleIntercept": 0.0, "RescaleType": "US"
        },
    }  # fmt: skip
    frame = Dataset()
    for name, values in groups.items():
        item = Dataset()
        for key, value in values.items():
            setattr(item, key, value)
        setattr(frame, name, Sequence([item]))
    return frame


def said_by_pydicom(path, part):
    """Grey values of the frames of a part, by their height, mm."""
    image = dcmread(path)
    for frame, stored in zip(
        image.PerFrameFunctionalGroupsSequence, image.pixel_array, strict=True
    ):
        kind = frame.MRImageFrameTypeSequence[0].FrameType[3]
        scale = frame.PixelValueTransformationSequence[0].RescaleSlope
        if kind in DIXON_PARTS[part]:
            yield frame.PlanePositionSequence[0].ImagePositionPatient[2], stored * float(scale)


def test_folder_zip_and_enhanced_file_of_stations_and_contrasts_are_the_same_voxels(tmp_path):
    folder = write_folder(tmp_path / "folder")
    images = {
        "folder": folder,
        "zip": packed(tmp_path / "session.zip", files_of(folder)),
        "file": write_one_file(tmp_path / "enhanced" / "IM1"),
    }
    table, _ = ingested(tmp_path, images, dixon=("water",))
    assert set(table["state"]) == {"ready"}, table[["reason", "detail"]]
    voxels = {name: nib.load(path) for name, path in table["image"].items()}
    for image in voxels.values():
        assert np.array_equal(np.asarray(image.dataobj), np.asarray(voxels["folder"].dataobj))
        assert np.allclose(image.affine, voxels["folder"].affine)
    assert voxels["file"].shape[2] == DEEP


@pytest.mark.parametrize("part", list(CODES))
def test_each_part_of_an_enhanced_file_of_stations_is_what_its_frames_say(tmp_path, part):
    folder = write_one_file(tmp_path / "enhanced" / "IM1")
    image, facts, codes, _ = converted(folder, tmp_path, dixon=(part,))
    assert facts["dixon"] == part
    assert set(codes) <= {"W_STATIONS", "W_CONVERTER_DIFFERS"}
    voxels, n_frames = np.asarray(image.dataobj), 0
    for z, grey in said_by_pydicom(folder / "IM1", part):
        k = round((z - image.affine[2, 3]) / STEP_MM)
        assert np.array_equal(voxels[:, :, k], grey.T), z
        n_frames += 1
    assert n_frames == STATIONS * N


def test_frames_of_an_enhanced_file_of_stations_may_come_in_any_order(tmp_path):
    shuffled = np.random.default_rng(0).permutation
    folder = write_one_file(tmp_path / "shuffled" / "IM1", order=shuffled)
    image, *_ = converted(folder, tmp_path, dixon=("fat",))
    expected = whole(DEEP, list(CODES).index("fat"))[:, :, :DEEP].swapaxes(0, 1)
    assert np.array_equal(np.asarray(image.dataobj), SLOPE["fat"] * expected)

"""DICOM series made for tests: classic and enhanced MR, with the faults that are asked for."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from pydicom import dcmread
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    MRImageStorage,
    RLELossless,
    generate_uid,
)

SPACING_MM = (1.5, 2.0)  # between rows, between columns
STEP_MM = 5.0
SHAPE = (40, 36)  # rows, columns
EnhancedMRImageStorage = "1.2.840.10008.5.1.4.1.1.4.1"

Change = Callable[[Dataset, int], None]
Make = Callable[[Path], Path]

SECRETS = {
    "PatientName": "CANARYNAME^JANE",
    "PatientID": "CANARY-4711",
    "PatientBirthDate": "19610203",
    "InstitutionName": "CANARY HOSPITAL",
    "AccessionNumber": "CANARY-ACC",
    "ReferringPhysicianName": "CANARYDOC",
    "StudyDescription": "CANARY STUDY",
    "PatientAddress": "CANARY STREET 1",
}


def pixels(k: int, seed: int = 0) -> np.ndarray:
    """Stored values of slice k."""
    rng = np.random.default_rng([seed, k])
    return rng.integers(0, 1200, SHAPE).astype(np.uint16)


def write_series(
    folder: Path,
    n_slices: int = 12,
    change: Change | None = None,
    leave_out: Iterable[int] = (),
    seed: int = 0,
    **fields: Any,
) -> Path:
    """Slices of one axial series, one file each, named against their order in space."""
    folder.mkdir(parents=True, exist_ok=True)
    series, study = generate_uid(), generate_uid()
    for k in range(n_slices):
        image = _image(series, study, SECRETS | fields)
        image.ImagePositionPatient = [-20.0, -25.0, 100.0 + STEP_MM * k]
        image.ImageOrientationPatient = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0]
        image.PixelSpacing = list(SPACING_MM)
        image.SliceThickness = 8.0  # not the distance of slices, as often
        image.InstanceNumber = k + 1
        image.PixelData = pixels(k, seed).tobytes()
        if change is not None:
            change(image, k)
        if k not in leave_out:
            image.save_as(folder / f"IM{n_slices - k:04d}_{series[-6:]}", enforce_file_format=True)
    return folder


DIXON_PARTS = {"in_phase": "IN_PHASE", "opposed_phase": "OPP_PHASE", "water": "W", "fat": "F"}


def dixon_session(folder: Path, **named: str) -> Path:
    """DICOM of the parts of a Dixon acquisition, each called as `named`, else by its name."""
    for seed, (part, code) in enumerate(DIXON_PARTS.items()):
        write_series(
            folder / part, seed=seed, SeriesDescription="t1_vibe_dixon",
            ImageType=["DERIVED", "PRIMARY", "M", named.get(part, code)],
        )  # fmt: skip
    return folder


def _image(series: str, study: str, fields: dict[str, Any]) -> FileDataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = MRImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    image = FileDataset(None, {}, file_meta=meta, preamble=b"\0" * 128)
    image.SOPClassUID, image.SOPInstanceUID = MRImageStorage, meta.MediaStorageSOPInstanceUID
    image.SeriesInstanceUID, image.StudyInstanceUID = series, study
    image.FrameOfReferenceUID = study
    image.Modality, image.Manufacturer = "MR", "SIEMENS"
    image.ManufacturerModelName, image.MagneticFieldStrength = "Aera", 1.5
    image.ImageType = ["ORIGINAL", "PRIMARY", "M", "ND"]
    image.SeriesDescription, image.SeriesNumber = "t1_vibe", 4
    image.ScanningSequence, image.EchoTime, image.RepetitionTime = "GR", 2.4, 6.0
    image.StudyDate = image.AcquisitionDate = "20180403"
    image.StudyTime = image.AcquisitionTime = "101500"
    image.PatientAge, image.PatientSex, image.PatientPosition = "057Y", "F", "HFS"
    image.Rows, image.Columns = SHAPE
    image.BitsAllocated, image.BitsStored, image.HighBit = 16, 16, 15
    image.PixelRepresentation, image.SamplesPerPixel = 0, 1
    image.PhotometricInterpretation = "MONOCHROME2"
    for name, value in fields.items():
        setattr(image, name, value)
    return image


def write_enhanced(
    path: Path,
    n_slices: int = 12,
    echoes: tuple[float, ...] = (2.0, 4.0),
    slope: float = 0.5,
    leave_out: Iterable[int] = (),
    change: Callable[[Dataset], None] | None = None,
) -> Path:
    """One file of several echoes, whose slopes differ; frames in no order."""
    image = _image(generate_uid(), generate_uid(), SECRETS)
    image.SOPClassUID = image.file_meta.MediaStorageSOPClassUID = EnhancedMRImageStorage
    del image.EchoTime
    shared = Dataset()
    shared.PixelMeasuresSequence = _item(PixelSpacing=list(SPACING_MM), SliceThickness=8.0)
    shared.PlaneOrientationSequence = _item(ImageOrientationPatient=[1.0, 0, 0, 0, 1.0, 0])
    image.SharedFunctionalGroupsSequence = Sequence([shared])
    frames, stored = [], []
    for k in reversed([k for k in range(n_slices) if k not in leave_out]):
        for number, echo in enumerate(echoes):
            frame = Dataset()
            frame.PlanePositionSequence = _item(
                ImagePositionPatient=[-20.0, -25.0, 100.0 + STEP_MM * k]
            )
            frame.MREchoSequence = _item(EffectiveEchoTime=echo)
            frame.MRImageFrameTypeSequence = _item(FrameType=["ORIGINAL", "PRIMARY", "M", "NONE"])
            frame.FrameContentSequence = _item(
                StackID="1", InStackPositionNumber=k + 1, TemporalPositionIndex=1,
                DimensionIndexValues=[1, k + 1, number + 1],
            )  # fmt: skip
            frame.PixelValueTransformationSequence = _item(
                RescaleSlope=slope * (number + 1), RescaleIntercept=0.0, RescaleType="US"
            )
            frames.append(frame)
            stored.append(pixels(k, seed=number))
    image.PerFrameFunctionalGroupsSequence = Sequence(frames)
    image.NumberOfFrames = len(frames)
    image.PixelData = np.stack(stored).tobytes()
    if change is not None:
        change(image)
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save_as(path, enforce_file_format=True)
    return path


def _item(**fields: Any) -> Sequence:
    item = Dataset()
    for name, value in fields.items():
        setattr(item, name, value)
    return Sequence([item])


# --- faults


def _with(change: Change | None = None, leave_out: Iterable[int] = (), **fields: Any) -> Make:
    return lambda folder: write_series(folder, change=change, leave_out=leave_out, **fields)


def _at(position_of: Callable[[int], list[float]]) -> Change:
    def change(image: Dataset, k: int) -> None:
        image.ImagePositionPatient = position_of(k)

    return change


def _setting(slices: Iterable[int] = range(100), **fields: Any) -> Change:
    def change(image: Dataset, k: int) -> None:
        for name, value in fields.items():
            if k in slices:
                setattr(image, name, value)

    return change


def _without(name: str) -> Change:
    return lambda image, _k: delattr(image, name)


def _short_pixels(image: Dataset, k: int) -> None:
    if k == 3:
        image.PixelData = image.PixelData[:-400]


def _foreign(content: bytes) -> Make:
    def make(folder: Path) -> Path:
        write_series(folder)
        (folder / "IM9999").write_bytes(content)
        return folder

    return make


def _enhanced(
    change: Callable[[Dataset], None] | None = None, leave_out: Iterable[int] = ()
) -> Make:
    def make(folder: Path) -> Path:
        write_enhanced(folder / "IM0001", echoes=(2.0,), leave_out=leave_out, change=change)
        return folder

    return make


def _without_last_description(image: Dataset) -> None:
    del image.PerFrameFunctionalGroupsSequence[-1]


def _without_last_pixels(image: Dataset) -> None:
    image.PixelData = image.PixelData[: -2 * SHAPE[0] * SHAPE[1]]


def pack(syntax: str) -> Change:
    """Pack the pixels of every slice."""

    def change(image: Dataset, _k: int) -> None:
        image.compress(syntax, generate_instance_uid=False)

    return change


def _packed_pixels_cut(image: Dataset, k: int) -> None:
    pack(RLELossless)(image, k)
    if k == 3:
        image.PixelData = image.PixelData[: len(image.PixelData) // 2]


def _packed_and_huge(image: Dataset, k: int) -> None:
    pack(RLELossless)(image, k)
    image.Rows = image.Columns = 40_000


def _two_echoes(image: Dataset, k: int) -> None:
    image.EchoTime = 2.4 if k < 12 else 4.8
    image.ImagePositionPatient = [-20.0, -25.0, 100.0 + STEP_MM * (k % 12)]


def _other_pixels_of_one_instance(folder: Path) -> Path:
    write_series(folder)
    image = dcmread(min(folder.iterdir()))
    image.PixelData = pixels(0, seed=9).tobytes()
    image.save_as(folder / "again")
    return folder


def _deflated(folder: Path) -> Path:
    def change(image: Dataset, _k: int) -> None:
        image.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian

    return write_series(folder, change=change)


def _beside(make_other: Callable[[Path], None]) -> Make:
    def make(folder: Path) -> Path:
        write_series(folder)
        make_other(folder / "IM9999")
        return folder

    return make


def _cut_short(folder: Path) -> Path:
    write_series(folder)
    path = next(folder.iterdir())
    path.write_bytes(path.read_bytes()[:-700])
    return folder


def _empty(folder: Path) -> Path:
    folder.mkdir(parents=True)
    return folder


def _two_series(folder: Path) -> Path:
    write_series(folder / "one")
    write_series(folder / "two", seed=1)
    return folder


FAULTS: list[tuple[str, str, Make]] = [
    ("DCM_MISSING_SLICE", "a slice is missing", _with(leave_out=[4])),
    ("DCM_MISSING_SLICE", "three slices are missing", _with(leave_out=[4, 5, 8])),
    (
        "DCM_SPACING_IRREGULAR", "a step is longer",
        _with(_at(lambda k: [-20.0, -25.0, 100.0 + STEP_MM * k + (1.5 if k > 5 else 0.0)])),
    ),
    (
        "DCM_DUPLICATE_POSITION", "two slices at one place",
        _with(_at(lambda k: [-20.0, -25.0, 100.0 + STEP_MM * (4 if k == 5 else k)])),
    ),
    ("DCM_TILT", "a tilted stack", _with(_at(lambda k: [-20.0, -25.0 + 1.3 * k, 100.0 + 5.0 * k]))),
    (
        "DCM_LOCALIZER", "two orientations in a series",
        _with(_setting(range(6, 12), ImageOrientationPatient=[1.0, 0.0, 0.0, 0.0, 0.0, -1.0])),
    ),
    ("GEO_NO_XFORM", "no positions", _with(_without("ImagePositionPatient"))),
    ("GEO_NO_XFORM", "no orientation", _with(_without("ImageOrientationPatient"))),
    ("GEO_PIXDIM", "no spacing", _with(_without("PixelSpacing"))),
    ("GEO_PIXDIM", "spacing of 0", _with(_setting(PixelSpacing=[0.0, 0.0]))),
    ("SRC_TRUNCATED", "pixels of a slice end early", _with(_short_pixels)),
    ("SRC_TRUNCATED", "a file is cut short", _cut_short),
    ("SRC_EMPTY", "an empty folder", _empty),
    ("DCM_UNREADABLE_FILE", "an empty file among the slices", _foreign(b"")),
    ("DCM_UNREADABLE_FILE", "a foreign file among the slices", _foreign(b"junk" * 100)),
    ("DCM_UNREADABLE_FILE", "a series deflated as a whole", _deflated),
    ("DCM_AMBIGUOUS_SERIES", "two series in a folder", _two_series),
    (
        "DCM_AMBIGUOUS_SERIES", "two echoes in a series",
        lambda folder: write_series(folder, n_slices=24, change=_two_echoes),
    ),
    ("DCM_MISSING_SLICE", "a frame is missing in an enhanced file", _enhanced(leave_out=[5])),
    (
        "DCM_UNREADABLE_FILE", "an enhanced file describes fewer frames than it has",
        _enhanced(_without_last_description),
    ),
    ("SRC_TRUNCATED", "pixels of the last frame are missing", _enhanced(_without_last_pixels)),
    ("SRC_TRUNCATED", "packed pixels of a slice end early", _with(_packed_pixels_cut)),
    ("IMG_TOO_LARGE", "packed pixels that promise a huge image", _with(_packed_and_huge)),
    ("DCM_DUPLICATE_POSITION", "an instance with two contents", _other_pixels_of_one_instance),
    ("SRC_NOT_REGULAR", "a pipe among the slices", _beside(os.mkfifo)),
    (
        "SRC_BROKEN_LINK", "a link to nothing among the slices",
        _beside(lambda path: path.symlink_to("nowhere")),
    ),
    (
        "SRC_POINTER_FILE", "a git-annex link among the slices",
        _beside(lambda path: path.symlink_to("../.git/annex/objects/xx/SHA256E-s1--00")),
    ),
    ("IMG_TOO_FEW_SLICES", "six slices", _with(leave_out=range(6, 12))),
    ("DCM_LOCALIZER", "a localizer", _with(ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])),
    ("DCM_LOCALIZER", "a scout by its name", _with(SeriesDescription="3-plane scout")),
    ("DCM_DERIVED", "a reformat", _with(ImageType=["DERIVED", "SECONDARY", "MPR"])),
    ("DCM_MOSAIC", "a mosaic", _with(ImageType=["ORIGINAL", "PRIMARY", "M", "MOSAIC"])),
    ("DCM_NOT_MAGNITUDE", "a phase image", _with(ImageType=["ORIGINAL", "PRIMARY", "SW_P_FFE"])),
    ("DCM_WRONG_MODALITY", "a CT", _with(Modality="CT")),
    ("PHI_BURNED_IN", "text burned in", _with(BurnedInAnnotation="YES")),
    ("PHI_BURNED_IN", "a secondary capture", _with(SOPClassUID="1.2.840.10008.5.1.4.1.1.7")),
    (
        "IMG_RGB", "a colour image",
        _with(_setting(SamplesPerPixel=3, PixelData=b"\0" * (3 * 2 * SHAPE[0] * SHAPE[1]))),
    ),
]  # fmt: skip
"""Reason, name and maker of folders that are no scan."""

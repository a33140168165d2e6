"""Folders as scanners and archives really fill them: more in them, or less, than one sound series."""

from __future__ import annotations

import pytest
from pydicom import dcmread

from cohortvol.stages.ingest import Rules
from cohortvol.stages.ingest.dicom.choice import choose
from cohortvol.stages.ingest.dicom.completeness import account
from cohortvol.stages.ingest.dicom.folder import read_folder
from cohortvol.stages.ingest.dicom.stacks import ordered, stacks_of
from dicom_converted import N
from dicom_fixture import write_series

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
    assert choice.chosen is not None
    assert len(ordered(choice.chosen).frames) == N
    assert [(row["reason"], row["n_images"]) for row in account(found)] == [("DCM_NO_IMAGE", 1)]

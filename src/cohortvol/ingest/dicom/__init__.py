"""DICOM to one checked NIfTI image: frames, stacks, the choice among them, the conversion."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from pydicom.dataset import Dataset

from cohortvol.errors import ScanError
from cohortvol.files import commit_bytes, make_folder
from cohortvol.ingest.dicom.choice import choose
from cohortvol.ingest.dicom.conversion import check_decoders, convert
from cohortvol.ingest.dicom.frames import dixon_named, read_frames
from cohortvol.ingest.dicom.headers import covariates
from cohortvol.ingest.dicom.stacks import ordered, stacks_of
from cohortvol.ingest.rules import Rules
from cohortvol.nifti import nifti_gz
from cohortvol.storage import patiently

__all__ = ["check_decoders", "dixon_named", "is_dicom", "to_nifti"]

_MAGIC_AT = 128


def is_dicom(path: Path) -> bool:
    """Whether a path is a folder, or a file that begins as DICOM does."""

    def begins_as_dicom() -> bool:
        if not path.is_file():  # opening a pipe would wait for ever
            return path.is_dir()
        with open(path, "rb") as stream:
            return stream.read(_MAGIC_AT + 4)[_MAGIC_AT:] == b"DICM"

    try:
        return patiently(begins_as_dicom)
    except OSError:  # whoever reads all of it is to complain
        return False


def to_nifti(
    source: Path, out: Path, rules: Rules, series: list[dict[str, Any]]
) -> tuple[dict[str, Any], list[str]]:
    """Convert the one series of a folder that fits the rules.

    Parameters
    ----------
    source : Path
        A folder, looked through to its depths, or a DICOM file.
    out : Path
        NIfTI file to write.
    rules : Rules
        Which series is the scan.
    series : list of dict
        Is given a row for every stack that was found, also where none is chosen.

    Returns
    -------
    covariates : dict
        See `covariates`; and ``dixon``, the part of a Dixon acquisition.
    codes : list of str
        ``W_...``, ``DCM_...`` and ``CLN_...`` flags.

    Raises
    ------
    ScanError
        With the reason why there is no image.
    """
    frames, codes = read_frames(source, rules)
    choice = choose(stacks_of(frames), rules)
    series += choice.series
    if choice.chosen is None:
        raise choice.error or ScanError("DCM_UNREADABLE_FILE")
    volume = ordered(choice.chosen)
    n_voxels = math.prod(volume.shape)
    if n_voxels > rules.max_voxels:
        raise ScanError("IMG_TOO_LARGE", f"{n_voxels} voxels, over {rules.max_voxels}")
    make_folder(out.parent)
    grey, more = convert(volume, out.parent)
    commit_bytes(out, nifti_gz(grey, volume.affine))
    facts = choice.chosen.first.facts
    more += _count_codes(facts, len(volume.frames)) + _date_codes(facts)
    known = covariates(facts) | {"dixon": choice.chosen.first.declared_dixon}
    return known, codes + more


def _count_codes(facts: Dataset, n_images: int) -> list[str]:
    """Flag a series of single images whose headers promise another number of them."""
    promised = facts.get("ImagesInAcquisition") or n_images
    alone = int(facts.get("NumberOfFrames") or 1) == 1
    return ["DCM_COUNT_UNUSUAL"] if alone and int(promised) != n_images else []


def _date_codes(facts: Dataset) -> list[str]:
    """Flag a series whose dates were moved for privacy, as its header says (PS3.3 C.7.1.1)."""
    kept = str(facts.get("LongitudinalTemporalInformationModified", ""))
    return ["CLN_DATE_SHIFTED"] if kept.upper() == "MODIFIED" else []

"""DICOM to one checked NIfTI image: files, stacks, the choice among them, the conversion."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset

from cohortvol.anatomy.nifti import nifti_gz
from cohortvol.errors import ScanError
from cohortvol.stages.ingest.archive import Archive
from cohortvol.stages.ingest.dicom.choice import choose
from cohortvol.stages.ingest.dicom.completeness import account, check_complete, check_damage
from cohortvol.stages.ingest.dicom.conversion import check_decoders, convert
from cohortvol.stages.ingest.dicom.folder import first_bytes, has_mark, read_folder
from cohortvol.stages.ingest.dicom.frames import dixon_named, dixon_of_type
from cohortvol.stages.ingest.dicom.headers import covariates
from cohortvol.stages.ingest.dicom.stacks import ordered, stacks_of
from cohortvol.stages.ingest.rules import Rules
from cohortvol.stages.ingest.voxels import has_odd_rows
from cohortvol.store.files import commit_bytes, make_folder

__all__ = ["check_decoders", "dixon_named", "dixon_of_type", "is_dicom", "to_nifti"]


def is_dicom(path: Path) -> bool:
    """Whether a path is a folder, or a file that begins as DICOM does."""
    return os.path.isdir(path) or has_mark(first_bytes(path))


def to_nifti(
    source: Path | Archive, out: Path, rules: Rules, series: list[dict[str, Any]]
) -> tuple[dict[str, Any], list[str]]:
    """Convert the one series of a folder or an archive that fits the rules.

    Parameters
    ----------
    source : Path or Archive
        A folder, looked through to its depths, a DICOM file, or what an archive holds.
    out : Path
        NIfTI file to write.
    rules : Rules
        Which series is the scan.
    series : list of dict
        Is given a row for every stack that was found, and for the files that are in none, also
        where none is chosen.

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
    folder = read_folder(source, rules)
    stacks = stacks_of(folder.frames)
    choice = choose(stacks, rules)
    series += choice.series + account(folder)
    check_damage(folder, choice)
    if choice.chosen is None:
        raise choice.error or ScanError("DCM_UNREADABLE_FILE")
    volume = ordered(choice.chosen)
    codes = check_complete(choice.chosen, volume, stacks, folder, choice)
    n_voxels = math.prod(volume.shape)
    if n_voxels > rules.max_voxels:
        raise ScanError("IMG_TOO_LARGE", f"{n_voxels} voxels, over {rules.max_voxels}")
    if isinstance(source, Archive):
        source.lay({frame.path for frame in volume.frames})
    make_folder(out.parent)
    grey, more = convert(volume, out.parent)
    commit_bytes(out, nifti_gz(grey, volume.affine))
    facts = choice.chosen.first.facts
    if volume.is_rounded:
        codes.append("W_POSITIONS_ROUNDED")
    more += _voxel_codes(grey.T) + _date_codes(facts)
    known = covariates(facts) | {"dixon": choice.chosen.first.declared_dixon}
    return known, codes + more


def _voxel_codes(slices: np.ndarray) -> list[str]:
    """What is odd in slices as a scanner makes them; images made of others may have it."""
    is_empty = any((end == end.flat[0]).all() for end in (slices[0], slices[-1]))
    codes = ["DCM_EMPTY_SLICE"] if is_empty else []
    return [*codes, "QC_ODD_SLICE"] if has_odd_rows(slices) else codes


def _date_codes(facts: Dataset) -> list[str]:
    """Flag a series whose dates were moved for privacy, as its header says (PS3.3 C.7.1.1)."""
    kept = str(facts.get("LongitudinalTemporalInformationModified", ""))
    return ["CLN_DATE_SHIFTED"] if kept.upper() == "MODIFIED" else []

"""DICOM to one checked NIfTI image: files, stacks, the choice among them, the conversion."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
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
from cohortvol.stages.ingest.stations import Composed, compose
from cohortvol.stages.ingest.voxels import has_odd_rows
from cohortvol.store.files import commit_bytes, make_folder
from cohortvol.store.stations import as_json, gaps_of

__all__ = ["check_decoders", "dixon_named", "dixon_of_type", "is_dicom", "to_nifti"]

LEAST_LIKENESS = 0.6
"""Correlation of two stations where both show one place, below which they are not of one body."""

FLAGGED_SHIFT_MM = 2.5
"""Measured shift from which a scan is flagged, so that those over 3 mm are."""


def is_dicom(path: Path) -> bool:
    """Whether a path is a folder, or a file that begins as DICOM does."""
    return os.path.isdir(path) or has_mark(first_bytes(path))


def to_nifti(
    source: Path | Archive, out: Path, rules: Rules, series: list[dict[str, Any]]
) -> tuple[dict[str, Any], list[str]]:
    """Convert the one series of a folder or an archive that fits the rules, or its stations.

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
        See `covariates`; ``dixon``, the part of a Dixon acquisition; and, of several stations,
        ``stations`` and ``station_shift_mm``.
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
    if not choice.chosen:
        raise choice.error or ScanError("DCM_UNREADABLE_FILE")
    volumes = [ordered(stack) for stack in choice.chosen]
    codes = check_complete(volumes, stacks, folder, choice)
    n_voxels = sum(math.prod(volume.shape) for volume in volumes)
    if n_voxels > rules.max_voxels:
        raise ScanError("IMG_TOO_LARGE", f"{n_voxels} voxels, over {rules.max_voxels}")
    if isinstance(source, Archive):
        source.lay({frame.path for volume in volumes for frame in volume.frames})
    make_folder(out.parent)
    greys = []
    for volume in volumes:
        grey, more = convert(volume, out.parent)
        greys.append((grey, volume.affine))
        codes += [*more, *_voxel_codes(grey.T)]
        codes += ["W_POSITIONS_ROUNDED"] if volume.is_rounded else []
    facts = choice.chosen[0].first.facts
    known = covariates(facts) | {"dixon": choice.chosen[0].first.declared_dixon}
    if len(greys) > 1:
        whole = compose(greys, keep_values=rules.keep_values)
        said, more = _of_stations(whole, [volume.frames[0].series for volume in volumes])
        known |= said
        codes += more
        greys = [(whole.voxels, whole.affine)]
    commit_bytes(out, nifti_gz(*greys[0]))
    return known, [*dict.fromkeys(codes), *_date_codes(facts)]


def _of_stations(whole: Composed, series: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """Columns of the ingest table on stations put together, and ``QC_...`` flags.

    Raises
    ------
    ScanError
        ``DCM_STATIONS_UNCLEAR`` where what two of them show of one place does not fit.
    """
    moved = [seam.movement for seam in whole.seams]
    if strange := [one.likeness for one in moved if one and one.likeness < LEAST_LIKENESS]:
        detail = f"a correlation of {min(strange):.2f} where two stations show one place"
        raise ScanError("DCM_STATIONS_UNCLEAR", detail)
    found = [None if one is None else one.distance_mm for one in moved]
    shifts = [None, *(None if shift is None else round(shift, 2) for shift in found)]
    stations = [
        {
            "series": series[n],
            "first": first,
            "last": last,
            "gain": round(gain, 4),
            "shift_mm": shift,
        }
        for n, (first, last), gain, shift in zip(
            whole.order, whole.spans, whole.gains, shifts, strict=True
        )
    ]
    farthest = max((shift for shift in shifts if shift is not None), default=None)
    codes = ["W_STATIONS"]
    if gaps_of(told := as_json(stations)):
        codes.append("QC_STATION_GAP")
    if farthest is not None and farthest >= FLAGGED_SHIFT_MM:
        codes.append("QC_STATION_SHIFT")
    if any(one is not None and one.distance_mm is None for one in moved):
        codes.append("QC_STATION_UNMEASURED")
        farthest = None
    return {"stations": told, "station_shift_mm": farthest}, codes


def _voxel_codes(slices: np.ndarray) -> list[str]:
    """What is odd in slices as a scanner makes them; images made of others may have it."""
    is_empty = any((end == end.flat[0]).all() for end in (slices[0], slices[-1]))
    codes = ["DCM_EMPTY_SLICE"] if is_empty else []
    return [*codes, "QC_ODD_SLICE"] if has_odd_rows(slices) else codes


def _date_codes(facts: Dataset) -> list[str]:
    """Flag a series whose dates were moved for privacy, as its header says (PS3.3 C.7.1.1)."""
    kept = str(facts.get("LongitudinalTemporalInformationModified", ""))
    return ["CLN_DATE_SHIFTED"] if kept.upper() == "MODIFIED" else []

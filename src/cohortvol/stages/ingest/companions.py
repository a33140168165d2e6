"""Companions of a scan: on its grid, possible, and what they are called; or the reason why not.

Whatever is wrong with one of them, the scan stays what it is.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cohortvol.errors import OutputError, ScanError, TemporaryError, log_unforeseen
from cohortvol.models.channels import dixon_part
from cohortvol.stages.ingest.channels import Grey, Grid, in_one
from cohortvol.stages.ingest.dicom import is_dicom
from cohortvol.stages.ingest.rules import Rules
from cohortvol.store.archives import is_archive
from cohortvol.store.companions import COLUMN, Companion

log = logging.getLogger(__name__)

Series = list[dict[str, Any]]
Reader = Callable[[dict[str, Any], Path, Path, Rules, Series], Grey]
"""Checks one image, wherever it lies, and puts what is learned into a mapping."""


@dataclass(frozen=True)
class Session:
    """A scan, and where its companions may be.

    Attributes
    ----------
    grid : Grid
        Of the scan.
    image : Path
        As the manifest names it; of DICOM it may hold companions too.
    given : mapping of str to str
        Paths of companions by name.
    converted : Path
        Where the scan lies if it was converted; companions lie beside it.
    """

    grid: Grid
    image: Path
    given: Mapping[str, str]
    converted: Path


def found_of(
    session: Session, rules: Rules, series: Series, read: Reader
) -> dict[str, dict[str, Any]]:
    """What the ingest table says of each companion that the rules name.

    Rows for what DICOM holds are put into `series`.
    """
    return {one.name: _found(one, session, rules, series, read) for one in rules.companions}


def _found(
    companion: Companion, session: Session, rules: Rules, series: Series, read: Reader
) -> dict[str, Any]:
    end = f".{companion.name}.nii.gz"
    converted = session.converted.with_name(session.converted.name.replace(".nii.gz", end))
    converted.unlink(missing_ok=True)
    facts: dict[str, Any] = {"unit": companion.unit, "factor": companion.factor}
    try:
        return facts | _checked(companion, session, converted, rules, series, read)
    except ScanError as error:
        why = {"reason": error.reason, "detail": error.detail or None}
    except (OutputError, TemporaryError, MemoryError):
        raise
    except Exception as error:
        detail = log_unforeseen(log, session.converted.name, error)
        why = {"reason": "BUG_UNEXPECTED", "detail": detail}
    converted.unlink(missing_ok=True)
    return facts | why


def _checked(
    companion: Companion,
    session: Session,
    converted: Path,
    rules: Rules,
    series: Series,
    read: Reader,
) -> dict[str, Any]:
    part, image = dixon_part(companion.name), session.image
    source = Path(session.given.get(companion.name, image))
    is_beside = source == image and part is not None and (is_archive(image) or is_dicom(image))
    if companion.name not in session.given and not is_beside:
        raise ScanError("IMG_COMPANION_MISSING", f"no {COLUMN}{companion.name}")
    found: dict[str, Any] = {}
    listed: Series = []
    error: ScanError | None = None
    try:
        grey = read(found, source, converted, _rules(rules, companion, is_beside), listed)
    except ScanError as raised:
        error = raised
    series[:] = in_one([series, listed]) if is_beside else [*series, *listed]
    if is_beside and part not in {row.get("dixon") for row in listed}:
        raise ScanError("IMG_COMPANION_MISSING", f"no series of {part}") from error
    if error is not None:
        raise error
    if part and found.get("dixon") not in (None, part):
        raise ScanError("IMG_COMPANION_SWAPPED", f"the header says {found['dixon']}")
    if not grey.grid.is_that_of(session.grid):
        raise ScanError("IMG_COMPANION_GRID", f"{grey.grid}; the scan {session.grid}")
    _check_values(companion, found["intensity_min"], found["intensity_max"])
    return {name: found[name] for name in ("image", "n_bytes", "image_sha256")}


def _rules(rules: Rules, companion: Companion, is_beside: bool) -> Rules:
    """What holds for a companion: it may be empty where the scan is not, and derived from others.

    An image of its own is not chosen among others, and all of its values are kept.
    """
    limits = replace(
        rules,
        max_zero_fraction=1.0,
        min_entropy_bits=0.0,
        max_zero_slices_fraction=1.0,
        max_saturated_fraction=1.0,
        orientation="off",
        derived="allow",
        volume=None,
        keep_values=companion.unit is not None,
    )
    if is_beside:
        return replace(limits, dixon=(str(dixon_part(companion.name)),))
    return replace(limits, dixon=(), plane=(), sequence=None, contrast="any", echo=None, phase=None)


def _check_values(companion: Companion, smallest: float, largest: float) -> None:
    """Raise ``IMG_COMPANION_RANGE`` where some value of the whole image is impossible."""
    low, high = companion.factor * smallest, companion.factor * largest
    told = f"from {low:.4g} to {high:.4g} {companion.unit or ''}".rstrip()
    if companion.low is not None and companion.high is not None:
        slack = 1e-3 * (companion.high - companion.low)  # values are rounded where they are stored
        if low < companion.low - slack or high > companion.high + slack:
            detail = f"{told}, outside {companion.low:g} to {companion.high:g}"
            raise ScanError("IMG_COMPANION_RANGE", detail)
    if companion.above is not None and high <= companion.above:
        raise ScanError("IMG_COMPANION_RANGE", f"{told}, as of shares of 1")

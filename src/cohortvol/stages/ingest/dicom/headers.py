"""What a DICOM header says of person and scanner: an allow-list of fields, and nothing else."""

from __future__ import annotations

import math
import re
from contextlib import suppress
from datetime import date
from typing import Any

from pydicom.dataset import Dataset

from cohortvol.stages.ingest.clock import hours_of

_YEARS = {"Y": 1.0, "M": 1 / 12, "W": 7 / 365.25, "D": 1 / 365.25}
_GAUSS_PER_TESLA = 10_000
_MOST_TESLA = 30
"""A greater number is in gauss."""
_CHANGED = ("MODIFIED", "REMOVED")


def covariates(header: Dataset) -> dict[str, Any]:
    """The ``header_...`` columns of the ingest table; null where the header does not say.

    They are what the header says: whether it can be true is asked where it is used.
    Names, birth dates, institutions and descriptions are not among them.
    """
    return {
        "header_age_years": _age_years(header),
        "header_sex": _one_of(header, "PatientSex", {"F", "M"}),
        "header_acquisition_date": _date(header),
        "header_time_of_day_h": _time_of_day_h(header),
        "header_scanner": _text(header, "Manufacturer", "ManufacturerModelName"),
        "header_field_strength_t": _field_strength_t(header),
        "header_sequence": _text(header, "ScanningSequence", "EchoPulseSequence"),
    }


def _age_years(header: Dataset) -> float | None:
    """Of ``PatientAge``, three digits and a unit (PS3.5, AS)."""
    match = re.fullmatch(r"(\d{3})([DWMY])", str(header.get("PatientAge", "")).strip())
    if match is None:
        return None
    return round(int(match[1]) * _YEARS[match[2]], 4)


def _one_of(header: Dataset, name: str, allowed: set[str]) -> str | None:
    value = str(header.get(name, "")).strip().upper()
    return value if value in allowed else None


def _date(header: Dataset) -> str | None:
    for name in ("AcquisitionDate", "SeriesDate", "StudyDate"):
        text = str(header.get(name, "")).strip()
        with suppress(ValueError):
            return date.fromisoformat(text).isoformat()
    return None


def _time_of_day_h(header: Dataset) -> float | None:
    """Hours since midnight at which the scanner acquired the image.

    AcquisitionTime, else AcquisitionDateTime, also of the first frame. Of an image that says it is
    ORIGINAL, SeriesTime and then ContentTime stand in: its series began minutes before, whereas
    those of a derived image are of whenever it was computed. None where the header says that times
    were changed for privacy (PS3.3 C.12.1.1).
    """
    if str(header.get("LongitudinalTemporalInformationModified", "")).upper() in _CHANGED:
        return None
    said = [header.get("AcquisitionTime"), _clock(header.get("AcquisitionDateTime"))]
    frames = header.get("PerFrameFunctionalGroupsSequence") or []
    contents = (frames[0].get("FrameContentSequence") or []) if len(frames) else []
    said += [_clock(item.get("FrameAcquisitionDateTime")) for item in contents]
    if "ORIGINAL" in [str(word).upper() for word in _values(header.get("ImageType"))[:1]]:
        said += [header.get("SeriesTime"), header.get("ContentTime")]
    return next((hours for text in said if (hours := hours_of(text)) is not None), None)


def _clock(moment: Any) -> str:
    """The time of a date with time (PS3.5, DT), without its offset from UTC."""
    return re.split(r"[+-]", str(moment or "").strip())[0][8:]


def _text(header: Dataset, *names: str) -> str | None:
    """Coded values only, joined by a blank: letters, digits and ``_ . -``, 64 at most."""
    values = (str(value) for name in names for value in _values(header.get(name)))
    words = " ".join(re.sub(r"[^A-Za-z0-9_.-]+", " ", value).strip() for value in values)
    return " ".join(words.split())[:64] or None


def _values(value: Any) -> list[Any]:
    if value is None:
        return []
    return [value] if isinstance(value, str) else list(value)


def _field_strength_t(header: Dataset) -> float | None:
    try:
        value = float(header.get("MagneticFieldStrength"))
    except (TypeError, ValueError):
        return None
    if not math.isfinite(value):
        return None
    return value / _GAUSS_PER_TESLA if value > _MOST_TESLA else value

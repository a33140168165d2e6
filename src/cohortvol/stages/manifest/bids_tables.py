"""What the tables and sidecars of a BIDS dataset say of a scan: an allow-list, and nothing else."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from cohortvol.errors import ManifestError
from cohortvol.stages.manifest.values import DAYS_PER_YEAR, MISSING, NUMBER
from cohortvol.store.schemas import COVARIATES
from cohortvol.store.text_table import read_text_table

COLUMNS = {
    "age": "age_years",
    "height": "height_cm",
    "weight": "weight_kg",
    "sex": "sex",
    "site": "site",
    "acq_time": "acquisition_date",
    **{name: name for name in COVARIATES if name not in ("subject_id", "session_id")},
}
"""Column of a BIDS table to column of the manifest; the manifest's own names are understood too."""

SEX_CODES: Mapping[str, str | None] = {
    code: letter
    for letter, words in {"F": "F f FEMALE Female female", "M": "M m MALE Male male"}.items()
    for code in words.split()
} | dict.fromkeys("O o OTHER Other other".split())
"""The values of ``sex`` that the standard names."""

_FACTORS: Mapping[str, Mapping[str, float]] = {
    "age": {
        **dict.fromkeys(("year", "years", "yr", "yrs", "y", "a"), 1.0),
        **dict.fromkeys(("month", "months", "mo"), 1 / 12),
        **dict.fromkeys(("week", "weeks", "wk"), 7 / DAYS_PER_YEAR),
        **dict.fromkeys(("day", "days", "d"), 1 / DAYS_PER_YEAR),
    },
    "height": {
        **dict.fromkeys(("cm", "centimeter", "centimeters", "centimetre", "centimetres"), 1.0),
        **dict.fromkeys(("m", "meter", "meters", "metre", "metres"), 100.0),
        **dict.fromkeys(("mm", "millimeter", "millimeters", "millimetre", "millimetres"), 0.1),
        **dict.fromkeys(("in", "inch", "inches"), 2.54),
    },
    "weight": {
        **dict.fromkeys(("kg", "kilogram", "kilograms"), 1.0),
        **dict.fromkeys(("g", "gram", "grams"), 0.001),
        **dict.fromkeys(("lb", "lbs", "pound", "pounds"), 0.45359237),
    },
}
"""Units that are understood, with what they are multiplied by to be the manifest's."""

_DEFAULTS = {"age": 1.0, "weight": 1.0}
"""Without Units an age is in years and, as everything in BIDS is SI, a weight in kg. A height would
be in metres, but most tables hold centimetres: it is not used."""

_CAPPED_AGE = "89+"
"""The standard's old way to say "89 or older": not a number."""

_CLOCK = re.compile(r"\d{1,2}:\d{2}(:\d{2}(\.\d+)?)?")
_TIME = re.compile(r"(?:\d{4}-\d{2}-\d{2}[T ])?(\d{1,2}:\d{2})(?::\d{2}(?:\.\d+)?)?Z?")
_DAY = re.compile(r"(\d{4}-\d{2}-\d{2})([T ].*)?")


def read_json(path: Path | str) -> dict[str, Any]:
    """A JSON file that holds an object.

    Raises
    ------
    ManifestError
        If it is missing, cannot be read, or holds something else.
    """
    try:
        with open(path, encoding="utf-8-sig") as stream:
            value = json.load(stream)
    except OSError as error:
        raise ManifestError(f"{path}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise ManifestError(f"{path}: is not JSON ({error})") from error
    if not isinstance(value, dict):
        raise ManifestError(f"{path}: must hold a JSON object")
    return value


def factors(description: Mapping[str, Any], source: Path | str) -> dict[str, float]:
    """What the values of age, height and weight are multiplied by; a column not there is not used.

    Parameters
    ----------
    description : mapping
        The JSON beside a table: column to ``{"Units": ...}``.
    source : Path
        Where it was read, for the message.

    Raises
    ------
    ManifestError
        If a unit is not understood.
    """
    found = dict(_DEFAULTS)
    for column, known in _FACTORS.items():
        about = description.get(column)
        unit = about.get("Units") if isinstance(about, dict) else None
        if unit is None:
            continue
        if str(unit).strip().lower() not in known:
            raise ManifestError(
                f"{source}: {column} is in {unit!r}, a unit that is not understood\n"
                f"  Use one of {', '.join(known)}."
            )
        found[column] = known[str(unit).strip().lower()]
    return found


def sex_codes(description: Mapping[str, Any]) -> dict[str, str | None]:
    """Codes of sex that the JSON beside a table explains in words of the standard, its Levels."""
    about = description.get("sex")
    levels = about.get("Levels") if isinstance(about, dict) else None
    if not isinstance(levels, dict):
        return {}
    words = {
        code: level.get("Description") if isinstance(level, dict) else level
        for code, level in levels.items()
    }
    return {
        code: SEX_CODES[word.strip().lower()]
        for code, word in words.items()
        if isinstance(word, str) and word.strip().lower() in SEX_CODES
    }


def covariates(row: Mapping[str, str], factor: Mapping[str, float]) -> dict[str, str]:
    """The columns of the manifest that a row of a BIDS table gives, as text; missing ones are out.

    The manifest's own names win over those of BIDS where a table has both.
    """
    found: dict[str, str] = {}
    for name, column in COLUMNS.items():
        text = row.get(name, "").strip()
        if text in MISSING:
            continue
        if name == "age" and text == _CAPPED_AGE:
            continue
        if name in _FACTORS:
            if name not in factor:
                continue
            text = _scaled(text, factor[name])
        if name == "acq_time":
            text = day_of(text)
        if text:
            found[column] = text
    return found


def _scaled(text: str, factor: float) -> str:
    if factor == 1 or not NUMBER.fullmatch(text):
        return text  # what is no number is told of when the row is checked
    return repr(round(float(text) * factor, 6))


def day_of(text: str) -> str:
    """The day of an ``acq_time``; nothing where it is a time of day only."""
    text = text.strip()
    if text in MISSING or _CLOCK.fullmatch(text):
        return ""
    match = _DAY.fullmatch(text)
    return match[1] if match else text


def time_of(text: str) -> str:
    """The time of an ``acq_time``; nothing where it has none, or midnight in place of one.

    Dates that are moved for privacy are moved by whole days, so that it stays what it was.
    """
    match = _TIME.fullmatch(text.strip())
    return match[1] if match and match[1] not in ("00:00", "0:00") else ""


def in_rows(path: Path, key: str) -> dict[str, dict[str, str]]:
    """Rows of a table by the text in one column.

    Raises
    ------
    ManifestError
        If the table cannot be used, has no such column, or two rows with the same text there.
    """
    table = read_text_table(path)
    if key not in table.columns:
        raise ManifestError(f"{path}: no column {key!r}; the standard requires it")
    rows: dict[str, dict[str, str]] = {}
    lines: dict[str, list[int]] = {}
    for line, row in zip(table.lines, table.rows, strict=True):
        rows[row[key].strip()] = row
        lines.setdefault(row[key].strip(), []).append(line)
    repeated = [f"  lines {', '.join(map(str, same))}" for same in lines.values() if len(same) > 1]
    if repeated:
        raise ManifestError(
            "\n".join(
                [
                    f"{path}: several rows have the same {key} (TAB_JOIN)",
                    *repeated,
                    "  Give each one row; what differs between visits belongs in "
                    "sub-<label>/sub-<label>_sessions.tsv.",
                ]
            )
        )
    return rows


def of_sidecars(sidecar: Mapping[str, Any]) -> dict[str, str]:
    """Scanner, field strength, sequence and contrast of a merged sidecar, as text."""
    contrast = _coded(sidecar, "ContrastBolusIngredient")
    found = {
        "scanner": _coded(sidecar, "Manufacturer", "ManufacturersModelName"),
        "field_strength_t": _plain(sidecar.get("MagneticFieldStrength")),
        "sequence": _coded(sidecar, "PulseSequenceType") or _coded(sidecar, "ScanningSequence"),
        "contrast": "" if contrast == "UNKNOWN" else contrast,
    }
    return {column: text for column, text in found.items() if text}


def _plain(value: Any) -> str:
    return "" if value is None or str(value).strip() in MISSING else str(value).strip()


def _coded(sidecar: Mapping[str, Any], *names: str) -> str:
    """Values as words of letters, digits and ``_ . -``, 64 characters at most."""
    texts = (_plain(one) for name in names for one in _as_list(sidecar.get(name)))
    return " ".join(" ".join(re.sub(r"[^A-Za-z0-9_.-]+", " ", text) for text in texts).split())[:64]


def _as_list(value: Any) -> Iterable[Any]:
    return value if isinstance(value, list) else [value]

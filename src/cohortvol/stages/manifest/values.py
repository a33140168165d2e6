"""Values of the manifest: text in, a checked value out."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from cohortvol.ranges import SIZES, Range, last_day
from cohortvol.store.label_maps import STRUCTURE as STRUCTURE_NAME
from cohortvol.store.schemas import CONTINUOUS

SCAN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
SCAN_ID_ALLOWED = (
    "letters, digits, _ and -, at most 64, the first a letter or digit; any text with hash_ids"
)

MISSING = frozenset({"", "n/a", "N/A", "NA", "NaN", "nan"})
"""Texts that mean "not known" in columns of numbers, sex and dates; never in ids."""

SEX_WORDS = {"f": "F", "female": "F", "w": "F", "woman": "F", "m": "M", "male": "M", "man": "M"}
"""What is understood in any case of letters, unless the config's coding says otherwise."""

STRUCTURE = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
NUMBER = re.compile(r"[-+]?[0-9]+(\.[0-9]*)?([eE][-+]?[0-9]{1,2})?|[-+]?\.[0-9]+")
_CLOCK = re.compile(r"([0-9]{1,2}):([0-5][0-9])(:[0-5][0-9](\.[0-9]*)?)?")
_DICOM_AGE = re.compile(r"([0-9]{1,3})([YMWD])")
DAYS_PER_YEAR = 365.25
_AGE_UNITS_PER_YEAR = {"Y": 1.0, "M": 12.0, "W": DAYS_PER_YEAR / 7, "D": DAYS_PER_YEAR}


@dataclass(frozen=True)
class Rules:
    """Which values of a manifest are allowed.

    Parameters
    ----------
    sex_codes : mapping
        Text of the manifest to ``F``, ``M``, or None for unknown.
    ages : Range
        Plausible ages.
    ids_are_keys : bool
        Keys stand in place of ids later on, so that an id may be any text.
    further : mapping
        Further columns that are kept, and their kind: ``continuous`` or ``factor``.
    """

    sex_codes: Mapping[str, str | None]
    ages: Range
    ids_are_keys: bool = False
    further: Mapping[str, str] = field(default_factory=dict)


class BadValueError(ValueError):
    """A value that cannot be used: the reason code, and what is allowed instead."""

    def __init__(self, code: str, allowed: str) -> None:
        super().__init__(code, allowed)
        self.code = code
        self.allowed = allowed


def parse_covariate(column: str, text: str, rules: Rules) -> float | str | None:
    """The value of a covariate, None where the text says that it is not known.

    Raises
    ------
    BadValueError
        If the text is not understood, or the value is implausible.
    """
    if column == "age_years":
        return _known(text) and parse_age_years(text, rules)
    if column == "sex":
        return parse_sex(text, rules)
    if column == "acquisition_date":
        return _known(text) and parse_date(text)
    if column == "time_of_day_h" and (clock := _CLOCK.fullmatch(text.strip())):
        text = f"{int(clock[1]) + int(clock[2]) / 60:.4f}"
    if column in SIZES:
        return _known(text) and parse_number(text, SIZES[column])
    if column == "sampling_weight":
        return _known(text) and parse_weight(text)
    if column == "absent":
        return _known(text) and parse_structures(text)
    return text or None


def parse_label_map(text: str, folder: str, rules: Rules) -> str | None:
    """Absolute path of a label map that was made elsewhere, None where there is none.

    Raises
    ------
    BadValueError
        ``DSEG_PATTERN`` if it has several ``*``, or one where keys stand in place of paths.
    """
    if _known(text) is None:
        return None
    n_stars = text.count(STRUCTURE_NAME)
    if n_stars and rules.ids_are_keys:
        allowed = "a file or a folder of one scan: no link can hide a path with *"
        raise BadValueError("DSEG_PATTERN", allowed)
    if n_stars > 1:
        raise BadValueError("DSEG_PATTERN", "one * at most, where the name of the structure stands")
    return os.path.normpath(os.path.join(folder, text))


def parse_further(text: str, kind: str) -> str | None:
    """The text of a further column without blanks around it, None where nothing is known.

    Raises
    ------
    BadValueError
        ``CLN_UNPARSED`` if it should be a number and is none.
    """
    if _known(text) is None:
        return None
    if kind == CONTINUOUS and not NUMBER.fullmatch(text.strip()):
        allowed = "a number with a point for decimals, as `covariates` says; empty if unknown"
        raise BadValueError("CLN_UNPARSED", allowed)
    return text.strip()


def _known(text: str) -> str | None:
    return None if text.strip() in MISSING else text


def parse_age_years(text: str, rules: Rules) -> float:
    """Age in years of ``48``, ``48.5``, or a DICOM age: ``048Y``, ``576M``, ``002W``, ``003D``.

    Raises
    ------
    BadValueError
        ``CLN_AGE_UNPARSED`` for any other form, ``CLN_AGE_IMPLAUSIBLE`` outside the range.
    """
    text = text.strip()
    dicom = _DICOM_AGE.fullmatch(text)
    if dicom:
        age = int(dicom[1]) / _AGE_UNITS_PER_YEAR[dicom[2]]
    elif NUMBER.fullmatch(text):
        age = float(text)
    else:
        raise BadValueError(
            "CLN_AGE_UNPARSED", "years such as 48 or 48.5, or 048Y, 576M, 002W; empty if unknown"
        )
    if not rules.ages.holds(age):
        raise BadValueError("CLN_AGE_IMPLAUSIBLE", f"{rules.ages}; empty if unknown")
    return age


def parse_number(text: str, allowed: Range) -> float:
    """A plain number inside a range.

    Raises
    ------
    BadValueError
        ``CLN_UNPARSED`` if it is none, ``CLN_IMPLAUSIBLE`` outside the range.
    """
    text = text.strip()
    if not NUMBER.fullmatch(text):
        raise BadValueError(
            "CLN_UNPARSED",
            f"a number in {allowed.unit} with a point for decimals; empty if unknown",
        )
    value = float(text)
    if not allowed.holds(value):
        raise BadValueError("CLN_IMPLAUSIBLE", f"{allowed}; empty if unknown")
    return value


def parse_weight(text: str) -> float:
    """People whom one of the sample stands for.

    Raises
    ------
    BadValueError
        ``CLN_UNPARSED`` if it is no number, ``CLN_IMPLAUSIBLE`` if it is 0 or less.
    """
    if not NUMBER.fullmatch(text.strip()):
        allowed = "a number of people with a point for decimals; empty if unknown"
        raise BadValueError("CLN_UNPARSED", allowed)
    if not float(text) > 0:
        raise BadValueError("CLN_IMPLAUSIBLE", "above 0; empty if unknown")
    return float(text)


def parse_structures(text: str) -> str:
    """Names of structures, joined by ``;``.

    Raises
    ------
    BadValueError
        ``CLN_UNPARSED`` for anything that cannot be such a name.
    """
    names = [name.strip() for name in re.split("[;,]", text)]
    if not all(STRUCTURE.fullmatch(name) for name in names):
        allowed = "names of structures as in volumes.parquet, joined by ;, such as spleen"
        raise BadValueError("CLN_UNPARSED", allowed)
    return ";".join(names)


def parse_sex(text: str, rules: Rules) -> str | None:
    """``F``, ``M`` or None by the coding that the config names, else by `SEX_WORDS`; no number is
    guessed.

    Raises
    ------
    BadValueError
        ``CLN_SEX_CODING`` for a text without coding.
    """
    text = text.strip()
    if text in rules.sex_codes:
        return rules.sex_codes[text]
    if text in MISSING:
        return None
    if text.casefold() in SEX_WORDS:
        return SEX_WORDS[text.casefold()]
    allowed = ", ".join(["F or M", "female or male", *sorted(set(rules.sex_codes) - {"F", "M"})])
    raise BadValueError(
        "CLN_SEX_CODING", f"{allowed}; empty if unknown; other codes through sex_codes"
    )


def parse_date(text: str) -> str:
    """An ISO 8601 date, year first, as the manifest gives it.

    Raises
    ------
    BadValueError
        ``CLN_DATE_AMBIGUOUS`` for any other form, ``CLN_DATE_FUTURE`` after tomorrow.
    """
    text = text.strip()
    try:
        day = datetime.fromisoformat(text).date()
    except ValueError:
        raise BadValueError("CLN_DATE_AMBIGUOUS", "a date such as 2018-04-03") from None
    if day > last_day():
        raise BadValueError("CLN_DATE_FUTURE", "a date that has passed")
    return text

"""Which ages, sizes, field strengths and dates can be true, wherever they come from.

A value outside is a code for "unknown", a wrong unit or a slip of the keyboard, and no person, no
scanner and no day. In the manifest it makes a bad row; elsewhere it counts as unknown, and whoever
takes it out says how many there were.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

import pandas as pd


@dataclass(frozen=True)
class Range:
    """Least and greatest value, both included, and their unit."""

    low: float
    high: float
    unit: str

    def holds(self, value: float) -> bool:
        """Whether a number lies inside; NaN does not."""
        return self.low <= value <= self.high

    def __str__(self) -> str:
        return f"{self.low:g} to {self.high:g} {self.unit}"


AGE_RANGE_YEARS = (0.0, 120.0)
"""Unless the setting ``age_range_years`` says otherwise."""
SIZES = {
    "height_cm": Range(30.0, 260.0, "cm"),
    "weight_kg": Range(0.3, 500.0, "kg"),
    "bmi": Range(5.0, 250.0, "kg/m²"),
    "field_strength_t": Range(0.01, 20.0, "tesla"),
    "time_of_day_h": Range(0.01, 24.0, "hours"),
}
"""Beyond these lie metres, grams and gauss; of the body mass index also height and weight that
were exchanged. The least and greatest known of adults are about 7 and 250 kg/m². A time of day in
the first minute after midnight stands for one that was taken out."""
DATE = "acquisition_date"
FIRST_YEAR = 1977
"""No person was imaged by magnetic resonance before: an earlier date was moved for privacy. It is
kept and marked, as no calendar date enters a result."""


def age_range(ends: Sequence[float] = AGE_RANGE_YEARS) -> Range:
    """The range of ``age_years`` between two ends, years."""
    low, high = ends
    return Range(float(low), float(high), "years")


def last_day() -> date:
    """Tomorrow in UTC: the latest day it can be anywhere."""
    return datetime.now(UTC).date() + timedelta(days=1)


def outside(
    table: pd.DataFrame, ages: Sequence[float] = AGE_RANGE_YEARS, prefix: str = ""
) -> dict[str, pd.Series]:
    """Rows of a table whose values cannot be true.

    Parameters
    ----------
    table : pandas.DataFrame
        Any of the columns ``age_years``, those of `SIZES` (floats) and `DATE` (ISO 8601 text),
        each with `prefix` before its name.
    ages : (low, high)
        Range of ages, years.
    prefix : str
        Such as ``header_``.

    Returns
    -------
    dict of str to pandas.Series
        By column, without prefix, of those that the table has: whether a value is given and is
        outside, one bool per row.
    """
    found = {}
    for name, allowed in {"age_years": age_range(ages), **SIZES}.items():
        if prefix + name in table:
            values = table[prefix + name].astype(float)
            found[name] = values.notna() & ~values.between(allowed.low, allowed.high)
    if prefix + DATE in table:
        days = table[prefix + DATE].fillna("").astype(str).str[:10]
        found[DATE] = days > last_day().isoformat()
    return found


def without(table: pd.DataFrame, out: dict[str, pd.Series], prefix: str = "") -> pd.DataFrame:
    """The table with null in place of the values that `outside` found."""
    columns = {prefix + name: table[prefix + name].mask(rows) for name, rows in out.items()}
    return table.assign(**columns)


def said(out: dict[str, pd.Series], ages: Sequence[float] = AGE_RANGE_YEARS) -> list[str]:
    """``3 values of age_years outside 0 to 120 years``, for each column with any."""
    ranges = {"age_years": str(age_range(ages)), **{name: str(r) for name, r in SIZES.items()}}
    ranges[DATE] = "the days that have passed"
    return [
        f"{int(rows.sum()):,} {'value' if rows.sum() == 1 else 'values'} of {name} outside "
        f"{ranges[name]}"
        for name, rows in out.items()
        if rows.any()
    ]

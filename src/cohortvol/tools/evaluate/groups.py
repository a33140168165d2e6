"""Which scans belong together: by sequence, by scanner, by third of the ages."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from cohortvol import ranges
from cohortvol.errors import ConfigError
from cohortvol.store.text_table import read_text_table

log = logging.getLogger(__name__)

AGE = "age_tertile"
BY = ("sequence", "scanner", AGE)
_NOTHING = {"", "na", "n/a", "nan", "null", "none"}


@dataclass(frozen=True)
class Scans:
    """What a table says of the scans that were evaluated.

    Attributes
    ----------
    subject_of : dict of str to str
        Scan to person, where the table says it.
    groups : pandas.DataFrame
        One row per scan, index `scan_id`, a column for each of `BY` that is known.
    """

    subject_of: dict[str, str] = field(default_factory=dict)
    groups: pd.DataFrame = field(default_factory=pd.DataFrame)


def read_scans(
    path: Path,
    scan_ids: Sequence[str],
    age_range_years: Sequence[float] = ranges.AGE_RANGE_YEARS,
) -> Scans:
    """Read ``scan_id`` and, where given, ``subject_id, sequence, scanner, age_years``.

    Thirds of the ages are those of the people among `scan_ids`, each with the age of the first
    scan; a scan belongs to the third that its own age lies in. Those of an age outside
    `age_range_years` are a group of their own.

    Raises
    ------
    ConfigError
        If there is no column scan_id, a scan stands twice, or an age is no number.
    """
    table = read_text_table(path)
    if "scan_id" not in table.columns:
        raise ConfigError(f"{path}: no column scan_id; it has {', '.join(table.columns)}")
    frame = pd.DataFrame(table.rows)
    frame = frame[frame["scan_id"].isin(set(scan_ids))]
    twice = sorted(set(frame["scan_id"][frame["scan_id"].duplicated()]))
    if twice:
        raise ConfigError(f"{path}: scans that stand twice: {', '.join(twice[:5])}")
    frame = frame.set_index("scan_id")
    frame = frame.mask(frame.map(lambda value: value.strip().lower() in _NOTHING))
    people = frame.get("subject_id", pd.Series(dtype=object)).dropna()
    groups = frame[[name for name in BY if name in frame and name != AGE]].copy()
    if "age_years" in frame:
        groups[AGE] = _thirds(path, frame, age_range_years)
    return Scans({str(scan): str(person) for scan, person in people.items()}, groups)


def _thirds(path: Path, frame: pd.DataFrame, age_range_years: Sequence[float]) -> pd.Series:
    try:
        ages = frame["age_years"].astype(float)
    except ValueError as error:
        raise ConfigError(f"{path}: age_years: {error}") from error
    out = ranges.outside(ages.to_frame(), age_range_years)
    for said in ranges.said(out, age_range_years):
        log.warning("%s: %s: in no third of the ages", path, said)
    beyond = f"outside {ranges.age_range(age_range_years)}"
    ages = ages.mask(out["age_years"])
    person = frame.get("subject_id", pd.Series(index=frame.index, dtype=object))
    of_people = ages.groupby(person.fillna(frame.index.to_series())).first().dropna()
    if len(of_people) < 3:
        return pd.Series(index=frame.index, dtype=object).mask(out["age_years"], beyond)
    low, high = np.quantile(of_people, [1 / 3, 2 / 3])
    names = [f"up to {low:.0f} years", f"{low:.0f} to {high:.0f} years", f"over {high:.0f} years"]
    third = (ages > low).astype(int) + (ages > high).astype(int)
    third = third.map(dict(enumerate(names))).where(ages.notna())
    return third.mask(out["age_years"], beyond)

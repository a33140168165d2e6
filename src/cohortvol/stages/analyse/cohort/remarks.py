"""What in the tables contradicts itself or is not used, as sentences."""

from __future__ import annotations

import pandas as pd

CALLED = "columns that are called otherwise here"
"""Key of `pandas.DataFrame.attrs`: columns of a scans table that tell how people were drawn, and
the names under which they would be used."""


def below_zero(volumes: pd.DataFrame) -> list[str]:
    """Of volumes that no structure can have."""
    n = int((volumes["volume_ml"] < 0).sum())
    subject = "1 volume below 0 mL counts" if n == 1 else f"{n:,} volumes below 0 mL count"
    return [f"{subject} as not measured."] if n else []


def two_sexes(scans: pd.DataFrame) -> pd.Series:
    """Rows of people of whom the scans give both sexes."""
    if "sex" not in scans or "subject_id" not in scans:
        return pd.Series(False, index=scans.index)
    different = scans.groupby("subject_id")["sex"].transform("nunique")
    return different > 1


def of_two_sexes(scans: pd.DataFrame, both: pd.Series) -> list[str]:
    """Of the people whose rows `two_sexes` names."""
    if not both.any():
        return []
    n = scans.loc[both, "subject_id"].nunique()
    people = "1 person has" if n == 1 else f"{n:,} people have"
    return [f"{people} scans of both sexes: their sex counts as unknown."]


def unused(scans: pd.DataFrame) -> list[str]:
    """Of columns under other names than those they are used by."""
    return [
        f"The column {name} of the scans table is not used; it would be under the name {ours}."
        for name, ours in scans.attrs.get(CALLED, {}).items()
    ]

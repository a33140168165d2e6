"""The two tables an analysis starts from, CSV, TSV or Parquet, only the needed columns required."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from cohortvol.errors import TableError, did_you_mean
from cohortvol.stages.analyse.cohort.remarks import CALLED
from cohortvol.stages.analyse.cohort.usable import SEXES
from cohortvol.store.schemas import COHORT_VOLUMES, CONTINUOUS, SCANS, Column, real, text
from cohortvol.store.tables import read_table
from cohortvol.store.text_table import PARQUET, read_frame

VOLUME_COLUMNS = ("scan_id", "structure", "volume_ml")
VOLUME_EXTRAS = ("label", "model", "status", "cut_by_fov", "qc", "qc_auto")
SCAN_COLUMNS = ("scan_id", "age_years")
SCAN_EXTRAS = (
    "sex",
    "state",
    "reason",
    "qc",
    "qc_auto",
    "qc_flags",
    "subject_id",
    "height_cm",
    "weight_kg",
    "site",
    "scanner",
    "field_strength_t",
    "sequence",
    "contrast",
    "cluster_id",
    "sampling_weight",
    "stratum",
    "absent",
    "time_of_day_h",
)
FURTHER = "further"
"""Column of the scans table in which the manifest's further columns stand, as JSON."""
OTHER_NAMES = {
    **dict.fromkeys(("survey_weight", "pweight", "sampling_weights"), "sampling_weight"),
    **dict.fromkeys(("strata",), "stratum"),
    **dict.fromkeys(("psu", "family_id", "household_id"), "cluster_id"),
}
"""Names under which surveys give them."""
STATES = ("done", "skipped", "quarantined", "failed")
STATUSES = ("ok", "cut", "absent", "failed")
QC = ("pass", "flag", "exclude")
_NOTHING = {"", "na", "n/a", "nan", "null", "none"}


def read_volumes(path: Path) -> pd.DataFrame:
    """The volumes table: `VOLUME_COLUMNS`, and those of `VOLUME_EXTRAS` that the file has.

    Texts are categories, as there are as many rows as scans times structures.

    Raises
    ------
    TableError
        If the file is missing or damaged, lacks a needed column, or holds a value that is
        not what the column promises.
    """
    frame = _read(path, COHORT_VOLUMES, VOLUME_COLUMNS, VOLUME_EXTRAS, as_categories=True)
    _check_given(path, frame, ("scan_id", "structure"))
    _check_values(path, frame, "status", STATUSES)
    for name in ("qc", "qc_auto"):
        _check_values(path, frame, name, QC)
    return frame


def read_scans(
    path: Path, covariates: Mapping[str, str] | None = None, named_by: str = "`covariates`"
) -> pd.DataFrame:
    """The scans table: `SCAN_COLUMNS`, and those of `SCAN_EXTRAS` that the file has.

    Rows are put in the order of their scan_id, so that the order of the file changes nothing.

    Parameters
    ----------
    covariates : mapping, optional
        Further columns that are needed, and their kind. Each is a column of the file, or stands
        in its column `FURTHER`.
    named_by : str
        What needs them, for the message where one is missing.

    Raises
    ------
    TableError
        As `read_volumes`; also if two scans that are done share a scan_id, or a covariate is
        nowhere in the table.
    """
    wanted, header = dict(covariates or {}), _header(path)
    frame = _read(path, SCANS, SCAN_COLUMNS, SCAN_EXTRAS, of_kinds(wanted))
    if inside := {name: kind for name, kind in wanted.items() if name not in header}:
        frame = frame.join(_from_json(path, header, inside, named_by))
    called = {name: OTHER_NAMES[name.lower()] for name in header if name.lower() in OTHER_NAMES}
    _check_values(path, frame, "state", STATES)
    for name in ("qc", "qc_auto"):
        _check_values(path, frame, name, QC)
    _check_values(path, frame, "sex", SEXES)
    done = frame
    if "state" in frame:
        _check_given(path, frame, ("state",))
        done = frame[frame["state"] == "done"]
    _check_given(path, done, ("scan_id",))
    twice = done["scan_id"][done["scan_id"].duplicated()]
    if len(twice):
        raise TableError(
            f"{path}: {len(twice)} scan_id stand twice: {_some(twice)}\n"
            "  Every scan is one row. Give each its own scan_id."
        )
    frame = frame.sort_values("scan_id", kind="stable", ignore_index=True)
    frame.attrs[CALLED] = called
    return frame


def of_kinds(covariates: Mapping[str, str]) -> dict[str, Column]:
    """Schema of further columns: numbers, or text."""
    types = {name: real if kind == CONTINUOUS else text for name, kind in covariates.items()}
    return {name: Column(type_, "further covariate") for name, type_ in types.items()}


def _from_json(
    path: Path, header: list[str], wanted: Mapping[str, str], named_by: str
) -> pd.DataFrame:
    """Covariates that stand in the column `FURTHER`, by row of the file."""
    given: set[str] = set()
    rows: list[dict[str, str]] = []
    if FURTHER in header:
        column = _read(path, SCANS, (FURTHER,), ())[FURTHER]
        rows = [json.loads(cell) if cell else {} for cell in column]
        given = {name for row in rows for name in row}
    if missing := [name for name in wanted if name not in given]:
        raise TableError(
            f"{path}: no column {', '.join(missing)}, which {named_by} names"
            + did_you_mean(missing[0], [*header, *given])
        )
    frame = pd.DataFrame({name: [row.get(name) for row in rows] for name in wanted}, dtype=object)
    return _of_types(path, frame, of_kinds(wanted))


def _read(
    path: Path,
    known: dict[str, Column],
    needed: tuple[str, ...],
    extras: tuple[str, ...],
    further: Mapping[str, Column] | None = None,
    *,
    as_categories: bool = False,
) -> pd.DataFrame:
    header = _header(path)
    missing = [name for name in needed if name not in header]
    if missing:
        raise TableError(
            f"{path}: column missing: {', '.join(missing)}\n"
            f"  needed   {', '.join(needed)}\n"
            f"  the file has   {', '.join(header)}"
        )
    columns = known | dict(further or {})
    named = (*needed, *extras, *(further or {}))
    wanted = {name: columns[name] for name in named if name in header}
    texts = [
        name for name, column in wanted.items() if as_categories and column.type == pa.string()
    ]
    if _is_parquet(path):
        frame = read_table(path, wanted, of_any_type=True, as_categories=texts)
    else:
        frame = read_frame(path, usecols=list(wanted), dtype=str, keep_default_na=False)
        frame = frame[list(wanted)].astype(dict.fromkeys(texts, "category"))
    return _of_types(path, frame, wanted)


def _of_types(path: Path, frame: pd.DataFrame, columns: Mapping[str, Column]) -> pd.DataFrame:
    for name, column in columns.items():
        if column.type == pa.string():
            frame[name] = _texts(frame[name])
        elif column.type == pa.bool_():
            frame[name] = _flags(path, frame[name])
        else:
            frame[name] = _numbers(path, frame[name])
    return frame


def _is_parquet(path: Path) -> bool:
    return path.suffix.lower() in PARQUET


def _header(path: Path) -> list[str]:
    try:
        if _is_parquet(path):
            return [str(name) for name in pq.read_schema(path).names]
    except FileNotFoundError as error:
        raise TableError(f"{path}: no such table") from error
    except (pa.ArrowInvalid, OSError, ValueError) as error:
        raise TableError(f"{path}: cannot be read as a table ({error})") from error
    return [str(name) for name in read_frame(path, nrows=0).columns]


def _texts(values: pd.Series) -> pd.Series:
    """Text as str without blanks around it, or None where nothing is given."""
    if isinstance(values.dtype, pd.CategoricalDtype):
        of_level, levels = pd.factorize(_texts(values.cat.categories.to_series()))
        codes = np.append(of_level, -1)[values.cat.codes]
        return pd.Series(pd.Categorical.from_codes(codes, levels), index=values.index)
    given = values.astype(object).where(values.notna(), "").astype(str).str.strip()
    nothing = given.str.lower().isin(_NOTHING)
    return given.astype(object).where(~nothing, None)


def _numbers(path: Path, values: pd.Series) -> pd.Series:
    """Numbers as float64, NaN where nothing is given; infinite and unreadable ones raise."""
    if pd.api.types.is_numeric_dtype(values.dtype):
        numbers = pd.Series(values.to_numpy(dtype=float, na_value=np.nan), index=values.index)
        wrong = np.isinf(numbers)
    else:
        texts = _texts(values)
        numbers = pd.to_numeric(texts, errors="coerce").astype(float)
        wrong = (numbers.isna() & texts.notna()) | np.isinf(numbers)
    if wrong.any():
        raise TableError(
            f"{path}: column {values.name}: {int(wrong.sum())} values are not numbers: "
            f"{_some(values[wrong])}\n  Write numbers, or leave the cell empty."
        )
    return numbers


def _flags(path: Path, values: pd.Series) -> pd.Series:
    """True or False; nothing given is False."""
    if pd.api.types.is_bool_dtype(values.dtype):
        return values.fillna(False).astype(bool)
    texts = _texts(values)
    words = {"true": True, "1": True, "false": False, "0": False}
    lowered = texts.dropna().astype(str).str.lower()
    wrong = lowered[~lowered.isin(list(words))]
    if len(wrong):
        raise TableError(
            f"{path}: column {values.name}: {_some(wrong)}\n  Write true or false, or nothing."
        )
    return lowered.map(words).reindex(values.index, fill_value=False).astype(bool)


def _check_given(path: Path, frame: pd.DataFrame, names: tuple[str, ...]) -> None:
    for name in names:
        empty = int(frame[name].isna().sum())
        if empty:
            raise TableError(f"{path}: column {name} is empty in {empty} rows")


def _check_values(path: Path, frame: pd.DataFrame, name: str, allowed: tuple[str, ...]) -> None:
    if name not in frame:
        return
    given = frame[name].dropna()
    wrong = given[~given.isin(allowed)]
    if len(wrong):
        raise TableError(
            f"{path}: column {name}: {len(wrong)} values are not allowed: {_some(wrong)}\n"
            f"  Allowed are {', '.join(allowed)}, or nothing."
        )


def _some(values: pd.Series) -> str:
    """The first five different values, as written."""
    different = list(dict.fromkeys(values.tolist()))
    more = f" and {len(different) - 5} more" if len(different) > 5 else ""
    return ", ".join(repr(value) for value in different[:5]) + more

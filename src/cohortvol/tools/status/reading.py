"""A results folder as status sees it: read while others write, and without pandas, to be fast."""

from __future__ import annotations

import csv
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from cohortvol.compute import resources
from cohortvol.errors import ConfigError, TableError, did_you_mean
from cohortvol.store.machine import raise_if_lacking

Counts = Counter[tuple[str | None, str | None]]
"""Number of scans by state and reason code."""


def read_columns(path: Path, names: list[str]) -> pa.Table | None:
    """Some columns of a Parquet table; None where there is no such file (any more).

    Raises
    ------
    TableError
        If the file is damaged or has no such column.
    """
    with _stored(path) as stored:
        return None if stored is None else _columns(stored, names, path)


def count_states(path: Path) -> Counts | None:
    """Rows by state and reason of a table of ingest or segment; None where there is no such file.

    A table whose statistics say that every row is alike is not read further.

    Raises
    ------
    TableError
        If the file is damaged or has no such column.
    """
    with _stored(path) as stored:
        if stored is None:
            return None
        n_rows = stored.metadata.num_rows
        low, high = _bounds(stored.metadata, "state")
        if low is not None and low == high and _is_null(stored.metadata, "reason"):
            return Counter({(low, None): n_rows})
        table = _columns(stored, ["state", "reason"], path)
    return Counter(zip(table["state"].to_pylist(), table["reason"].to_pylist(), strict=True))


def failures(path: Path) -> dict[str, str]:
    """Scans that a table of measure says it failed on, with the reason code.

    Reasons of a scan that was measured all begin with QC_, so the statistics often tell that
    there is no failure without reading further.

    Raises
    ------
    TableError
        If the file is damaged or has no such column.
    """
    with _stored(path) as stored:
        if stored is None or _is_null(stored.metadata, "reason"):
            return {}
        bounds = _bounds(stored.metadata, "reason")
        if all(bound is not None and bound.startswith("QC_") for bound in bounds):
            return {}
        table = _columns(stored, ["scan_id", "status", "reason"], path)
    told = table.filter(table["reason"].is_valid()).to_pylist()
    return {row["scan_id"]: row["reason"] for row in told if row["status"] == "failed"}


@cache
def states_at(path: Path, mtime_ns: int) -> Counts | None:
    """`count_states`, read once for as long as the table stays the same."""
    return count_states(path)


@cache
def failures_at(path: Path, mtime_ns: int) -> dict[str, str]:
    """`failures`, read once for as long as the table stays the same."""
    return failures(path)


@contextmanager
def _stored(path: Path) -> Iterator[pq.ParquetFile | None]:
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as stored:
            yield stored
    except FileNotFoundError:
        yield None
    except PermissionError as error:
        raise TableError(f"{path}: may be read by the account alone that wrote it") from error
    except (pa.ArrowException, OSError) as error:
        raise_if_lacking(path, error)
        raise TableError(f"{path}: damaged table ({error}); delete it and run again") from error


def _columns(stored: pq.ParquetFile, names: list[str], path: Path) -> pa.Table:
    table = stored.read(columns=names, use_threads=False)
    lacking = sorted(set(names) - set(table.column_names))
    if lacking:
        raise TableError(f"{path}: columns missing: {', '.join(lacking)}")
    return table


def _statistics(metadata: pq.FileMetaData, name: str) -> pq.Statistics | None:
    """Statistics of a column, of a file that is small enough to have one row group."""
    if metadata.num_row_groups != 1:
        return None
    group = metadata.row_group(0)
    for number in range(group.num_columns):
        column = group.column(number)
        if column.path_in_schema == name:
            return column.statistics
    return None


def _bounds(metadata: pq.FileMetaData, name: str) -> tuple[str | None, str | None]:
    found = _statistics(metadata, name)
    if found is None or not found.has_min_max:
        return None, None
    return found.min, found.max


def _is_null(metadata: pq.FileMetaData, name: str) -> bool:
    found = _statistics(metadata, name)
    return found is not None and found.has_null_count and found.null_count == metadata.num_rows


def read_manifest(results: Path, names: list[str]) -> pa.Table:
    """Columns of ``manifest/scans.parquet``, or an error that says what to do first."""
    table = read_columns(results / "manifest" / "scans.parquet", names)
    if table is None:
        raise ConfigError(
            f"{results}: not a results folder, it has no manifest/scans.parquet\n"
            "  Give the folder with --results, or start with `cohortvol manifest`."
        )
    return table


def read_index(results: Path) -> dict[str, int]:
    """Shards in use, each with its number of scans."""
    try:
        with open(results / "manifest" / "index.tsv", encoding="utf-8", newline="") as stream:
            rows = list(csv.DictReader(stream, delimiter="\t"))
    except FileNotFoundError:
        return {}
    return {row["shard"]: int(row["n_scans"]) for row in rows}


def tables_by_shard(folder: Path) -> dict[str, int]:
    """Modification time in ns of ``<shard>.parquet`` in a folder, by shard."""
    try:
        with os.scandir(folder) as entries:
            return {
                entry.name.removesuffix(".parquet"): entry.stat().st_mtime_ns
                for entry in entries
                if entry.name.endswith(".parquet") and not entry.name.startswith(".")
            }
    except FileNotFoundError:
        return {}


@dataclass(frozen=True)
class LastJob:
    """What is known of the job that makes a table: its runs, and when it was last heard of.

    `life` is in seconds since the epoch, and None where no job was started yet.
    """

    stage: str
    shard: str
    runs: list[dict[str, Any]]
    life: float | None


def last_job(stage: str, table: Path, log: Path, since_ns: int) -> LastJob:
    """From its record and its log, if they are not older than what the table is made from."""
    record = resources.record_of(table)
    written = {path: _mtime_ns(path) for path in (record, log)}
    signs = [mtime_ns for mtime_ns in written.values() if mtime_ns >= since_ns]
    runs = resources.runs(record) if written[record] >= since_ns else []
    return LastJob(stage, table.stem, runs, max(signs) / 1e9 if signs else None)


def _mtime_ns(path: Path) -> int:
    """Modification time; -1 where there is no such file."""
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return -1


def seconds_of(utc: str) -> float:
    """An ISO 8601 time in seconds since the epoch."""
    return datetime.fromisoformat(utc).timestamp()


def choose_model(results: Path, model: str | None) -> str | None:
    """The model asked for, or the only one there; None where nothing was segmented yet.

    Raises
    ------
    ConfigError
        If `model` is not there while others are, or if there are several to choose from.
    """
    there = sorted(
        {
            entry.name
            for stage in ("segment", "measure")
            if (results / stage).is_dir()
            for entry in os.scandir(results / stage)
            if entry.is_dir() and not entry.name.startswith(".")
        }
    )
    if model is not None:
        if there and model not in there:
            raise ConfigError(f"{results}: nothing of model {model!r}{did_you_mean(model, there)}")
        return model
    if len(there) > 1:
        raise ConfigError(
            f"{results}: holds several models, choose one with --model: {', '.join(there)}"
        )
    return there[0] if there else None

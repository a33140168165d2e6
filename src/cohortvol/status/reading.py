"""A results folder as status sees it: read while others write, and without pandas, to be fast."""

from __future__ import annotations

import csv
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from cohortvol.errors import ConfigError, TableError, did_you_mean


def read_columns(path: Path, names: list[str]) -> pa.Table | None:
    """Some columns of a Parquet table; None where there is no such file (any more).

    Raises
    ------
    TableError
        If the file is damaged or has no such column.
    """
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as stored:
            table = stored.read(columns=names, use_threads=False)
    except FileNotFoundError:
        return None
    except (pa.ArrowInvalid, OSError) as error:
        raise TableError(f"{path}: damaged table ({error}); delete it and run again") from error
    if table.num_columns != len(names):
        lacking = sorted(set(names) - set(table.column_names))
        raise TableError(f"{path}: columns missing: {', '.join(lacking)}")
    return table


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


def receipts(folder: Path) -> dict[str, float]:
    """Modification time in seconds of each receipt in a shard's folder, by scan_id."""
    found = {}
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                scan_id, dot, suffix = entry.name.partition(".")
                if scan_id and dot and suffix == "json":
                    found[scan_id] = entry.stat().st_mtime
    except FileNotFoundError:
        return found
    return found


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

"""Rows of the tables of all shards in the order of the cohort, of which few are held at once.

What rows are judged by is held of all of them, texts as categories. Everything else passes by in
blocks when the cohort's table is written.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from cohortvol.store.schemas import Column
from cohortvol.store.tables import ROW_GROUP, read_arrow, to_arrow

BLOCK = 4 * ROW_GROUP
"""Rows of the cohort's table that are put in order at a time: every shard that has some of them is
read once for each block, most only for one or two."""

BOX = ("box_i", "box_j", "box_k")
"""Voxels that a structure spans along each array axis, out of its ``bbox``; 0 where it has none."""


@dataclass(frozen=True)
class Rows:
    """Where the rows of a cohort's table lie."""

    paths: Sequence[Path]
    """Tables of the shards; their rows are numbered from the first of the first one on."""
    starts: np.ndarray
    """(shards + 1,) number of the first row of each, and of all."""
    order: np.ndarray
    """(rows,) numbers of those that the cohort has, in its order."""

    def have(self, column: str) -> bool:
        """Whether a shard has a column that is left out where nothing is in it."""
        return any(column in pq.read_schema(path).names for path in self.paths)

    def groups(self, columns: dict[str, Column], judged: pd.DataFrame) -> Iterator[pa.Table]:
        """The cohort's table by `ROW_GROUP` rows, for `write_groups`.

        Parameters
        ----------
        columns : dict
            Its schema.
        judged : pandas.DataFrame
            Columns that stand in the place of the shards', in the order of the cohort; those that
            are neither here nor in the shards are named here, too.
        """
        schema = pa.schema([(name, column.type) for name, column in columns.items()])
        own = {name: columns[name] for name in columns if name not in judged}
        of_judged = {name: columns[name] for name in judged}
        for first in range(0, max(len(self.order), 1), BLOCK):
            numbers = self.order[first : first + BLOCK]
            in_files = np.sort(numbers)
            block = self._read(in_files, own)
            pa.default_memory_pool().release_unused()
            for start in range(0, max(len(numbers), 1), ROW_GROUP):
                some = numbers[start : start + ROW_GROUP]
                group = _taken(block, np.searchsorted(in_files, some)).unify_dictionaries()
                here = slice(first + start, first + start + len(some))
                added = to_arrow(judged.iloc[here], of_judged)
                both = {name: (added if name in of_judged else group)[name] for name in columns}
                yield pa.table(both).cast(schema)

    def _read(self, numbers: np.ndarray, columns: dict[str, Column]) -> pa.Table:
        """Rows by their numbers, which ascend; texts as dictionaries."""
        texts = [name for name, column in columns.items() if column.type == pa.string()]
        borders = pairwise(np.searchsorted(numbers, self.starts))
        parts = []
        for path, start, (first, end) in zip(self.paths, self.starts, borders, strict=False):
            if first < end:
                table = read_arrow(path, columns, as_categories=texts)
                whole = end - first == len(table)
                parts.append(table if whole else table.take(numbers[first:end] - start))
        if not parts:
            return to_arrow(pd.DataFrame(), columns)
        return pa.concat_tables(parts)


def _taken(table: pa.Table, places: np.ndarray) -> pa.Table:
    """Rows of a table, not copied where they follow one another."""
    follow = len(places) and np.array_equal(places, np.arange(places[0], places[0] + len(places)))
    return table.slice(places[0], len(places)) if follow else table.take(places)


def read_rows(
    paths: Sequence[Path], held: dict[str, Column], scan_ids: pd.Series
) -> tuple[Rows, pd.DataFrame]:
    """Rows of these scans from the tables of all shards, sorted by scan_id.

    Within a scan the rows keep their order: labels of the model, then sums.

    Parameters
    ----------
    paths : sequence of Path
        Tables of the shards.
    held : dict
        Columns to hold, ``scan_id`` among them.
    scan_ids : pandas.Series
        The scans, each once.

    Returns
    -------
    Rows, pandas.DataFrame
        Where the rows lie, and their columns `held`: numbers as they are; flags, unknown being
        False; `BOX` for ``bbox``; all others as categories, of ``scan_id`` those of `scan_ids`,
        sorted.
    """
    levels: dict[str, dict[Any, int]] = {name: {} for name in held if _is_coded(held[name])}
    levels["scan_id"] = {scan_id: place for place, scan_id in enumerate(sorted(scan_ids))}
    texts = [name for name, column in held.items() if column.type == pa.string()]
    parts = [_held(to_arrow(pd.DataFrame(), held), levels)]
    lengths = [0]
    for path in paths:
        table = read_arrow(path, held, as_categories=texts)
        lengths.append(len(table))
        parts.append(_held(table, levels))
    pa.default_memory_pool().release_unused()
    scan = np.concatenate([part["scan_id"] for part in parts])
    unknown = np.count_nonzero(scan < 0)
    order = np.argsort(scan, kind="stable")[unknown:].astype(np.min_scalar_type(-len(scan) - 1))
    columns: dict[str, Any] = {}
    for name in list(parts[0]):
        column = np.concatenate([part.pop(name) for part in parts])[order]
        columns[name] = _categorical(column, levels[name]) if name in levels else column
    return Rows(paths, np.cumsum(lengths), order), pd.DataFrame(columns, copy=False)


def _is_coded(column: Column) -> bool:
    return column.type in (pa.string(), pa.int64())


def _held(table: pa.Table, levels: dict[str, dict[Any, int]]) -> dict[str, np.ndarray]:
    """Columns of a shard's table; of a coded one the place of each value among its levels, to which
    new ones are added, -1 for null. A scan that is not among the levels is -1, too."""
    arrays: dict[str, np.ndarray] = {}
    for name in table.column_names:
        column = table[name].unify_dictionaries().combine_chunks()
        if name in levels:
            arrays[name] = _codes(column, levels[name], grow=name != "scan_id")
        elif pa.types.is_list(column.type):
            arrays |= dict(zip(BOX, _extents(column).T, strict=True))
        elif pa.types.is_boolean(column.type):
            arrays[name] = column.fill_null(False).to_numpy(zero_copy_only=False)
        else:
            arrays[name] = column.to_numpy(zero_copy_only=False)
    return arrays


def _codes(column: pa.Array, levels: dict[Any, int], *, grow: bool) -> np.ndarray:
    coded = column if pa.types.is_dictionary(column.type) else column.dictionary_encode()
    values = coded.dictionary.to_pylist()
    for value in values if grow else ():
        levels.setdefault(value, len(levels))
    places = np.array(
        [*(levels.get(value, -1) for value in values), -1],
        dtype=np.min_scalar_type(-max(len(levels), 1)),
    )
    codes: np.ndarray = places[coded.indices.fill_null(-1).to_numpy()]
    return codes


def _extents(bbox: pa.Array) -> np.ndarray:
    """(n, 3) voxels along each axis."""
    given = bbox.is_valid().to_numpy(zero_copy_only=False)
    bounds = bbox.flatten().to_numpy().reshape(-1, len(BOX), 2)
    along = np.diff(bounds, axis=2)[:, :, 0] + 1
    extents = np.zeros((len(bbox), len(BOX)), np.min_scalar_type(along.max(initial=0)))
    extents[given] = along
    return extents


def _categorical(codes: np.ndarray, levels: dict[Any, int]) -> pd.Categorical:
    return pd.Categorical.from_codes(codes, pd.Index(list(levels), dtype=object))

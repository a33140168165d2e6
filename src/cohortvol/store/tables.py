"""Checked Parquet in and out, equal tables giving equal bytes."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from cohortvol.errors import TableError
from cohortvol.store.files import commit
from cohortvol.store.machine import raise_if_lacking
from cohortvol.store.schemas import RARE, Column
from cohortvol.store.storage import of_ours

ROW_GROUP = 122_880


def to_arrow(frame: pd.DataFrame, columns: dict[str, Column]) -> pa.Table:
    """A data frame as an Arrow table of exactly these columns, in their order.

    Missing columns become null; NaN and NaT become null.

    Raises
    ------
    TableError
        If the frame has a column the schema does not name, or a value of another type.
    """
    unknown = [name for name in frame.columns if name not in columns]
    if unknown:
        raise TableError(f"columns not in the schema: {', '.join(map(str, unknown))}")
    schema = pa.schema([(name, column.type) for name, column in columns.items()])
    arrays = []
    for field in schema:
        if field.name not in frame.columns or frame[field.name].isna().all():
            arrays.append(pa.nulls(len(frame), field.type))
            continue
        try:
            arrays.append(pa.Array.from_pandas(frame[field.name], type=field.type))
        except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
            raise TableError(f"column {field.name}: {error}") from error
    return pa.Table.from_arrays(arrays, schema=schema)


def write_table(path: Path, frame: pd.DataFrame, columns: dict[str, Column]) -> str:
    """Write a checked Parquet file with page checksums; equal tables give equal bytes.

    Returns
    -------
    str
        sha256 of the file.
    """
    return write_arrow(path, to_arrow(frame, columns))


def write_arrow(path: Path, table: pa.Table) -> str:
    """`write_table` for an Arrow table that has its schema already.

    A table with the paths of images, which may hold names, is for its owner alone.
    """
    mode = 0o600 if "image" in table.column_names else 0o666
    return commit(path, lambda stream: _encode(table, stream), mode)


def write_groups(
    path: Path, columns: dict[str, Column], groups: Callable[[], Iterable[pa.Table]]
) -> str:
    """`write_table` for a table that is never held as a whole: the same bytes.

    Parameters
    ----------
    path : Path
        The file; of a table without paths of images.
    columns : dict
        Its schema, of which no column is `RARE`.
    groups : callable
        The table by `ROW_GROUP` rows and the rest; one group without rows where it has none. Called
        once more where the storage fails.
    """
    schema = pa.schema([(name, column.type) for name, column in columns.items()])
    return commit(path, lambda stream: _encode_groups(groups(), schema, stream))


def digest_as_written(table: pa.Table) -> str:
    """sha256 of the file that `write_arrow` would make."""
    stream = pa.BufferOutputStream()
    _encode(table, stream)
    return hashlib.sha256(stream.getvalue()).hexdigest()


LAYOUT: dict[str, Any] = {
    "version": "2.6",
    "data_page_version": "1.0",
    "row_group_size": ROW_GROUP,
    "data_page_size": 1 << 20,
    "max_rows_per_page": 20_000,
    "write_batch_size": 1024,
    "use_dictionary": True,
    "dictionary_pagesize_limit": 1 << 20,
    "compression": "zstd",
    "compression_level": 1,
    "write_statistics": True,
    "write_page_index": False,
    "write_page_checksum": True,
    "use_byte_stream_split": False,
    "use_compliant_nested_type": True,
    "store_schema": False,
}
"""Everything about a Parquet file that pyarrow would otherwise decide by its version.

With it pyarrow 23 to 26 write the same bytes, but for their own name in the footer (decision 40).
"""


def _encode(table: pa.Table, stream: Any) -> None:
    rare = [name for name in RARE if name in table.column_names]
    if empty := [name for name in rare if table[name].null_count == len(table)]:
        table = table.drop_columns(empty)
    _encode_groups([table], table.schema, stream)


def _encode_groups(groups: Iterable[pa.Table], schema: pa.Schema, stream: Any) -> None:
    options = {name: value for name, value in LAYOUT.items() if name != "row_group_size"}
    with pq.ParquetWriter(stream, schema, **options) as writer:
        for group in groups:  # chunk borders show in the bytes
            writer.write_table(group.combine_chunks(), LAYOUT["row_group_size"])


def read_table(
    path: Path,
    columns: dict[str, Column],
    *,
    of_any_type: bool = False,
    as_categories: Sequence[str] = (),
) -> pd.DataFrame:
    """Read a Parquet table, checking page checksums and schema.

    Columns of `columns` that the file lacks are an error, but for those of `RARE`, which are null
    then; extra ones are dropped.

    Parameters
    ----------
    path : Path
        The file.
    columns : dict
        Columns to read, with their types.
    of_any_type : bool
        Take them whatever their types are, as in a table that another program wrote.
    as_categories : sequence of str
        Columns of texts that come as categories, which take little memory where texts repeat.

    Raises
    ------
    TableError
        If the file is missing, damaged, or has other columns.
    TemporaryError
        If the storage fails.
    """
    found = read_arrow(path, columns, of_any_type=of_any_type, as_categories=as_categories)
    return to_pandas(found)


def read_arrow(
    path: Path,
    columns: dict[str, Column],
    *,
    of_any_type: bool = False,
    as_categories: Sequence[str] = (),
) -> pa.Table:
    """`read_table`, left in Arrow."""

    def read() -> pa.Table:
        coded = {"read_dictionary": [name for name in as_categories if name not in RARE]}
        with pq.ParquetFile(path, page_checksum_verification=True, **coded) as stored:
            found = stored.read(columns=list(columns))
            _check_counts(stored.metadata)
        return found

    try:
        table = of_ours(path, read)
    except FileNotFoundError as error:
        raise TableError(f"{path}: no such table; has the stage before it run?") from error
    except PermissionError as error:
        raise TableError(f"{path}: may be read by the account alone that wrote it") from error
    except (pa.ArrowException, OSError, ValueError) as error:  # ValueError: bytes that are no text
        raise_if_lacking(path, error)
        raise TableError(f"{path}: damaged table ({error}); delete it and run again") from error
    for name in set(RARE) & set(columns) - set(table.column_names):
        table = table.append_column(name, pa.nulls(len(table), columns[name].type))
    missing = [name for name in columns if name not in table.column_names]
    if missing:
        raise TableError(f"{path}: columns missing: {', '.join(missing)}")
    table = table.select(list(columns))
    if not of_any_type:
        wrong = [field.name for field in table.schema if _plain(field) != columns[field.name].type]
        if wrong:
            raise TableError(f"{path}: columns of another type: {', '.join(wrong)}")
    return table


def _plain(field: pa.Field) -> pa.DataType:
    """Type of a column as it is stored."""
    return field.type.value_type if pa.types.is_dictionary(field.type) else field.type


def read_as_written(path: Path, columns: dict[str, Column]) -> pa.Table:
    """`read_arrow`, and a check of the bytes that no page checksum covers.

    Equal tables give equal bytes, so the rows written once more must give the same file. Of a
    file that another version of pyarrow wrote, the checksums and counts are all that is checked.

    Raises
    ------
    TableError
        As `read_arrow`, or if the file is not the one that these rows are written as.
    """
    table = read_arrow(path, columns)
    with pq.ParquetFile(path) as stored:
        writer = str(stored.metadata.created_by)
    if writer != f"parquet-cpp-arrow version {pa.cpp_version}":
        if not re.fullmatch(r"parquet-cpp-arrow version \d+(\.\d+)*(-SNAPSHOT)?", writer):
            raise TableError(f"{path}: damaged table (no known program wrote it)")
        return table
    stream = pa.BufferOutputStream()
    _encode(table.cast(pa.schema([(name, columns[name].type) for name in columns])), stream)
    if stream.getvalue().to_pybytes() != path.read_bytes():
        raise TableError(f"{path}: damaged table (its bytes are not those its rows are written as)")
    return table


def _check_counts(metadata: pq.FileMetaData) -> None:
    """Raise ValueError where the footer, which has no checksum, contradicts itself."""
    groups = [metadata.row_group(index) for index in range(metadata.num_row_groups)]
    n_rows = sum(group.num_rows for group in groups)
    if n_rows != metadata.num_rows:
        raise ValueError(f"{metadata.num_rows} rows, of which its groups hold {n_rows}")
    for group in groups:
        for column in map(group.column, range(group.num_columns)):
            is_list = "." in column.path_in_schema
            if not is_list and column.num_values != group.num_rows:
                raise ValueError(f"{column.num_values} values in a group of {group.num_rows} rows")


_FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""What a spreadsheet takes for the start of a formula (OWASP ASVS 1.2.10)."""


def csv_text(frame: pd.DataFrame, **options: Any) -> str:
    """A table as CSV for people, with texts that a spreadsheet would run made harmless.

    A text that begins like a formula gets a ``'`` before it; numbers stay numbers, so that -3.5
    is still one. `options` are those of ``DataFrame.to_csv``.
    """
    safe = {
        name: frame[name].map(_harmless)
        for name in frame.columns
        if not pd.api.types.is_numeric_dtype(frame[name].dtype)
    }
    named = frame.assign(**safe).rename(columns=_harmless)
    return str(named.to_csv(index=False, lineterminator="\n", **options))


def _harmless(value: Any) -> Any:
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value


def as_written(text: str) -> str:
    """A text read from such a CSV, as it was before `csv_text`."""
    return text[1:] if text.startswith(tuple(f"'{mark}" for mark in _FORMULA)) else text


def to_pandas(table: pa.Table) -> pd.DataFrame:
    """Arrow to pandas with nulls kept: strings as str or None, integers as nullable Int64."""
    kinds = {pa.int64(): pd.Int64Dtype(), pa.bool_(): pd.BooleanDtype()}
    return table.to_pandas(types_mapper=kinds.get)


def append_rows(rows: list[dict[str, Any]], columns: dict[str, Column]) -> pd.DataFrame:
    """Rows as a frame with every column of a schema, also when there are no rows."""
    return pd.DataFrame(rows, columns=list(columns))

"""Tables as their raw text: no value is interpreted, no row is shifted.

Every table that a user gives comes through here: the manifest, covariates, withdrawals, decisions,
published and planted values, plausible volumes, tables for analyse and evaluate. What cannot be
read with certainty is refused with the same words, whichever table it is.
"""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from cohortvol.errors import LONGEST_LIST, TableError

PARQUET = (".parquet", ".pq")
_DELIMITERS = {".csv": ",", ".tsv": "\t", ".tab": "\t"}
_LIST = ".txt"
_NAMES = {",": "commas", "\t": "tabs", ";": "semicolons", "|": "vertical bars"}
_OTHER_KINDS = {
    b"PK\x03\x04": "an Excel workbook or another ZIP archive",
    b"\xd0\xcf\x11\xe0": "an old Excel workbook",
    b"PAR1": "a Parquet table",
    b"\x1f\x8b": "packed with gzip",
    b"{\\rtf": "an RTF document",
}
_OTHER_ENCODINGS = {b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16"}

Record = tuple[int, list[str]]
"""Line in the file, the first being 1, and its fields."""


@dataclass(frozen=True)
class Problem:
    """Why one row cannot be used. `value` is None where it must not be repeated."""

    column: str
    value: str | None
    code: str
    allowed: str

    @property
    def shown(self) -> str:
        """The value, or a dash."""
        return "-" if self.value is None else repr(self.value)

    @property
    def text(self) -> str:
        """For the ``detail`` of a quarantined row."""
        given = self.column if self.value is None else f"{self.column} {self.value!r}"
        return f"{given}; allowed: {self.allowed}"


@dataclass(frozen=True)
class TextTable:
    """A table of text: ids such as ``007`` and ``NA`` are what they look like.

    Parameters
    ----------
    columns : list of str
        The header.
    rows : list of dict
        One mapping of column to text per row.
    lines : list of int
        Line of each row in the file, the header being line 1.
    places : list of str
        What to call each row in a message, where it does not stand in a line of a file.
    ends : dict of int to (state, reason, detail)
        Rows by position that are closed already.
    problems : dict of int to list of Problem
        What is wrong with the files that a row was made of, by position.
    """

    columns: list[str]
    rows: list[dict[str, str]]
    lines: list[int]
    places: list[str] = field(default_factory=list)
    ends: dict[int, tuple[str, str, str | None]] = field(default_factory=dict)
    problems: dict[int, list[Problem]] = field(default_factory=dict)


def read_text_table(path: Path, hint: str = "", *, also_delimiter: str = "") -> TextTable:
    """Read a CSV, TSV or Parquet file without interpreting any value.

    Parameters
    ----------
    path : Path
        The table.
    hint : str
        What to do where it is not there.
    also_delimiter : str
        Separator of a publisher's own file, taken where its header holds it.

    Raises
    ------
    TableError
        If the file is missing, of another kind, not UTF-8, separated by something else than
        its name says, or has a row whose length is not that of the header.
    """
    (_, columns), *rest = read_records(path, hint, also_delimiter=also_delimiter)
    rows = [dict(zip(columns, record, strict=True)) for _, record in rest]
    return TextTable(columns, rows, [line for line, _ in rest])


def read_records(
    path: Path, hint: str = "", *, may_be_list: bool = False, also_delimiter: str = ""
) -> list[Record]:
    """The header and the rows of a table, all of one length, as `read_text_table`.

    Parameters
    ----------
    may_be_list : bool
        A ``.txt`` will do too, separated by tabs or commas, or with one value per line.
    also_delimiter : str
        See `read_text_table`.

    Raises
    ------
    TableError
        As `read_text_table`.
    """
    kind = _kind(path, hint, may_be_list=may_be_list)
    if kind in PARQUET:
        return _from_parquet(path)
    text = _text(path)
    delimiter = _DELIMITERS.get(kind) or _delimiter_of_list(text)
    if also_delimiter and also_delimiter in text.partition("\n")[0]:
        delimiter = also_delimiter
    records = list(_records(path, text, delimiter))
    _check(path, iter(records), delimiter)
    line, header = records[0]
    return [(line, [name.strip() for name in header]), *records[1:]]


def read_frame(path: Path, hint: str = "", **settings: Any) -> pd.DataFrame:
    """`pandas.read_csv` of a CSV or TSV file that passed the checks of `read_text_table`.

    Parameters
    ----------
    settings
        Those of `pandas.read_csv`; the separator is that of the file's name.

    Raises
    ------
    TableError
        As `read_text_table`, and if pandas cannot read it.
    """
    kind = _kind(path, hint)
    if kind in PARQUET:
        raise TableError(f"{path}: must be a .csv or .tsv file")
    text, delimiter = _text(path), _DELIMITERS[kind]
    _check(path, _records(path, text, delimiter), delimiter)
    try:
        return pd.read_csv(io.StringIO(text), sep=delimiter, **settings)
    except (ValueError, OverflowError) as error:
        raise TableError(f"{path}: cannot be read as a table ({error})") from error


def _kind(path: Path, hint: str, *, may_be_list: bool = False) -> str:
    kind = path.suffix.lower()
    if kind not in (*_DELIMITERS, *PARQUET, *([_LIST] if may_be_list else [])):
        last = ".parquet or .txt" if may_be_list else "or .parquet"
        raise TableError(f"{path}: must be a .csv, .tsv{',' if may_be_list else ''} {last} file")
    if not path.is_file():
        raise TableError("\n  ".join([f"{path}: no such file", *([hint] if hint else [])]))
    return kind


def _from_parquet(path: Path) -> list[Record]:
    try:
        table = pq.read_table(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise TableError(f"{path}: is not a readable Parquet table ({error})") from error
    _refuse_repeated_columns(path, table.column_names)
    values = [column.to_pylist() for column in table.columns]
    rows = [
        ["" if value is None else str(value) for value in row] for row in zip(*values, strict=True)
    ]
    return list(enumerate([table.column_names, *rows], start=1))


def _text(path: Path) -> str:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise TableError(f"{path}: cannot be read ({error.strerror})") from error
    for mark, what in _OTHER_KINDS.items():
        if content.startswith(mark):
            raise TableError(
                f"{path}: is {what}, whatever its name says (TAB_ENCODING)\n"
                "  Save it as text; spreadsheets call it `CSV UTF-8`."
            )
    for mark, what in _OTHER_ENCODINGS.items():
        if content.startswith(mark):
            raise TableError(
                f"{path}: is {what} and not UTF-8 text (TAB_ENCODING)\n"
                "  Save the table as UTF-8; spreadsheets call it `CSV UTF-8`."
            )
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise TableError(
            f"{path}: byte {error.start} is not UTF-8 text (TAB_ENCODING)\n"
            "  Save the table as UTF-8; spreadsheets call it `CSV UTF-8`."
        ) from error
    if "\0" in text:
        raise TableError(f"{path}: holds a NUL character (TAB_ENCODING); save it as plain text")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _delimiter_of_list(text: str) -> str:
    return "\t" if "\t" in text.partition("\n")[0] else ","


def _records(path: Path, text: str, delimiter: str) -> Iterator[Record]:
    """Line and fields of every line that is not empty."""
    reader = csv.reader(io.StringIO(text), delimiter=delimiter, strict=True)
    line = 1
    try:
        for record in reader:
            if record:
                yield line, record
            line = reader.line_num + 1
    except csv.Error as error:
        raise TableError(f"{path}: line {line}: {error} (TAB_RAGGED_ROW)") from error


def _check(path: Path, rows: Iterator[Record], delimiter: str) -> None:
    """Refuse a table whose values may stand in wrong columns."""
    _, header = next(rows, (0, []))
    if not header:
        raise TableError(f"{path}: is empty")
    _refuse_other_delimiter(path, header, delimiter)
    _refuse_repeated_columns(path, [name.strip() for name in header])
    ragged = [
        f"  line {line}: {len(record)} fields"
        for line, record in rows
        if len(record) != len(header)
    ]
    if ragged:
        raise TableError(
            f"{path}: {len(ragged)} rows are not as long as the header, which has "
            f"{len(header)} fields (TAB_RAGGED_ROW)\n"
            + "\n".join(ragged[:LONGEST_LIST])
            + "\n  Their values may stand in wrong columns. Quote values that hold a separator."
        )


def _refuse_other_delimiter(path: Path, header: list[str], delimiter: str) -> None:
    """Refuse a header of one field, or of fewer, than another separator would make."""
    for other, name in _NAMES.items():
        n_others = sum(cell.count(other) for cell in header)
        if other != delimiter and n_others >= len(header):
            raise other_delimiter(path, name, delimiter)


def other_delimiter(path: Path, name: str, delimiter: str) -> TableError:
    """The error of a table that is separated by something else than its name says."""
    return TableError(
        f"{path}: is separated by {name} (TAB_DELIMITER)\n"
        f"  A {path.suffix} file is separated by {_NAMES[delimiter]}: save it like "
        "that, with a point for decimals."
    )


def _refuse_repeated_columns(path: Path, columns: list[str]) -> None:
    repeated = [name for name, count in Counter(columns).items() if count > 1]
    if repeated:
        raise TableError(
            f"{path}: columns that stand twice: {', '.join(map(repr, repeated))} "
            "(TAB_DUPLICATE_COLUMN)"
        )

"""Tables as their raw text: no value is interpreted, no row is shifted."""

from __future__ import annotations

import csv
import io
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from cohortvol.errors import ManifestError

_DELIMITERS = {".csv": ",", ".tsv": "\t"}
_NAMES = {",": "commas", "\t": "tabs", ";": "semicolons"}


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


def read_text_table(path: Path) -> TextTable:
    """Read a CSV, TSV or Parquet file without interpreting any value.

    Raises
    ------
    ManifestError
        If the file is missing, of another kind, not UTF-8, separated by something else than
        its name says, or has a row whose length is not that of the header.
    """
    kind = path.suffix.lower()
    if kind not in (*_DELIMITERS, ".parquet"):
        raise ManifestError(f"{path}: must be a .csv, .tsv or .parquet file")
    if not path.is_file():
        raise ManifestError(
            f"{path}: no such file\n"
            "  Give the table of scans with `manifest:` in the config, or make one with "
            "`cohortvol manifest-from-folder`."
        )
    return _from_parquet(path) if kind == ".parquet" else _from_text(path, _DELIMITERS[kind])


def _from_parquet(path: Path) -> TextTable:
    try:
        table = pq.read_table(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise ManifestError(f"{path}: is not a readable Parquet table ({error})") from error
    _refuse_repeated_columns(path, table.column_names)
    rows = [
        {name: "" if value is None else str(value) for name, value in row.items()}
        for row in table.to_pylist()
    ]
    return TextTable(table.column_names, rows, list(range(2, len(rows) + 2)))


def _from_text(path: Path, delimiter: str) -> TextTable:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ManifestError(f"{path}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise ManifestError(
            f"{path}: byte {error.start} is not UTF-8 text (TAB_ENCODING)\n"
            "  Save the table as UTF-8; spreadsheets call it `CSV UTF-8`."
        ) from error
    if "\0" in text:
        raise ManifestError(f"{path}: holds a NUL character (TAB_ENCODING); save it as plain text")

    reader = csv.reader(io.StringIO(text), delimiter=delimiter, strict=True)
    records, lines, line = [], [], 1
    try:
        for record in reader:
            if record:
                records.append(record)
                lines.append(line)
            line = reader.line_num + 1
    except csv.Error as error:
        raise ManifestError(f"{path}: line {line}: {error} (TAB_RAGGED_ROW)") from error
    if not records:
        raise ManifestError(f"{path}: is empty")
    columns = [name.strip() for name in records[0]]
    _refuse_other_delimiter(path, columns, delimiter)
    _refuse_repeated_columns(path, columns)
    ragged = [
        f"  line {at}: {len(record)} fields"
        for record, at in zip(records[1:], lines[1:], strict=True)
        if len(record) != len(columns)
    ]
    if ragged:
        raise ManifestError(
            f"{path}: {len(ragged)} rows are not as long as the header, which has "
            f"{len(columns)} fields (TAB_RAGGED_ROW)\n"
            + "\n".join(ragged)
            + "\n  Their values may stand in wrong columns. Quote values that hold a separator."
        )
    rows = [dict(zip(columns, record, strict=True)) for record in records[1:]]
    return TextTable(columns, rows, lines[1:])


def _refuse_other_delimiter(path: Path, columns: list[str], delimiter: str) -> None:
    if len(columns) > 1:
        return
    for other, name in _NAMES.items():
        if other != delimiter and other in columns[0]:
            raise ManifestError(
                f"{path}: is separated by {name} (TAB_DELIMITER)\n"
                f"  A {path.suffix} file is separated by {_NAMES[delimiter]}: save it like "
                "that, with a point for decimals."
            )


def _refuse_repeated_columns(path: Path, columns: list[str]) -> None:
    repeated = [name for name, count in Counter(columns).items() if count > 1]
    if repeated:
        raise ManifestError(
            f"{path}: columns that stand twice: {', '.join(map(repr, repeated))} "
            "(TAB_DUPLICATE_COLUMN)"
        )

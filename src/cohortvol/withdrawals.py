"""The list of subjects who took their consent back, in the forms in which such lists come."""

from __future__ import annotations

import csv
import io
import unicodedata
from pathlib import Path

from cohortvol.errors import ConfigError
from cohortvol.text_table import read_text_table

COLUMNS = ("subject_id", "participant_id", "scan_id")
"""Columns of a list that name who is withdrawn; any of them will do."""


def read_withdrawals(path: Path) -> frozenset[str]:
    """Ids of withdrawn subjects, each as `normal` writes it.

    A CSV, TSV or Parquet table with a column ``subject_id`` or ``participant_id``, or of single
    scans ``scan_id``; or a text with one id per line and no header. An empty file withdraws nobody.

    Raises
    ------
    ConfigError
        If the file cannot be read, or has several columns and none of these.
    """
    if path.suffix.lower() == ".parquet":
        table = read_text_table(path)
        header, rows = table.columns, [list(row.values()) for row in table.rows]
    else:
        header, *rows = _cells(path) or [[]]
    known = [position for position, name in enumerate(header) if name.strip() in COLUMNS]
    if not known:
        if any(len(row) > 1 for row in (header, *rows)):
            raise ConfigError(
                f"{path}: no column {' or '.join(COLUMNS)}\n"
                "  Name the column of the ids, or give a list with one id per line."
            )
        rows, known = [header, *rows], [0]
    ids = {normal(row[position]) for row in rows for position in known if position < len(row)}
    return frozenset(ids - {""})


def normal(text: str) -> str:
    """An id as it is compared: accents in one way (NFC), no blanks around it."""
    return unicodedata.normalize("NFC", text).strip()


def _cells(path: Path) -> list[list[str]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: byte {error.start} is not UTF-8 text") from error
    first = text.partition("\n")[0]
    delimiter = "\t" if "\t" in first else ","
    return [row for row in csv.reader(io.StringIO(text), delimiter=delimiter) if row]

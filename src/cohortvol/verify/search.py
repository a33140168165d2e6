"""The proof that somebody is gone: ids looked for in every byte of a results folder."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import unicodedata
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from cohortvol.errors import FINISHED_WITH_PROBLEMS, OK, ConfigError
from cohortvol.keys import PRIVATE, SALT, key_of
from cohortvol.withdrawals import read_withdrawals

LEAST_BYTES = 5
"""Shorter ids stand in numbers and packed bytes by chance: they are looked for where ids stand."""

_ID_FIELDS = {"scan_id", "subject_id", "session_id", "key", "id"}


def search(results: Path, withdrawn: Path, salt_file: Path | None = None) -> dict[str, Any]:
    """Look for ids in file names, bytes, unpacked bytes and columns of every file.

    An id is found where no letter or digit touches it on either side: ``sub-01`` is in
    ``sub-01_T1w``, and not in ``sub-010``.

    Parameters
    ----------
    results : Path
        Folder to search, links not followed.
    withdrawn : Path
        See `read_withdrawals`.
    salt_file : Path, optional
        Salt of hashed ids; ``<results>/private/salt`` if that is there. With a salt, the keys of
        the ids are looked for as well.

    Returns
    -------
    dict
        ``ids``, how many; ``with_keys``; ``files`` and ``bytes`` searched, unpacked; ``hits``,
        number of ids by file; ``short``, ids under ``least_bytes``; ``exit_code``.

    Raises
    ------
    ConfigError
        If the folder is not there, the list or a file cannot be read, or nobody is in the list.
    """
    results = Path(results)
    ids = read_withdrawals(withdrawn)
    if not ids or not results.is_dir():
        what = f"{results}: no such folder" if ids else f"{withdrawn}: names nobody to look for"
        raise ConfigError(what)
    salt_path = salt_file or results / PRIVATE / SALT
    salt = salt_path.read_bytes() if salt_path.exists() else None
    if salt_file is not None and salt is None:
        raise ConfigError(f"{salt_file}: no such file")
    names = ids | {f"sub-{name}" for name in ids if not name.startswith("sub-")}
    keys = {key_of(salt, kind, name) for name in names for kind in "sp"} if salt else set()
    wanted = {*ids, *keys}
    short = {name for name in ids if len(name.encode()) < LEAST_BYTES}
    anywhere, in_fields = _pattern(wanted - short), _pattern(wanted)
    n_files, n_bytes, hits = 0, 0, {}
    for path in _files(results):
        n_files += 1
        relative = os.path.relpath(path, results)
        found = set(in_fields(relative.encode()))
        for part, is_field in _parts(path):
            n_bytes += len(part)
            found |= set((in_fields if is_field else anywhere)(part))
        if found:
            hits[relative] = len(found)
    return {
        "ids": len(ids),
        "with_keys": bool(keys),
        "files": n_files,
        "bytes": n_bytes,
        "hits": hits,
        "short": len(short),
        "least_bytes": LEAST_BYTES,
        "exit_code": FINISHED_WITH_PROBLEMS if hits else OK,
    }


def _pattern(names: Iterable[str]) -> Any:
    """A function that finds all of these, in either way of writing accents."""
    forms = {unicodedata.normalize(form, name) for name in names for form in ("NFC", "NFD")}
    if not forms:
        return lambda part: []
    longest_first = sorted((re.escape(form.encode()) for form in forms), key=len, reverse=True)
    either = b"|".join(longest_first)
    return re.compile(rb"(?<![0-9A-Za-z])(?:%b)(?![0-9A-Za-z])" % either).findall


def _files(folder: Path) -> Iterator[Path]:
    for place, _, names in os.walk(folder):
        yield from (Path(place, name) for name in sorted(names))


def _parts(path: Path) -> Iterator[tuple[bytes, bool]]:
    """What a file holds, as it is and unpacked; with whether it is a field that ids stand in."""
    if path.is_symlink():
        yield os.readlink(path).encode(), True
        return
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from error
    yield content, False
    if path.suffix == ".parquet":
        yield from _columns(content)
    elif path.suffix == ".json":
        yield from _fields(content)
    elif path.suffix == ".gz":
        yield _inflated(content, 31), False
    elif path.suffix == ".pdf":
        for stream in re.findall(rb"stream\r?\n(.*?)endstream", content, re.DOTALL):
            yield _inflated(stream, 15), False
    elif path.suffix == ".csv":
        yield from _cells(content)


def _inflated(content: bytes, bits: int) -> bytes:
    """What can be unpacked of packed bytes; all of several members."""
    out, left = [], content
    try:
        while left:
            packed = zlib.decompressobj(bits)
            out.append(packed.decompress(left))
            left = packed.unused_data
    except zlib.error:
        pass
    return b"".join(out)


def _columns(content: bytes) -> Iterator[tuple[bytes, bool]]:
    try:
        table = pq.ParquetFile(pa.BufferReader(content)).read(use_threads=False)
    except (pa.ArrowException, OSError):
        return
    yield str(table.schema.metadata).encode(), False
    for name in table.column_names:
        values = (value for value in table[name].to_pylist() if value is not None)
        text = b"\n".join(v if isinstance(v, bytes) else str(v).encode() for v in values)
        yield text, name in _ID_FIELDS


def _cells(content: bytes) -> Iterator[tuple[bytes, bool]]:
    """The columns of ids of a CSV table."""
    rows = list(csv.DictReader(io.StringIO(content.decode(errors="replace"), newline="")))
    for name in _ID_FIELDS & set(rows[0] if rows else ()):
        yield "\n".join(row[name] or "" for row in rows).encode(), True


def _fields(content: bytes) -> Iterator[tuple[bytes, bool]]:
    """Text as it is behind the escapes of JSON, and the fields of ids."""
    try:
        value = json.loads(content)
    except ValueError:
        return
    yield json.dumps(value, ensure_ascii=False).encode(), False
    if isinstance(value, dict):
        yield from ((str(value[name]).encode(), True) for name in _ID_FIELDS & set(value))

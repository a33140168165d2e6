"""Damaged tables, found before a run is planned, so that it makes them again."""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Container, Iterable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from cohortvol.store.machine import lacking
from cohortvol.store.storage import FAULTS
from cohortvol.tools.verify.places import remake_of

log = logging.getLogger(__name__)

_NOT_OF_THE_TABLE = FAULTS | {errno.ENOENT, errno.EACCES, errno.EPERM}

TABLES = (
    "*.parquet",
    "manifest/*.parquet",
    "manifest/shards/*.parquet",
    "ingest/*.parquet",
    "segment/*/*.parquet",
    "measure/*/*.parquet",
    "measure/*/previews/*.parquet",
    "measure/*/kept/*.parquet",
    "measure/*/kept/previews/*.parquet",
    "agreement/*/*.parquet",
)


def damaged_tables(results: Path, sound: Container[str] = ()) -> list[str]:
    """Tables whose footer cannot be read, whose pages do not fill the file before it, or with a
    page whose checksum does not hold; those in `sound` are not looked at.
    """
    names = [os.path.relpath(path, results) for path in _tables(results)]
    return [
        name
        for name in names
        if name not in sound
        and not (_is_whole(f"{results}/{name}") and _holds_its_checksums(f"{results}/{name}"))
    ]


def remove_damaged(results: Path, damaged: Iterable[str]) -> None:
    """Delete tables, and what must go to have them made again.

    To be called by who holds the folder (`cohortvol.store.locks.claim`).
    """
    found = list(damaged)
    for path in {gone for one in found for gone in remake_of(one)}:
        (results / path).unlink(missing_ok=True)
    for path in found:
        log.warning("%s: a damaged table; removed, and made again by this run", results / path)


def _tables(results: Path) -> Iterator[Path]:
    for pattern in TABLES:
        yield from sorted(path for path in results.glob(pattern) if path.name[0] != ".")


def _is_whole(path: str) -> bool:
    try:
        size = os.stat(path).st_size
        metadata = pq.read_metadata(path)
    except (pa.ArrowException, OSError) as error:
        return _is_of_the_storage(error)
    ends = [4]
    for group in map(metadata.row_group, range(metadata.num_row_groups)):
        for column in map(group.column, range(group.num_columns)):
            start = column.dictionary_page_offset or column.data_page_offset
            ends.append(start + column.total_compressed_size)
    return bool(max(ends) + metadata.serialized_size + 8 == size)


def _holds_its_checksums(path: str) -> bool:
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as stored:
            for group in range(stored.num_row_groups):
                stored.read_row_group(group, use_threads=False)
    except (pa.ArrowException, OSError) as error:
        return _is_of_the_storage(error)
    return True


def _is_of_the_storage(error: Exception) -> bool:
    """Whether a table may be sound although it could not be read: gone, another's, disk at fault,
    or the machine is short of memory, threads or open files.

    The job that reads it is to complain; a table that nobody may read now is not deleted.
    """
    of_its_storage = isinstance(error, OSError) and error.errno in _NOT_OF_THE_TABLE
    return of_its_storage or lacking(error) is not None

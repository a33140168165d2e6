"""Damaged tables, found before a run is planned, so that it makes them again."""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Callable, Container, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from cohortvol.machine import lacking
from cohortvol.storage import FAULTS
from cohortvol.verify.places import remake_of

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


def damaged_tables(results: Path, *, every_page: bool = False) -> list[str]:
    """Tables whose footer cannot be read, or whose pages do not fill the file before it.

    With `every_page` also those with a page whose checksum does not hold.
    """
    whole = [_is_whole, _holds_its_checksums] if every_page else [_is_whole]
    return [
        os.path.relpath(path, results)
        for path in _tables(results)
        if not all(test(str(path)) for test in whole)
    ]


def remove_damaged(results: Path, *, dry_run: bool = False) -> list[str]:
    """Delete `damaged_tables`, so that Snakemake plans to make them again; their paths.

    To be called by who holds the folder (`cohortvol.files.claim`). Every page is read. With
    `dry_run` none is, and the tables are left.
    """
    found = damaged_tables(results, every_page=not dry_run) if results.is_dir() else []
    return _remove(results, found, "a damaged table", dry_run=dry_run)


def remove_unfinished(
    results: Path, is_unfinished: Callable[[list[str]], Container[str]], *, dry_run: bool = False
) -> list[str]:
    """Delete tables of shards that a killed run left unfinished; their paths. See `remove_damaged`.

    Such a table is whole, but may have been made with other settings than those that Snakemake
    remembers of it. Of jobs behind a checkpoint, Snakemake itself does not look for this.

    Parameters
    ----------
    results : Path
        Results folder.
    is_unfinished : callable
        Given tables relative to the folder, those whose job was started and not ended.
    """
    tables = [os.path.relpath(path, results) for path in _tables(results)]
    of_shards = [name for name in tables if os.sep in name and not name.startswith("manifest")]
    marked = is_unfinished(of_shards) if of_shards else ()
    found = [name for name in of_shards if name in marked]
    return _remove(results, found, "a table of a job that was killed", dry_run=dry_run)


def _remove(results: Path, found: list[str], what: str, *, dry_run: bool) -> list[str]:
    if not dry_run:
        for path in {gone for one in found for gone in remake_of(one)}:
            (results / path).unlink(missing_ok=True)
    after = "would be made again" if dry_run else "removed, and made again by this run"
    for path in found:
        log.warning("%s: %s; %s", results / path, what, after)
    return found


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

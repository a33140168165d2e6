"""What the manifest stage will write, told before it runs."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

from cohortvol.errors import TableError
from cohortvol.stages.manifest.bids import read_bids
from cohortvol.stages.manifest.bids_images import Choice
from cohortvol.stages.manifest.reading import Read, holds
from cohortvol.stages.manifest.removal import (
    OF_ALL,
)
from cohortvol.stages.manifest.shards import changed, facts_from_outside
from cohortvol.store import label_maps
from cohortvol.store.channels import further_images
from cohortvol.store.files import digest_of, sha256_of
from cohortvol.store.records import read_index
from cohortvol.store.schemas import MANIFEST, SHARD
from cohortvol.store.tables import (
    digest_as_written,
    read_arrow,
    to_arrow,
)
from cohortvol.store.withdrawals import refuse_if_all


def sources(
    manifest: Path, withdrawals: Path | None = None, choice: Choice | None = None
) -> dict[str, str | None]:
    """Digest of what `run` reads, by name: equal for equal rows and lists, whatever their dates.

    They are one: a short list of ids could be guessed from a digest of its own.
    """
    if manifest.is_dir():
        table = read_bids(manifest, choice)
        rows: Any = [table.rows, sorted(table.ends.items())]
    else:
        rows = sha256_of(manifest)
    parts = [rows, sha256_of(withdrawals)] if withdrawals is not None else [rows]
    return {"manifest or withdrawals": digest_of(parts)}


@dataclass(frozen=True)
class Foreseen:
    """What `run` would write.

    Attributes
    ----------
    rows : pandas.DataFrame
        The table MANIFEST.
    lists : dict of str to pyarrow.Table
        The scans of each shard in use, in order.
    lists_sha256 : dict of str to frozenset of str
        Of each list the digests that it has in the eyes of what is made of it: a list that only
        loses scans that are withdrawn is the same as before.
    rows_sha256 : str
        Of ``manifest/scans.parquet``.
    gone : tuple of str
        Files, relative to the results folder, that go with who is withdrawn.
    """

    rows: pd.DataFrame
    lists: dict[str, pa.Table]
    lists_sha256: dict[str, frozenset[str]]
    rows_sha256: str
    gone: tuple[str, ...]


def foresee(manifest: Path, results: Path, *, shard_size: int = 64, **settings: Any) -> Foreseen:
    """What `run` would make of a manifest; nothing is written. Arguments as of `run`."""
    given = {"hash_ids": False, "salt_file": None, "withdrawals": None, **settings}
    read = Read.of(manifest, results, shard_size=shard_size, saved=False, **given)
    refuse_if_all(read.unknown, named=True)
    lists = read.lists()
    sha256: dict[str, frozenset[str]] = {}
    for shard, table in lists.items():
        path = results / f"manifest/shards/{shard}.parquet"
        found = set()
        if holds(path, table):
            found.add(sha256_of(path))
        else:
            found.add(digest_as_written(table))
            if holds(path, table, read.leaving.scans):
                found.add(sha256_of(path))
        sha256[shard] = frozenset(found)
    leaves = bool(read.leaving.shard_of or read.leaving.names)
    return Foreseen(
        read.scans,
        lists,
        sha256,
        digest_as_written(to_arrow(read.scans, MANIFEST)),
        OF_ALL if leaves else (),
    )


_LOOKED_AT = (
    *("scan_id", "image", "n_bytes", "mtime_ns", "more_images", "companions", "more_facts"),
    *("dseg", "dseg_n_bytes", "dseg_mtime_ns"),
)


def changed_images(results: Path, done: Collection[str] = (), look_at_done: bool = True) -> int:
    """Scans of which an image, or a label map made elsewhere, is there and has another size or
    time than when the manifest was read.

    Those that cannot be seen now count as they were: what was made of them stands. A folder of
    DICOM whose scan is `done` is looked at from outside: a hundred files a scan would be minutes
    of questions to a file server in every run. `done` scans may be left out.
    """
    unfinished: list[Sequence[Any]] = []
    finished: list[Sequence[Any]] = []
    made: list[Sequence[Any]] = []
    for shard in read_index(results):
        try:
            table = read_arrow(results / f"manifest/shards/{shard}.parquet", SHARD)
        except TableError:
            continue
        listed = zip(*(table[name].to_pylist() for name in _LOOKED_AT), strict=True)
        for scan_id, image, n_bytes, mtime_ns, *cells in listed:
            if scan_id in done and not look_at_done:
                continue
            looked_at = finished if scan_id in done else unfinished
            looked_at.append((scan_id, image, n_bytes, mtime_ns))
            more_images, companions, more_facts, *of_dseg = cells
            facts = json.loads(more_facts or "[]")
            others = zip(further_images(more_images, companions), facts, strict=True)
            looked_at += [(scan_id, path, *of_file) for path, of_file in others]
            made.append((scan_id, *of_dseg))
    return len(
        changed(unfinished)
        | changed(finished, facts_from_outside)
        | changed(made, label_maps.facts_of)
    )

"""The manifest stage: a table of scans or a BIDS dataset in, shards of scans out."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

import pandas as pd
import pyarrow as pa

from cohortvol.ranges import AGE_RANGE_YEARS
from cohortvol.stages.manifest.bids_images import Choice
from cohortvol.stages.manifest.channels import all_images
from cohortvol.stages.manifest.reading import Read, holds, warn_of
from cohortvol.stages.manifest.removal import (
    forget_keys,
    remove_scans,
)
from cohortvol.store.files import commit_text, sha256_of, warn_if_world_readable
from cohortvol.store.removals import names_of_image
from cohortvol.store.schemas import MANIFEST, SHARDS
from cohortvol.store.tables import (
    write_arrow,
    write_table,
)
from cohortvol.store.withdrawals import Unknown, refuse_if_all

log = logging.getLogger(__name__)


def run(
    manifest: Path,
    results: Path,
    *,
    shard_size: int = 64,
    bad_rows: str = "refuse",
    sex_codes: Mapping[str, str | None] | None = None,
    age_range_years: Sequence[float] = AGE_RANGE_YEARS,
    choice: Choice | None = None,
    covariates: Mapping[str, str] | None = None,
    hash_ids: bool = False,
    salt_file: Path | None = None,
    withdrawals: Path | None = None,
    named: bool = False,
    tell: Callable[[Unknown], None] = warn_of,
) -> pd.DataFrame:
    """Read the user's table or BIDS dataset, and write everything below ``<results>/manifest``.

    ``scans.parquet``, ``index.tsv`` and ``shards.parquet``, which only grows, are written
    anew, and the list of each shard where it changed. What the folder holds of withdrawn subjects
    is removed, also of those that left the manifest before.

    Parameters
    ----------
    manifest : Path
        CSV, TSV, Parquet or a BIDS dataset, see `read_manifest`.
    results : Path
        Results folder.
    shard_size : int
        Scans per shard, for scans that have none yet.
    bad_rows, sex_codes, age_range_years, choice, covariates
        As in `read_manifest`.
    hash_ids, salt_file, withdrawals, named, tell
        As in `check`.

    Returns
    -------
    pandas.DataFrame
        ``manifest/scans.parquet``.

    Raises
    ------
    ManifestError
        If the table, or with ``bad_rows="refuse"`` a row of it, cannot be used.
    ConfigError, WithdrawalError
        See `check`.
    """
    read = Read.of(
        manifest,
        results,
        shard_size=shard_size,
        hash_ids=hash_ids,
        salt_file=salt_file,
        withdrawals=withdrawals,
        bad_rows=bad_rows,
        sex_codes=sex_codes,
        age_range_years=age_range_years,
        choice=choice,
        covariates=covariates,
    )
    scans, shards, leaving = read.scans, read.shards, read.leaving
    folder = results / "manifest"
    refuse_if_all(read.unknown, named=named)
    if read.unknown is not None:
        tell(read.unknown)

    # The assignment goes first: a run killed after it has moved no scan. What is withdrawn leaves
    # it last: a run killed before that knows what there still is to remove. What stood for it is
    # written down before it goes.
    for name, names in leaving.names_of.items():
        read.removals.remember(name, names)
    read.removals.save(results)
    write_table(folder / "shards.parquet", shards, SHARDS)
    lists = read.lists()
    replaced = _write_lists(folder / "shards", lists, leaving.scans)
    if leaving.names:
        for image in [*all_images(scans), *scans["dseg"].dropna()]:
            leaving.names.difference_update(names_of_image(image))
    inputs = {path.resolve() for path in (manifest, withdrawals) if path is not None}
    removed = remove_scans(
        results, leaving.shard_of, leaving.names, inputs=inputs, replaced=replaced
    )
    if read.keys is not None and read.withdrawn.lines:
        forget_keys(results, leaving.keys - set(scans["session_id"].dropna()))
    index = "".join(f"{shard}\t{table.num_rows}\n" for shard, table in lists.items())
    commit_text(folder / "index.tsv", "shard\tn_scans\n" + index)
    write_table(folder / "scans.parquet", scans, MANIFEST)
    if leaving.shard_of:
        left = ~shards["scan_id"].isin(leaving.shard_of)
        write_table(folder / "shards.parquet", shards[left], SHARDS)
    warn_if_world_readable(results)
    closed = scans["state"].value_counts()
    log.info(
        "%d rows: %d scans in %d shards%s",
        len(scans),
        sum(table.num_rows for table in lists.values()),
        len(lists),
        "".join(f", {closed.get(state, 0)} {state}" for state in ("skipped", "quarantined")),
    )
    if withdrawals is not None and not read.withdrawn.lines:
        print(f"Withdrawals: {withdrawals} names nobody")
    elif withdrawals is not None:
        print(
            f"Withdrawals: {len(read.withdrawn.lines)} in the list, "
            f"{len(read.withdrawn.found)} of them known here; "
            f"{len(leaving.shard_of)} scans and {removed} files removed or rewritten"
        )
    return scans


def _write_lists(
    folder: Path, lists: Mapping[str, pa.Table], leaving: Collection[str]
) -> dict[str, dict[str, str]]:
    """Write the list of scans of each shard where it changed.

    Returns
    -------
    dict of str to dict
        By shard, the digest of a list that only lost scans that are `leaving`, by the digest that
        it had: for the others nothing is new.
    """
    replaced = {}
    for shard, table in lists.items():
        path = folder / f"{shard}.parquet"
        if holds(path, table):
            continue
        only_lost = holds(path, table, leaving)
        before = sha256_of(path) if only_lost else ""
        after = write_arrow(path, table)
        if only_lost:
            replaced[shard] = {before: after}
    for path in folder.glob("*.parquet"):
        if path.stem not in lists:
            path.unlink()
    return replaced

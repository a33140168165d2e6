"""Which scans exist, and which shard each is in."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from cohortvol.errors import ConfigError, TableError
from cohortvol.files import commit_text, warn_if_world_readable
from cohortvol.keys import IDS, PRIVATE, Keys, is_key, open_keys, read_map
from cohortvol.manifest.bids import read_bids
from cohortvol.manifest.bids_images import Choice
from cohortvol.manifest.folder import from_folder, write_from_folder
from cohortvol.manifest.removal import (
    Withdrawn,
    forget_keys,
    keeping_time,
    remove_scans,
    theirs,
)
from cohortvol.manifest.rows import read_manifest
from cohortvol.manifest.shards import assign_shards, file_facts
from cohortvol.ranges import AGE_RANGE_YEARS
from cohortvol.removals import Removals, names_of_image
from cohortvol.tables import (
    MANIFEST,
    SHARD,
    SHARDS,
    read_arrow,
    read_table,
    to_arrow,
    write_arrow,
    write_table,
)
from cohortvol.withdrawals import Unknown, read_withdrawals, refuse_if_all

__all__ = [
    "Choice",
    "assign_shards",
    "check",
    "file_facts",
    "from_config",
    "from_folder",
    "read_bids",
    "read_manifest",
    "run",
    "unknown_withdrawn",
    "who_withdrew",
    "write_from_folder",
]

log = logging.getLogger(__name__)


def _warn(unknown: Unknown) -> None:
    log.warning("%s", unknown.text(named=False))


def run(
    manifest: Path,
    results: Path,
    *,
    shard_size: int = 64,
    bad_rows: str = "refuse",
    sex_codes: Mapping[str, str | None] | None = None,
    age_range_years: Sequence[float] = AGE_RANGE_YEARS,
    choice: Choice | None = None,
    hash_ids: bool = False,
    salt_file: Path | None = None,
    withdrawals: Path | None = None,
    named: bool = False,
    tell: Callable[[Unknown], None] = _warn,
) -> pd.DataFrame:
    """Read the user's table or BIDS dataset, and write everything below ``<results>/manifest``.

    ``scans.parquet``, ``index.tsv`` and ``shards.parquet``, which only grows, are written
    anew. The table of a shard is replaced only if its content changed, so that its
    modification time says whether there is work. What the folder holds of withdrawn subjects
    is removed, also of those that left the manifest before.

    Parameters
    ----------
    manifest : Path
        CSV, TSV, Parquet or a BIDS dataset, see `read_manifest`.
    results : Path
        Results folder.
    shard_size : int
        Scans per shard, for scans that have none yet.
    bad_rows, sex_codes, age_range_years, choice
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
    withdrawn = who_withdrew(withdrawals, manifest)
    keys = _keys_for(results, salt_file, hash_ids=hash_ids)
    removals = _removals(results)
    scans = _read(
        manifest,
        keys,
        bad_rows=bad_rows,
        sex_codes=sex_codes,
        age_range_years=age_range_years,
        choice=choice,
        withdrawn=withdrawn,
    )
    folder = results / "manifest"
    previous = _previous_shards(folder)
    before = _previous_scans(folder)
    leaving = theirs(withdrawn, keys, results, previous, before)
    unknown = _unknown(withdrawn, removals, keys, results, (before, previous))
    refuse_if_all(unknown, named=named)
    if unknown is not None:
        tell(unknown)
    usable = scans[scans["state"].isna()]
    shards = assign_shards(usable["scan_id"].tolist(), previous, shard_size)
    usable = usable.assign(
        shard=usable["scan_id"].map(shards.set_index("scan_id")["shard"])
    ).sort_values("scan_id")
    scans.loc[usable.index, "shard"] = usable["shard"]
    subjects = usable.set_index("scan_id")["subject_id"]
    here = shards["scan_id"].map(subjects).astype(object)
    shards["subject_id"] = here.where(here.notna(), shards["subject_id"].astype(object))

    # The assignment goes first: a run killed after it has moved no scan. What is withdrawn leaves
    # it last: a run killed before that knows what there still is to remove. What stood for it is
    # written down before it goes.
    for name, names in leaving.names_of.items():
        removals.remember(name, names)
    removals.save(results)
    write_table(folder / "shards.parquet", shards, SHARDS)
    sizes = _write_shard_tables(folder / "shards", usable, leaving.scans)
    if leaving.names:
        for image in scans["image"].dropna():
            leaving.names.difference_update(names_of_image(image))
    inputs = {path.resolve() for path in (manifest, withdrawals) if path is not None}
    removed = remove_scans(results, leaving.shard_of, leaving.names, inputs)
    if keys is not None and withdrawn.lines:
        forget_keys(results, leaving.keys - set(scans["session_id"].dropna()))
    index = "".join(f"{shard}\t{size}\n" for shard, size in sizes.items())
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
        len(usable),
        len(sizes),
        "".join(f", {closed.get(state, 0)} {state}" for state in ("skipped", "quarantined")),
    )
    if withdrawals is not None and not withdrawn.lines:
        print(f"Withdrawals: {withdrawals} names nobody")
    elif withdrawals is not None:
        print(
            f"Withdrawals: {len(withdrawn.lines)} in the list, {len(withdrawn.found)} of them "
            f"known here; {len(leaving.shard_of)} scans and {removed} files removed or rewritten"
        )
    return scans


def _removals(results: Path) -> Removals:
    """The record of removals; a new one in place of one that is damaged."""
    try:
        return Removals.read(results)
    except TableError as error:
        log.warning("%s; a new one is begun, and ids in a list may be unknown that were not", error)
        return Removals()


def _unknown(
    withdrawn: Withdrawn,
    removals: Removals,
    keys: Keys | None,
    results: Path,
    tables: Sequence[pd.DataFrame],
) -> Unknown | None:
    if keys is None:
        columns = [table[name] for table in tables for name in ("scan_id", "subject_id")]
        known = {name for column in columns for name in column.dropna()}
    else:
        known = set(read_map(results).values())
    return withdrawn.unknown(removals, known, show=keys is None)


def check(
    manifest: Path,
    results: Path,
    *,
    bad_rows: str = "refuse",
    sex_codes: Mapping[str, str | None] | None = None,
    age_range_years: Sequence[float] = AGE_RANGE_YEARS,
    choice: Choice | None = None,
    hash_ids: bool = False,
    salt_file: Path | None = None,
    withdrawals: Path | None = None,
    named: bool = True,
    tell: Callable[[Unknown], None] = _warn,
) -> pd.DataFrame:
    """The manifest as `run` would write it, without shards.

    Nothing is written, but with `hash_ids` what ``<results>/private`` holds: a complaint names a
    bad scan by its key, and the map there says whose it is.

    Parameters
    ----------
    manifest, bad_rows, sex_codes, age_range_years, choice
        As in `read_manifest`.
    results : Path
        Results folder.
    hash_ids : bool
        Put keys in place of scan, subject and session ids, and links in place of paths of images.
    salt_file : Path, optional
        Salt of the keys; ``<results>/private/salt`` if not given.
    withdrawals : Path, optional
        List of subjects to leave out, see `read_withdrawals`.
    named : bool
        A refused list is told with its ids, not only with lines: not where it lies in results.
    tell : callable
        Told of the ids that were never known, where others of the list were.

    Raises
    ------
    ManifestError
        As `run`.
    ConfigError
        If the results stand under ids and keys are asked for, or the other way round; if the
        salt is lost.
    TableError
        If the list of withdrawals cannot be read with certainty.
    WithdrawalError
        If nobody in it was ever known here.
    """
    withdrawn = who_withdrew(withdrawals, manifest)
    keys = _keys_for(results, salt_file, hash_ids=hash_ids)
    rows = _read(
        manifest,
        keys,
        bad_rows=bad_rows,
        sex_codes=sex_codes,
        age_range_years=age_range_years,
        choice=choice,
        withdrawn=withdrawn,
    )
    if withdrawals is not None:
        unknown = unknown_withdrawn(withdrawn, keys, results)
        refuse_if_all(unknown, named=named)
        if unknown is not None:
            tell(unknown)
    return rows


def unknown_withdrawn(withdrawn: Withdrawn, keys: Keys | None, results: Path) -> Unknown | None:
    """Ids of a list that neither the manifest, which was read, nor the results know or knew."""
    folder = results / "manifest"
    before, previous = _previous_scans(folder), _previous_shards(folder)
    theirs(withdrawn, keys, results, previous, before)
    return _unknown(withdrawn, _removals(results), keys, results, (before, previous))


def from_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """What `check` and `run` take by name, of a checked config."""
    names = ("bad_rows", "sex_codes", "age_range_years", "hash_ids")
    files = {name: config[name] and Path(config[name]) for name in ("salt_file", "withdrawals")}
    return {name: config[name] for name in names} | files | {"choice": Choice(**config["bids"])}


def _read(manifest: Path, keys: Keys | None, **settings: Any) -> pd.DataFrame:
    """The manifest; the keys that it needs are saved, also where it cannot be used."""
    try:
        return read_manifest(manifest, keys=keys, **settings)
    finally:
        if keys is not None:
            keys.save()


def who_withdrew(withdrawals: Path | None, manifest: Path) -> Withdrawn:
    """Who is withdrawn. A list may leave out the ``sub-`` of a BIDS dataset."""
    lines = read_withdrawals(withdrawals) if withdrawals is not None else {}
    return Withdrawn(withdrawals, lines, prefix="sub-" if manifest.is_dir() else "")


def _keys_for(results: Path, salt_file: Path | None, *, hash_ids: bool) -> Keys | None:
    """The keys of a results folder, or None where it has plain ids."""
    if hash_ids:
        return _keys(results, salt_file)
    if (results / PRIVATE / IDS).exists():
        raise ConfigError(
            f"{results}: was made with hash_ids; without it ids would stand beside keys\n"
            "  Set `hash_ids: true`, or choose a new results folder."
        )
    return None


def _keys(results: Path, salt_file: Path | None) -> Keys:
    previous = _previous_shards(results / "manifest")["scan_id"].tolist()
    if not all(map(is_key, previous)):
        raise ConfigError(
            f"{results}: holds results under ids that are not hashed\n"
            "  Choose a new results folder for `hash_ids: true`; names of files in this one would "
            "still show the ids."
        )
    return open_keys(results, salt_file, has_keys=bool(previous))


def _previous_shards(folder: Path) -> pd.DataFrame:
    """The assignment so far; where its file was lost, what the shard tables still know."""
    path = folder / "shards.parquet"
    if path.exists():
        return _with_subjects(path)
    parts = [
        read_table(part, SHARD)[["scan_id"]].assign(shard=part.stem)
        for part in sorted((folder / "shards").glob("*.parquet"))
    ]
    known = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()
    return known.reindex(columns=list(SHARDS))


def _with_subjects(path: Path) -> pd.DataFrame:
    """The table SHARDS; of earlier commits, which did not write down whose scans they are, too."""
    columns = {name: SHARDS[name] for name in ("scan_id", "shard")}
    try:
        return read_table(path, SHARDS)
    except TableError:
        return read_table(path, columns).reindex(columns=list(SHARDS))


def _previous_scans(folder: Path) -> pd.DataFrame:
    """``manifest/scans.parquet`` as it still is; empty where it is not there or damaged."""
    try:
        return read_table(folder / "scans.parquet", MANIFEST)
    except TableError:
        return pd.DataFrame(columns=list(MANIFEST))


def _write_shard_tables(
    folder: Path, usable: pd.DataFrame, leaving: Collection[str]
) -> dict[str, int]:
    """Write the table of each shard where it changed; number of scans per shard, in order.

    A table that only loses scans that are `leaving` keeps its time: for the others nothing is new.
    """
    facts = [file_facts(image) for image in usable["image"]]
    scans = usable.assign(
        n_bytes=pd.array([fact[0] for fact in facts], dtype="Int64"),
        mtime_ns=pd.array([fact[1] for fact in facts], dtype="Int64"),
    )[[*SHARD, "shard"]]
    scans = scans.sort_values("shard", key=lambda shards: shards.astype(int), kind="stable")
    sizes = {str(shard): int(n) for shard, n in scans.groupby("shard", sort=False).size().items()}
    scans = scans[list(SHARD)]
    whole = to_arrow(scans, SHARD)
    start = 0
    for shard, size in sizes.items():
        path = folder / f"{shard}.parquet"
        table = whole.slice(start, size)
        if _holds(path, table, leaving):
            keeping_time(path, partial(write_arrow, path, table))
        elif not _holds(path, table):
            # Snakemake may remember this very list, of before a scan was withdrawn and came back.
            (folder.parents[1] / "ingest" / path.name).unlink(missing_ok=True)
            write_arrow(path, table)
        start += size
    for path in folder.glob("*.parquet"):
        if path.stem not in sizes:
            path.unlink()
    return sizes


def _holds(path: Path, table: pa.Table, leaving: Collection[str] = ()) -> bool:
    """Whether the file is sound and holds this table, and beside it scans that are leaving."""
    try:
        stored = read_arrow(path, SHARD)
    except TableError:
        return False
    if not leaving:
        return bool(stored.equals(table))
    theirs = pc.is_in(stored["scan_id"], value_set=pa.array(sorted(leaving), pa.string()))
    return bool(pc.any(theirs).as_py() and stored.filter(pc.invert(theirs)).equals(table))

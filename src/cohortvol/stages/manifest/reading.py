"""The manifest as it is now: its rows, who withdrew, which keys, what stood there before."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from cohortvol.errors import ConfigError, TableError
from cohortvol.models.card import Card
from cohortvol.ranges import AGE_RANGE_YEARS
from cohortvol.stages.manifest.bids_images import Choice
from cohortvol.stages.manifest.rows import read_manifest
from cohortvol.stages.manifest.shards import assign_shards, facts_of
from cohortvol.stages.manifest.traces import theirs
from cohortvol.stages.manifest.withdrawn import Leaving, Withdrawn
from cohortvol.store import label_maps
from cohortvol.store.channels import further_images
from cohortvol.store.keys import IDS, PRIVATE, Keys, is_key, open_keys, read_map
from cohortvol.store.removals import Removals
from cohortvol.store.schemas import MANIFEST, SHARD, SHARDS
from cohortvol.store.tables import (
    read_arrow,
    read_table,
    to_arrow,
)
from cohortvol.store.withdrawals import Unknown, read_withdrawals, refuse_if_all

log = logging.getLogger(__name__)


def warn_of(unknown: Unknown) -> None:
    """Log whom of the list of withdrawals nobody knows, by lines of the list."""
    log.warning("%s", unknown.text(named=False))


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


@dataclass(frozen=True)
class Read:
    """What the manifest stage makes of a manifest, before it writes anything."""

    scans: pd.DataFrame
    shards: pd.DataFrame
    leaving: Leaving
    keys: Keys | None
    withdrawn: Withdrawn
    removals: Removals
    unknown: Unknown | None

    @classmethod
    def of(
        cls,
        manifest: Path,
        results: Path,
        *,
        shard_size: int,
        hash_ids: bool,
        salt_file: Path | None,
        withdrawals: Path | None,
        saved: bool = True,
        **settings: Any,
    ) -> Read:
        """Read a manifest; without `saved`, nothing at all is written. See `run`."""
        withdrawn = who_withdrew(withdrawals, manifest)
        keys = _keys_for(results, salt_file, hash_ids=hash_ids, saved=saved)
        scans = _read(manifest, keys, saved=saved, withdrawn=withdrawn, **settings)
        folder, removals = results / "manifest", _removals(results)
        previous = _previous_shards(folder, damaged_is_lost=not saved)
        before = _previous_scans(folder)
        leaving = theirs(withdrawn, keys, results, previous, before)
        unknown = _unknown(withdrawn, removals, keys, results, (before, previous))
        usable = scans[scans["state"].isna()]
        shards = assign_shards(usable["scan_id"].tolist(), previous, shard_size)
        places = shards.set_index("scan_id")["shard"]
        scans.loc[usable.index, "shard"] = usable["scan_id"].map(places)
        subjects = usable.set_index("scan_id")["subject_id"]
        here = shards["scan_id"].map(subjects).astype(object)
        shards["subject_id"] = here.where(here.notna(), shards["subject_id"].astype(object))
        return cls(scans, shards, leaving, keys, withdrawn, removals, unknown)

    def lists(self) -> dict[str, pa.Table]:
        """The scans of each shard, in order, with what is known of their images now."""
        usable = self.scans[self.scans["state"].isna()].sort_values("scan_id")
        cells = zip(usable["more_images"], usable["companions"], strict=True)
        further = [further_images(*both) for both in cells]
        images = [*usable["image"], *chain.from_iterable(further)]
        found = iter(facts_of(self._targets(images)))
        facts = [*islice(found, len(usable))]
        more = [[*islice(found, len(paths))] for paths in further]
        of_dseg = facts_of(self._targets(usable["dseg"]), label_maps.facts_of)
        rows = usable.assign(
            n_bytes=pd.array([fact[0] for fact in facts], dtype="Int64"),
            mtime_ns=pd.array([fact[1] for fact in facts], dtype="Int64"),
            more_facts=[json.dumps(one) if one else None for one in more],
            dseg_n_bytes=pd.array([fact[0] for fact in of_dseg], dtype="Int64"),
            dseg_mtime_ns=pd.array([fact[1] for fact in of_dseg], dtype="Int64"),
        ).sort_values("shard", key=lambda shards: shards.astype(int), kind="stable")
        sizes = rows.groupby("shard", sort=False).size()
        whole = to_arrow(rows[list(SHARD)], SHARD)
        starts = sizes.cumsum() - sizes
        return {
            str(shard): whole.slice(int(starts[shard]), int(size)) for shard, size in sizes.items()
        }

    def _targets(self, paths: Iterable[Any]) -> list[str | None]:
        """What paths of the manifest stand for, None where one is null."""
        known = (None if pd.isna(path) else str(path) for path in paths)
        return [self.keys.target(path) if self.keys and path else path for path in known]


def check(
    manifest: Path,
    results: Path,
    *,
    bad_rows: str = "refuse",
    sex_codes: Mapping[str, str | None] | None = None,
    age_range_years: Sequence[float] = AGE_RANGE_YEARS,
    choice: Choice | None = None,
    covariates: Mapping[str, str] | None = None,
    hash_ids: bool = False,
    salt_file: Path | None = None,
    withdrawals: Path | None = None,
    named: bool = True,
    tell: Callable[[Unknown], None] = warn_of,
) -> pd.DataFrame:
    """The manifest as `run` would write it, without shards.

    Nothing is written, but with `hash_ids` what ``<results>/private`` holds: a complaint names a
    bad scan by its key, and the map there says whose it is.

    Parameters
    ----------
    manifest, bad_rows, sex_codes, age_range_years, choice, covariates
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
        covariates=covariates,
        withdrawn=withdrawn,
    )
    if withdrawals is not None:
        unknown = unknown_withdrawn(withdrawn, keys, results)
        refuse_if_all(unknown, named=named)
        if unknown is not None:
            tell(unknown)
    return rows


def check_label_maps(card: Card, rows: pd.DataFrame, manifest: str) -> None:
    """Raise ConfigError where a model is one of label maps made elsewhere, and no scan has any.

    Parameters
    ----------
    card : Card
        Of the model.
    rows : pandas.DataFrame
        The table MANIFEST.
    manifest : str
        Where they come from, for the message.
    """
    if card.elsewhere and rows["dseg"].isna().all():
        raise ConfigError(
            f"{manifest}: no row has a path in the column dseg, and the label maps of model "
            f"{card.id} were made elsewhere\n"
            "  Put the path of each label map there: one file, a folder with one file per "
            "structure, or a path\n  with * for the structure. Of a BIDS dataset make a table "
            "with scan_id, image and dseg."
        )


def unknown_withdrawn(withdrawn: Withdrawn, keys: Keys | None, results: Path) -> Unknown | None:
    """Ids of a list that neither the manifest, which was read, nor the results know or knew."""
    folder = results / "manifest"
    before, previous = _previous_scans(folder), _previous_shards(folder)
    theirs(withdrawn, keys, results, previous, before)
    return _unknown(withdrawn, _removals(results), keys, results, (before, previous))


def from_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """What `check` and `run` take by name, of a checked config."""
    names = ("bad_rows", "sex_codes", "age_range_years", "covariates", "hash_ids")
    files = {name: config[name] and Path(config[name]) for name in ("salt_file", "withdrawals")}
    return {name: config[name] for name in names} | files | {"choice": Choice(**config["bids"])}


def _read(
    manifest: Path, keys: Keys | None, *, saved: bool = True, **settings: Any
) -> pd.DataFrame:
    """The manifest; the keys that it needs are saved, also where it cannot be used."""
    try:
        return read_manifest(manifest, keys=keys, **settings)
    finally:
        if keys is not None and saved:
            keys.save()


def who_withdrew(withdrawals: Path | None, manifest: Path) -> Withdrawn:
    """Who is withdrawn. A list may leave out the ``sub-`` of a BIDS dataset."""
    lines = read_withdrawals(withdrawals) if withdrawals is not None else {}
    return Withdrawn(withdrawals, lines, prefix="sub-" if manifest.is_dir() else "")


def _keys_for(
    results: Path, salt_file: Path | None, *, hash_ids: bool, saved: bool = True
) -> Keys | None:
    """The keys of a results folder, or None where it has plain ids."""
    if hash_ids:
        return _keys(results, salt_file, saved=saved)
    if (results / PRIVATE / IDS).exists():
        raise ConfigError(
            f"{results}: was made with hash_ids; without it ids would stand beside keys\n"
            "  Set `hash_ids: true`, or choose a new results folder."
        )
    return None


def _keys(results: Path, salt_file: Path | None, *, saved: bool) -> Keys:
    previous = _previous_shards(results / "manifest")["scan_id"].tolist()
    if not all(map(is_key, previous)):
        raise ConfigError(
            f"{results}: holds results under ids that are not hashed\n"
            "  Choose a new results folder for `hash_ids: true`; names of files in this one would "
            "still show the ids."
        )
    return open_keys(results, salt_file, has_keys=bool(previous), saved=saved)


def _previous_shards(folder: Path, *, damaged_is_lost: bool = False) -> pd.DataFrame:
    """The assignment so far; where its file was lost, what the shard tables still know.

    A run removes a damaged file before the stage reads it, and foresees what comes of that.
    """
    path = folder / "shards.parquet"
    try:
        if path.exists():
            return _with_subjects(path)
    except TableError:
        if not damaged_is_lost:
            raise
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


def holds(path: Path, table: pa.Table, leaving: Collection[str] = ()) -> bool:
    """Whether the file is sound and holds this table, and beside it scans that are leaving."""
    try:
        stored = read_arrow(path, SHARD)
    except TableError:
        return False
    if not leaving:
        return bool(stored.equals(table))
    theirs = pc.is_in(stored["scan_id"], value_set=pa.array(sorted(leaving), pa.string()))
    return bool(pc.any(theirs).as_py() and stored.filter(pc.invert(theirs)).equals(table))

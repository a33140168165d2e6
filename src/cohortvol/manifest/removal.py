"""Subjects who took their consent back: everything a results folder holds of them goes.

Tables of shards lose their rows and keep their times, so that Snakemake computes nothing again
for those who stay: what is left is, byte for byte, what another run of the stage would write.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from cohortvol.errors import TableError
from cohortvol.files import DIGESTS, commit_bytes
from cohortvol.keys import IMAGES, PRIVATE, Keys, forget
from cohortvol.tables import (
    AGREEMENT,
    INGEST,
    KEPT,
    PREVIEWS,
    SEGMENT,
    SERIES,
    VOLUMES,
    Column,
    read_arrow,
    write_arrow,
)
from cohortvol.text_table import TextTable
from cohortvol.withdrawals import normal

_TABLES: dict[str, dict[str, Column]] = {
    "ingest": INGEST,
    "ingest/series": SERIES,
    "segment/*": SEGMENT,
    "measure/*": VOLUMES,
    "measure/*/previews": PREVIEWS,
    "measure/*/kept": KEPT,
    "measure/*/kept/previews": PREVIEWS,
    "agreement/*": AGREEMENT,
}

_OF_ALL = (
    "volumes.parquet",
    "scans.parquet",
    "agreement.parquet",
    "contact_sheet.csv",
    DIGESTS,
    "report/index.html",
    f"report/{DIGESTS}",
)
"""Files about the whole cohort, which the run that removes somebody makes anew."""


@dataclass
class Withdrawn:
    """Who is withdrawn, and which scans of theirs the manifest still lists.

    Attributes
    ----------
    ids : frozenset of str
        Subjects as the list names them, or single scans.
    prefix : str
        What the list may leave out before a subject.
    scans : set of str
        Scans of theirs in the manifest, as it names them.
    found : set of str
        Those of `ids` that the manifest or the results know.
    """

    ids: frozenset[str] = frozenset()
    prefix: str = ""
    scans: set[str] = field(default_factory=set)
    found: set[str] = field(default_factory=set)

    def without(self, table: TextTable) -> TextTable:
        """The rows of a manifest that are not theirs; lines stay what they are in the file."""
        kept = []
        for position, row in enumerate(table.rows):
            scan_id = normal(row["scan_id"])
            if self.knows({scan_id, normal(row.get("subject_id", "")) or scan_id}):
                self.scans.add(row["scan_id"])
            else:
                kept.append(position)
        if len(kept) == len(table.rows):
            return table
        places = {old: new for new, old in enumerate(kept)}
        return TextTable(
            table.columns,
            [table.rows[at] for at in kept],
            [table.lines[at] for at in kept],
            [table.places[at] for at in kept] if table.places else [],
            {places[at]: end for at, end in table.ends.items() if at in places},
            {places[at]: found for at, found in table.problems.items() if at in places},
        )

    def knows(self, names: set[str]) -> bool:
        """Whether one of the names of a scan, its own or its subject's, is withdrawn."""
        found = (names | {name.removeprefix(self.prefix) for name in names}) & self.ids
        self.found |= found
        return bool(found)


@dataclass(frozen=True)
class Leaving:
    """What must go: the scans with their shards, names that logs may hold, keys of the map."""

    shard_of: dict[str, str]
    names: set[str]
    keys: set[str]

    @property
    def scans(self) -> Collection[str]:
        return self.shard_of.keys()


def theirs(
    withdrawn: Withdrawn, keys: Keys | None, shards: pd.DataFrame, manifest: pd.DataFrame
) -> Leaving:
    """What a results folder holds of withdrawn subjects, in the manifest or not.

    Parameters
    ----------
    withdrawn : Withdrawn
        After the manifest was read.
    keys : Keys, optional
        Of a folder with hashed ids.
    shards, manifest : pandas.DataFrame
        The tables SHARDS and MANIFEST of the run before.
    """
    if not withdrawn.ids:
        return Leaving({}, set(), set())
    if keys is None:
        known, scans = withdrawn, withdrawn.scans
    else:
        listed = {*withdrawn.ids, *(withdrawn.prefix + name for name in withdrawn.ids)}
        id_of = {keys.key_of(kind, name): name for kind in "sp" for name in listed}
        known = Withdrawn(frozenset(id_of))
        scans = {keys.key_of("s", scan_id) for scan_id in withdrawn.scans}
    places = pd.concat([manifest, shards], ignore_index=True)
    subjects = places["subject_id"].fillna(places["scan_id"])
    named = zip(places["scan_id"], subjects, strict=True)
    which = [scan in scans or known.knows({normal(scan), normal(who)}) for scan, who in named]
    rows = places.loc[which]
    if keys is not None:
        withdrawn.found |= {id_of[key].removeprefix(withdrawn.prefix) for key in known.found}
        withdrawn.found &= withdrawn.ids
    placed = rows[rows["shard"].notna()]
    of_rows = {name for column in ("scan_id", "subject_id") for name in rows[column].dropna()}
    sessions = set(rows["session_id"].dropna())
    return Leaving(
        dict(zip(placed["scan_id"], placed["shard"], strict=True)),
        of_rows,
        scans | of_rows | sessions | (set(known.ids) if keys is not None else set()),
    )


def remove_scans(results: Path, shard_of: Mapping[str, str], names: Collection[str]) -> int:
    """Delete what a results folder holds of scans; the number of files that went or changed.

    Parameters
    ----------
    results : Path
        Results folder; the tables of its manifest are for the caller to write.
    shard_of : mapping of str to str
        The scans, each with its shard.
    names : collection of str
        These scans and their subjects, as they may stand in a log.
    """
    if not shard_of and not names:
        return 0
    shards = sorted(set(shard_of.values()))
    n_files = sum(
        _without_rows(path, columns, shard_of)
        for place, columns in _TABLES.items()
        for shard in shards
        for path in results.glob(f"{place}/{shard}.parquet")
    )
    gone = [path for path in _files_of(results, shards) if _scan_of(path) in shard_of]
    gone += [results / name for name in _OF_ALL if (results / name).exists()]
    # What killed writers left of tables; that of single scans lies in folders of shards.
    gone += [path for path in results.rglob(".*.tmp") if not path.parent.name.isdigit()]
    for path in gone:
        path.unlink()
    return n_files + len(gone) + _without_lines(results / "logs", names)


def forget_keys(results: Path, keys: Iterable[str]) -> None:
    """Take keys out of the map that leads back to ids, where there is one."""
    if (results / PRIVATE).is_dir():
        forget(results, keys)


def _files_of(results: Path, shards: Iterable[str]) -> Iterable[Path]:
    """Images, label maps, receipts, marks and unfinished files of scans, not of a whole shard."""
    folders = [results / PRIVATE / IMAGES]
    for shard in shards:
        folders += [results / "ingest" / shard, *results.glob(f"segment/*/{shard}")]
    for folder in folders:
        if folder.is_dir():
            yield from sorted(folder.iterdir())


def _scan_of(path: Path) -> str:
    """The scan_id in a file name; it holds no point."""
    name = path.name.lstrip(".")
    stem = name.partition(".")[0]
    is_label_map = path.parts[-4] == "segment" and name.startswith(f"{stem}.nii.gz")
    return stem.removesuffix("_dseg") if is_label_map else stem


def _without_rows(path: Path, columns: dict[str, Column], scans: Collection[str]) -> bool:
    """Take rows of scans out of a table, which keeps its time; whether there were any.

    A table that cannot be read goes: the run makes it again without them.
    """
    try:
        table = read_arrow(path, columns)
    except TableError:
        path.unlink()
        return True
    theirs = pc.is_in(table["scan_id"], value_set=pa.array(sorted(scans), pa.string()))
    if not pc.any(theirs).as_py():
        return False
    kept = table.filter(pc.invert(theirs))
    keeping_time(path, lambda: _rewritten(path, kept))
    return True


def _rewritten(path: Path, table: pa.Table) -> None:
    if table.num_rows == 0 and path.parent.name == "series":
        path.unlink()  # ingest writes none where there is no DICOM
    else:
        write_arrow(path, table)


def keeping_time(path: Path, change: Callable[[], Any]) -> None:
    """Change a file, if it is left, without changing its time."""
    times = os.stat(path)
    try:
        change()
    finally:  # one that failed may have given the new file its name
        with suppress(FileNotFoundError):
            os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def _without_lines(logs: Path, names: Collection[str]) -> int:
    """Take the lines that name one of them out of every log; the number of logs changed."""
    plain = {name for name in names if re.fullmatch(r"[A-Za-z0-9_-]+", name)}
    other = [name for name in names if name not in plain]
    changed = 0
    for path in sorted(logs.rglob("*")):
        if not path.is_file():
            continue
        text = path.read_bytes().decode(errors="replace")
        lines = text.splitlines(keepends=True)
        kept = [
            line
            for line in lines
            if plain.isdisjoint(re.split(r"[^A-Za-z0-9_-]+", line))
            and not any(name in line for name in other)
        ]
        if len(kept) < len(lines):
            commit_bytes(path, "".join(kept).encode())
            changed += 1
    return changed

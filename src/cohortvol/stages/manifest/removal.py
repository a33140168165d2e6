"""Subjects who took their consent back: everything a results folder holds of them goes.

Tables of shards lose their rows, and the records of what they were made of are told, so that
nothing is computed again for those who stay: what is left is, byte for byte, what another run of
the stage would write.
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from cohortvol.errors import TableError
from cohortvol.store.files import DIGESTS, commit_bytes, sha256_of
from cohortvol.store.keys import IMAGES, PRIVATE, Keys, forget, read_map
from cohortvol.store.records import rebase
from cohortvol.store.removals import Removals, names_of_image
from cohortvol.store.schemas import (
    AGREEMENT,
    DECISION_COLUMNS,
    INGEST,
    KEPT,
    PREVIEWS,
    SEGMENT,
    SERIES,
    VOLUMES,
    Column,
)
from cohortvol.store.tables import as_written, read_arrow, write_arrow
from cohortvol.store.text_table import TextTable, read_records
from cohortvol.store.withdrawals import Unknown, normal, unknown_of

_DIGESTS = ("image_sha256", "voxels_sha256")

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

OF_ALL = (
    "volumes.parquet",
    "scans.parquet",
    "agreement.parquet",
    "contact_sheet.csv",
    DIGESTS,
    "report/index.html",
    f"report/{DIGESTS}",
)
"""Files about the whole cohort, which the run that removes somebody makes anew."""


@dataclass(frozen=True)
class Listed:
    """A row of the manifest that belongs to somebody who withdrew, as the manifest writes it."""

    scan_id: str
    subject_id: str
    image: str


@dataclass
class Withdrawn:
    """Who is withdrawn, and which scans of theirs the manifest still lists.

    Attributes
    ----------
    path : Path, optional
        The list; none where nobody is withdrawn.
    lines : mapping of str to int
        Subjects as the list names them, or single scans, each with its line.
    prefix : str
        What the list may leave out before a subject.
    rows : list of Listed
        Rows of theirs in the manifest.
    known : set of str
        All scans and subjects of the manifest.
    found : set of str
        Those of `lines` that the manifest or the results know, or knew.
    """

    path: Path | None = None
    lines: Mapping[str, int] = field(default_factory=dict)
    prefix: str = ""
    rows: list[Listed] = field(default_factory=list)
    known: set[str] = field(default_factory=set)
    found: set[str] = field(default_factory=set)

    def without(self, table: TextTable, folder: str) -> TextTable:
        """The rows of a manifest that are not theirs; lines stay what they are in the file.

        Parameters
        ----------
        table : TextTable
            The manifest.
        folder : str
            What its paths are relative to.
        """
        kept = []
        for position, row in enumerate(table.rows):
            scan_id = normal(row["scan_id"])
            names = {scan_id, normal(row.get("subject_id", "")) or scan_id}
            self.known |= names
            if self.matches(names):
                image = row["image"] and os.path.normpath(os.path.join(folder, row["image"]))
                subject_id = row.get("subject_id", "") or row["scan_id"]
                self.rows.append(Listed(row["scan_id"], subject_id, image))
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

    def matches(self, names: Collection[str]) -> bool:
        """Whether one of these names of a scan, its own or its subject's, is withdrawn."""
        found = {one for name in names for one in _both(name, self.prefix) if one in self.lines}
        self.found |= found
        return bool(found)

    def unknown(self, removals: Removals, known: Iterable[str], *, show: bool) -> Unknown | None:
        """Ids of the list that nobody here has or had, after the manifest was read.

        Parameters
        ----------
        removals : Removals
            Who was removed before.
        known : iterable of str
            Further ids that are known here.
        show : bool
            Whether a message may show ids of people who stay.
        """
        if self.path is None:
            return None
        self.found |= {name for name in self.lines if removals.knows(name)}
        return unknown_of(
            self.path,
            self.lines,
            self.found,
            {*self.known, *known},
            was_nearly=removals.was_nearly,
            show=show,
        )


@dataclass(frozen=True)
class Leaving:
    """What must go.

    Attributes
    ----------
    shard_of : dict of str to str
        The scans, each with its shard.
    names : set of str
        What else stands for them and may be in a log.
    keys : set of str
        Their keys, and those of sessions, in the map of hashed ids.
    names_of : dict of str to set of str
        For each id under which a list may name one of them, all that stands for it.
    """

    shard_of: dict[str, str] = field(default_factory=dict)
    names: set[str] = field(default_factory=set)
    keys: set[str] = field(default_factory=set)
    names_of: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))

    @property
    def scans(self) -> Collection[str]:
        return self.shard_of.keys()

    def add(self, scan: Names, subject: Names | None, images: Iterable[str], prefix: str) -> None:
        """Somebody's scan, with its subject if all of them is withdrawn."""
        own = {*scan, *(name for image in images for name in names_of_image(image))}
        for name in _both(scan.id, prefix):
            self.names_of[name] |= own
        self.keys.add(scan.key)
        if subject is not None:
            for name in _both(subject.id, prefix):
                self.names_of[name] |= {*own, *subject}
            self.keys.add(subject.key)


class Names(NamedTuple):
    """A scan or a subject: its id, and how the results call it."""

    id: str
    key: str


def theirs(
    withdrawn: Withdrawn,
    keys: Keys | None,
    results: Path,
    shards: pd.DataFrame,
    scans: pd.DataFrame,
) -> Leaving:
    """What a results folder holds of withdrawn subjects, in the manifest or not.

    Parameters
    ----------
    withdrawn : Withdrawn
        After the manifest was read.
    keys : Keys, optional
        Of a folder with hashed ids.
    results : Path
        Results folder.
    shards, scans : pandas.DataFrame
        The tables SHARDS and MANIFEST of the run before.
    """
    leaving = Leaving()
    if not withdrawn.lines:
        return leaving
    known: Withdrawn = withdrawn
    id_of: dict[str, str] = {}
    if keys is not None:
        listed = {one for name in withdrawn.lines for one in (name, withdrawn.prefix + name)}
        of_listed = {keys.key_of(kind, name): name for kind in "sp" for name in listed}
        known, id_of = Withdrawn(lines=dict.fromkeys(of_listed, 0)), read_map(results) | of_listed

    def called(kind: str, name: str) -> Names:
        return Names(normal(name), keys.key_of(kind, name) if keys else name)

    for row in withdrawn.rows:
        subject = called("p", row.subject_id)
        is_all = withdrawn.matches({subject.id})
        images = _places(row.image)
        leaving.add(called("s", row.scan_id), subject if is_all else None, images, withdrawn.prefix)
    listed_here = set(leaving.keys)
    places = pd.concat([scans, shards], ignore_index=True)
    places["subject_id"] = places["subject_id"].fillna(places["scan_id"])
    named = zip(places["scan_id"], places["subject_id"], strict=True)
    which = [
        known.matches({normal(scan), normal(subject)}) or scan in listed_here
        for scan, subject in named
    ]
    rows = places.loc[which]
    placed = rows[rows["shard"].notna()]
    leaving.shard_of.update(zip(placed["scan_id"], placed["shard"], strict=True))
    made = _made_of(results, leaving.shard_of)
    for row in rows.to_dict("records"):
        scan = Names(normal(id_of.get(row["scan_id"], row["scan_id"])), row["scan_id"])
        subject = Names(normal(id_of.get(row["subject_id"], row["subject_id"])), row["subject_id"])
        is_all = known.matches({normal(subject.key)})
        images = {*_places(row["image"]), *made.get(scan.key, ())}
        leaving.add(scan, subject if is_all else None, images, withdrawn.prefix)
        leaving.names.update(leaving.names_of[scan.id], subject if is_all else ())
    leaving.keys.update(rows["session_id"].dropna())
    if keys is not None:
        leaving.keys.update(known.lines)
        names = {name for key in known.found for name in _both(id_of[key], withdrawn.prefix)}
        withdrawn.found |= names & withdrawn.lines.keys()
    return leaving


def _both(name: str, prefix: str) -> set[str]:
    """A name, and what a list may write in its place."""
    return {name, name.removeprefix(prefix)}


def _places(image: Any) -> set[str]:
    """Where an image lies, and where that leads to; nothing where it has none."""
    return {image, os.path.realpath(image)} if isinstance(image, str) and image else set()


def _made_of(results: Path, shard_of: Mapping[str, str]) -> dict[str, set[str]]:
    """Images and digests that the tables of ingest have of some scans, where they can be read."""
    found: dict[str, set[str]] = defaultdict(set)
    columns = {name: INGEST[name] for name in ("scan_id", "image", *_DIGESTS)}
    for shard in sorted(set(shard_of.values())):
        try:
            table = read_arrow(results / "ingest" / f"{shard}.parquet", columns)
        except TableError:
            continue
        for row in table.select(list(columns)).to_pylist():
            if row["scan_id"] in shard_of:
                found[row["scan_id"]] |= {row[name] for name in ("image", *_DIGESTS) if row[name]}
    return found


def remove_scans(
    results: Path,
    shard_of: Mapping[str, str],
    names: Collection[str],
    *,
    inputs: Collection[Path] = (),
    replaced: Mapping[str, Mapping[str, str]] | None = None,
) -> int:
    """Delete what a results folder holds of scans; the number of files that went or changed.

    Parameters
    ----------
    results : Path
        Results folder; the tables of its manifest are for the caller to write.
    shard_of : mapping of str to str
        The scans, each with its shard.
    names : collection of str
        These scans, their subjects and images, as they may stand in a log.
    inputs : collection of Path
        Files of the user that are left alone.
    replaced : mapping of str to mapping, optional
        By shard, the digest of a list of scans that lost rows already, by that before.
    """
    if not shard_of and not names:
        return 0
    shards = sorted(set(shard_of.values()))
    n_files = 0
    for shard in shards:
        digests = dict((replaced or {}).get(shard, {}))
        for place, columns in _TABLES.items():
            for path in results.glob(f"{place}/{shard}.parquet"):
                n_files += _without_rows(path, columns, shard_of, digests)
        rebase(results, shard, digests)
    gone = [path for path in _files_of(results, shards) if _scan_of(path) in shard_of]
    gone += [results / name for name in OF_ALL if (results / name).exists()]
    # What killed writers left of tables; that of single scans lies in folders of shards.
    gone += [path for path in results.rglob(".*.tmp") if not path.parent.name.isdigit()]
    for path in gone:
        path.unlink()
    n_files += sum(
        _without_decisions(path, names)
        for path in sorted(results.rglob("*"))
        if path.suffix.lower() in (".csv", ".tsv") and path.resolve() not in inputs
    )
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


def _without_rows(
    path: Path, columns: dict[str, Column], scans: Collection[str], digests: dict[str, str]
) -> bool:
    """Take rows of scans out of a table; whether there were any.

    A table that cannot be read goes: the run makes it again without them. The digest of one that
    stays is put into `digests`, by that before.
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
    if kept.num_rows == 0 and path.parent.name == "series":
        path.unlink()  # ingest writes none where there is no DICOM
    else:
        before = sha256_of(path)
        digests[before] = write_arrow(path, kept)
    return True


def _without_decisions(path: Path, names: Collection[str]) -> bool:
    """Take rows of scans out of a table of decisions, as `cohortvol review --todo` writes them."""
    try:
        records = read_records(path)
    except TableError:
        return False
    (_, header), *rows = records
    if not set(DECISION_COLUMNS) <= set(header):
        return False
    at = header.index("scan_id")
    theirs = {line for line, row in rows if as_written(row[at]).strip() in names}
    if not theirs:
        return False
    # A row may have several lines, where a note has.
    lines = path.read_bytes().splitlines(keepends=True)
    starts = [line for line, _ in rows]
    spans = zip(starts, [*starts[1:], len(lines) + 1], strict=True)
    kept = lines[: starts[0] - 1]
    for start, end in spans:
        kept += lines[start - 1 : end - 1] if start not in theirs else []
    commit_bytes(path, b"".join(kept))
    return True


def _without_lines(logs: Path, names: Collection[str]) -> int:
    """Take the lines that name one of them out of every log; the number of logs changed."""
    plain = {name for name in names if re.fullmatch(r"[A-Za-z0-9_-]+", name)}
    other = set(names) - plain
    spaced = [name for name in other if re.search(r"[\s'\":,;()=]", name)]
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
            and other.isdisjoint(re.split(r"[\s'\":,;()=]+", line))
            and not any(name in line for name in spaced)
        ]
        if len(kept) < len(lines):
            commit_bytes(path, "".join(kept).encode())
            changed += 1
    return changed

"""Subjects who took their consent back: everything a results folder holds of them goes.

Tables of shards lose their rows, and the records of what they were made of are told, so that
nothing is computed again for those who stay: what is left is, byte for byte, what another run of
the stage would write.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from cohortvol.errors import TableError
from cohortvol.store.files import DIGESTS, commit_bytes, sha256_of
from cohortvol.store.keys import IMAGES, LABEL_MAPS, PRIVATE, forget
from cohortvol.store.of_scans import PACK, take_out
from cohortvol.store.records import rebase
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
from cohortvol.store.text_table import read_records

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
    "companions.parquet",
    "contact_sheet.csv",
    DIGESTS,
    "report/index.html",
    f"report/{DIGESTS}",
)
"""Files about the whole cohort, which the run that removes somebody makes anew."""


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
    for folder in (place for shard in shards for place in results.glob(f"segment/*/{shard}")):
        n_files += take_out(folder, partial(_is_of, shard_of, folder))
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
    folders = [results / PRIVATE / IMAGES, results / PRIVATE / LABEL_MAPS]
    for shard in shards:
        folders += [results / "ingest" / shard, *results.glob(f"segment/*/{shard}")]
    for folder in folders:
        if folder.is_dir():
            yield from (path for path in sorted(folder.iterdir()) if path.name != PACK)


def _scan_of(path: Path) -> str:
    """The scan_id in a file name; it holds no point."""
    name = path.name.lstrip(".")
    stem = name.partition(".")[0]
    is_label_map = path.parts[-4] == "segment" and name.startswith(f"{stem}.nii.gz")
    return stem.removesuffix("_dseg") if is_label_map else stem


def _is_of(scans: Collection[str], folder: Path, name: str) -> bool:
    return _scan_of(folder / name) in scans


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

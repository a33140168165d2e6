"""Which scans exist, and which shard each is in."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd
import pyarrow as pa

from cohortvol.errors import TableError
from cohortvol.files import commit_text, warn_if_world_readable
from cohortvol.manifest.folder import from_folder, write_from_folder
from cohortvol.manifest.rows import read_manifest
from cohortvol.manifest.shards import assign_shards, file_facts
from cohortvol.tables import (
    MANIFEST,
    SHARD,
    SHARDS,
    read_arrow,
    read_table,
    to_arrow,
    write_table,
)

__all__ = ["assign_shards", "from_folder", "read_manifest", "run", "write_from_folder"]

log = logging.getLogger(__name__)


def run(
    manifest: Path,
    results: Path,
    *,
    shard_size: int = 64,
    bad_rows: str = "refuse",
    sex_codes: Mapping[str, str | None] | None = None,
    age_range_years: Sequence[float] = (0.0, 120.0),
) -> pd.DataFrame:
    """Read the user's table and write everything below ``<results>/manifest``.

    ``scans.parquet``, ``index.tsv`` and ``shards.parquet``, which only grows, are written
    anew. The table of a shard is replaced only if its content changed, so that its
    modification time says whether there is work.

    Parameters
    ----------
    manifest : Path
        CSV, TSV or Parquet, see `read_manifest`.
    results : Path
        Results folder.
    shard_size : int
        Scans per shard, for scans that have none yet.
    bad_rows, sex_codes, age_range_years
        As in `read_manifest`.

    Returns
    -------
    pandas.DataFrame
        ``manifest/scans.parquet``.

    Raises
    ------
    ManifestError
        If the table, or with ``bad_rows="refuse"`` a row of it, cannot be used.
    """
    scans = read_manifest(
        manifest, bad_rows=bad_rows, sex_codes=sex_codes, age_range_years=age_range_years
    )
    folder = results / "manifest"
    usable = scans[scans["state"].isna()]
    shards = assign_shards(usable["scan_id"].tolist(), _previous_shards(folder), shard_size)
    usable = usable.assign(
        shard=usable["scan_id"].map(shards.set_index("scan_id")["shard"])
    ).sort_values("scan_id")
    scans.loc[usable.index, "shard"] = usable["shard"]

    # The assignment goes first: a run killed after it has moved no scan.
    write_table(folder / "shards.parquet", shards, SHARDS)
    sizes = _write_shard_tables(folder / "shards", usable)
    index = "".join(f"{shard}\t{size}\n" for shard, size in sizes.items())
    commit_text(folder / "index.tsv", "shard\tn_scans\n" + index)
    write_table(folder / "scans.parquet", scans, MANIFEST)
    warn_if_world_readable(results)
    log.info(
        "%d rows: %d scans in %d shards, %d quarantined",
        len(scans),
        len(usable),
        len(sizes),
        len(scans) - len(usable),
    )
    return scans


def _previous_shards(folder: Path) -> pd.DataFrame:
    """The assignment so far; where its file was lost, what the shard tables still know."""
    path = folder / "shards.parquet"
    if path.exists():
        return read_table(path, SHARDS)
    parts = [
        read_table(part, SHARD)[["scan_id"]].assign(shard=part.stem)
        for part in sorted((folder / "shards").glob("*.parquet"))
    ]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=list(SHARDS))


def _write_shard_tables(folder: Path, usable: pd.DataFrame) -> dict[str, int]:
    """Write the table of each shard where it changed; number of scans per shard, in order."""
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
        if not _holds(path, whole.slice(start, size)):
            write_table(path, scans.iloc[start : start + size], SHARD)
        start += size
    for path in folder.glob("*.parquet"):
        if path.stem not in sizes:
            path.unlink()
    return sizes


def _holds(path: Path, table: pa.Table) -> bool:
    """Whether the file is sound and holds this table."""
    try:
        return bool(read_arrow(path, SHARD).equals(table))
    except TableError:
        return False

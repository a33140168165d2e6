"""What the next run will do with each scan, from the manifest and the tables that stand."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from cohortvol.tables import INGEST, MANIFEST, SEGMENT, SHARD, SHARDS, Column, read_table

MEANINGS = {
    "finished": "are finished and kept",
    "refused": "cannot be used, or failed; they stay so until their image or the model changes",
    "new": "are new: read, and segmented if they can be used",
    "changed": "have an image of another size or time: read, and segmented if its bytes changed",
    "outdated": "were segmented with other weights, profile or rules: segmented again",
    "waiting": "are known and were not segmented yet",
}
"""What becomes of a scan, in the order in which it is told."""

TO_SEGMENT = ("new", "changed", "outdated", "waiting")


def plan(
    manifest: pd.DataFrame,
    facts: Mapping[str, tuple[int | None, int | None]],
    results: Path,
    model: str,
    segmentation_key: str,
) -> dict[str, Any]:
    """Count the scans of a manifest by what the next run does with them. Nothing is written.

    Parameters
    ----------
    manifest : pandas.DataFrame
        Rows as the manifest stage reads them: ``scan_id, state``; ``state`` is null for a scan.
    facts : mapping of str to (int or None, int or None)
        Size in bytes and modification time in ns of the image of each scan.
    results : Path
        Results folder; it need not be there.
    model : str
        Id of the model.
    segmentation_key : str
        Of the model and profile as they are now.

    Returns
    -------
    dict
        ``rows`` of the manifest and ``unusable`` ones of them; ``scans``, the others by what
        becomes of them, see `MEANINGS`; ``gone``, scans of the results that the manifest has no
        more; ``shards`` in use, and ``shards_to_segment`` of them, without shards still to be made.

    Raises
    ------
    TableError
        If a table is damaged.
    """
    usable = manifest.loc[manifest["state"].isna(), "scan_id"]
    assigned = _table(results / "manifest/shards.parquet", SHARDS, "scan_id", "shard")
    shard_of = dict(zip(assigned["scan_id"], assigned["shard"], strict=True))
    before = _table(results / "manifest/scans.parquet", MANIFEST, "scan_id", "shard")
    known: dict[str, list[str]] = {}
    fates: Counter[str] = Counter(dict.fromkeys(MEANINGS, 0))
    for scan_id in usable:
        shard = shard_of.get(scan_id)
        if shard is None:
            fates["new"] += 1
        else:
            known.setdefault(shard, []).append(scan_id)
    to_segment = 0
    for shard, scans in known.items():
        fate = _Shard(results, shard, model, segmentation_key).fate
        here = Counter(fate(scan_id, facts[scan_id]) for scan_id in scans)
        to_segment += any(here[name] for name in TO_SEGMENT)
        fates += here
    placed = set(before.loc[before["shard"].notna(), "scan_id"])
    return {
        "rows": len(manifest),
        "unusable": len(manifest) - len(usable),
        "scans": {name: fates[name] for name in MEANINGS},
        "gone": len(placed - set(usable)),
        "shards": len(known),
        "shards_to_segment": to_segment,
    }


class _Shard:
    """What stands of one shard."""

    def __init__(self, results: Path, shard: str, model: str, segmentation_key: str) -> None:
        images = _table(
            results / f"manifest/shards/{shard}.parquet", SHARD, "scan_id", "n_bytes", "mtime_ns"
        )
        self._facts = {
            scan_id: tuple(None if pd.isna(fact) else int(fact) for fact in of_image)
            for scan_id, *of_image in images.itertuples(index=False, name=None)
        }
        ingested = _table(results / f"ingest/{shard}.parquet", INGEST, "scan_id", "state")
        self._ingested = dict(zip(ingested["scan_id"], ingested["state"], strict=True))
        table = results / f"segment/{model}/{shard}.parquet"
        self._ends = _of_table(table) if table.is_file() else _of_receipts(table.with_suffix(""))
        self._key = segmentation_key

    def fate(self, scan_id: str, facts: tuple[int | None, int | None]) -> str:
        """One of `MEANINGS`."""
        if self._facts.get(scan_id, facts) != facts:
            return "changed"
        if self._ingested.get(scan_id, "ready") != "ready":
            return "refused"
        state, key = self._ends.get(scan_id, (None, None))
        if state is None:
            return "waiting"
        if key != self._key:
            return "outdated"
        return "finished" if state == "segmented" else "refused"


def _of_table(path: Path) -> dict[str, tuple[str, str]]:
    """State and segmentation key of each scan of a table of segment."""
    rows = _table(path, SEGMENT, "scan_id", "state", "segmentation_key")
    return {row[0]: (row[1], row[2]) for row in rows.itertuples(index=False, name=None)}


def _of_receipts(folder: Path) -> dict[str, tuple[str, str]]:
    """The same from receipts, where the table is not written yet; torn ones do not count."""
    ends = {}
    for path in folder.glob("*.json"):
        try:
            receipt = json.loads(path.read_bytes())
            ends[receipt["scan_id"]] = (receipt["state"], receipt["segmentation_key"])
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return ends


def _table(path: Path, columns: Mapping[str, Column], *names: str) -> pd.DataFrame:
    """Some columns of a table; no rows where it is not there."""
    if not path.is_file():
        return pd.DataFrame(columns=list(names))
    return read_table(path, {name: columns[name] for name in names})


def render(found: Mapping[str, Any], manifest: str, model: str) -> str:
    """What `plan` found, in words."""
    lines = [f"{manifest}: {found['rows']:,} rows, {found['unusable']:,} of them unusable."]
    width = max(len(f"{n:,}") for n in [*found["scans"].values(), found["gone"]])
    told = [(n, MEANINGS[name]) for name, n in found["scans"].items() if n]
    if found["gone"]:
        told.append((found["gone"], "left the manifest or were withdrawn: their rows go"))
    lines += [f"  {n:>{width},}  {meaning}" for n, meaning in told]
    most = sum(found["scans"][name] for name in TO_SEGMENT)
    if most:
        old = f" in {found['shards_to_segment']:,} of {found['shards']:,} shards"
        more = " and in new ones" if found["scans"]["new"] else ""
        lines.append(f"To segment with {model}: at most {most:,} scans{old}{more}.")
    else:
        lines.append(f"Nothing to segment with {model}: no GPU is needed.")
    lines.append("`snakemake -n` lists the jobs of the other stages, each with its reason.")
    return "\n".join(lines) + "\n"

"""What the next run will do with each scan, from the manifest and the tables that stand."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from cohortvol.store import of_scans
from cohortvol.store.schemas import INGEST, MANIFEST, SEGMENT, SHARD, SHARDS, Column
from cohortvol.store.tables import read_table, to_pandas
from cohortvol.workflow.plan.jobs import NextRun

MEANINGS = {
    "finished": "are finished and kept",
    "refused": "cannot be used, or failed; they stay so until their image or the model changes",
    "new": "are new: read, and segmented if they can be used",
    "changed": "have another image or label map, size or time: read, and segmented if the bytes "
    "changed",
    "outdated": "were segmented with other weights, profile or rules: segmented again",
    "waiting": "are known and were not segmented yet",
}
"""What becomes of a scan, in the order in which it is told."""

TO_SEGMENT = ("new", "changed", "outdated", "waiting")


def plan(run: NextRun, results: Path, model: str, segmentation_key: str) -> dict[str, Any]:
    """Count the scans of a manifest by what the next run does with them. Nothing is written.

    Parameters
    ----------
    run : NextRun
        The jobs of that run.
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
        more; ``shards`` in use, and ``shards_to_segment`` of them, without shards still to be made;
        ``jobs``, each with its reason, and ``jobs_of``, how many run of each rule, and of how many.

    Raises
    ------
    TableError
        If a table is of another version. One that is damaged counts as not there.
    """
    tables = _Tables(results, frozenset(run.damaged))
    before = tables.read("manifest/scans.parquet", MANIFEST, "scan_id", "state", "shard")
    manifest = before if run.foreseen is None else run.foreseen.rows
    usable = manifest.loc[manifest["state"].isna(), "scan_id"]
    assigned = set(tables.read("manifest/shards.parquet", SHARDS, "scan_id")["scan_id"])
    fates: Counter[str] = Counter(dict.fromkeys(MEANINGS, 0))
    known = to_segment = 0
    for shard in run.shards:
        stands = _Shard(tables, shard, model, segmentation_key)
        scans = stands.listed if run.foreseen is None else _rows(run.foreseen.lists[shard])
        old = {scan_id: facts for scan_id, facts in scans.items() if scan_id in assigned}
        fates["new"] += len(scans) - len(old)
        here = Counter(stands.fate(scan_id, facts) for scan_id, facts in old.items())
        known += bool(old)
        to_segment += any(here[name] for name in TO_SEGMENT)
        fates += here
    placed = set(before.loc[before["shard"].notna(), "scan_id"])
    return {
        "rows": len(manifest),
        "unusable": len(manifest) - len(usable),
        "scans": {name: fates[name] for name in MEANINGS},
        "gone": len(placed - set(usable)),
        "shards": known,
        "shards_to_segment": to_segment,
        "jobs": run.why,
        "jobs_of": {rule: list(counts) for rule, counts in run.counts.items()},
    }


Facts = tuple[Any, ...]
"""Path, size in bytes and time in ns of an image, of its further channels and companions, and of a
label map that was made elsewhere."""
FACTS = (
    *("image", "n_bytes", "mtime_ns", "more_images", "companions", "more_facts"),
    *("dseg", "dseg_n_bytes", "dseg_mtime_ns"),
)


def _rows(table: Any) -> dict[str, Facts]:
    """The facts of each scan of a list."""
    frame = table if isinstance(table, pd.DataFrame) else to_pandas(table)
    rows = frame[["scan_id", *FACTS]].itertuples(index=False, name=None)
    return {
        scan_id: tuple(None if pd.isna(fact) else fact for fact in facts)
        for scan_id, *facts in rows
    }


@dataclass(frozen=True)
class _Tables:
    """The tables of a results folder that are sound."""

    results: Path
    damaged: frozenset[str]

    def read(self, name: str, columns: Mapping[str, Column], *names: str) -> pd.DataFrame:
        """Some columns of a table; no rows where it is not there."""
        path = self.results / name
        if name in self.damaged or not path.is_file():
            return pd.DataFrame(columns=list(names))
        return read_table(path, {column: columns[column] for column in names})


class _Shard:
    """What stands of one shard."""

    def __init__(self, tables: _Tables, shard: str, model: str, segmentation_key: str) -> None:
        lists = f"manifest/shards/{shard}.parquet"
        self.listed = _rows(tables.read(lists, SHARD, "scan_id", *FACTS))
        ingested = tables.read(f"ingest/{shard}.parquet", INGEST, "scan_id", "state")
        self._ingested = dict(zip(ingested["scan_id"], ingested["state"], strict=True))
        ends = ("scan_id", "state", "segmentation_key")
        rows = tables.read(f"segment/{model}/{shard}.parquet", SEGMENT, *ends)
        self._ends = {row[0]: (row[1], row[2]) for row in rows.itertuples(index=False, name=None)}
        if rows.empty:
            self._ends = _of_receipts(tables.results / "segment" / model / shard)
        self._key = segmentation_key

    def fate(self, scan_id: str, facts: Facts) -> str:
        """One of `MEANINGS`."""
        if self.listed.get(scan_id, facts) != facts:
            return "changed"
        if self._ingested.get(scan_id, "ready") != "ready":
            return "refused"
        state, key = self._ends.get(scan_id, (None, None))
        if state is None:
            return "waiting"
        if key != self._key:
            return "outdated"
        return "finished" if state == "segmented" else "refused"


def _of_receipts(folder: Path) -> dict[str, tuple[str, str]]:
    """State and segmentation key of each scan from receipts, where the table is not written yet;
    torn ones do not count.
    """
    ends = {}
    for scan_id in of_scans.receipts(folder):
        try:
            receipt = json.loads(of_scans.read(folder / f"{scan_id}{of_scans.RECEIPT}"))
            ends[receipt["scan_id"]] = (receipt["state"], receipt["segmentation_key"])
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return ends

"""How far the cohort is: states, stages, rate, and failures by reason."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from cohortvol import reasons
from cohortvol.errors import FINISHED_WITH_PROBLEMS, OK, TEMPORARY
from cohortvol.status.reading import (
    choose_model,
    count_states,
    failures,
    read_columns,
    read_index,
    read_manifest,
    receipts,
    tables_by_shard,
)

FINAL = ("done", "skipped", "quarantined", "failed")
RATE_WINDOW_SECONDS = 3600.0
IDLE_AFTER_SECONDS = 900.0
SHARDS_FOR_RATE = 8

Counts = Counter[tuple[str | None, str | None]]
"""Number of scans by state and reason code."""


@dataclass
class _Progress:
    """What has been counted so far."""

    ended: Counts = field(default_factory=Counter)
    ingested: int = 0
    ready: int = 0
    lost: int = 0
    segmented: int = 0
    measured: int = 0
    ends: list[float] = field(default_factory=list)


def summary(results: Path, model: str | None = None) -> dict[str, Any]:
    """How far a cohort is, from the tables that stand and the receipts of shards at work.

    Parameters
    ----------
    results : Path
        Results folder.
    model : str, optional
        Model id, where the folder holds several.

    Returns
    -------
    dict
        ``scans``, the rows of the manifest; ``states``, of which ``waiting`` are the scans
        that have no final state yet; ``stages``, finished and total scans of each;
        ``assembled``, whether the final tables hold all of this; ``scans_per_hour``,
        ``seconds_left`` and ``last_finished_utc`` of segment, null where unknown;
        ``reasons``, with sentence and what to do, most frequent first; ``exit_code``.

    Raises
    ------
    ConfigError
        If the folder has no manifest, or several models and none is named.
    TableError
        If a table is damaged.
    """
    results = Path(results)
    model = choose_model(results, model)
    shards = read_index(results)
    manifest = _count(read_manifest(results, ["state", "reason"]))
    n_scans = manifest.total()
    usable = manifest.pop((None, None), 0)
    assembled = _assembled_states(results, model, shards)
    if assembled is not None:
        progress = _Progress(ended=assembled, ingested=usable)
    else:
        progress = _count_shards(results, model, shards)
        progress.ended += manifest
    states = Counter(dict.fromkeys((*FINAL, "waiting"), 0))
    for (state, _), n in progress.ended.items():
        states[str(state)] += n
    states["waiting"] = n_scans - states.total()
    return {
        "results": str(results),
        "model": model,
        "scans": n_scans,
        "shards": len(shards),
        "states": dict(states),
        "stages": {} if assembled is not None else _stages(progress, usable),
        "assembled": assembled is not None,
        **_pace(progress, usable),
        "reasons": _reasons(progress.ended),
        "exit_code": _exit_code(states, assembled is not None),
    }


def _count(table: pa.Table) -> Counts:
    """Scans by state and reason of a table that has these two columns."""
    grouped = table.group_by(["state", "reason"]).aggregate([([], "count_all")])
    return Counter({(row["state"], row["reason"]): row["count_all"] for row in grouped.to_pylist()})


def _assembled_states(results: Path, model: str | None, shards: dict[str, int]) -> Counts | None:
    """States from ``scans.parquet``, if it is newer than everything it was made from."""
    scans = results / "scans.parquet"
    if model is None or not (results / "volumes.parquet").exists() or not scans.exists():
        return None
    assembled_ns = scans.stat().st_mtime_ns
    if (results / "manifest" / "scans.parquet").stat().st_mtime_ns > assembled_ns:
        return None
    for folder in (results / "ingest", results / "segment" / model, results / "measure" / model):
        tables = tables_by_shard(folder)
        if any(tables.get(shard, assembled_ns + 1) > assembled_ns for shard in shards):
            return None
    table = read_columns(scans, ["state", "reason", "model"])
    if table is None or set(pc.unique(table["model"]).to_pylist()) - {model, None}:
        return None
    return _count(table)


def _count_shards(results: Path, model: str | None, shards: dict[str, int]) -> _Progress:
    progress = _Progress()
    if model is None:
        folders = {"ingest": results / "ingest"}
    else:
        folders = {
            "ingest": results / "ingest",
            "segment": results / "segment" / model,
            "measure": results / "measure" / model,
        }
    times = {"manifest": tables_by_shard(results / "manifest" / "shards")}
    times |= {stage: tables_by_shard(folder) for stage, folder in folders.items()}
    latest: list[tuple[int, Path]] = []
    counts: Counts = Counter()
    for shard in shards:
        newest = times["manifest"].get(shard, 0)
        current = {}
        for stage, folder in folders.items():
            if times[stage].get(shard, -1) < newest:
                break  # a table older than what it was made from is to be made again
            newest = times[stage][shard]
            current[stage] = folder / f"{shard}.parquet"
        ingested = count_states(current["ingest"]) if "ingest" in current else None
        if ingested is None:
            continue
        progress.ingested += ingested.total()
        counts += ingested
        segmented = count_states(current["segment"]) if "segment" in current else None
        if segmented is not None:
            progress.segmented += segmented.total()
            counts += segmented
            latest.append((times["segment"][shard], current["segment"]))
            if "measure" in current:
                _add_measured(progress, current["measure"], segmented["segmented", None])
        elif "segment" in folders:
            ends = receipts(folders["segment"] / shard)
            progress.segmented += len(ends)
            progress.ends += ends.values()
    progress.ready = counts.pop(("ready", None), 0)
    counts.pop(("segmented", None), 0)
    progress.lost = counts.total()
    progress.ended += counts
    for _, path in sorted(latest)[-SHARDS_FOR_RATE:]:
        progress.ends += _ends(path)
    return progress


def _add_measured(progress: _Progress, path: Path, n_segmented: int) -> None:
    """Segmented scans of a measured shard are done, but for those that measure failed on."""
    failed: Counts = Counter((_state_of(reason), reason) for reason in failures(path).values())
    progress.measured += n_segmented
    progress.ended += failed
    progress.ended["done", None] += n_segmented - failed.total()


def _state_of(reason: str) -> str:
    known = reasons.load().get(reason)
    return "quarantined" if known is not None and known.class_ == "quarantine" else "failed"


def _ends(segment_table: Path) -> list[float]:
    """When the scans of a shard were finished, seconds since the epoch."""
    table = read_columns(segment_table, ["started_utc", "seconds"])
    rows = [] if table is None else table.to_pylist()
    return [
        datetime.fromisoformat(row["started_utc"]).timestamp() + row["seconds"]
        for row in rows
        if row["started_utc"] and row["seconds"] is not None
    ]


def _stages(progress: _Progress, usable: int) -> dict[str, dict[str, int]]:
    """Scans that each stage is through with, of those it has or may still get."""
    not_ingested = usable - progress.ingested
    to_segment = progress.ready + not_ingested
    return {
        "ingest": {"finished": progress.ingested, "of": usable},
        "segment": {"finished": min(progress.segmented, to_segment), "of": to_segment},
        "measure": {"finished": progress.measured, "of": usable - progress.lost},
    }


def _pace(progress: _Progress, usable: int) -> dict[str, Any]:
    """Rate of segment over the hour before the last finished scan, and what that promises."""
    ends = sorted(progress.ends)
    recent = [end for end in ends if end > ends[-1] - RATE_WINDOW_SECONDS]
    pace: dict[str, Any] = {"scans_per_hour": None, "seconds_left": None, "last_finished_utc": None}
    if ends:
        last = datetime.fromtimestamp(ends[-1], UTC)
        pace["last_finished_utc"] = last.isoformat(timespec="seconds")
    if len(recent) < 2 or recent[-1] == recent[0]:
        return pace
    per_second = (len(recent) - 1) / (recent[-1] - recent[0])
    pace["scans_per_hour"] = round(per_second * 3600, 1)
    left = progress.ready + usable - progress.ingested - progress.segmented
    idle = time.time() - recent[-1] > max(IDLE_AFTER_SECONDS, 10 / per_second)
    if left > 0 and not idle:
        pace["seconds_left"] = round(left / per_second)
    return pace


def _reasons(ended: Counts) -> list[dict[str, Any]]:
    rows = []
    for (state, code), n_scans in ended.items():
        if state == "done" or code is None:
            continue
        known = reasons.load().get(code)
        rows.append(
            {
                "state": state,
                "reason": code,
                "n_scans": n_scans,
                "sentence": known.sentence if known else "",
                "what_to_do": known.what_to_do if known else "",
            }
        )
    return sorted(rows, key=lambda row: (-row["n_scans"], row["state"], row["reason"]))


def _exit_code(states: Counter[str], assembled: bool) -> int:
    if states["waiting"] or not assembled:
        return TEMPORARY
    return FINISHED_WITH_PROBLEMS if states["quarantined"] or states["failed"] else OK

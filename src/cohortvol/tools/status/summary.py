"""How far the cohort is: states, stages, rate, and failures by reason."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from cohortvol import reasons
from cohortvol.compute import resources
from cohortvol.errors import FINISHED_WITH_PROBLEMS, OK, TEMPORARY
from cohortvol.tools.status.counting import Places, Progress, count_shards
from cohortvol.tools.status.jobs import slurm_jobs
from cohortvol.tools.status.pace import gpu_seconds, pace
from cohortvol.tools.status.reading import (
    Counts,
    choose_model,
    read_columns,
    read_index,
    read_manifest,
    tables_by_shard,
)
from cohortvol.tools.status.trouble import slowest

FINAL = ("done", "skipped", "quarantined", "failed")


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
        ``seconds_left`` and ``last_finished_utc`` of segment, see `pace`; ``gpu_seconds`` that
        jobs held a GPU, and ``gpu_seconds_network`` of them; ``jobs`` of this cohort in Slurm by
        state, null where there is none, and what they are ``waiting`` for, see `slurm_jobs`;
        ``slowest`` shards, of those at work and the last finished ones; ``trouble``, the shards to
        look at, see `cohortvol.tools.status.trouble`;
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
    now = time.time()
    places = Places(results, model)
    shards = read_index(results)
    manifest = _count(read_manifest(results, ["state", "reason"]))
    n_scans = manifest.total()
    usable = manifest.pop((None, None), 0)
    assembled = _assembled_states(results, model, shards)
    if assembled is not None:
        tables = [places.table("segment", shard) for shard in shards]
        runs = [run for table in tables for run in resources.runs(resources.record_of(table))]
        progress = Progress(ended=assembled, ingested=usable, runs=runs)
    else:
        progress = count_shards(places, shards, now)
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
        **pace(progress.shards, progress.since, now),
        **gpu_seconds(progress.runs),
        **({"jobs": None, "waiting": []} if assembled is not None else slurm_jobs(results)),
        "slowest": slowest(progress.shards),
        "trouble": progress.trouble,
        "reasons": _reasons(progress.ended),
        "exit_code": _exit_code(states, assembled is not None),
    }


def _count(table: pa.Table) -> Counts:
    """Scans by state and reason of a table that has these two columns; most have no reason."""
    told = table.filter(table["reason"].is_valid())
    counts: Counts = Counter(
        zip(told["state"].to_pylist(), told["reason"].to_pylist(), strict=True)
    )
    for row in pc.value_counts(table.filter(table["reason"].is_null())["state"]).to_pylist():
        counts[row["values"], None] = row["counts"]
    return counts


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


def _stages(progress: Progress, usable: int) -> dict[str, dict[str, int]]:
    """Scans that each stage is through with, of those it has or may still get."""
    not_ingested = usable - progress.ingested
    to_segment = progress.ready + not_ingested
    return {
        "ingest": {"finished": progress.ingested, "of": usable},
        "segment": {"finished": min(progress.segmented, to_segment), "of": to_segment},
        "measure": {"finished": progress.measured, "of": usable - progress.lost},
    }


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

"""What the jobs of a cohort took, and what to ask for in the next one like it."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from statistics import median
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from cohortvol.compute import resources
from cohortvol.compute.installation import differences, versions
from cohortvol.tools.status.counting import Places
from cohortvol.tools.status.reading import choose_model, read_columns, read_index, read_manifest

JOB_SECONDS = 45 * 60.0
"""A job of segment should take so long: between 30 and 60 minutes."""
GOOD_JOB_SECONDS = (30 * 60.0, 60 * 60.0)
SPARE_MEMORY = 1.5
SPARE_TIME = 2.0
LEAST_MEMORY_MB, MEMORY_STEP_MB = 1000, 500
LEAST_RUNTIME_MIN, RUNTIME_STEP_MIN = 10, 10
BUSY_FRACTION = 0.7
"""A GPU that is in the network for less of its time waits for the host."""


def report(results: Path, model: str | None = None) -> dict[str, Any]:
    """What the jobs of shards took, and settings for the next cohort like this one.

    Parameters
    ----------
    results : Path
        Results folder.
    model : str, optional
        Model id, where the folder holds several.

    Returns
    -------
    dict
        ``stages``, for ingest, segment and measure what `_stage` says, of all jobs on record;
        ``scan_seconds_median`` and ``scan_seconds_p95`` of a scan in segment;
        ``network_fraction``, time in the network / time of the jobs of segment;
        ``last_segmented_utc``, start of the last job that segmented a scan, ISO 8601;
        ``gpu_seconds``, ``gpu_names`` and ``gpu_memory_mb``, null or empty where no job had a GPU;
        ``other_versions``, what jobs had in another version than this machine, see
        `_other_versions`;
        ``suggested``, see `_suggested`. Null is what no job told.

    Raises
    ------
    ConfigError
        If the folder has no manifest, or several models and none is named.
    TableError
        If a table is damaged.
    """
    results = Path(results)
    places = Places(results, choose_model(results, model))
    shards = read_index(results)
    n_scans = read_manifest(results, ["state"])["state"].null_count
    runs = {
        stage: [
            run
            for shard in shards
            for run in resources.runs(resources.record_of(places.table(stage, shard)))
        ]
        for stage in places.stages
    }
    stages = {stage: _stage(of_stage) for stage, of_stage in runs.items() if of_stage}
    segment = runs.get("segment", [])
    on_gpu = [run for run in segment if run["device"] == "cuda"]
    return {
        "results": str(results),
        "model": places.model,
        "stages": stages,
        **_scan_seconds(places, shards),
        "network_fraction": _network_fraction(segment),
        "last_segmented_utc": max(
            (run["started_utc"] for run in segment if run["n_scans"]), default=None
        ),
        "gpu_seconds": round(sum(run["seconds"] for run in on_gpu), 1) if on_gpu else None,
        "gpu_names": sorted({run["gpu_name"] for run in on_gpu if run["gpu_name"]}),
        "gpu_memory_mb": max((run["gpu_memory_mb"] or 0 for run in on_gpu), default=0) or None,
        "other_versions": _other_versions(run for of_stage in runs.values() for run in of_stage),
        "suggested": _suggested(stages, n_scans),
    }


def _other_versions(runs: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of ``package``, ``here``, ``there``, ``hosts`` and ``last_started_utc``.

    What is installed in one of the places alone is no difference: stages may have environments of
    their own. Of jobs from before versions were on record nothing is said.
    """
    found: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    here = versions()
    for run in runs:
        for package, (own, other) in differences(here, run.get("versions") or {}).items():
            found.setdefault((package, own, other), []).append(run)
    return [
        {
            "package": package,
            "here": own,
            "there": other,
            "hosts": sorted({str(run["host"]) for run in of_them}),
            "last_started_utc": max(run["started_utc"] for run in of_them),
        }
        for (package, own, other), of_them in sorted(found.items())
    ]


def _stage(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """All jobs of a stage on record, times in seconds.

    ``job_seconds`` are of jobs that came to their end with at least one scan;
    ``seconds_per_scan`` is the time of such a job after its start-up / its scans.
    """
    full = [run for run in runs if run["exit_code"] == 0 and run["n_scans"]]
    alone = [run["seconds"] - (run["seconds_startup"] or 0.0) for run in full]
    per_scan = [seconds / run["n_scans"] for seconds, run in zip(alone, full, strict=True)]
    startups = [run["seconds_startup"] for run in runs if run["seconds_startup"] is not None]
    return {
        "jobs": len(runs),
        "jobs_ended_early": sum(run["exit_code"] not in (0, None) for run in runs),
        "jobs_without_end": sum(run["exit_code"] is None for run in runs),
        "scans": sum(run["n_scans"] for run in runs),
        "job_scans_median": median(run["n_scans"] for run in full) if full else None,
        "job_seconds_median": _rounded(median(run["seconds"] for run in full) if full else None),
        "job_seconds_longest": _rounded(max((run["seconds"] for run in full), default=None)),
        "startup_seconds_median": _rounded(median(startups) if startups else None),
        "seconds_per_scan": _rounded(median(per_scan) if per_scan else None, 3),
        "cores_busy": _rounded(
            sum(run["seconds_cpu"] for run in runs) / sum(run["seconds"] for run in runs), 2
        ),
        "memory_mb": max(run["memory_mb"] for run in runs),
    }


def _scan_seconds(places: Places, shards: dict[str, int]) -> dict[str, float | None]:
    found: dict[str, float | None] = {"scan_seconds_median": None, "scan_seconds_p95": None}
    if places.model is None:
        return found
    read = (read_columns(places.table("segment", shard), ["reason", "seconds"]) for shard in shards)
    stored = [table for table in read if table is not None]
    if not stored:
        return found
    table = pa.concat_tables(stored)
    seconds = table.filter(table["reason"].is_null())["seconds"]
    middle, high = pc.quantile(seconds, [0.5, 0.95]).to_pylist()
    return {"scan_seconds_median": _rounded(middle), "scan_seconds_p95": _rounded(high)}


def _network_fraction(runs: list[dict[str, Any]]) -> float | None:
    told = [run for run in runs if run["seconds_network"] is not None]
    if not told:
        return None
    in_network = sum(run["seconds_network"] for run in told)
    return _rounded(in_network / sum(run["seconds"] for run in told), 3)


def _suggested(stages: dict[str, dict[str, Any]], n_scans: int) -> dict[str, Any]:
    """Settings for the next cohort like this one.

    Returns
    -------
    dict
        ``shard_size``, so that a job of segment takes about 45 minutes, and null where jobs take
        30 to 60 or nothing is known; ``set_resources``, memory with half as much again and twice
        the time of the longest job, for every stage on record.
    """
    shard_size, growth = None, 1.0
    segment = stages.get("segment")
    if segment and segment["seconds_per_scan"]:
        low, high = GOOD_JOB_SECONDS
        alone = JOB_SECONDS - (segment["startup_seconds_median"] or 0.0)
        wanted = _round_number(min(max(alone / segment["seconds_per_scan"], 1), n_scans))
        if (
            not low <= segment["job_seconds_median"] <= high
            and wanted != segment["job_scans_median"]
        ):
            shard_size, growth = wanted, wanted / segment["job_scans_median"]
    set_resources = {}
    for stage, took in stages.items():
        memory_mb = _up(max(took["memory_mb"] * SPARE_MEMORY, LEAST_MEMORY_MB), MEMORY_STEP_MB)
        set_resources[stage] = {"mem_mb": memory_mb}
        if took["job_seconds_longest"] is not None:
            minutes = took["job_seconds_longest"] * growth * SPARE_TIME / 60
            set_resources[stage]["runtime"] = _up(max(minutes, LEAST_RUNTIME_MIN), RUNTIME_STEP_MIN)
    return {"shard_size": shard_size, "set_resources": set_resources}


def _round_number(value: float) -> int:
    """Two digits, and no more than the value."""
    step: int = 10 ** max(math.floor(math.log10(value)) - 1, 0)
    return int(value // step) * step


def _up(value: float, step: int) -> int:
    return math.ceil(value / step) * step


def _rounded(value: float | None, digits: int = 1) -> float | None:
    return None if value is None else round(value, digits)

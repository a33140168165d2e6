"""Shards to look at: those whose jobs failed, fell silent or lost many scans, and the slowest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cohortvol.tools.status.pace import Shard, silence_seconds, typical_seconds, utc
from cohortvol.tools.status.reading import Counts, LastJob

SILENCE_SECONDS = 7200.0
"""How long a job of ingest or measure may say nothing, which it does when it is through."""
FAILED_SCANS = 3
FAILED_FRACTION = 0.1
"""Failed scans of a shard from which on it is worth a look: both must be reached."""
SLOWEST = 5


def job_trouble(
    job: LastJob, log: Path, seconds_per_scan: float | None, now: float
) -> dict[str, Any] | None:
    """What went wrong with the job that was to make a table; None where nothing is known to.

    Parameters
    ----------
    job : LastJob
        What is known of it.
    log : Path
        Its log.
    seconds_per_scan : float or None
        Usual time of a scan in segment, where a job that works is heard of after each.
    now : float
        Seconds since the epoch.

    Returns
    -------
    dict
        ``problem``: ``ended``, with its ``exit_code``, or ``silent`` (killed, or it hangs).
    """
    if job.life is None:
        return None
    last = job.runs[-1] if job.runs else {}
    exit_code = last.get("exit_code")
    segments = job.stage == "segment"
    patience = silence_seconds(seconds_per_scan) if segments else SILENCE_SECONDS
    if exit_code:
        problem = "ended"
    elif exit_code is None and now - job.life > patience:
        problem = "silent"
    else:
        return None
    return {
        "problem": problem,
        "shard": job.shard,
        "stage": job.stage,
        "exit_code": exit_code,
        "last_sign_utc": utc(job.life),
        "n_runs": len(job.runs),
        "host": last.get("host"),
        "log": str(log),
    }


def has_many_failed(segmented: Counts) -> bool:
    """Whether segment failed on so many scans of a shard that it is worth a look."""
    return _n_failed(segmented) >= max(FAILED_SCANS, FAILED_FRACTION * segmented.total())


def _n_failed(segmented: Counts) -> int:
    return sum(n for (state, _), n in segmented.items() if state == "failed")


def failed_scans(shard: str, segmented: Counts, log: Path) -> dict[str, Any]:
    """A shard whose table stands, but that failed on many of its scans."""
    return {
        "problem": "failed scans",
        "shard": shard,
        "stage": "segment",
        "n_failed": _n_failed(segmented),
        "n_scans": segmented.total(),
        "log": str(log),
    }


def slowest(shards: list[Shard]) -> list[dict[str, Any]]:
    """The slowest of these shards, the slowest first, beside what is usual."""
    usual = typical_seconds(shards)
    timed = [shard for shard in shards if shard.seconds_per_scan is not None]
    timed.sort(key=lambda shard: (-(shard.seconds_per_scan or 0.0), shard.name))
    return [
        {
            "shard": shard.name,
            "host": shard.runs[-1].get("host") if shard.runs else None,
            "n_segmented": len(shard.ends),
            "n_scans": shard.n_scans,
            "seconds_per_scan": round(shard.seconds_per_scan or 0.0, 1),
            "seconds_per_scan_usual": round(usual or 0.0, 1),
        }
        for shard in timed[:SLOWEST]
    ]

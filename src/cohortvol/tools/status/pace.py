"""How fast scans are segmented, and when that promises an end."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

from cohortvol.tools.status.reading import read_columns, seconds_of

RATE_WINDOW_SECONDS = 3600.0
PAUSE_SECONDS = 900.0
PAUSE_SCANS = 10
"""Nothing for so long, or for the time that so many scans usually take, is a pause."""
TABLES_FOR_RATE = 64


@dataclass
class Shard:
    """A shard on its way through segment. Times are seconds since the epoch.

    Attributes
    ----------
    n_scans : int
        Scans to segment.
    ends : list of float
        When its scans were finished, as far as is known.
    starts : list of float
        When jobs or scans of it were started.
    life : float or None
        Last sign of a job that works on it; None where there never was one.
    runs : list of dict
        What its jobs took; see `cohortvol.compute.resources`.
    """

    name: str
    n_scans: int
    ends: list[float] = field(default_factory=list)
    starts: list[float] = field(default_factory=list)
    finished: bool = False
    life: float | None = None
    runs: list[dict[str, Any]] = field(default_factory=list)

    @property
    def n_left(self) -> int:
        """Scans that are not segmented yet."""
        return 0 if self.finished else max(self.n_scans - len(self.ends), 0)

    @cached_property
    def seconds_per_scan(self) -> float | None:
        """Usual time from one finished scan to the next, which no pause makes longer."""
        ends = sorted(self.ends)
        gaps = [later - end for end, later in pairwise(ends)]
        return median(gaps) if gaps else None


def finished_shard(name: str, table: Path, runs: list[dict[str, Any]]) -> Shard:
    """A shard whose table stands, with when its scans began and ended."""
    stored = read_columns(table, ["started_utc", "seconds"])
    shard = Shard(name, 0 if stored is None else stored.num_rows, finished=True, runs=runs)
    for row in [] if stored is None else stored.to_pylist():
        if row["started_utc"] and row["seconds"] is not None:
            shard.starts.append(seconds_of(row["started_utc"]))
            shard.ends.append(shard.starts[-1] + row["seconds"])
    return shard


def typical_seconds(shards: list[Shard]) -> float | None:
    """Seconds per scan within a shard, of most shards."""
    known = [shard.seconds_per_scan for shard in shards if shard.seconds_per_scan is not None]
    return median(known) if known else None


def silence_seconds(seconds_per_scan: float | None) -> float:
    """How long nothing may be heard of a job that works."""
    return max(PAUSE_SECONDS, PAUSE_SCANS * (seconds_per_scan or 0.0))


def pace(shards: list[Shard], since: float, now: float) -> dict[str, Any]:
    """Rate since the last pause, in the hour before the last finished scan at most.

    Parameters
    ----------
    shards : list of Shard
        All that are not finished, and the last finished ones.
    since : float
        From when on all ends are among those of `shards`.
    now : float
        Seconds since the epoch.

    Returns
    -------
    dict
        ``scans_per_hour``, ``seconds_left`` and ``last_finished_utc``, null where unknown.
        No end is promised while nothing is at work. The end is never before the slowest shard
        is through, however many others have worked beside it.
    """
    ends = sorted(end for shard in shards for end in shard.ends)
    found: dict[str, Any] = {
        "scans_per_hour": None,
        "seconds_left": None,
        "last_finished_utc": utc(ends[-1]) if ends else None,
    }
    per_second = _rate(ends, sorted(start for shard in shards for start in shard.starts), since)
    if per_second is None:
        return found
    found["scans_per_hour"] = round(per_second * 3600, 1)
    usual = typical_seconds(shards)
    n_left = sum(shard.n_left for shard in shards)
    signs = [ends[-1], *(shard.life for shard in shards if shard.life is not None)]
    if n_left > 0 and now - max(signs) <= max(silence_seconds(usual), PAUSE_SCANS / per_second):
        alone = [shard.n_left * (shard.seconds_per_scan or usual or 0.0) for shard in shards]
        found["seconds_left"] = round(max(n_left / per_second, *alone))
    return found


def _rate(ends: list[float], starts: list[float], since: float) -> float | None:
    """Scans per second since the last pause. A run counts from its start, not its first scan."""
    before = max(since, ends[-1] - RATE_WINDOW_SECONDS) if ends else since
    recent = ends[bisect_right(ends, before) :]
    if not recent:  # none, or tables that were copied and are younger than what they tell
        return None
    gaps = [later - end for end, later in pairwise(recent)]
    longest = max(PAUSE_SECONDS, PAUSE_SCANS * median(gaps)) if gaps else PAUSE_SECONDS
    pauses = [number for number, gap in enumerate(gaps) if gap > longest]
    if pauses:
        before, recent = recent[pauses[-1]], recent[pauses[-1] + 1 :]
    first = bisect_right(starts, before)
    if first < len(starts) and starts[first] < recent[0]:
        return len(recent) / (recent[-1] - starts[first])
    if recent[-1] == recent[0]:
        return None
    return (len(recent) - 1) / (recent[-1] - recent[0])


def gpu_seconds(runs: list[dict[str, Any]]) -> dict[str, float | None]:
    """Time that jobs held a GPU, and of it the time in the network; null where no job told."""
    told = [run for run in runs if run.get("device") is not None]
    if not told:
        return {"gpu_seconds": None, "gpu_seconds_network": None}
    held = [run for run in told if run["device"] == "cuda"]
    return {
        "gpu_seconds": round(sum(run["seconds"] for run in held), 1),
        "gpu_seconds_network": round(sum(run["seconds_network"] or 0.0 for run in held), 1),
    }


def utc(seconds: float) -> str:
    """Seconds since the epoch as ISO 8601, UTC."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")

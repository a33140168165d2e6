"""Scans counted through the stages, shard by shard, from the tables that stand."""

from __future__ import annotations

from collections import Counter, deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from cohortvol import reasons
from cohortvol.compute import resources
from cohortvol.store.of_scans import receipts
from cohortvol.tools.status.pace import TABLES_FOR_RATE, Shard, finished_shard, typical_seconds
from cohortvol.tools.status.reading import (
    Counts,
    LastJob,
    failures_at,
    last_job,
    seconds_of,
    states_at,
    tables_by_shard,
)
from cohortvol.tools.status.trouble import failed_scans, has_many_failed, job_trouble

STAGES = ("ingest", "segment", "measure")
READERS = 2
"""Threads that read tables; more take longer, where the storage is not slow."""


@dataclass(frozen=True)
class Places:
    """Where the stages of shards put their files."""

    results: Path
    model: str | None

    @property
    def stages(self) -> tuple[str, ...]:
        """Those that a shard can have come to."""
        return STAGES if self.model else STAGES[:1]

    @cached_property
    def folders(self) -> dict[str, Path]:
        """Folder of each stage's tables."""
        return {
            stage: self.results / stage / ("" if stage == "ingest" else str(self.model))
            for stage in self.stages
        }

    def table(self, stage: str, shard: str) -> Path:
        """Table of a shard."""
        return self.folders[stage] / f"{shard}.parquet"

    def log(self, stage: str, shard: str) -> Path:
        """Log of the job that makes it."""
        return self.results / "logs" / stage / f"{shard}.log"


@dataclass
class Progress:
    """What has been counted so far.

    Attributes
    ----------
    shards : list of Shard
        Those that are not segmented yet, and the last that were.
    since : float
        From when on all scans that were segmented are in `shards`, seconds since the epoch.
    runs : list of dict
        What all jobs of segment took.
    waiting : list of LastJob
        For every shard that is not through, the job that it waits for.
    trouble : list of dict
        Shards to look at; see `cohortvol.tools.status.trouble`.
    """

    ended: Counts = field(default_factory=Counter)
    ingested: int = 0
    ready: int = 0
    lost: int = 0
    segmented: int = 0
    measured: int = 0
    shards: list[Shard] = field(default_factory=list)
    since: float = float("-inf")
    runs: list[dict[str, Any]] = field(default_factory=list)
    waiting: list[LastJob] = field(default_factory=list)
    trouble: list[dict[str, Any]] = field(default_factory=list)


def count_shards(places: Places, shards: dict[str, int], now: float) -> Progress:
    """Count what stands of every shard in use.

    Parameters
    ----------
    places : Places
    shards : dict of str to int
        Shards in use, each with its number of scans.
    now : float
        Seconds since the epoch.
    """
    progress = Progress()
    times = {"manifest": tables_by_shard(places.results / "manifest" / "shards")}
    times |= {stage: tables_by_shard(folder) for stage, folder in places.folders.items()}
    counts: Counts = Counter()
    segmented_ns: dict[str, int] = {}
    standing = {shard: _standing(shard, times) for shard in shards}
    _read_ahead(places, standing)
    for shard, n_scans in shards.items():
        through = standing[shard]
        if len(through) < len(places.stages):
            stage = places.stages[len(through)]
            since_ns = [times["manifest"].get(shard, 0), *through.values()][-1]
            table, log = places.table(stage, shard), places.log(stage, shard)
            progress.waiting.append(last_job(stage, table, log, since_ns))
        counts += _add_shard(progress, places, shard, n_scans, through)
        if "segment" in through:
            segmented_ns[shard] = through["segment"]
    progress.ready = counts.pop(("ready", None), 0)
    counts.pop(("segmented", None), 0)
    progress.lost = counts.total()
    progress.ended += counts
    _add_last_segmented(progress, places, segmented_ns)
    usual = typical_seconds(progress.shards)
    for job in progress.waiting:
        trouble = job_trouble(job, places.log(job.stage, job.shard), usual, now)
        progress.trouble += [trouble] if trouble else []
    return progress


def _standing(shard: str, times: dict[str, dict[str, int]]) -> dict[str, int]:
    """Stages that a shard is through with, each with when its table was written, in ns.

    A table older than what it is made from is to be made again.
    """
    newest_ns, standing = 0, {}
    for stage, written_ns in times.items():
        if written_ns.get(shard, 0 if stage == "manifest" else -1) < newest_ns:
            break
        newest_ns = written_ns.get(shard, 0)
        if stage != "manifest":
            standing[stage] = newest_ns
    return standing


def _read_ahead(places: Places, standing: dict[str, dict[str, int]]) -> None:
    """Read the tables, several at a time: most of it is waiting, where the storage is shared."""

    def read(shard: str) -> None:
        for stage, written_ns in standing[shard].items():
            look = failures_at if stage == "measure" else states_at
            look(places.table(stage, shard), written_ns)

    with ThreadPoolExecutor(READERS) as pool:
        deque(pool.map(read, standing), maxlen=0)


def _add_shard(
    progress: Progress, places: Places, shard: str, n_scans: int, standing: dict[str, int]
) -> Counts:
    """Count one shard, whose stages in `standing` are through; its rows of ingest and segment."""
    counts: Counts = Counter()
    ingested = segmented = None
    if "ingest" in standing:
        ingested = states_at(places.table("ingest", shard), standing["ingest"])
    if ingested is not None:
        progress.ingested += ingested.total()
        counts += ingested
        n_scans = ingested["ready", None]
    if "segment" in standing:
        segmented = states_at(places.table("segment", shard), standing["segment"])
    if ingested is None or segmented is None:
        since = standing.get("ingest", 0) / 1e9
        progress.shards.append(_at_work(progress, places, shard, n_scans, since))
        return counts
    progress.segmented += segmented.total()
    if has_many_failed(segmented):
        log = places.log("segment", shard)
        progress.trouble.append(failed_scans(shard, segmented, log))
    if "measure" in standing:
        failed = failures_at(places.table("measure", shard), standing["measure"])
        _add_measured(progress, failed, segmented["segmented", None])
    return counts + segmented


def _at_work(progress: Progress, places: Places, shard: str, n_scans: int, since: float) -> Shard:
    """A shard that is not segmented yet; its receipts count if it waits for segment.

    Those from before `since` stand, but are no sign of a job that works now.
    """
    job = progress.waiting[-1] if progress.waiting else None
    if job is None or job.shard != shard or job.stage != "segment":
        return Shard(shard, n_scans)
    ends = list(receipts(places.folders["segment"] / shard).values())
    progress.segmented += len(ends)
    progress.runs += job.runs
    signs = [end for end in [*ends, job.life] if end is not None and end >= since]
    job = replace(job, life=max(signs, default=None))
    progress.waiting[-1] = job
    starts = [seconds_of(run["started_utc"]) for run in job.runs]
    return Shard(shard, n_scans, ends, starts, life=job.life, runs=job.runs)


def _add_last_segmented(progress: Progress, places: Places, segmented_ns: dict[str, int]) -> None:
    """Read when the scans of the last finished shards ended, and what all of them took."""
    runs = {
        shard: resources.runs(resources.record_of(places.table("segment", shard)))
        for shard in segmented_ns
    }
    for of_shard in runs.values():
        progress.runs += of_shard
    latest = sorted(segmented_ns, key=lambda shard: (segmented_ns[shard], shard))
    if len(latest) > TABLES_FOR_RATE:
        progress.since = segmented_ns[latest[-TABLES_FOR_RATE]] / 1e9
    for shard in latest[-TABLES_FOR_RATE:]:
        table = places.table("segment", shard)
        progress.shards.append(finished_shard(shard, table, runs[shard]))


def _add_measured(progress: Progress, failures: dict[str, str], n_segmented: int) -> None:
    """Segmented scans of a measured shard are done, but for those that measure failed on."""
    failed: Counts = Counter((reasons.state_of(reason), reason) for reason in failures.values())
    progress.measured += n_segmented
    progress.ended += failed
    progress.ended["done", None] += n_segmented - failed.total()

"""Progress of a shard: one bar on a terminal; in a log file, a line per scan and per minute."""

from __future__ import annotations

import logging
import sys
import threading
import time

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from cohortvol.compute.resources import Job
from cohortvol.stages.segment.receipts import Outcome

LOG = logging.getLogger(__name__)
SECONDS_BETWEEN_LINES = 60.0


class ShardProgress:
    """Counts finished scans, from any thread. Use as a context manager."""

    def __init__(self, shard: str, todo: int, finished_before: int, job: Job | None = None) -> None:
        self._job = job or Job()
        self._shard, self._todo, self._before = shard, todo, finished_before
        self._done = 0
        self._start = self._last_line = time.monotonic()
        self._lock = threading.Lock()
        self._bar = _bar() if sys.stderr.isatty() else None
        self._task = self._bar.add_task(f"segment {shard}", total=todo) if self._bar else None

    def __enter__(self) -> ShardProgress:
        LOG.info("%s: %d scans to segment, %d finished", self._shard, self._todo, self._before)
        if self._bar:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar:
            self._bar.stop()

    def finished(self, scan_id: str, outcome: Outcome) -> None:
        """One more scan has its receipt."""
        self._job.count(outcome.seconds_network)
        with self._lock:
            self._done += 1
            what = " ".join(filter(None, [outcome.state, outcome.reason, outcome.detail]))
            line = f"{scan_id}: {what}, {outcome.seconds:.1f} s"
            if self._bar and self._task is not None:
                self._bar.advance(self._task)
                if outcome.reason:
                    self._bar.console.print(line, markup=False, highlight=False)
            else:
                LOG.info("%s: %d/%d %s", self._shard, self._done, self._todo, line)
            self._line_per_minute()

    def _line_per_minute(self) -> None:
        now = time.monotonic()
        if self._bar or now - self._last_line < SECONDS_BETWEEN_LINES:
            return
        self._last_line = now
        seconds_per_scan = (now - self._start) / self._done
        minutes_left = (self._todo - self._done) * seconds_per_scan / 60
        LOG.info(
            "%s: %d of %d segmented, %.1f s per scan, about %.0f min left",
            self._shard,
            self._done,
            self._todo,
            seconds_per_scan,
            minutes_left,
        )


def _bar() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )

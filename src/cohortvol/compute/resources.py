"""What each job of a shard took: time, memory, GPU. Written beside the table that the job makes.

``<shard>.resources.json`` lists the last runs of the jobs that make ``<shard>.parquet``, the ended
ones and the one at work. It is information alone: no result depends on it, and a job whose record
cannot be written goes on. What a killed job took is known up to its last minute.
"""

from __future__ import annotations

import json
import logging
import os
import platform
import resource
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cohortvol.compute.installation import versions
from cohortvol.errors import BUG, OK, CohortvolError
from cohortvol.store.files import commit_json
from cohortvol.store.machine import error_to_act_on

log = logging.getLogger(__name__)

SUFFIX = ".resources.json"
MOST_RUNS = 20
SECONDS_BETWEEN_WRITES = 60.0
INTERRUPTED = 130
"""Exit code of a process that Ctrl-C ended."""

_IMPORTED = time.monotonic()


@dataclass
class Job:
    """The run of a job in this process. Its stage counts scans, from any thread.

    Attributes
    ----------
    record : Path or None
        Where it is written; None for a run that is not recorded.
    """

    record: Path | None = None
    started_utc: str = field(default_factory=lambda: _ago(seconds_since_start()))
    n_scans: int = 0
    seconds_network: float | None = None
    seconds_startup: float | None = None
    device: str | None = None
    gpu_name: str | None = None
    gpu_driver: str | None = None
    gpu_memory_bytes: Callable[[], int] | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)
    _last_write: float = field(default_factory=time.monotonic, repr=False)

    def ready(self) -> None:
        """The first scan can start: all until now was start-up."""
        if self.seconds_startup is None:
            self.seconds_startup = seconds_since_start()

    def count(self, seconds_network: float | None = None) -> None:
        """One more scan came to an end; the record is at most a minute behind."""
        self.ready()
        with self._lock:
            self.n_scans += 1
            if seconds_network is not None:
                self.seconds_network = (self.seconds_network or 0.0) + seconds_network
            if time.monotonic() - self._last_write >= SECONDS_BETWEEN_WRITES:
                self.write(None)

    def write(self, exit_code: int | None) -> None:
        """Put the run into the record, at work or ended; a full disk is others' trouble."""
        self._last_write = time.monotonic()
        if self.record is None:
            return
        earlier = [run for run in runs(self.record) if run.get("started_utc") != self.started_utc]
        try:
            commit_json(self.record, {"runs": [*earlier, self._facts(exit_code)][-MOST_RUNS:]})
        except (CohortvolError, OSError) as error:
            log.debug("%s: not written (%s)", self.record, error)

    def _facts(self, exit_code: int | None) -> dict[str, Any]:
        gpu_bytes = self.gpu_memory_bytes() if self.gpu_memory_bytes else None
        return {
            "device": self.device,
            "exit_code": exit_code,
            "gpu_driver": self.gpu_driver,
            "gpu_memory_mb": None if gpu_bytes is None else round(gpu_bytes / 2**20),
            "gpu_name": self.gpu_name,
            "host": platform.node(),
            "memory_mb": round(peak_memory_bytes() / 2**20),
            "n_scans": self.n_scans,
            "seconds": round(seconds_since_start(), 3),
            "seconds_cpu": round(sum(os.times()[:4]), 3),
            "seconds_network": _rounded(self.seconds_network),
            "seconds_startup": _rounded(self.seconds_startup),
            "slurm_job": os.environ.get("SLURM_JOB_ID"),
            "started_utc": self.started_utc,
            "versions": versions(),
        }


@contextmanager
def recorded(table: Path) -> Iterator[Job]:
    """Record what this process takes to make the table of a shard.

    The times are those of the process: use it where the process is one job.

    Parameters
    ----------
    table : Path
        ``<stage>/.../<shard>.parquet``.
    """
    job = Job(record_of(table))
    job.write(None)
    exit_code = BUG
    try:
        yield job
        exit_code = OK
    except KeyboardInterrupt:
        exit_code = INTERRUPTED
        raise
    except Exception as error:
        if (told := error_to_act_on(error)) is not None:
            exit_code = told.exit_code
        raise
    finally:
        job.write(exit_code)


def record_of(table: Path) -> Path:
    """``<shard>.resources.json`` beside ``<shard>.parquet``."""
    return table.with_name(table.stem + SUFFIX)


def runs(record: Path) -> list[dict[str, Any]]:
    """Runs of a record, the last one last; none where there is no record that can be read."""
    try:
        found = json.loads(record.read_bytes())["runs"]
    except (OSError, ValueError, KeyError, TypeError):
        return []
    return [run for run in found if isinstance(run, dict)] if isinstance(found, list) else []


def seconds_since_start() -> float:
    """Age of this process, with all that was loaded before; where Linux does not tell, of us."""
    try:
        with open("/proc/self/stat", encoding="utf-8", errors="replace") as stream:
            fields = stream.read().rpartition(")")[2].split()
        started = int(fields[19]) / os.sysconf("SC_CLK_TCK")  # field 22: ticks since boot
        return time.clock_gettime(time.CLOCK_BOOTTIME) - started
    except (OSError, AttributeError, IndexError, ValueError):
        return time.monotonic() - _IMPORTED


def peak_memory_bytes() -> int:
    """Most memory this process held at once.

    Not ``ru_maxrss`` where it can be helped: that begins with the size of the parent process.
    """
    try:
        with open("/proc/self/status", encoding="utf-8", errors="replace") as stream:
            line = next(line for line in stream if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    except (OSError, StopIteration, IndexError, ValueError):
        unit = 1 if platform.system() == "Darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _ago(seconds: float) -> str:
    start = datetime.fromtimestamp(time.time() - seconds, UTC)
    return start.isoformat(timespec="milliseconds")


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 3)

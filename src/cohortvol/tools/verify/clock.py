"""Files of a results folder that seem to be of the future, as after the clock was set back.

Whatever is made next would be older than they are, and Snakemake ends a job with an error whose
outputs are older than what it read, until the clock has caught up.
"""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path

from cohortvol.tools.verify.quick import TABLES

log = logging.getLogger(__name__)

_FILES = (
    *TABLES,
    "*.json",
    "*.csv",
    "*.sha256",
    "manifest/index.tsv",
    "analyse/*",
    "report/*",
)

TOLERANCE_SECONDS = 10.0
"""Clocks of a file server and its clients differ by less."""

_STEP_NS = 1_000


def bring_to_present(results: Path) -> int:
    """Set back the times of files that are later than now; the number of files.

    They keep their order, right behind the latest file that is of the past, so that what the user
    changed since then is newer than they are. To be called by who holds the folder
    (`cohortvol.store.locks.claim`).
    """
    times = {path: path.stat().st_mtime_ns for pattern in _FILES for path in results.glob(pattern)}
    now = time.time_ns()
    if max(times.values(), default=0) <= now + TOLERANCE_SECONDS * 1e9:
        return 0
    late = sorted({at for at in times.values() if at > now})
    latest = max((at for at in times.values() if at <= now), default=now - len(late) * _STEP_NS)
    new = {at: latest + rank * _STEP_NS for rank, at in enumerate(late, start=1)}
    moved = [path for path, at in times.items() if at in new]
    for path in moved:
        os.utime(path, ns=(new[times[path]], new[times[path]]))
    log.warning(
        "%s: %d files seemed to be of the future; was the clock set back? Their times were set to "
        "the past, in their order",
        results,
        len(moved),
    )
    return len(moved)

"""Slurm jobs of a run whose driver was killed: they go on, and nobody waits for them any more.

A second driver would submit the same shards again. So the name that all jobs of a run have in Slurm
is kept in its results folder while it works there, and the next run cancels what is left of it.
"""

from __future__ import annotations

import logging
import re
import subprocess
import time
from pathlib import Path

from cohortvol.files import commit_text

log = logging.getLogger(__name__)

RUN = ".slurm-run"
"""File in a results folder: name of the jobs of the run that works there, or was killed there."""

CANCEL_LIMIT_SECONDS = 120.0
_NAME = re.compile(r"[A-Za-z0-9_-]+")


def remember(results: Path, name: str) -> None:
    """Note under which name the jobs of this run are in Slurm."""
    commit_text(results / RUN, f"{name}\n")


def forget(results: Path) -> None:
    """Take the note away: the run has ended, and its jobs with it."""
    (results / RUN).unlink(missing_ok=True)


def cancel_left_over(results: Path) -> int:
    """Cancel jobs of an earlier run in a results folder, and wait until they are gone.

    To be called by who holds the folder (`cohortvol.files.claim`): then that run has no driver.
    A worker that is cancelled finishes the scan in hand first. Where Slurm cannot be asked, nothing
    is cancelled: two jobs on one shard wait for each other (`cohortvol.segment`).

    Returns
    -------
    int
        Number of jobs that were queued or running.
    """
    note = results / RUN
    if not note.exists():
        return 0
    name = note.read_text(encoding="utf-8").strip()
    left = _jobs(name) if _NAME.fullmatch(name) else []
    if left:
        _slurm("scancel", *left)
        end = time.monotonic() + CANCEL_LIMIT_SECONDS
        while _jobs(name) and time.monotonic() < end:
            time.sleep(1)
    forget(results)
    return len(left)


def _jobs(name: str) -> list[str]:
    """Ids of the jobs of this name that are queued, running or ending."""
    return _slurm("squeue", "--me", "--noheader", "--format=%A", f"--name={name}").split()


def _slurm(*words: str) -> str:
    """What a command of Slurm says; nothing, with a warning, where it cannot be had."""
    try:
        return subprocess.run(  # noqa: S603 - no shell, and `_NAME` admits no option
            words, capture_output=True, text=True, timeout=60, check=True
        ).stdout
    except (OSError, subprocess.SubprocessError) as error:
        log.warning("Slurm cannot be asked for jobs of a run that was killed (%s)", error)
        return ""

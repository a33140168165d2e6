"""Where results go and what lies around them: space, who may read, clock, home, temporary files."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from cohortvol.store.files import is_world_readable
from cohortvol.store.storage import nearest, place_for_trials
from cohortvol.tools.doctor.findings import Finding, failed, passed, skipped, warned

APART_S = 2.0
"""Difference of clocks, s, below the resolution of some file systems."""
FAR_APART_S = 300.0
"""What munge, which Slurm signs with, bears; older messages are refused."""
FILES_PER_SCAN = 4
"""At most: label map, receipt, image converted from DICOM, preview."""
SPARE_BYTES = 10**9
"""Beside what scans take: tables, logs, report, and room for what else grows."""
TEMPORARY_BYTES = 2 * 10**9
"""DICOM is converted, and a zip of weights unpacked, in the temporary folder."""

NO_FOLDER = ("no results folder named", "Name it with --results.")


class Wanted(Protocol):
    """What the scans of a cohort still need on the disk, see `cohortvol.tools.check.remaining`."""

    @property
    def n_scans(self) -> int: ...
    @property
    def n_bytes(self) -> float: ...


def space(folder: Path | None, wanted: Wanted | None, why_unknown: str = "") -> Finding:
    """Whether what the cohort still needs fits on the disk. A quota is not seen."""
    if folder is None:
        return skipped(*NO_FOLDER)
    disk = os.statvfs(nearest(folder))
    free = disk.f_bavail * disk.f_frsize
    says = f"{_size(free)} free"
    if wanted is None:
        if free < SPARE_BYTES:
            return failed(f"{says} ({why_unknown})", "Free space, or choose another folder.")
        return passed(f"{says} ({why_unknown})")
    says += f"; {wanted.n_scans:,} scans still to do need at most {_size(wanted.n_bytes)}"
    if free < wanted.n_bytes:
        return failed(says, "Free space, or choose another folder. A quota may allow even less.")
    if free < wanted.n_bytes + SPARE_BYTES:
        return warned(says, "Little is left for tables and logs; free some space.")
    return passed(says)


def inodes(folder: Path | None, wanted: Wanted | None) -> Finding:
    """Whether as many files fit; some file systems count none."""
    if folder is None:
        return skipped(*NO_FOLDER)
    disk = os.statvfs(nearest(folder))
    if disk.f_files == 0:
        return passed("this file system does not count files")
    says = f"{disk.f_favail:,} more files fit"
    n_files = 0 if wanted is None else wanted.n_scans * FILES_PER_SCAN
    if wanted is not None:
        says += f"; {wanted.n_scans:,} scans still to do need at most {n_files:,}"
    if disk.f_favail < max(n_files, 1000):
        return failed(says, "Remove files, have the quota of files raised, or choose another disk.")
    return passed(says)


def readers(folder: Path | None) -> Finding:
    """Whether every user of the machine can look into the results."""
    if folder is None:
        return skipped(*NO_FOLDER)
    if not folder.is_dir():
        return passed("not there yet; it will be closed to users outside the group (umask 027)")
    if is_world_readable(folder):
        return warned(
            "every user of this machine can read it (SEC_WORLD_READABLE)", f"`chmod o= {folder}`"
        )
    return passed(f"closed to others (mode {folder.stat().st_mode & 0o777:o}, umask 027)")


def clock(folder: Path | None) -> Finding:
    """Whether the server that keeps the files has the time of this machine."""
    if folder is None:
        return skipped(*NO_FOLDER)
    with place_for_trials(folder) as place:
        probe = place / "clock"
        probe.touch()
        before = time.time()
        os.utime(probe)
        after = time.time()
        there = probe.stat().st_mtime
    return apart(there - min(max(there, before), after))


def apart(seconds: float) -> Finding:
    """What a difference of `seconds` between file server and machine means."""
    if abs(seconds) < APART_S:
        return passed(f"file server and machine are less than {APART_S:g} s apart")
    ahead = "ahead of" if seconds > 0 else "behind"
    says = f"the file server is {abs(seconds):,.0f} s {ahead} this machine"
    what = "Have both clocks set (NTP): Snakemake ends jobs that are older than what they read."
    return failed(says, what) if abs(seconds) > FAR_APART_S else warned(says, what)


def home(environment: Mapping[str, str]) -> Finding:
    """Whether the caches of Snakemake and Matplotlib can be written."""
    folders = {"HOME": environment.get("HOME"), "XDG_CACHE_HOME": environment.get("XDG_CACHE_HOME")}
    cache = folders["XDG_CACHE_HOME"] or folders["HOME"]
    if not cache:
        return warned("HOME is not set", "Set HOME to a folder that can be written.")
    name = "XDG_CACHE_HOME" if folders["XDG_CACHE_HOME"] else "HOME"
    if not _writable(Path(cache)):
        return warned(
            f"{name} cannot be written: {cache}",
            "Set XDG_CACHE_HOME and MPLCONFIGDIR to a folder that can be, such as one in the "
            "results folder.",
        )
    return passed(f"{name} can be written")


def temporary(folder: Path) -> Finding:
    """Whether the temporary folder can be written and has room."""
    if not folder.is_dir() or not _writable(folder):
        return failed(f"{folder} cannot be written", "Set TMPDIR to a folder that can be.")
    disk = os.statvfs(folder)
    says = f"{folder}: {_size(disk.f_bavail * disk.f_frsize)} free"
    if disk.f_bavail * disk.f_frsize < TEMPORARY_BYTES:
        return warned(says, f"Set TMPDIR to a folder with {_size(TEMPORARY_BYTES)} or more.")
    return passed(says)


def _writable(folder: Path) -> bool:
    try:
        with place_for_trials(folder):
            return folder.is_dir()
    except OSError:
        return False


def _size(n_bytes: float) -> str:
    return f"{n_bytes / 1e9:,.1f} GB" if n_bytes >= 0.95e9 else f"{n_bytes / 1e6:,.0f} MB"

"""Shards: an assignment that only grows."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pandas as pd


def assign_shards(scan_ids: Sequence[str], previous: pd.DataFrame, shard_size: int) -> pd.DataFrame:
    """Put every scan that has no shard yet into one; never move a scan that has.

    A new scan goes to the last shard while fewer than `shard_size` scans were ever put
    there, otherwise to a new one. Scans that left the manifest keep their entry, so that
    they come back to where their results are.

    Parameters
    ----------
    scan_ids : sequence of str
        Scans of the manifest, in its order.
    previous : pandas.DataFrame
        The assignment so far: ``scan_id``, ``shard``.
    shard_size : int
        Most scans in a shard; a smaller one than before moves nothing.

    Returns
    -------
    pandas.DataFrame
        `previous`, followed by the new scans.
    """
    known = dict(zip(previous["scan_id"], previous["shard"], strict=True))
    last = max((int(shard) for shard in known.values()), default=0)
    in_last = sum(int(shard) == last for shard in known.values())
    new = []
    for scan_id in scan_ids:
        if scan_id in known:
            continue
        if in_last >= shard_size:
            last, in_last = last + 1, 0
        known[scan_id] = f"{last:04d}"
        in_last += 1
        new.append((scan_id, known[scan_id]))
    return pd.concat([previous, pd.DataFrame(new, columns=["scan_id", "shard"])], ignore_index=True)


Facts = tuple[int | None, int | None]
"""Size in bytes and modification time in ns."""


def file_facts(image: str | Path, within: bool = True) -> Facts:
    """Size in bytes and modification time in ns of an image, or two Nones if it is missing.

    Of a folder: what its files hold, and the newest time of it and of all that lies in it, as a
    file that is written over leaves the time of its folder alone. Not looked `within`, a folder
    has its own time and no size.
    """
    facts = _stat(image)
    if facts is None:
        return None, None
    if not stat.S_ISDIR(facts.st_mode):
        return facts.st_size, facts.st_mtime_ns
    if not within:
        return None, facts.st_mtime_ns
    n_bytes, newest = 0, facts.st_mtime_ns
    for place, folders, names in os.walk(image):
        for name in (*folders, *names):
            found = _stat(os.path.join(place, name))
            if found is not None:
                newest = max(newest, found.st_mtime_ns)
                n_bytes += 0 if stat.S_ISDIR(found.st_mode) else found.st_size
    return n_bytes, newest


def _stat(path: str | Path) -> os.stat_result | None:
    try:
        return os.stat(path)
    except OSError:
        return None


LOOKS_AT_ONCE = 16
"""Images looked at together: a file server answers one question in about a millisecond."""

_BATCH = 256


def facts_from_outside(image: str) -> Facts:
    """`file_facts` without a look at what lies in a folder."""
    return file_facts(image, within=False)


def facts_of(
    images: Iterable[str | None], look: Callable[[str], Facts] = file_facts
) -> list[Facts]:
    """What `look` finds of many images; two Nones where there is none to look at."""
    paths = list(images)
    batches = [paths[start : start + _BATCH] for start in range(0, len(paths), _BATCH)]
    with ThreadPoolExecutor(LOOKS_AT_ONCE) as pool:
        found = pool.map(
            lambda batch: [look(path) if path else (None, None) for path in batch], batches
        )
        return [facts for batch in found for facts in batch]


def changed(images: Sequence[Sequence[Any]], look: Callable[[str], Facts] = file_facts) -> set[str]:
    """Scans of which an image is there with other facts than these: scan, path, size in bytes,
    time in ns.

    A folder of which `look` gives no size has changed if its own time is later than all seen.
    """
    now = facts_of((image for _, image, *_ in images), look)
    seen = zip(images, now, strict=True)
    return {scan for (scan, _, size, at), facts in seen if _differs((size, at), facts)}


def _differs(then: Facts, now: Facts) -> bool:
    size, at = now
    if at is None:
        return False
    if size is None:
        return then[1] is None or at > then[1]
    return now != then

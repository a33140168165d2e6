"""Shards: an assignment that only grows."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
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


def file_facts(image: str | Path) -> tuple[int | None, int | None]:
    """Size in bytes and modification time in ns of an image, or two Nones if it is missing.

    A folder has no size of its own.
    """
    try:
        facts = os.stat(image)
    except OSError:
        return None, None
    return (None if Path(image).is_dir() else facts.st_size), facts.st_mtime_ns


LOOKS_AT_ONCE = 16
"""Images looked at together: a file server answers one question in about a millisecond."""

_BATCH = 256


def facts_of(images: Iterable[str]) -> list[tuple[int | None, int | None]]:
    """`file_facts` of many images."""
    paths = list(images)
    batches = [paths[start : start + _BATCH] for start in range(0, len(paths), _BATCH)]
    with ThreadPoolExecutor(LOOKS_AT_ONCE) as pool:
        found = pool.map(lambda batch: [file_facts(path) for path in batch], batches)
        return [facts for batch in found for facts in batch]


def changed(images: Sequence[Sequence[Any]]) -> int:
    """How many images are there with other facts than these: path, size in bytes, time in ns."""
    now = facts_of(image for image, *_ in images)
    seen = zip(images, now, strict=True)
    return sum(facts != (None, None) and facts != (size, at) for (_, size, at), facts in seen)

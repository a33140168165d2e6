"""Is this scan usable: bytes, header, geometry, voxels."""

from __future__ import annotations

import hashlib
import logging
import traceback
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cohortvol.errors import ScanError, TemporaryError
from cohortvol.ingest.grid import check_grid, describe_grid
from cohortvol.ingest.header import Header, parse_header
from cohortvol.ingest.rules import Rules
from cohortvol.ingest.source import read_source
from cohortvol.ingest.voxels import check_voxels
from cohortvol.tables import INGEST, SHARD, append_rows, read_table, write_table

__all__ = ["Rules", "check_scan", "run"]

log = logging.getLogger(__name__)

# A fault of the machine or of ours, not of the data.
_FAILURES = ("IO_", "BUG_")


def run(shard: Path, out: Path, rules: Rules | None = None) -> pd.DataFrame:
    """Check every scan of one shard and write the ingest table.

    Whatever is wrong with a scan becomes its row; the shard goes on.

    Parameters
    ----------
    shard : Path
        ``manifest/shards/<shard>.parquet``.
    out : Path
        ``ingest/<shard>.parquet``.
    rules : Rules, optional
        Limits; the defaults if not given.

    Returns
    -------
    pandas.DataFrame
        What was written, sorted by ``scan_id``.

    Raises
    ------
    TableError
        If the shard's table cannot be read.
    TemporaryError
        If memory runs out.
    """
    rules = rules or Rules()
    scans = read_table(shard, SHARD).sort_values("scan_id")
    rows = [
        {"scan_id": scan_id, **_row(scan_id, Path(image), rules)}
        for scan_id, image in zip(scans["scan_id"], scans["image"], strict=True)
    ]
    table = append_rows(rows, INGEST)
    write_table(out, table, INGEST)
    counts = Counter(row["state"] for row in rows)
    log.info("%s: %s", shard.stem, ", ".join(f"{n} {state}" for state, n in counts.items()))
    return table


def check_scan(path: Path, rules: Rules | None = None) -> dict[str, Any]:
    """Everything the ingest table says about a usable NIfTI image.

    Parameters
    ----------
    path : Path
        A ``.nii`` or ``.nii.gz`` file.
    rules : Rules, optional
        Limits; the defaults if not given.

    Returns
    -------
    dict
        ``n_bytes``, ``image_sha256``, the grid, ``intensity_min``, ``intensity_max`` and
        ``warnings``.

    Raises
    ------
    ScanError
        With the reason why the image is not usable.
    """
    found: dict[str, Any] = {}
    _check_into(found, path, rules or Rules())
    return found


def _check_into(found: dict[str, Any], path: Path, rules: Rules) -> None:
    """Put what is learned of a scan into `found`, which keeps it when a later check fails."""
    headers: list[Header] = []

    def content_size(head: bytes) -> int:
        headers.append(parse_header(head, rules))
        return headers[-1].n_content

    source = read_source(path, content_size, rules.allow_roots)
    found.update(n_bytes=source.n_bytes, image_sha256=source.sha256)
    header = headers[-1]
    affine, grid_warnings = check_grid(header.fields, header.shape, rules)
    found.update(describe_grid(header.shape, affine))
    voxels = np.frombuffer(source.content, header.dtype, offset=header.offset)
    low, high, voxel_warnings = check_voxels(voxels.reshape(header.shape[::-1]), rules)
    ends = sorted(header.slope * value + header.intercept for value in (low, high))
    extra = ["W_EXTRA_BYTES"] if source.has_extra else []
    codes = [*extra, *header.warnings, *grid_warnings, *voxel_warnings]
    found.update(
        intensity_min=ends[0],
        intensity_max=ends[1],
        warnings=";".join(codes) or None,
    )


def _row(scan_id: str, image: Path, rules: Rules) -> dict[str, Any]:
    found: dict[str, Any] = {"state": "ready", "image": str(image)}
    try:
        _check_into(found, image, rules)
    except ScanError as error:
        state = "failed" if error.reason.startswith(_FAILURES) else "quarantined"
        found.update(state=state, reason=error.reason, detail=error.detail or None)
        log.info("%s: %s %s", scan_id, state, error)
    except MemoryError as error:
        raise TemporaryError(
            f"{scan_id}: not enough memory to check the image\n"
            "  Give the job more memory, or lower ingest.max_voxels."
        ) from error
    except Exception as error:
        detail = _fingerprint(error)
        found.update(state="failed", reason="BUG_UNEXPECTED", detail=detail)
        log.exception("%s: BUG_UNEXPECTED %s", scan_id, detail)
    return found


def _fingerprint(error: Exception) -> str:
    """Kind of an error and a hash of where it arose: equal for equal faults, without data."""
    frames = traceback.extract_tb(error.__traceback__)
    places = [f"{Path(frame.filename).name}:{frame.lineno}" for frame in frames]
    name = type(error).__name__
    return f"{name} {hashlib.sha256('|'.join([name, *places]).encode()).hexdigest()[:12]}"

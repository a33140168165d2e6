"""Is this scan usable: bytes, header, geometry, voxels."""

from __future__ import annotations

import logging
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cohortvol import reasons
from cohortvol.anatomy.geometry import spacing_mm
from cohortvol.anatomy.nifti import nifti_gz
from cohortvol.errors import OutputError, ScanError, TemporaryError, log_unforeseen
from cohortvol.models.orientation import in_words, look
from cohortvol.stages.ingest.dicom import check_decoders, dixon_named, is_dicom, to_nifti
from cohortvol.stages.ingest.grid import check_grid, describe_grid
from cohortvol.stages.ingest.header import Header, parse_header
from cohortvol.stages.ingest.rules import Rules
from cohortvol.stages.ingest.sidecar import step_is_thickness, time_of_day_h
from cohortvol.stages.ingest.source import check_place, read_source
from cohortvol.stages.ingest.voxels import check_voxels, digest_of_values
from cohortvol.store.files import commit_bytes, make_folder
from cohortvol.store.schemas import INGEST, SERIES, SHARD
from cohortvol.store.tables import append_rows, read_table, write_table

__all__ = ["Rules", "check_decoders", "check_scan", "run", "trial"]

log = logging.getLogger(__name__)

# A fault of the machine or of ours, not of the data.
_FAILURES = ("IO_", "BUG_")


def run(shard: Path, out: Path, rules: Rules | None = None, threads: int = 1) -> pd.DataFrame:
    """Check every scan of one shard and write the ingest table.

    Whatever is wrong with a scan becomes its row; the shard goes on. DICOM, and the volume chosen
    of a 4D image, become ``ingest/<shard>/<scan_id>.nii.gz``; what DICOM folders hold is listed
    in ``ingest/series/<shard>.parquet``.

    Parameters
    ----------
    shard : Path
        ``manifest/shards/<shard>.parquet``.
    out : Path
        ``ingest/<shard>.parquet``.
    rules : Rules, optional
        Limits; the defaults if not given.
    threads : int
        Scans read at a time.

    Returns
    -------
    pandas.DataFrame
        What was written, sorted by ``scan_id``.

    Raises
    ------
    TableError
        If the shard's table cannot be read.
    InstallationError
        If there is DICOM and no decoder for some of its kinds.
    TemporaryError
        If memory runs out, the disk is full, or the storage fails.
    """
    limits = rules or Rules()
    scans = read_table(shard, SHARD).sort_values("scan_id")
    if any(is_dicom(Path(image)) for image in scans["image"]):
        check_decoders()
    images, series = out.with_suffix(""), out.parent / "series" / out.name
    stacks: list[dict[str, Any]] = []

    def row(scan_id: str, image: str, sequence: object) -> dict[str, Any]:
        start = time.perf_counter()
        found: list[dict[str, Any]] = []
        of_scan = _row(scan_id, Path(image), images / f"{scan_id}.nii.gz", limits, found)
        stacks.extend({"scan_id": scan_id, **stack} for stack in found)
        named = dixon_named(sequence) if isinstance(sequence, str) else None
        dixon = of_scan.get("dixon") or named
        what = " ".join(filter(None, map(of_scan.get, ("state", "reason", "detail"))))
        log.info("%s: %s, %.1f s", scan_id, what, time.perf_counter() - start)
        return {"scan_id": scan_id, **of_scan, "dixon": dixon}

    with ThreadPoolExecutor(threads) as pool:
        rows = list(pool.map(row, scans["scan_id"], scans["image"], scans["sequence"]))
    if stacks:
        stacks.sort(key=lambda stack: stack["scan_id"])
        make_folder(series.parent)
        write_table(series, append_rows(stacks, SERIES), SERIES)
    else:
        series.unlink(missing_ok=True)
    table = append_rows(rows, INGEST)
    write_table(out, table, INGEST)
    counts = Counter(row["state"] for row in rows)
    log.info("%s: %s", shard.stem, ", ".join(f"{n} {state}" for state, n in counts.items()))
    return table


TRIAL_SCANS = 32
"""Scans of a trial that are converted before their images are removed again."""


def trial(
    scans: pd.DataFrame, rules: Rules | None = None, threads: int = 1
) -> Iterator[pd.DataFrame]:
    """What `run` would find in these scans, some at a time, with nothing left behind.

    DICOM is converted into a temporary folder (``TMPDIR`` says where), which goes with its scans.

    Parameters
    ----------
    scans : pandas.DataFrame
        Columns ``scan_id`` and ``image``.
    rules, threads
        As in `run`.

    Yields
    ------
    pandas.DataFrame
        Rows of the table INGEST; the image of a DICOM scan is no longer there.
    """
    for start in range(0, len(scans), TRIAL_SCANS):
        with tempfile.TemporaryDirectory(prefix="cohortvol-") as folder:
            shard = Path(folder, "shard.parquet")
            write_table(shard, scans.iloc[start : start + TRIAL_SCANS], SHARD)
            found = run(shard, Path(folder, "ingest.parquet"), rules, threads)
        yield found


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
        ``n_bytes``, ``image_sha256``, ``voxels_sha256``, the grid, ``intensity_min``,
        ``intensity_max`` and ``warnings``; ``volume`` where it is one of several.

    Raises
    ------
    ScanError
        With the reason why the image is not usable.
    """
    found: dict[str, Any] = {}
    _check_into(found, path, rules or Rules())
    return found


def _check_into(
    found: dict[str, Any], path: Path, rules: Rules, converted: Path | None = None
) -> None:
    """Put what is learned of a scan into `found`, which keeps it when a later check fails.

    One volume chosen from several is written to `converted`, if given, and is the scan from then.
    """
    headers: list[Header] = []

    def content_size(head: bytes) -> int:
        headers.append(parse_header(head, rules))
        return headers[-1].n_content

    source = read_source(path, content_size, rules.allow_roots)
    found.update(n_bytes=source.n_bytes, image_sha256=source.sha256)
    header = headers[-1]
    affine, grid_warnings = check_grid(header.fields, header.shape, rules)
    found.update(describe_grid(header.shape, affine))
    stored = np.frombuffer(source.content, header.dtype, offset=header.offset)
    volumes = stored.reshape(header.n_volumes, *header.shape[::-1])
    voxels = volumes[0 if rules.volume is None or len(volumes) == 1 else rules.volume - 1]
    low, high, voxel_warnings = check_voxels(voxels, rules)
    ends = sorted(header.slope * value + header.intercept for value in (low, high))
    if max(map(abs, ends)) > float(np.finfo(np.float32).max):
        detail = f"from {ends[0]:.3g} to {ends[1]:.3g}, beyond single precision"
        raise ScanError("VOX_NONFINITE", detail)
    digest = digest_of_values(voxels, header.slope, header.intercept, ends)
    found.update(voxels_sha256=digest)
    codes = ["W_EXTRA_BYTES"] if source.has_extra else []
    if len(volumes) > 1:
        codes.append("W_VOLUME_SELECTED")
        found.update(volume=rules.volume)
        if converted is not None:
            found.update(_write_volume(converted, voxels, header, affine))
    codes += [*header.warnings, *grid_warnings, *voxel_warnings]
    if step_is_thickness(path, spacing_mm(affine)):
        codes.append("QC_SCALE")
    if (hours := time_of_day_h(path)) is not None:
        found.update(header_time_of_day_h=hours)
    if rules.orientation != "off":
        turned = voxels.T if header.slope > 0 else voxels.T.astype(np.float32) * header.slope
        verdict = look(turned, affine)
        found.update(body_orientation=verdict.turn and in_words(verdict.turn))
        if verdict.is_turned:
            codes.append("QC_ORIENTATION")
    found.update(
        intensity_min=ends[0],
        intensity_max=ends[1],
        warnings=";".join(codes) or None,
    )


def _write_volume(
    out: Path, voxels: np.ndarray, header: Header, affine: np.ndarray
) -> dict[str, Any]:
    """One volume (K, J, I) as an image of its own; what the ingest table says of its file."""
    grey = voxels.T
    if header.dtype.itemsize > 2 or (header.slope, header.intercept) != (1.0, 0.0):
        grey = (grey.astype(float) * header.slope + header.intercept).astype(np.float32)
    content = nifti_gz(grey.astype(grey.dtype.newbyteorder("=")), affine)
    sha256 = commit_bytes(out, content)
    return {"image": str(out.absolute()), "n_bytes": len(content), "image_sha256": sha256}


def _row(
    scan_id: str, image: Path, converted: Path, rules: Rules, series: list[dict[str, Any]]
) -> dict[str, Any]:
    found: dict[str, Any] = {"state": "ready", "image": str(image)}
    try:
        codes: list[str] = []
        if is_dicom(image):
            check_place(image, rules.allow_roots)
            covariates, codes = to_nifti(image, converted, rules, series)
            found.update(covariates, image=str(converted.absolute()))
            rules = replace(rules, allow_roots=())  # the converted image lies in the results
        _check_into(found, Path(found["image"]), rules, converted)
        told = (found["warnings"] or "").split(";")
        found["warnings"] = ";".join(filter(None, dict.fromkeys([*codes, *told]))) or None
    except ScanError as error:
        state = _state_of(error.reason)
        found.update(state=state, reason=error.reason, detail=error.detail or None)
    except (OutputError, TemporaryError):
        raise  # no scan is to blame where nothing can be written or read
    except MemoryError as error:
        raise TemporaryError(
            f"{scan_id}: not enough memory to check the image\n"
            "  Give the job more memory, or lower ingest.max_voxels."
        ) from error
    except Exception as error:
        detail = log_unforeseen(log, scan_id, error)
        found.update(state="failed", reason="BUG_UNEXPECTED", detail=detail)
    return found


def _state_of(reason: str) -> str:
    if reason.startswith(_FAILURES):
        return "failed"
    known = reasons.load().get(reason)
    return "skipped" if known is not None and known.class_ == "skip" else "quarantined"

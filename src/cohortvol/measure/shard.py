"""The scans of one shard: read, measure, and write one table. A scan that fails is rows."""

from __future__ import annotations

import errno
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd

from cohortvol.errors import (
    GeometryError,
    ModelError,
    ScanError,
    TemporaryError,
    UnknownLabelError,
    log_unforeseen,
)
from cohortvol.files import sha256_of
from cohortvol.geometry import check_same_grid
from cohortvol.measure.quality import judge, pair_sums
from cohortvol.measure.volumes import MEASURED, structure_volumes, typed
from cohortvol.models import load_card, restrict, truncates
from cohortvol.tables import INGEST, SEGMENT, VOLUMES, append_rows, read_table, write_table

log = logging.getLogger(__name__)

MIN_GREY_LEVELS = 100
"""Whole grey levels that a scan must have where a profile cuts the fractions off."""

_STORAGE_FAULTS = {errno.EIO, errno.ESTALE, errno.ETIMEDOUT}


def measure_scan(
    label_map: Path, image: Path, layers: Sequence[Mapping[int, str]], **thresholds: Any
) -> pd.DataFrame:
    """Judged volumes and pair sums of one scan, read from its two files.

    Parameters
    ----------
    label_map, image : Path
        NIfTI files on one grid. A trailing axis of one volume is dropped.
    layers : sequence of mapping of int to str
        Label index to structure name for each volume of the label map; most models have one.
    **thresholds
        Passed to `judge`.

    Raises
    ------
    GeometryError
        If the two are on different grids.
    UnknownLabelError
        If a volume of the label map holds an index missing from its layer.
    """
    labels: Any = nib.load(label_map)
    scan: Any = nib.load(image)
    check_same_grid((scan.shape[:3], scan.affine), (labels.shape[:3], labels.affine))
    volumes = np.atleast_1d(_voxels(labels))
    volumes = volumes[..., None] if volumes.ndim == 3 else volumes
    if volumes.shape[3:] != (len(layers),):
        raise GeometryError(f"{len(layers)} layers in a label map of shape {labels.shape}")
    grey = _voxels(scan)
    measured = [
        structure_volumes(volumes[..., layer], labels.affine, structures, image=grey)
        for layer, structures in enumerate(layers)
    ]
    judged = judge(pd.concat(measured).sort_values("label", ignore_index=True), **thresholds)
    return pd.concat([judged, pair_sums(judged)], ignore_index=True)


def _voxels(image: Any) -> np.ndarray:
    """Voxels in their stored type, or in float64 where the header scales them."""
    voxels: np.ndarray = np.asanyarray(image.dataobj)
    return voxels.reshape(voxels.shape[:3]) if set(voxels.shape[3:]) <= {1} else voxels


def failed_scan(structures: Mapping[int, str], reason: str) -> pd.DataFrame:
    """Rows of a scan that could not be measured: every structure ``failed`` for one reason."""
    rows = [
        {"structure": structure, "label": label, "status": "failed", "reason": reason}
        | {"qc": "exclude", "qc_flags": ""}
        for label, structure in structures.items()
    ]
    columns = [*MEASURED, "status", "reason", "qc", "qc_flags"]
    failed = typed(pd.DataFrame(rows, columns=columns))
    return pd.concat([failed, pair_sums(failed)], ignore_index=True)


def run_shard(
    segment: Path,
    ingest: Path,
    model: Path,
    results: Path,
    out: Path,
    roi: Sequence[str] = (),
    **thresholds: Any,
) -> None:
    """Measure the segmented scans of one shard and write its table.

    Parameters
    ----------
    segment, ingest : Path
        The shard's tables of these stages.
    model : Path
        Model folder; its card names the labels.
    results : Path
        Results folder, to which label maps are relative.
    out : Path
        Table to write: scans in order of scan_id, structures in order of label, sums last.
    roi : sequence of str
        Structures that were segmented; all of the model's if empty.
    **thresholds
        Passed to `judge`.
    """
    card = restrict(load_card(model), roi)
    segmented = read_table(segment, SEGMENT)
    segmented = segmented[segmented["state"] == "segmented"]
    others = sorted(set(segmented["model"]) - {card.id})
    if others:
        raise ModelError(
            f"{segment}: segmented with {', '.join(others)}, not with {card.id}\n"
            f"  Pass the folder of that model with --model, or segment the shard with {card.id}."
        )
    volumes = measure_shard(
        segmented, read_table(ingest, INGEST), card.labels_by_layer, results, **thresholds
    )
    write_table(out, volumes, VOLUMES)
    n_failed = volumes.loc[volumes["status"] == "failed", "scan_id"].nunique()
    log.info("%s: %d measured, %d failed", out.stem, len(segmented) - n_failed, n_failed)


def measure_shard(
    segmented: pd.DataFrame,
    ingested: pd.DataFrame,
    layers: Sequence[Mapping[int, str]],
    results: Path,
    **thresholds: Any,
) -> pd.DataFrame:
    """Rows of the table VOLUMES for these scans; a scan that fails is rows with a reason."""
    joined = segmented.merge(
        ingested[["scan_id", "image", "intensity_min", "intensity_max"]],
        on="scan_id",
        how="left",
        validate="1:1",
    )
    tables = []
    for scan in joined.sort_values("scan_id").to_dict("records"):
        rows = _measured_or_failed(scan, layers, results, **thresholds)
        for name in ("profile", "model", "scan_id"):
            rows.insert(0, name, scan[name])
        tables.append(rows)
    if not tables:
        return append_rows([], VOLUMES)
    return pd.concat(tables, ignore_index=True)[list(VOLUMES)]


def _measured_or_failed(
    scan: dict[str, Any], layers: Sequence[Mapping[int, str]], results: Path, **thresholds: Any
) -> pd.DataFrame:
    label_map, image = results / scan["label_map"], Path(scan["image"])
    try:
        _check_unchanged(label_map, scan["label_map_sha256"], "BUG_DIVERGED")
        _check_unchanged(image, scan["image_sha256"], "SRC_CHANGED")
        codes = ["QC_FEW_GREY_LEVELS"] if _has_few_grey_levels(scan) else []
        return measure_scan(label_map, image, layers, scan_codes=codes, **thresholds)
    except MemoryError as error:
        raise TemporaryError(f"{scan['scan_id']}: not enough memory to measure it") from error
    except ScanError as error:
        reason, shown = error.reason, str(error)
    except GeometryError as error:
        reason, shown = "BUG_GRID", str(error)
    except UnknownLabelError as error:
        reason, shown = "BUG_RANGE", str(error)
    except Exception as error:
        if isinstance(error, OSError) and error.errno in _STORAGE_FAULTS:
            raise TemporaryError(
                f"{scan['scan_id']}: the storage is at fault ({error.strerror})"
            ) from error
        reason, shown = "BUG_UNEXPECTED", log_unforeseen(log, scan["scan_id"], error)
    log.warning("%s: failed with %s: %s", scan["scan_id"], reason, shown)
    structures = {label: name for layer in layers for label, name in layer.items()}
    return failed_scan(dict(sorted(structures.items())), reason)


def _has_few_grey_levels(scan: Mapping[str, Any]) -> bool:
    """Whether cutting the fractions off leaves too little of the scan for the network."""
    levels = scan["intensity_max"] - scan["intensity_min"]
    return bool(truncates(scan["profile"]) and levels < MIN_GREY_LEVELS)


def _check_unchanged(path: Path, sha256: str, reason: str) -> None:
    if not path.exists():
        raise ScanError("SRC_MISSING" if reason == "SRC_CHANGED" else reason, "it is missing")
    if sha256_of(path) != sha256:
        raise ScanError(reason, "it is not the file that was segmented")

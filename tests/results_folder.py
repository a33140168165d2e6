"""A results folder of two shards as its stages leave it, built from tables alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd

from cohortvol.store import schemas, tables
from cohortvol.store.files import commit_text

MODEL = "toy"
KEY = "0123456789abcdef"


class ResultsFolder:
    """Nine rows of a manifest, and tables of each stage for them. Change them, then `write`.

    ========  =====  =========================================================
    scan_id   shard  what becomes of it
    ========  =====  =========================================================
    sub-01    0000   done, pass
    sub-02    0000   quarantined by ingest, SRC_TRUNCATED
    sub-03    0000   done, pass: the liver is cut
    sub-04    0001   skipped by ingest, DCM_LOCALIZER
    sub-05    0001   failed in segment, RUN_GPU_OOM
    sub-06    0001   done, exclude: nothing was found
    sub-07    0001   failed in measure, BUG_GRID
    sub-08    -      quarantined by the manifest, twice, ID_DUPLICATE
    ========  =====  =========================================================
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.manifest = pd.DataFrame(
            [
                manifest_row(2, "sub-06", "0001", sex="F", age_years=61.0),
                manifest_row(3, "sub-01", "0000", sex="M", age_years=48.5),
                manifest_row(4, "sub-08", None, state="quarantined", reason="ID_DUPLICATE"),
                manifest_row(5, "sub-02", "0000"),
                manifest_row(6, "sub-03", "0000"),
                manifest_row(7, "sub-04", "0001"),
                manifest_row(8, "sub-08", None, state="quarantined", reason="ID_DUPLICATE"),
                manifest_row(9, "sub-05", "0001"),
                manifest_row(10, "sub-07", "0001"),
            ]
        )
        self.ingest = {
            "0000": [
                ingest_row("sub-01", warnings="W_SQUEEZED"),
                ingest_row("sub-02", "quarantined", "SRC_TRUNCATED", detail="10 of 90 bytes"),
                ingest_row("sub-03"),
            ],
            "0001": [
                ingest_row("sub-04", "skipped", "DCM_LOCALIZER"),
                ingest_row("sub-05"),
                ingest_row("sub-06"),
                ingest_row("sub-07"),
            ],
        }
        self.segment = {
            "0000": [segment_row("sub-01", "0000"), segment_row("sub-03", "0000")],
            "0001": [
                segment_row("sub-05", "0001", "failed", "RUN_GPU_OOM", detail="of 7.9 GB"),
                segment_row("sub-06", "0001"),
                segment_row("sub-07", "0001"),
            ],
        }
        self.measure = {
            "0000": [
                volume_row("sub-01", "liver", 1500.0),
                volume_row("sub-01", "spleen", 200.0),
                cut_row("sub-03", "liver", 900.0),
                volume_row("sub-03", "spleen", 180.0),
            ],
            "0001": [
                absent_row("sub-06", "liver"),
                absent_row("sub-06", "spleen"),
                failed_row("sub-07", "liver", "BUG_GRID"),
                failed_row("sub-07", "spleen", "BUG_GRID"),
            ],
        }

    def write(self) -> ResultsFolder:
        """Write every table that is there; a shard without rows in a dict has no table."""
        folder = self.folder
        tables.write_table(folder / "manifest/scans.parquet", self.manifest, schemas.MANIFEST)
        in_use = self.manifest["shard"].dropna().value_counts().sort_index()
        index = "".join(f"{shard}\t{n_scans}\n" for shard, n_scans in in_use.items())
        commit_text(folder / "manifest/index.tsv", "shard\tn_scans\n" + index)
        for place, shards, schema in (
            ("ingest", self.ingest, schemas.INGEST),
            (f"segment/{MODEL}", self.segment, schemas.SEGMENT),
            (f"measure/{MODEL}", self.measure, schemas.VOLUMES),
        ):
            for shard, rows in shards.items():
                frame = tables.append_rows(rows, schema)
                tables.write_table(folder / place / f"{shard}.parquet", frame, schema)
        return self

    def receipt(self, shard: str, scan_id: str, **values: Any) -> Path:
        """Write a receipt as segment does when a scan is finished."""
        path = self.folder / "segment" / MODEL / shard / f"{scan_id}.json"
        commit_text(path, json.dumps({"scan_id": scan_id, "state": "segmented"} | values))
        return path


def manifest_row(line: int, scan_id: str, shard: str | None, **values: Any) -> dict[str, Any]:
    image = f"/data/{scan_id}.nii.gz"
    return {"manifest_line": line, "scan_id": scan_id, "image": image, "shard": shard} | values


def ingest_row(
    scan_id: str, state: str = "ready", reason: str | None = None, **values: Any
) -> dict[str, Any]:
    row = {"scan_id": scan_id, "state": state, "reason": reason, "image": f"/data/{scan_id}.nii.gz"}
    if state == "ready":
        row |= {"image_sha256": f"bytes of {scan_id}", "n_i": 10, "voxel_ml": 0.012}
    return row | values


def segment_row(
    scan_id: str, shard: str, state: str = "segmented", reason: str | None = None, **values: Any
) -> dict[str, Any]:
    return {
        "scan_id": scan_id,
        "state": state,
        "reason": reason,
        "image_sha256": f"bytes of {scan_id}",
        "label_map": f"segment/{MODEL}/{shard}/{scan_id}_dseg.nii.gz",
        "model": MODEL,
        "profile": "nnunet",
        "segmentation_key": KEY,
        "cohortvol_version": "0.1.0",
        "precision": "float32",
        "attempts": 1,
        "started_utc": "2026-01-01T10:00:00.000+00:00",
        "seconds": 2.0,
    } | values


def volume_row(scan_id: str, structure: str, volume_ml: float, **values: Any) -> dict[str, Any]:
    return {
        "scan_id": scan_id,
        "model": MODEL,
        "profile": "nnunet",
        "structure": structure,
        "n_voxels": round(volume_ml / 0.012),
        "volume_ml": volume_ml,
        "status": "ok",
        "cut_by_fov": False,
        "qc": "pass",
        "qc_flags": "",
    } | values


def cut_row(scan_id: str, structure: str, volume_ml: float) -> dict[str, Any]:
    cut = {"status": "cut", "reason": "QC_TRUNCATED_FOV", "cut_by_fov": True}
    qc = {"qc": "flag", "qc_flags": "QC_TRUNCATED_FOV"}
    return volume_row(scan_id, structure, volume_ml, **cut, **qc)


def absent_row(scan_id: str, structure: str) -> dict[str, Any]:
    row = failed_row(scan_id, structure, "QC_ABSENT")
    return row | {"status": "absent", "qc_flags": "QC_ABSENT"}


def failed_row(scan_id: str, structure: str, reason: str) -> dict[str, Any]:
    return {
        "scan_id": scan_id,
        "model": MODEL,
        "profile": "nnunet",
        "structure": structure,
        "status": "failed",
        "reason": reason,
        "qc": "exclude",
        "qc_flags": "",
    }

"""A large cohort without images: the tables that ingest, segment and measure would have left."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pandas as pd

from cohortvol.anatomy.structures import EXPECTED
from cohortvol.errors import ConfigError
from cohortvol.store import schemas, tables
from cohortvol.store.files import commit_text, digest_of
from cohortvol.tools.simulate import cohort

logger = logging.getLogger(__name__)

MODEL = "simulated"
SHARD_SIZE = 4096
VOXEL_ML = 1.8 * 1.8 * 6.0 / 1000

MEASUREMENT_SD = 0.05
"""Standard deviation of the logarithm of measured over true volume."""

CUT_SHARE = 0.06
ABSENT_SHARE = 0.01
QUARANTINED_SHARE = 0.02
AGELESS_SHARE = 0.005


def run(results: Path, n: int, seed: int) -> None:
    """Write manifest, ingest, segment and measure tables of `n` subjects under `results`.

    Volumes are drawn from the planted trends, measured with noise, cut by the field of view in
    some scans and not found in a few; some scans are quarantined. `assemble`, `analyse` and
    `report` then work on them as on any cohort. Also ``planted.csv``.

    Raises
    ------
    ConfigError
        If `n` is not positive.
    """
    if n < 1:
        raise ConfigError(f"--n {n}: at least one subject is needed")
    rng = np.random.default_rng([seed, 3])
    subjects = cohort.draw_subjects(n, rng)
    truth = cohort.draw_volumes(subjects, rng)
    width = len(str(n))
    subjects.insert(0, "scan_id", [f"sub-{i + 1:0{width}d}" for i in range(n)])
    subjects["subject_id"] = subjects["scan_id"]
    subjects["shard"] = [f"{i // SHARD_SIZE:04d}" for i in range(n)]
    subjects["image"] = [f"simulated/{scan_id}.nii.gz" for scan_id in subjects["scan_id"]]
    subjects["manifest_line"] = np.arange(n) + 2
    subjects.loc[rng.random(n) < AGELESS_SHARE, "age_years"] = np.nan
    bad = rng.random(n) < QUARANTINED_SHARE
    reasons = rng.choice(["SRC_TRUNCATED", "SRC_GZIP_CORRUPT", "GEO_ZOOM_CONFLICT"], n)
    manifest = results / "manifest"
    tables.write_table(manifest / "scans.parquet", subjects, schemas.MANIFEST)
    tables.write_table(manifest / "shards.parquet", subjects[["scan_id", "shard"]], schemas.SHARDS)
    sizes = subjects["shard"].value_counts().sort_index()
    lines = ["shard\tn_scans", *(f"{shard}\t{size}" for shard, size in sizes.items())]
    commit_text(manifest / "index.tsv", "\n".join(lines) + "\n")
    key = digest_of([MODEL, seed])[:16]
    for shard, rows in subjects.groupby("shard"):
        here = rows.index.to_numpy()
        ready = rows[~bad[here]]
        _write_ingest(results / "ingest" / f"{shard}.parquet", rows, bad[here], reasons[here])
        segmented = pd.DataFrame(
            {
                "scan_id": ready["scan_id"],
                "state": "segmented",
                "model": MODEL,
                "profile": MODEL,
                "segmentation_key": key,
            }
        )
        table = results / "segment" / MODEL / f"{shard}.parquet"
        tables.write_table(table, segmented, schemas.SEGMENT)
        measured = _measured(ready["scan_id"], truth.loc[ready.index], rng)
        table = results / "measure" / MODEL / f"{shard}.parquet"
        tables.write_table(table, measured, schemas.VOLUMES)
    commit_text(results / "planted.csv", cohort.planted_slopes().to_csv(index=False))
    logger.info("%d subjects in %s", n, results)


def _write_ingest(path: Path, rows: pd.DataFrame, bad: np.ndarray, reasons: np.ndarray) -> None:
    ingest = pd.DataFrame(
        {
            "scan_id": rows["scan_id"],
            "state": np.where(bad, "quarantined", "ready"),
            "reason": pd.Series(reasons).where(bad).to_numpy(),
            "image": rows["image"],
            "n_i": 200,
            "n_j": 160,
            "n_k": 45,
            "spacing_i_mm": 1.8,
            "spacing_j_mm": 1.8,
            "spacing_k_mm": 6.0,
            "orientation": "LAS",
            "voxel_ml": VOXEL_ML,
        }
    )
    tables.write_table(path, ingest, schemas.INGEST)


def _measured(scan_ids: pd.Series, truth: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
    """Measured rows, scan by scan, of the true volumes of a shard."""
    shape = truth.shape
    voxels = truth.to_numpy() * np.exp(MEASUREMENT_SD * rng.standard_normal(shape)) / VOXEL_ML
    cut = rng.random(shape) < CUT_SHARE
    voxels[cut] *= rng.uniform(0.4, 0.95, int(cut.sum()))
    absent = rng.random(shape) < ABSENT_SHARE
    counts = np.rint(voxels)
    counts[absent] = np.nan
    flags = np.full(shape, None, dtype=object)
    flags[cut] = "QC_TRUNCATED_FOV"
    flags[absent] = "QC_ABSENT"
    reasons = flags.copy()
    flags[absent & truth.columns.isin(EXPECTED)] = "QC_ABSENT;QC_MISSING_ORGAN"
    n_scans, n_structures = shape
    return pd.DataFrame(
        {
            "scan_id": np.repeat(scan_ids.to_numpy(), n_structures),
            "model": MODEL,
            "profile": MODEL,
            "structure": np.tile(truth.columns, n_scans),
            "label": np.tile(np.arange(n_structures) + 1, n_scans),
            "n_voxels": counts.ravel(),
            "volume_ml": (counts * VOXEL_ML).ravel(),
            "status": np.where(absent, "absent", np.where(cut, "cut", "ok")).ravel(),
            "reason": reasons.ravel(),
            "cut_by_fov": (cut & ~absent).ravel(),
            "qc": np.where(absent, "exclude", np.where(cut, "flag", "pass")).ravel(),
            "qc_flags": flags.ravel(),
        }
    )

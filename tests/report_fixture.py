"""A made-up cohort on disk, analysed, for the tests of the report."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from cohortvol.stages import analyse
from cohortvol.store.schemas import SCANS, VOLUMES
from cohortvol.store.tables import write_table

STRUCTURES = {  # median at 50 years in women in mL, log sd, % per decade
    "liver": (1380.0, 0.20, -3.5),
    "spleen": (165.0, 0.36, -4.5),
    "pancreas": (66.0, 0.33, -2.8),
    "kidney_left": (146.0, 0.18, -3.1),
    "kidney_right": (142.0, 0.18, -3.1),
    "adrenal_gland_left": (3.6, 0.28, 3.0),
    "adrenal_gland_right": (2.9, 0.28, 3.0),
    "aorta": (45.0, 0.20, 9.0),
    "stomach": (250.0, 0.50, 0.0),
    "gallbladder": (17.0, 0.45, 0.0),
}
MALE_RATIO = 1.2
LEFT_OUT = [
    ("quarantined", "SRC_TRUNCATED"),
    ("quarantined", "SRC_EMPTY"),
    ("failed", "RUN_CRASHED"),
]


def make_scans(n: int, seed: int) -> pd.DataFrame:
    """Scans with age, sex, size and a state; one in sixteen did not finish, one has no sex."""
    draw = np.random.default_rng(seed)
    sex = np.where(draw.random(n) < 0.5, "F", "M").astype(object)
    scans = pd.DataFrame(
        {
            "manifest_line": np.arange(2, n + 2),
            "scan_id": [f"scan-{number:05d}" for number in range(n)],
            "state": "done",
            "reason": None,
            "qc": "pass",
            "shard": "0000",
            "age_years": np.clip(draw.normal(58, 18.5, n), 18, 95).round(1),
            "sex": sex,
            "height_cm": np.where(sex == "M", 177.0, 163.5) + draw.normal(0, 7, n),
            "weight_kg": np.exp(draw.normal(4.3, 0.17, n)),
            "sequence": np.where(draw.random(n) < 0.6, "T2w", "T1w"),
            "model": "embedded-v2",
            "profile": "default",
            "segmentation_key": "0f1e2d3c4b5a6978",
            "cohortvol_version": "0.1.0",
        }
    )
    for number, row in enumerate(range(0, n, 16)):
        scans.loc[row, ["state", "reason"]] = list(LEFT_OUT[number % len(LEFT_OUT)])
        scans.loc[row, "qc"] = None
    scans.loc[1, "sex"] = None
    return scans


def make_volumes(
    scans: pd.DataFrame, structures: dict[str, tuple[float, float, float]], seed: int
) -> pd.DataFrame:
    """One row per finished scan and structure, on the planted trend; some are cut."""
    draw = np.random.default_rng(seed + 1)
    done = scans[scans["state"] == "done"]
    decades = (done["age_years"].to_numpy() - 50) / 10
    parts = []
    for label, (structure, (median, sd, percent)) in enumerate(structures.items(), start=1):
        level = median * np.where(done["sex"] == "M", MALE_RATIO, 1.0)
        volume = level * (1 + percent / 100) ** decades * np.exp(draw.normal(0, sd, len(done)))
        cut = draw.random(len(done)) < 0.03
        parts.append(
            pd.DataFrame(
                {
                    "scan_id": done["scan_id"].to_numpy(),
                    "model": "embedded-v2",
                    "structure": structure,
                    "label": label,
                    "volume_ml": volume,
                    "status": np.where(cut, "cut", "ok"),
                    "cut_by_fov": cut,
                    "qc": "pass",
                }
            )
        )
    return pd.concat(parts, ignore_index=True)


def planted_slopes() -> pd.DataFrame:
    """The slopes the volumes were drawn with."""
    rows = [
        (structure, sex, "M1", percent)
        for structure, (_, _, percent) in STRUCTURES.items()
        for sex in ("F", "M")
    ]
    return pd.DataFrame(rows, columns=["structure", "sex", "model", "planted_pct_per_decade"])


def write_cohort(
    folder: Path,
    n: int,
    structures: dict[str, tuple[float, float, float]] | None = None,
    seed: int = 20261123,
) -> Path:
    """Write scans, volumes, planted.csv and the analyse folder of a made-up cohort of `n`."""
    structures = structures or STRUCTURES
    scans = make_scans(n, seed)
    write_table(folder / "scans.parquet", scans, SCANS)
    write_table(folder / "volumes.parquet", make_volumes(scans, structures, seed), VOLUMES)
    planted_slopes().to_csv(folder / "planted.csv", index=False)
    analyse.run(
        folder / "volumes.parquet",
        folder / "scans.parquet",
        folder / "analyse",
        bootstrap_draws=100,
    )
    return folder

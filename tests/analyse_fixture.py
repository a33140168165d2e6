"""A made-up cohort with planted trends, and an analysis of it read back."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd

from cohortvol.stages import analyse
from cohortvol.store.tables import read_table

PLANTED = {  # % per decade of age at equal height and BMI, by sex
    "liver": {"F": -3.0, "M": -6.0},
    "adrenal_gland_left": {"F": 3.0, "M": 3.0},
    "stomach": {"F": 0.0, "M": 0.0},
}
MEDIAN_ML = {"liver": 1500.0, "adrenal_gland_left": 3.6, "stomach": 250.0}


def made_up(n: int = 2000, seed: int = 11) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Volumes and scans of people whose organs follow `PLANTED`, and grow with height and BMI."""
    random = np.random.default_rng(seed)
    male = random.random(n) < 0.5
    age = random.uniform(20, 90, n).round(1)
    height = 166 - 0.11 * age + 13 * male + random.normal(0, 7, n)
    bmi = np.exp(random.normal(3.25, 0.2, n))
    scans = pd.DataFrame(
        {
            "scan_id": [f"sub-{i:05d}" for i in range(n)],
            "subject_id": [f"sub-{i:05d}" for i in range(n)],
            "state": "done",
            "age_years": age,
            "sex": np.where(male, "M", "F"),
            "height_cm": height,
            "weight_kg": bmi * (height / 100) ** 2,
            "site": np.where(np.arange(n) % 3 == 0, "A", "B"),
        }
    )
    pieces = []
    for label, (structure, planted) in enumerate(PLANTED.items(), start=1):
        slope = np.log1p(np.where(male, planted["M"], planted["F"]) / 100)
        log_volume = (
            np.log(MEDIAN_ML[structure])
            + slope * (age - 50) / 10
            + 0.1 * male
            + 1.0 * np.log(height / 170)
            + 0.4 * np.log(bmi / 26)
            + random.normal(0, 0.2, n)
        )
        volumes = scans[["scan_id"]].assign(structure=structure, label=label, status="ok")
        pieces.append(volumes.assign(volume_ml=np.exp(log_volume)))
    return pd.concat(pieces, ignore_index=True), scans


def analysed(
    folder: Path, volumes: pd.DataFrame, scans: pd.DataFrame, **settings: object
) -> dict[str, pd.DataFrame]:
    """Every table of an analysis, read back as its schema has it."""
    folder.mkdir(parents=True, exist_ok=True)
    volumes.to_csv(folder / "volumes.csv", index=False)
    scans.to_csv(folder / "scans.csv", index=False)
    analyse.run(folder / "volumes.csv", folder / "scans.csv", folder / "out", **settings)
    return {
        name.removeprefix("analyse/"): read_table(
            folder / "out" / f"{name.removeprefix('analyse/')}.parquet", columns
        )
        for name, columns in analyse.SCHEMAS.items()
    }


def record(folder: Path) -> dict:
    return json.loads((folder / "out" / "analyse.json").read_text())


def row(table: pd.DataFrame, **key: str) -> pd.Series:
    mask = np.logical_and.reduce([table[name] == value for name, value in key.items()])
    assert mask.sum() == 1, (key, int(mask.sum()))
    return table[mask].iloc[0]

"""Random cohorts through analyse and report: no exception, no empty figure, no untrue sentence.

    python benchmarks/random_cohorts.py --cohorts 200

Sizes, sexes, sites, people scanned again, columns that are lacking, ages in bands, volumes that do
not differ, effects and bends are drawn. What the first screen says of every structure is compared
with the tables; figures must hold ink and their data a row. Prints each cohort that was not right
and ends with 1 if there is any.
"""

from __future__ import annotations

import argparse
import logging
import re
import sys
import tempfile
import traceback
from html import unescape
from pathlib import Path

import numpy as np
import pandas as pd

from cohortvol.drawing import style
from cohortvol.errors import CohortvolError
from cohortvol.stages import analyse, report

ORGANS = ("liver", "spleen", "kidney_left", "kidney_right", "stomach")
LEAST_BYTES = 3000
"""Of a PNG with anything drawn in it."""


def drawn(rng: np.random.Generator) -> tuple[pd.DataFrame, pd.DataFrame, dict[str, object]]:
    """Volumes and scans, and settings of analyse."""
    n = int(rng.choice([1, 2, 5, 12, 40, 150, 450, 1500]))
    people = max(1, int(n * rng.choice([1.0, 1.0, 0.9, 0.5])))
    who = np.sort(rng.integers(0, people, n)) if people < n else np.arange(n)
    age = rng.uniform(*rng.choice([(20, 85), (40, 70), (50, 52)]), n)
    if rng.random() < 0.25:
        width = int(rng.choice([5, 10]))
        age = np.floor(age / width) * width + width / 2
    kind = rng.choice(["both", "F", "unknown", "few"], p=[0.7, 0.1, 0.1, 0.1])
    male = rng.random(people)[who] < {"both": 0.5, "F": 0, "unknown": 0.5, "few": 0.02}[kind]
    scans = pd.DataFrame({"scan_id": [f"s{i:05d}" for i in range(n)], "age_years": age})
    if kind != "unknown":
        scans["sex"] = np.where(male, "M", "F")
    if people < n:
        scans["subject_id"] = [f"p{i}" for i in who]
    if rng.random() < 0.5:
        height = 165 + 12 * male + rng.normal(0, 7, n)
        scans["height_cm"], scans["weight_kg"] = height, 25 * (height / 100) ** 2
        scans["weight_kg"] *= np.exp(rng.normal(0, 0.15, n))
    if rng.random() < 0.5:
        scans["site"] = [f"h{i}" for i in rng.integers(0, rng.choice([1, 3, 3, 30]), n)]
    if rng.random() < 0.2:
        scans["sampling_weight"] = np.exp(rng.uniform(0, 3, n))
    if rng.random() < 0.2:
        scans.loc[rng.random(n) < 0.1, "age_years"] = rng.choice([999.0, -1.0, np.nan])
    pieces = []
    for organ in ORGANS[: int(rng.integers(1, len(ORGANS) + 1))]:
        slope, bend = rng.choice([0.0, -0.05, 0.05]), rng.choice([0.0, 0.0, -0.08])
        decades = (age - 55) / 10
        log_ml = 5 + slope * decades + bend * decades**2 + 0.2 * rng.standard_normal(n)
        if rng.random() < 0.1:
            log_ml = np.full(n, 5.0)
        if rng.random() < 0.3:
            log_ml[rng.random(n) < 0.03] -= 2
        kept = rng.random(n) < rng.choice([1.0, 0.8, 0.05])
        table = pd.DataFrame(
            {"scan_id": scans["scan_id"], "structure": organ, "volume_ml": np.exp(log_ml)}
        )
        if rng.random() < 0.6:
            table["status"] = np.where(rng.random(n) < 0.1, "cut", "ok")
        pieces.append(table[kept])
    volumes = pd.concat(pieces, ignore_index=True)
    if "status" in volumes:
        volumes["status"] = volumes["status"].fillna("ok")
    settings = {"bootstrap_draws": 100, "min_n_rescanned": int(rng.choice([20, 200]))}
    return volumes, scans, settings


def untrue(folder: Path, page: str) -> list[str]:
    """What the first screen says that the tables do not."""
    slopes = pd.read_csv(folder / "a" / "slopes.csv")
    pooled = slopes[(slopes["sex"] == "all") & slopes["slope_pct_per_decade"].notna()]
    if "What changes with age" not in page:  # all too small for an answer
        return []
    if pooled.empty:
        return ["an answer without a slope"]
    pooled = pooled[pooled["model"] == pooled["model"].max()].set_index("structure")
    bends = pd.read_csv(folder / "a" / "nonlinearity.csv")
    wrong, shown = [], set()
    for kind in ("smaller", "larger", "bends", "unclear", "untested", "control"):
        body = re.search(f'<tbody class="{kind}">(.*?)</tbody>', page, re.DOTALL)
        names = re.findall(r'<th scope="row">([^<]*)</th>', body[1]) if body else []
        for structure, row in pooled.iterrows():
            if style.display_name(str(structure)) not in map(unescape, names):
                continue
            shown.add(structure)
            clear, q_values = (
                row["q_value"] < 0.05,
                bends["q_value"][bends["structure"] == structure],
            )
            true = {
                "smaller": clear and row["slope_pct_per_decade"] < 0,
                "larger": clear and row["slope_pct_per_decade"] > 0,
                "bends": not clear and (q_values < 0.05).any(),
                "unclear": not clear and q_values.notna().any() and not (q_values < 0.05).any(),
                "untested": not clear and q_values.isna().all(),
                "control": True,
            }[kind]
            if not true:
                wrong.append(f"{structure} stands under {kind}")
    return wrong + [
        f"{structure} is not shown" for structure in pooled.index if structure not in shown
    ]


def tried(seed: int, folder: Path) -> list[str]:
    """What is wrong with the page of one cohort."""
    volumes, scans, settings = drawn(np.random.default_rng(seed))
    volumes.to_csv(folder / "v.csv", index=False)
    scans.to_csv(folder / "s.csv", index=False)
    try:
        analyse.run(folder / "v.csv", folder / "s.csv", folder / "a", **settings)
        page = report.run(folder / "a", folder / "v.csv", folder / "s.csv", folder / "r")
    except CohortvolError as error:
        empty = volumes.empty and "no" in str(error)
        return [] if empty else [f"refused: {error}"]
    except Exception:
        return [traceback.format_exc(limit=-3)]
    wrong = untrue(folder, page.read_text(encoding="utf-8"))
    for picture in (folder / "r" / "figures").glob("*.png"):
        if picture.stat().st_size < LEAST_BYTES:
            wrong.append(f"{picture.name} is empty")
        if pd.read_csv(picture.with_suffix(".csv")).empty:
            wrong.append(f"{picture.name} has no data")
    return wrong


def main() -> int:
    """Try them, one after the other."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--cohorts", type=int, default=200)
    parser.add_argument("--first", type=int, default=0, help="seed of the first")
    options = parser.parse_args()
    logging.disable()
    bad = 0
    for seed in range(options.first, options.first + options.cohorts):
        with tempfile.TemporaryDirectory() as folder:
            wrong = tried(seed, Path(folder))
        bad += bool(wrong)
        for line in wrong:
            print(f"seed {seed}: {line}", flush=True)
    print(f"{options.cohorts} cohorts, {bad} not right")
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())

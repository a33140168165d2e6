"""How many volumes of clean cohorts are called far outside, and how many remnants are found.

    python benchmarks/suspected.py --scans 20000

Cohorts of the 10 structures of a simulated abdomen and of 60, 300 and 2,000 people, ln(volume) with
residuals that are normal, of heavy tails (t of 8 and of 5 degrees of freedom) or skewed, sides of a
pair correlated by 0.8. Then 1 % of the people are given one of: a remnant of a kidney (1 to 40 mL,
the other 1.3 times as large), both kidneys polycystic (3 to 10 times), what a splenectomy leaves
(1 to 15 mL), or a liver of which a resection left a third to two thirds. Prints false alarms in a
thousand clean scans, and which share of each kind is found.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pandas as pd

from cohortvol.stages.analyse.cohort import usable
from cohortvol.stages.analyse.cohort.usable import Cohort
from cohortvol.stages.analyse.robustness.suspected import suspected

STRUCTURES = {  # median at 50 years in mL, SD of the logarithm
    "liver": (1450, 0.20),
    "spleen": (180, 0.36),
    "pancreas": (70, 0.30),
    "kidney_left": (155, 0.18),
    "kidney_right": (150, 0.18),
    "adrenal_gland_left": (3.8, 0.28),
    "adrenal_gland_right": (3.1, 0.28),
    "aorta": (48, 0.20),
    "stomach": (250, 0.50),
    "gallbladder": (20, 0.55),
}
PAIRS = ((3, 4), (5, 6))
SIDES_TOGETHER = 0.8
SIZES = (60, 300, 2000)
SHARE = 0.01


def skewed(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """The logarithm of a gamma variate of shape 4: long to the left."""
    return (np.log(rng.gamma(4, size=shape)) - 1.256) / 0.5327


NOISE: dict[str, Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]] = {
    "normal": lambda rng, shape: rng.standard_normal(shape),
    "t of 8": lambda rng, shape: rng.standard_t(8, shape) / np.sqrt(8 / 6),
    "t of 5": lambda rng, shape: rng.standard_t(5, shape) / np.sqrt(5 / 3),
    "skewed": skewed,
}
Ill = Callable[[np.random.Generator, np.ndarray, np.ndarray], None]


def one_kidney(rng: np.random.Generator, volume_ml: np.ndarray, who: np.ndarray) -> None:
    volume_ml[who, 3] = rng.uniform(1, 40, len(who))
    volume_ml[who, 4] *= 1.3


def polycystic(rng: np.random.Generator, volume_ml: np.ndarray, who: np.ndarray) -> None:
    volume_ml[np.ix_(who, [3, 4])] *= rng.uniform(3, 10, (len(who), 2))


def splenectomy(rng: np.random.Generator, volume_ml: np.ndarray, who: np.ndarray) -> None:
    volume_ml[who, 1] = rng.uniform(1, 15, len(who))


def hepatectomy(rng: np.random.Generator, volume_ml: np.ndarray, who: np.ndarray) -> None:
    volume_ml[who, 0] *= rng.uniform(1 / 3, 2 / 3, len(who))


ILL: dict[str, tuple[Ill, int]] = {
    "one kidney": (one_kidney, 3),
    "polycystic kidneys": (polycystic, 3),
    "after splenectomy": (splenectomy, 1),
    "after hepatectomy": (hepatectomy, 0),
}
"""How they are made, and the structure that must be found."""


def people(n: int, rng: np.random.Generator) -> Cohort:
    """A cohort whose volumes are put in later."""
    ids = [f"s{i:06d}" for i in range(n)]
    sex = np.where(np.arange(n) % 2, "F", "M")
    scans = pd.DataFrame({"scan_id": ids, "age_years": rng.uniform(20, 85, n), "sex": sex})
    volumes = pd.DataFrame({"scan_id": np.repeat(ids, len(STRUCTURES)), "volume_ml": 1.0})
    volumes["structure"] = np.tile(list(STRUCTURES), n)
    volumes["label"] = np.tile(np.arange(len(STRUCTURES)), n)
    return usable.build(volumes.assign(status="ok"), scans)


def draw(cohort: Cohort, rng: np.random.Generator, noise: str) -> np.ndarray:
    """(scans, structures) of mL."""
    age = cohort.scans["age_years"].to_numpy()[:, None]
    male = cohort.of_sex("M")[:, None]
    medians, sds = np.array(list(STRUCTURES.values())).T
    residual = NOISE[noise](rng, (len(age), len(STRUCTURES)))
    for left, right in PAIRS:
        alone = np.sqrt(1 - SIDES_TOGETHER**2)
        residual[:, right] = SIDES_TOGETHER * residual[:, left] + alone * residual[:, right]
    return np.asarray(medians * np.exp(-0.003 * (age - 50) + 0.15 * male + sds * residual))


def main() -> None:
    """Draw, look and count."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--scans", type=int, default=20000, help="of each kind of cohort")
    options = parser.parse_args()
    logging.disable()
    print("noise    n      false alarms in 1,000 scans   found, %: " + ", ".join(ILL))
    for noise in NOISE:
        for n in SIZES:
            rng = np.random.default_rng([n, len(noise)])
            cohort = people(n, rng)
            alarms, draws = 0, max(options.scans // n, 1)
            found = dict.fromkeys(ILL, 0)
            planted = max(int(SHARE * n), 1)
            for draw_of in range(draws):
                volume_ml = draw(cohort, rng, noise)
                _, listed = suspected(replace(cohort, volume_ml=volume_ml))
                alarms += listed["scan_id"].nunique() if len(listed) else 0
                if draw_of % 10:
                    continue
                for name, (make, structure) in ILL.items():
                    ill, who = volume_ml.copy(), rng.choice(n, planted, replace=False)
                    make(rng, ill, who)
                    _, listed = suspected(replace(cohort, volume_ml=ill))
                    if len(listed):
                        seen = listed[listed["structure"] == cohort.structures[structure]]
                        ids = cohort.scans["scan_id"].to_numpy()[who]
                        found[name] += int(np.isin(ids, seen["scan_id"]).sum())
            of = planted * -(-draws // 10)
            shares = "  ".join(f"{100 * found[name] / of:5.1f}" for name in ILL)
            print(f"{noise:8} {n:5}  {1000 * alarms / (draws * n):8.2f}   {shares}", flush=True)


if __name__ == "__main__":
    main()

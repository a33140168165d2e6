"""Centiles on simulated cohorts: how far from the truth, and how often a new person lies below.

The truth is that of `cohortvol simulate`: 15 structures, both sexes, medians that bend at 50 and
change with the height and BMI of the age, and a log-normal spread of which the outer 0.3 % is cut.
Error and calibration are taken at whole years between the 1st and 99th percentile of age, weighted
by the people there; calibration is the mean over each of four age bands.

    python benchmarks/centile_calibration.py --cohorts 20
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import pandas as pd

from cohortvol.stages.analyse.fits.centile_choice import People, choose
from cohortvol.stages.analyse.fits.regression import natural_spline
from cohortvol.tools.simulate import cohort

CENTILES = (5, 25, 50, 75, 95)
BANDS = 4


class Truth:
    """Distribution of every structure by age and sex, from a very large simulated cohort."""

    def __init__(self, n: int) -> None:
        random = np.random.default_rng(0)
        subjects = cohort.draw_subjects(n, random)
        self.volumes = cohort.draw_volumes(subjects, random)
        self.sex = subjects["sex"].to_numpy()
        self.age = subjects["age_years"].to_numpy()

    def near(self, structure: str, sex: str, years: np.ndarray) -> list[np.ndarray]:
        """Volumes, sorted, of people within half a year of each age."""
        mine = self.sex == sex
        order = np.argsort(self.age[mine], kind="stable")
        ages = self.age[mine][order]
        volumes = self.volumes[structure].to_numpy()[mine][order]
        low, high = np.searchsorted(ages, years - 0.5), np.searchsorted(ages, years + 0.5)
        return [np.sort(volumes[a:b]) for a, b in zip(low, high, strict=True)]


def smoothed(years: np.ndarray, volume_ml: list[float], people: list[int]) -> np.ndarray:
    """Centiles of single years of age, each of some thousand people, without sampling noise."""
    knots = np.unique([years[0], *np.arange(26, years[-1] - 3, 8), years[-1]])
    basis = np.column_stack([np.ones(len(years)), natural_spline(years, knots)])
    root = np.sqrt(people)[:, None]
    fitted = np.linalg.lstsq(basis * root, np.log(volume_ml) * root[:, 0], rcond=None)[0]
    return np.exp(basis @ fitted)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--cohorts", type=int, default=20)
    parser.add_argument("--n", type=int, nargs="+", default=[8672, 500])
    parser.add_argument("--truth", type=int, default=1_000_000, help="people that stand for truth")
    parser.add_argument("--structures", type=int, default=15)
    settings = parser.parse_args()
    truth = Truth(settings.truth)
    structures = list(truth.volumes.columns)[: settings.structures]
    years = {
        sex: np.arange(*np.ceil(np.percentile(truth.age[truth.sex == sex], [1, 99])))
        for sex in ("F", "M")
    }
    known = {
        (structure, sex): truth.near(structure, sex, years[sex])
        for structure in structures
        for sex in ("F", "M")
    }
    smooth = {
        (*key, c): smoothed(years[key[1]], [np.percentile(v, c) for v in at], [len(v) for v in at])
        for key, at in known.items()
        for c in CENTILES
    }
    for n in settings.n:
        rows, seconds = [], []
        for seed in range(settings.cohorts):
            random = np.random.default_rng([seed, n])
            people = cohort.draw_subjects(n, random)
            volumes = cohort.draw_volumes(people, random)
            for (structure, sex), at in known.items():
                mine = (people["sex"] == sex).to_numpy()
                began = time.perf_counter()
                ages = people["age_years"].to_numpy()[mine]
                fitted = choose(People(ages, volumes[structure].to_numpy()[mine]))
                seconds.append(time.perf_counter() - began)
                weights = np.array([len(v) for v in at], dtype=float)
                band = np.minimum(
                    BANDS * (np.cumsum(weights) - weights / 2) / weights.sum(), BANDS - 1
                ).astype(int)
                for c in CENTILES:
                    found = fitted.centile_ml(years[sex], c)
                    right = smooth[structure, sex, c]
                    below = np.array(
                        [np.searchsorted(v, f) / len(v) for v, f in zip(at, found, strict=True)]
                    )
                    squared = np.average((found / right - 1) ** 2, weights=weights)
                    off = np.bincount(band, weights * (100 * below - c)) / np.bincount(
                        band, weights
                    )
                    key = {"structure": structure, "sex": sex, "centile": c, "squared": squared}
                    rows += [{**key, "band": k, "off": value} for k, value in enumerate(off)]
        table = pd.DataFrame(rows)
        by_cell = table.groupby(["structure", "sex", "centile", "band"])["off"].mean()
        by_cohort = table.groupby("centile")["off"].agg(lambda off: np.sqrt(np.mean(off**2)))
        rmse = 100 * np.sqrt(table.groupby(["centile", "structure"])["squared"].mean())
        print(f"n = {n}, {settings.cohorts} cohorts, {1000 * np.median(seconds):.1f} ms per fit")
        for c in CENTILES:
            print(
                f"  centile {c:2d}: RMSE {rmse[c].min():.1f} to {rmse[c].max():.1f} % by "
                f"structure, median {rmse[c].median():.1f} %; "
                f"off by {by_cohort[c]:.2f} points in one cohort (RMS over bands), "
                f"at most {by_cell.xs(c, level='centile').abs().max():.2f} in the mean of cohorts"
            )


if __name__ == "__main__":
    main()

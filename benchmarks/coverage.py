"""How often 95 % intervals hold the truth, and how many discoveries are false.

Over simulated cohorts. Ages, sexes and which scans each structure lacks are drawn once; volumes
are drawn anew for every cohort, with noise that grows with age and differs between the sexes. Every
cohort is fitted by the core of `analyse` (M1, HC3). False discoveries of correlated structures come
in clusters, so that their share needs more cohorts than coverage does; its standard error is
printed. Exit code 1 if a gate is not passed.
"""

from __future__ import annotations

import argparse
import os
import sys
import time

os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"

import numpy as np
from scipy import stats

from cohortvol.stages.analyse.cohort.groups import LOG, ML
from cohortvol.stages.analyse.fits.batch import fit_many
from cohortvol.stages.analyse.fits.regression import (
    false_discovery_rate,
    false_discovery_rate_of_any_dependence,
)

MISSING = 0.03
FDR = 0.05
POOLED, EACH, MOST_BIAS, MOST_FALSE = (0.945, 0.955), (0.918, 0.982), 0.03, 0.030


class Population:
    """Fixed ages, sexes and missing scans; planted slopes of every structure and sex."""

    def __init__(self, n: int, structures: int, random: np.random.Generator) -> None:
        self.n, self.structures = n, structures
        age = stats.truncnorm.rvs(
            (18 - 58) / 18.5, (95 - 58) / 18.5, 58, 18.5, size=n, random_state=random
        )
        self.decades = (age - 50) / 10
        self.male = (random.random(n) < 0.5).astype(float)
        self.design = np.column_stack(
            [np.ones(n), self.decades, self.male, self.decades * self.male]
        )
        self.given = random.random((n, structures)) >= MISSING
        self.slopes = np.log1p(random.uniform(-0.07, 0.07, (2, structures)))  # F, M
        level = np.log(random.uniform(3, 1500, structures))
        self.mean = (
            level
            + 0.15 * self.male[:, None]
            + np.where(
                self.male[:, None] == 1,
                self.slopes[1] * self.decades[:, None],
                self.slopes[0] * self.decades[:, None],
            )
        )
        self.sd = (0.18 + 0.03 * self.male) * np.exp(0.08 * self.decades)

    def ml_truth(self) -> np.ndarray:
        """(2, structures): what the mL model estimates, the projection of the expected volume."""
        expected = np.exp(self.mean + self.sd[:, None] ** 2 / 2)
        expected[~self.given] = np.nan
        fits = fit_many(self.design, expected)
        slopes = np.array([f.coefficients[[1, 3], 0] for f in fits]).T
        return np.stack([slopes[0], slopes[0] + slopes[1]])


def slopes_of(fits: list, kind: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Estimates and errors of F and M, (2, structures), and degrees of freedom."""
    b = np.array([f.coefficients[:, kind] for f in fits])
    v = np.array([f.covariance[kind] for f in fits])
    estimates = np.stack([b[:, 1], b[:, 1] + b[:, 3]])
    variances = np.stack([v[:, 1, 1], v[:, 1, 1] + v[:, 3, 3] + 2 * v[:, 1, 3]])
    return estimates, np.sqrt(variances), np.array([f.degrees_of_freedom for f in fits])


def coverage(people: Population, cohorts: int, random: np.random.Generator) -> bool:
    truth = {LOG: people.slopes, ML: people.ml_truth()}
    held = {kind: np.zeros((2, people.structures)) for kind in truth}
    total = np.zeros((2, people.structures))
    for _ in range(cohorts):
        y = people.mean + people.sd[:, None] * random.standard_normal(people.mean.shape)
        y[~people.given] = np.nan
        fits = fit_many(people.design, np.stack([y, np.exp(y)], axis=2))
        for kind in truth:
            estimate, se, freedom = slopes_of(fits, kind)
            half = stats.t.ppf(0.975, freedom) * se
            held[kind] += np.abs(estimate - truth[kind]) <= half
            if kind == LOG:
                total += estimate
    bias = 100 * (np.expm1(total / cohorts) - np.expm1(people.slopes))
    good = bool(np.abs(bias.mean(axis=1)).max() < MOST_BIAS)
    for kind, name in ((LOG, "% per decade"), (ML, "mL per decade")):
        for sex, share in zip("FM", held[kind] / cohorts, strict=True):
            inside = EACH[0] <= share.min() and share.max() <= EACH[1]
            passed = POOLED[0] <= share.mean() <= POOLED[1] and inside
            good &= passed
            print(
                f"{name}, {sex}: pooled {share.mean():.4f}, "
                f"of one structure {share.min():.3f} to {share.max():.3f} "
                f"{'' if passed else 'GATE NOT PASSED'}"
            )
    mean = ", ".join(f"{sex} {b:+.4f}" for sex, b in zip("FM", bias.mean(axis=1), strict=True))
    print(f"bias, % per decade: {mean}; of one structure at most {np.abs(bias).max():.4f}")
    return good


def discoveries(
    people: Population, cohorts: int, correlation: float, random: np.random.Generator
) -> bool:
    """Half of the structures have no slope; the rest one that is found about half the time."""
    null = np.arange(people.structures) % 2 == 0
    slope = np.where(null, 0.0, 0.006)
    rules = {
        "uncorrected": lambda p: p,
        "Benjamini-Hochberg": false_discovery_rate,
        "Benjamini-Yekutieli": false_discovery_rate_of_any_dependence,
    }
    false: dict[str, list[float]] = {name: [] for name in rules}
    power = 0.0
    for _ in range(cohorts):
        shared = random.standard_normal((people.n, 1))
        noise = random.standard_normal((people.n, people.structures))
        noise = np.sqrt(correlation) * shared + np.sqrt(1 - correlation) * noise
        y = slope * people.decades[:, None] + people.sd[:, None] * noise
        y[~people.given] = np.nan
        estimate, se, freedom = slopes_of(fit_many(people.design, y), LOG)
        p_values = 2 * stats.t.sf(np.abs(estimate[0] / se[0]), freedom)
        for name, rule in rules.items():
            found = rule(p_values) < FDR
            false[name].append((found & null).sum() / max(found.sum(), 1))
            if name == "Benjamini-Hochberg":
                power += found[~null].mean()
    told = ", ".join(
        f"{name} {np.mean(shares):.4f} ± {np.std(shares) / np.sqrt(cohorts):.4f}"
        for name, shares in false.items()
    )
    print(f"false discoveries at correlation {correlation:g}: {told}; found {power / cohorts:.2f}")
    return bool(np.mean(false["Benjamini-Hochberg"]) <= MOST_FALSE)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cohorts", type=int, default=500)
    parser.add_argument("--discoveries", type=int, default=2000, help="cohorts per correlation")
    parser.add_argument("--n", type=int, default=8672)
    parser.add_argument("--structures", type=int, default=80)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    random = np.random.default_rng(args.seed)
    people = Population(args.n, args.structures, random)
    start = time.process_time()
    passed = coverage(people, args.cohorts, random)
    print(f"{args.cohorts} cohorts in {time.process_time() - start:.0f} s of CPU")
    for correlation in (0.0, 0.5):
        passed &= discoveries(people, args.discoveries, correlation, random)
    print(f"{time.process_time() - start:.0f} s of CPU in all; gates", end=" ")
    print("passed" if passed else "NOT PASSED")
    sys.exit(not passed)


if __name__ == "__main__":
    main()

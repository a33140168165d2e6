"""Seconds of CPU and memory of M1 to M3 over many structures, against statsmodels formulas.

Each structure lacks 5 % of the scans, its own. Both ways give coefficients and HC3 errors of every
structure and model; the largest relative difference of the two is printed. One thread.
"""

from __future__ import annotations

import argparse
import os
import resource
import time

os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"

import numpy as np
import pandas as pd
import statsmodels.formula.api as smf

from cohortvol.stages.analyse.fits.batch import fit_many
from cohortvol.stages.analyse.fits.regression import natural_spline

STRUCTURES_AT_ONCE = 20
SITES, SEQUENCES = 4, 2
SIZE = " + ln_height + ln_bmi"
FIXED = " + C(site) + C(sequence)"
BENDS = " + ".join(f"bend{i}" for i in range(3))
FORMULAS = {
    "M1": "y ~ a * male",
    "M2": f"y ~ a * male{SIZE}{FIXED}",
    "M3": f"y ~ (a + {BENDS}) * male{SIZE}{FIXED}",
}


def cohort(n: int, seed: int) -> pd.DataFrame:
    """Age in decades from 50, spline bends, sex, log height and BMI, site, sequence."""
    random = np.random.default_rng(seed)
    decades = (np.clip(random.normal(58, 18.5, n), 18, 95) - 50) / 10
    spline = natural_spline(decades, np.percentile(decades, [5, 27.5, 50, 72.5, 95]))
    male = (random.random(n) < 0.5).astype(float)
    return pd.DataFrame(
        {
            "a": decades,
            **{f"bend{i}": spline[:, i + 1] for i in range(3)},
            "male": male,
            "ln_height": np.log(166 + 13 * male + random.normal(0, 7, n)),
            "ln_bmi": random.normal(3.4, 0.2, n),
            "site": random.integers(0, SITES, n),
            "sequence": random.integers(0, SEQUENCES, n),
        }
    )


def design_of(frame: pd.DataFrame, model: str) -> np.ndarray:
    """The columns of one model, in no order that matters."""
    age = ["a", "bend0", "bend1", "bend2"] if model == "M3" else ["a"]
    columns = [np.ones(len(frame)), *frame[age].to_numpy().T, frame["male"].to_numpy()]
    columns += [frame[name].to_numpy() * frame["male"].to_numpy() for name in age]
    if model != "M1":
        columns += [frame[name].to_numpy() for name in ("ln_height", "ln_bmi")]
        columns += [(frame["site"] == site).to_numpy(float) for site in range(1, SITES)]
        columns += [(frame["sequence"] == kind).to_numpy(float) for kind in range(1, SEQUENCES)]
    return np.column_stack(columns)


def ours(frame: pd.DataFrame, volumes: np.ndarray) -> dict[str, np.ndarray]:
    """(structures, 2) of each model: slope of women and its HC3 error."""
    found = {}
    for model in FORMULAS:
        design = design_of(frame, model)
        fits = []
        for start in range(0, volumes.shape[1], STRUCTURES_AT_ONCE):
            fits += fit_many(design, volumes[:, start : start + STRUCTURES_AT_ONCE])
        found[model] = np.array(
            [[f.coefficients[1, 0], np.sqrt(f.covariance[0, 1, 1])] for f in fits]
        )
    return found


def theirs(frame: pd.DataFrame, volumes: np.ndarray) -> dict[str, np.ndarray]:
    """The same from statsmodels formulas."""
    found: dict[str, list[tuple[float, float]]] = {model: [] for model in FORMULAS}
    for k in range(volumes.shape[1]):
        data = frame.assign(y=volumes[:, k])
        for model, formula in FORMULAS.items():
            fitted = smf.ols(formula, data, missing="drop").fit(cov_type="HC3")
            found[model].append((fitted.params["a"], fitted.bse["a"]))
    return {model: np.array(rows) for model, rows in found.items()}


def peak_mib() -> float:
    """Greatest memory of this process so far, MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=100_000)
    parser.add_argument("--structures", type=int, default=80)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()

    frame = cohort(args.n, args.seed)
    random = np.random.default_rng(args.seed + 1)
    volumes = random.normal(size=(args.n, args.structures))
    volumes += 5 - 0.04 * frame[["a"]].to_numpy() + frame[["ln_height"]].to_numpy()
    volumes[random.random(volumes.shape) < 0.05] = np.nan
    print(f"{args.n:,} scans, {args.structures} structures, columns of M1, M2, M3: ", end="")
    print(", ".join(str(design_of(frame[:2], model).shape[1]) for model in FORMULAS))
    before = peak_mib()

    seconds = []
    for _ in range(3):
        start = time.process_time()
        fast = ours(frame, volumes)
        seconds.append(time.process_time() - start)
    memory = peak_mib()
    print(f"cohortvol    {min(seconds):.2f} s of CPU, best of 3 ({max(seconds):.2f} s worst)")
    print(f"             peak {memory:.0f} MiB, of which {before:.0f} MiB stood before")
    start = time.process_time()
    slow = theirs(frame, volumes)
    reference = time.process_time() - start
    print(f"statsmodels  {reference:.2f} s of CPU, formula, missing='drop', HC3, one pass")
    ratio, least = reference / min(seconds), reference / max(seconds)
    print(f"ratio        {ratio:.0f} (of the worst pass {least:.0f})")
    apart = max(float(np.abs(fast[model] / slow[model] - 1).max()) for model in FORMULAS)
    print(f"largest relative difference of slopes and errors {apart:.1e}")


if __name__ == "__main__":
    main()

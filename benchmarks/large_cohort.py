"""Seconds, processor time and memory of assemble, analyse and report of a large simulated cohort.

    python benchmarks/large_cohort.py --scans 100000 --structures 80 --out /tmp/large

The tables that measure would have left are drawn once (`cohortvol simulate population`, its
structures repeated under further names) and kept in --out; each stage then runs as a command of
its own. With --commit another state of the code runs on the same tables beside this one, and the
largest relative difference of each analysed table is printed.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from unittest import mock

import numpy as np
import pandas as pd

from cohortvol.tools.simulate import cohort, population
from process_meter import measured
from two_commits import REPOSITORY, unpack

STAGES = ("assemble", "analyse", "report")


def drawn(results: Path, scans: int, structures: int) -> None:
    """The tables of manifest, ingest, segment and measure, unless they are there."""
    if (results / "planted.csv").exists():
        return
    known = cohort.draw_volumes

    def repeated(subjects: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
        truth = known(subjects, rng)
        copies = -(-structures // truth.shape[1])
        named = [truth, *(truth.add_suffix(f"_{copy + 1}") for copy in range(1, copies))]
        return pd.concat(named, axis=1).iloc[:, :structures]

    with mock.patch.object(cohort, "draw_volumes", repeated):
        population.run(results, scans, seed=1)


def commands(results: Path, model: str) -> dict[str, list[str]]:
    """What each stage is called as."""
    tables = [f"--volumes={results}/volumes.parquet", f"--scans={results}/scans.parquet"]
    analyse, report = f"{results}/analyse", f"{results}/report"
    return {
        "assemble": ["assemble", f"--results={results}", f"--model={model}"],
        "analyse": ["analyse", *tables, f"--out={analyse}"],
        "report": ["report", f"--analyse={analyse}", *tables, f"--out={report}"],
    }


def furthest(mine: Path, other: Path) -> float:
    """Largest relative difference of the numbers of two tables; infinite where others differ."""
    one, two = pd.read_parquet(mine), pd.read_parquet(other)
    if one.shape != two.shape:
        return np.inf
    apart = 0.0
    for name in one:
        if not pd.api.types.is_float_dtype(one[name]):
            apart = apart if one[name].equals(two[name]) else np.inf
            continue
        a, b = one[name].to_numpy(dtype=float), two[name].to_numpy(dtype=float)
        if (np.isnan(a) != np.isnan(b)).any():
            return np.inf
        scale = np.maximum(np.abs(a), np.abs(b))
        with np.errstate(invalid="ignore"):
            apart = max(apart, float(np.nanmax(np.abs(a - b) / scale, initial=0.0)))
    return apart


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scans", type=int, default=100_000)
    parser.add_argument("--structures", type=int, default=80)
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=STAGES)
    parser.add_argument("--threads", type=int, default=1, help="of analyse, by this code")
    parser.add_argument("--commit", help="code to run beside this one")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    results = args.out / f"{args.scans}x{args.structures}"
    drawn(results, args.scans, args.structures)
    codes = {"this": REPOSITORY}
    if args.commit:
        codes[args.commit] = args.out / args.commit
        unpack(args.commit, codes[args.commit])
    print("stage      code        wall s    CPU s   peak MB")
    for stage in args.stages:
        for name, code in codes.items():
            program = str(Path(sys.executable).with_name("cohortvol"))
            command = [program, *commands(results, population.MODEL)[stage]]
            if stage == "analyse" and name == "this":
                command.append(f"--threads={args.threads}")
            environment = os.environ | {"PYTHONPATH": str(code / "src"), "OMP_NUM_THREADS": "1"}
            took = measured(command, environment, args.out / f"{stage}-{name}.log")
            print(
                f"{stage:10} {name:10} {took['wall_s']:7.1f} {took['cpu_s']:8.1f}"
                f" {took['peak_mb']:9.0f}",
                flush=True,
            )
            if stage == "analyse" and args.commit:
                (results / stage).rename(results / f"{stage}-{name}")
        if stage == "analyse" and args.commit:
            for table in sorted((results / "analyse-this").glob("*.parquet")):
                apart = furthest(table, results / f"analyse-{args.commit}" / table.name)
                print(f"  {table.stem:20} {apart:.1e}")
            (results / "analyse-this").rename(results / "analyse")


if __name__ == "__main__":
    main()

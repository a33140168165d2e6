"""The demo by the oldest and by the newest packages that pyproject.toml allows, file by file.

    python benchmarks/versions.py --out results/versions

Makes an environment of each (minutes, downloads), runs the same simulated scans and the same
tables of 8,672 people through both, and says what differs. The packages compared are those that
decide numbers, bytes and pixels; of the others pip takes what fits. Ends with 1 where a label map
differs, or a table that is no result of `analyse` by more than the last digit of a number.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tomllib
from collections import defaultdict
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from matplotlib.image import imread
from packaging.requirements import Requirement

REPOSITORY = Path(__file__).resolve().parents[1]
DECIDING = ("matplotlib", "nibabel", "numpy", "pandas", "pyarrow", "scipy", "statsmodels")
WRITER = re.compile(rb"parquet-cpp-arrow version \d+\.\d+\.\d+")
DRAWN = (".pdf", ".svg", ".html")
SAME, NAMED, OTHER = "equal", "equal but for the writer's name", "differ"
KEPT = ("label maps", "tables before analyse")
LAST_DIGIT = 1e-14
"""Relative difference that another order of adding up may make."""
OF_SOFTMAX = dict.fromkeys(("volume_expected_ml", "volume_low_ml", "volume_high_ml"), 2e-5)
"""What the sixth decimal of a sum of single-precision probabilities may make of a volume."""


def main() -> None:
    """Print one line per kind of file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("results/versions"))
    parser.add_argument("--n", type=int, default=48, help="simulated scans")
    parser.add_argument("--people", type=int, default=8672, help="people of the tables alone")
    parser.add_argument("--cores", type=int, default=2)
    options = parser.parse_args()
    here = options.out.resolve()
    ours = Path(sys.executable).parent
    call(ours, "simulate", "--out", here / "scans", "--n", options.n, "--seed", 1, "--broken")
    call(ours, "simulate", "--tables-only", "--n", options.people, "--results", here / "people")
    for which, bound in (("oldest", ">="), ("newest", "<")):
        packages = environment(here / which / "venv", bound)
        print(f"{which}: {', '.join(packages)}", flush=True)
        run(here / which / "venv" / "bin", here, here / which / "results", options.cores)
    differs = compare(here / "oldest" / "results", here / "newest" / "results")
    sys.exit(1 if differs else 0)


def environment(venv: Path, bound: str) -> list[str]:
    """An environment of the lowest versions allowed, or below the highest; what is in it."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    asked = {r.name: r for r in map(Requirement, project["dependencies"]) if r.name in DECIDING}
    ends = {
        name: next(clause.version for clause in requirement.specifier if clause.operator == bound)
        for name, requirement in asked.items()
    }
    exact = "==" if bound == ">=" else "<"
    lines = [f"{name}{exact}{version}" for name, version in ends.items()]
    torch = re.search(r"^torch==.*$", (REPOSITORY / "constraints.txt").read_text(), re.M)
    venv.parent.mkdir(parents=True, exist_ok=True)
    constraints = venv.with_suffix(".txt")
    constraints.write_text("\n".join([*lines, torch.group() if torch else ""]) + "\n")
    if not (venv / "bin" / "cohortvol").exists():
        subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
        install = ["-m", "pip", "install", "--quiet", "-c", str(constraints), "-e", str(REPOSITORY)]
        subprocess.run([str(venv / "bin" / "python"), *install], check=True)
    freeze = [str(venv / "bin" / "python"), "-m", "pip", "list", "--format", "freeze"]
    found = subprocess.run(freeze, check=True, capture_output=True, text=True).stdout.split()
    return [line for line in found if line.split("==")[0] in DECIDING]


def call(binaries: Path, *words: object) -> None:
    """Run `cohortvol` of an environment."""
    subprocess.run([str(binaries / "cohortvol"), *map(str, words)], check=True, cwd=REPOSITORY)


def run(binaries: Path, source: Path, results: Path, cores: int) -> None:
    """The workflow on the scans, and assemble to report on the tables of people."""
    shutil.rmtree(results, ignore_errors=True)
    settings = [f"manifest={source / 'scans' / 'manifest.csv'}", f"results={results / 'scans'}"]
    settings += ["bad_rows=quarantine", "shard_size=16"]
    words = ["snakemake", "--cores", str(cores), "--quiet", "all", "--config", *settings]
    subprocess.run([str(binaries / words[0]), *words[1:]], check=True, cwd=REPOSITORY)
    people = results / "people"
    shutil.copytree(source / "people", people)
    call(binaries, "assemble", "--results", people, "--model", "simulated")
    tables = ["--volumes", people / "volumes.parquet", "--scans", people / "scans.parquet"]
    call(binaries, "analyse", *tables, "--out", people / "analyse")
    report = ["--analyse", people / "analyse", "--out", people / "report"]
    call(binaries, "report", *tables, *report)


def compare(first: Path, second: Path) -> bool:
    """Print how the files of two results folders differ; whether one does that must not."""
    found: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    largest: dict[str, tuple[float, str]] = {}
    must_not = []
    names = sorted(path.relative_to(first) for path in first.rglob("*") if path.is_file())
    for name in names:
        kind = kind_of(name)
        if kind is None:
            continue
        verdict, difference, where = difference_of(first / name, second / name)
        found[kind][verdict].append(str(name))
        if kind in KEPT and verdict == OTHER and not may_differ(difference, where):
            must_not.append(str(name))
        largest[kind] = max(largest.get(kind, (0.0, "")), (difference, f"{name} {where}"))
    print("| files | of | equal | but for the writer's name | differ | most, relative | where |")
    print("|---|---|---|---|---|---|---|")
    for kind, by in found.items():
        n = {verdict: len(by[verdict]) for verdict in (SAME, NAMED, OTHER)}
        most, where = largest[kind]
        print(f"| {kind} | {sum(n.values())} | {n[SAME]} | {n[NAMED]} | {n[OTHER]} "
              f"| {most:.1e} | {where if most else ''} |")  # fmt: skip
    print("\n".join(f"differs: {name}" for name in must_not))
    return bool(must_not)


def may_differ(difference: float, column: str) -> bool:
    """Whether a column of a table before analyse may be off by so much."""
    return 0 < difference <= OF_SOFTMAX.get(column, LAST_DIGIT)


def kind_of(name: Path) -> str | None:
    """What a file of a results folder is to the comparison; None for what holds times."""
    analysed = {"analyse", "report"} & set(name.parts)
    if name.suffix == ".parquet":
        return None if "segment" in name.parts else kinds_of_tables(bool(analysed))
    if name.suffix == ".csv" and analysed:
        return "CSV of analyse and report"
    if name.name.endswith("_dseg.nii.gz"):
        return "label maps"
    if name.suffix == ".png" and "figures" in name.parts:
        return "figures, pixels"
    return "figures and pages" if name.suffix in DRAWN else None


def kinds_of_tables(analysed: bool) -> str:
    """Tables of analyse hold sums and fits; those before it hold counts and what was read."""
    return "tables of analyse" if analysed else "tables before analyse"


def difference_of(first: Path, second: Path) -> tuple[str, float, str]:
    """Verdict on two files, their largest relative difference and where it is."""
    if first.read_bytes() == second.read_bytes():
        return SAME, 0.0, ""
    if first.suffix == ".parquet":
        if WRITER.sub(b"", first.read_bytes()) == WRITER.sub(b"", second.read_bytes()):
            return NAMED, 0.0, ""
        tables = [pq.read_table(path).to_pandas() for path in (first, second)]
        return (OTHER, *of_tables(*tables))
    if first.suffix == ".csv":
        return (OTHER, *of_tables(pd.read_csv(first), pd.read_csv(second)))
    if first.suffix == ".png":
        pixels = [imread(path) for path in (first, second)]
        alike = pixels[0].shape == pixels[1].shape
        return OTHER, float(np.mean(pixels[0] != pixels[1])) if alike else 1.0, "of the pixels"
    return OTHER, 0.0, ""


def of_tables(first: pd.DataFrame, second: pd.DataFrame) -> tuple[float, str]:
    """Relative difference of two tables in the column that is most off what it may be, and its
    name; infinite where a text differs."""
    if first.shape != second.shape or list(first) != list(second):
        return np.inf, "shape"
    worst = (0.0, 0.0, "")
    for name in first:
        a, b = first[name], second[name]
        if a.dtype.kind in "fi" and b.dtype.kind in "fi":
            off = (a - b).abs() / np.maximum(b.abs(), 1e-12)
            most = np.inf if (a.isna() != b.isna()).any() else float(off.max(skipna=True) or 0.0)
        else:
            most = 0.0 if a.astype(str).equals(b.astype(str)) else np.inf
        worst = max(worst, (most / OF_SOFTMAX.get(name, LAST_DIGIT), most, str(name)))
    return worst[1:]


if __name__ == "__main__":
    main()

"""An earlier commit beside the code here: the worker on one scan with the same weights.

    python benchmarks/two_commits.py --before COMMIT --network tiny-1.5mm --shrink 2 --runs 3

The weights are random, see side_by_side.py. Each side imports them and checks the scan by itself;
then they take turns, so that what else the machine does falls on both. Printed are wall and
processor seconds of every run, start-up included, and how many voxels of the labels differ.
"""

from __future__ import annotations

import argparse
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd

from process_meter import measured
from side_by_side import cohortvol_command
from side_by_side_models import SETTINGS, import_known, published_weights
from side_by_side_scans import SUFFIX, grey, write_scan

REPOSITORY = Path(__file__).resolve().parents[1]


def main() -> None:
    """Prepare both sides, let them take turns, print what each took."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--before", required=True, help="the earlier commit")
    parser.add_argument("--network", choices=list(SETTINGS), default="tiny-1.5mm")
    parser.add_argument("--profile", default="ts218")
    parser.add_argument("--shrink", type=int, default=1, help="edges of 320x260x72 divided by it")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("results/two_commits"))
    options = parser.parse_args()
    work = options.out.resolve()
    scans = work / f"scan-{options.shrink}"
    if not scans.is_dir():
        shape = tuple(n // options.shrink for n in (320, 260, 72))
        write_scan(scans / "scan", grey(shape, 0), np.diag([1.25, 1.25, 3, 1]))
    weights = published_weights(work / "weights" / options.network, SETTINGS[options.network])
    sources = {"before": work / options.before, "now": REPOSITORY}
    unpack(options.before, sources["before"])
    sides = {}
    for name, source in sources.items():
        folder = work / name / options.network
        folder.mkdir(parents=True, exist_ok=True)
        os.environ["PYTHONPATH"] = str(source / "src")
        sides[name] = prepared(folder, scans, weights, options.network, options.profile)
    rows = []
    for run in range(options.runs):
        for name, source in sources.items():
            out = work / name / options.network / f"run-{run}"
            out.mkdir()
            os.environ["PYTHONPATH"] = str(source / "src")
            took = measured(sides[name](out), os.environ, out / "log.txt")
            rows.append({"side": name, "run": run, **took})
            print(rows[-1], flush=True)
    table = pd.DataFrame(rows).drop(columns="run").groupby("side", sort=False)
    print(table.median().to_string())
    print(f"voxels that differ: {n_differing(work, options.network)}")


def unpack(commit: str, folder: Path) -> None:
    """The source of a commit."""
    if not folder.is_dir():
        folder.mkdir(parents=True)
        archive = subprocess.run(
            ["git", "archive", commit, "src"], cwd=REPOSITORY, check=True, capture_output=True
        )
        subprocess.run(["tar", "-x", "-C", folder], input=archive.stdout, check=True)


def prepared(
    folder: Path, scans: Path, weights: list[Path], network: str, profile: str
) -> Callable[[Path], list[str]]:
    """The model and the table of ingest as one side makes them; its command, given a folder."""
    mine = folder / "scans"
    if not mine.exists():
        mine.symlink_to(scans)
    model = import_known(SETTINGS[network], weights, folder / "models")
    return cohortvol_command(mine, model, profile, "cpu")


def n_differing(work: Path, network: str) -> int:
    """Voxels whose labels differ between the first runs of both sides."""
    before, now = (
        np.asarray(nib.load(work / side / network / f"run-0/shard/scan_dseg{SUFFIX}").dataobj)
        for side in ("before", "now")
    )
    return int((before != now).sum())


if __name__ == "__main__":
    main()

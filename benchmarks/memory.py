"""Memory of the worker: over 200 scans of one shard, and on one very large scan.

    python benchmarks/memory.py shard
    python benchmarks/memory.py large

Networks are the small random ones of side_by_side.py at the published patch size and number of
labels. `shard` compares the memory (PSS) while scans 1 to 20 are at work with that of the last
20; `large` gives the greatest memory on a scan of 512 x 512 x 900 voxels, for the two-part model at
1.5 mm, for the liver and its segments in a box around it, and for the five folds of mrsegmentator,
whose logits go back to the scan's own grid.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import time
from pathlib import Path

import numpy as np
import psutil

from side_by_side import cohortvol_command
from side_by_side_models import SETTINGS, random_model
from side_by_side_scans import grey, write_scan

LARGE = (512, 512, 900)


def main() -> None:
    """Make scans and models, run one worker, print its memory."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("shard", "large"))
    parser.add_argument("--scans", type=int, default=200)
    networks = ("tiny-1.5mm", "liver_segments_mr", "mrsegmentator")
    parser.add_argument("--networks", nargs="*", default=networks, help="of `large`")
    parser.add_argument("--out", type=Path, default=Path("results/memory"))
    options = parser.parse_args()
    work = options.out.resolve()
    if options.what == "shard":
        shard(work, options.scans)
        return
    for network in options.networks:
        large(work, network)


def shard(work: Path, n: int) -> None:
    """Scans of several sizes in turn, one worker."""
    scans = work / f"scans-{n}"
    for number in range(n if not scans.is_dir() else 0):
        shape = [(96, 80, 40), (110, 90, 30), (80, 80, 60)][number % 3]
        affine = np.diag([3.0, 3.0, 4.0, 1.0])
        write_scan(scans / f"scan{number:03d}", grey(shape, number), affine)
    finished, megabytes = watched(work, scans, "tiny")
    tenths = np.array_split(np.arange(n), 10)
    course = [megabytes[np.isin(finished, scans)].mean() for scans in tenths]
    print(f"{n} scans, MB by tenths: {', '.join(f'{mean:.0f}' for mean in course)}")
    first = megabytes[(finished >= 1) & (finished < 20)].mean()
    last = megabytes[finished >= n - 20].mean()
    print(f"first 20 {first:.0f} MB, last 20 {last:.0f} MB, ratio {last / first:.3f}")


def large(work: Path, network: str) -> None:
    """One scan of 512 x 512 x 900."""
    scans = work / "large"
    if not scans.is_dir():
        write_scan(scans / "large", grey(LARGE, 0), np.diag([0.8, 0.8, 1.0, 1.0]))
    start = time.perf_counter()
    _, megabytes = watched(work, scans, network)
    seconds = time.perf_counter() - start
    print(f"{network}: greatest {megabytes.max() / 1024:.1f} GB, {seconds:.0f} s")


def watched(work: Path, scans: Path, network: str) -> tuple[np.ndarray, np.ndarray]:
    """Scans finished and memory in MB, five times a second while a worker runs."""
    model = random_model(work, network)
    out = work / "out" / f"{scans.name}-{network}"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    command = cohortvol_command(scans, model, SETTINGS[network].profiles[0], "cpu")(out)
    with open(out / "log.txt", "w") as log:
        process = subprocess.Popen(command, stderr=log)
    watch = psutil.Process(process.pid)
    samples = []
    while process.poll() is None:
        n_finished = len(list((out / "shard").glob("*_dseg.nii.gz")))
        try:
            samples.append((n_finished, watch.memory_full_info().pss / 2**20))
        except psutil.Error:
            break
        time.sleep(0.2)
    if process.wait():
        raise SystemExit(f"{' '.join(command)}: see {out / 'log.txt'}")
    finished, megabytes = np.array(samples).T
    return finished, megabytes


if __name__ == "__main__":
    main()

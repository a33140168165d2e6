"""Time to check every byte of a cohort, against the time nibabel takes to read its voxels.

    python benchmarks/ingest_speed.py --scans 1000 --threads 2

Scans of 320 x 260 x 72 voxels, int16, packed. Both read the same files from the page cache, one
after the other in one run; cohortvol verifies checksums, sha256 of file and voxels, header, grid
and grey values besides.
"""

from __future__ import annotations

import argparse
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nibabel as nib
import numpy as np

from cohortvol.stages import ingest
from cohortvol.store.schemas import SHARD
from cohortvol.store.tables import append_rows, write_table
from side_by_side_scans import grey, write_scan

N_DIFFERENT = 20


def main() -> None:
    """Make the scans, read them both ways, print seconds and ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scans", type=int, default=1000)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("results/ingest_speed"))
    options = parser.parse_args()
    images = options.out / "images"
    for seed in range(N_DIFFERENT):
        if not (images / f"image{seed:02d}.nii.gz").is_file():
            data = grey((320, 260, 72), seed)
            write_scan(images / f"image{seed:02d}", data, np.diag([1.25, 1.25, 3.0, 1.0]))
    paths = [images.absolute() / f"image{n % N_DIFFERENT:02d}.nii.gz" for n in range(options.scans)]
    shard = options.out / "shard.parquet"
    rows = [{"scan_id": f"s{n:05d}", "image": str(path)} for n, path in enumerate(paths)]
    write_table(shard, append_rows(rows, SHARD), SHARD)
    for path in set(paths):
        path.read_bytes()

    start = time.perf_counter()
    with ThreadPoolExecutor(options.threads) as pool:
        for _ in pool.map(read_nibabel, paths):
            pass
    nibabel_s = time.perf_counter() - start
    start = time.perf_counter()
    table = ingest.run(shard, options.out / "ingest.parquet", threads=options.threads)
    ingest_s = time.perf_counter() - start
    n_ready = int((table["state"] == "ready").sum())
    print(f"{options.scans} scans, {options.threads} threads, {n_ready} ready")
    print(f"nibabel {nibabel_s:.1f} s, ingest {ingest_s:.1f} s, ratio {ingest_s / nibabel_s:.2f}")


def read_nibabel(path: Path) -> float:
    """All voxels of an image, dropped again."""
    return float(np.asarray(nib.load(path).dataobj)[0, 0, 0])


if __name__ == "__main__":
    main()

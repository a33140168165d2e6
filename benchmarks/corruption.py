"""Damage at random: does a wrong value ever come out without a word?

    python benchmarks/corruption.py nifti --n 10000
    python benchmarks/corruption.py parquet --n 10000
    python benchmarks/corruption.py headers --n 1000000

`nifti` and `parquet` flip one bit of a packed image and of a table of volumes; a value is silently
wrong when the file is accepted and its content is not what was written. `headers` overwrites one
to four bytes of a header, and counts whatever ends neither in a reason nor in an accepted scan.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import resource
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from cohortvol.errors import ScanError, TableError
from cohortvol.stages.ingest import check_scan
from cohortvol.store.schemas import VOLUMES
from cohortvol.store.tables import read_table, write_table

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from nifti_files import nifti

HEADER_BYTES = 352
BLOCK = 1000


def main() -> None:
    """Damage, read, count."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=list(WAYS))
    parser.add_argument("--n", type=int, default=10_000)
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    start, counts = time.perf_counter(), Counter[str]()
    way = WAYS[options.what]
    blocks = [range(at, min(at + BLOCK, options.n)) for at in range(0, options.n, BLOCK)]
    peak_mb = 0.0
    with ProcessPoolExecutor(options.processes) as pool:
        for found, mb in tqdm(pool.map(in_block, [way] * len(blocks), blocks), total=len(blocks)):
            counts.update(found)
            peak_mb = max(peak_mb, mb)
    for answer, n in counts.most_common():
        print(f"{n:9d}  {answer}")
    print(f"{options.n} {options.what}, {time.perf_counter() - start:.0f} s")
    print(f"greatest memory of a process: {peak_mb:.0f} MB")


def in_block(way, seeds):
    """Answers to these damages, and the greatest memory so far of the process, MB."""
    with tempfile.TemporaryDirectory() as folder:
        answers = Counter(way(Path(folder), np.random.default_rng(seed)) for seed in seeds)
    return answers, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def flipped_nifti(folder: Path, rng: np.random.Generator) -> str:
    """One bit of a packed image."""
    content = nifti()
    path = folder / "scan.nii.gz"
    path.write_bytes(flip(gzip.compress(content, 6, mtime=0), rng))
    try:
        found = check_scan(path)
    except ScanError as error:
        return error.reason
    voxels = content[HEADER_BYTES:]
    same = found["voxels_sha256"] == hashlib.sha256(voxels).hexdigest()
    same = same and gzip.decompress(path.read_bytes()) == content
    return "accepted, content as written" if same else "SILENTLY WRONG"


def flipped_parquet(folder: Path, rng: np.random.Generator) -> str:
    """One bit of a table of volumes."""
    path = folder / "volumes.parquet"
    written = volumes()
    write_table(path, written, VOLUMES)
    path.write_bytes(flip(path.read_bytes(), rng))
    try:
        found = read_table(path, VOLUMES)
    except TableError:
        return "refused"
    expected = volumes()[["scan_id", "structure", "volume_ml", "n_voxels", "qc"]]
    same = found[list(expected)].astype(expected.dtypes).equals(expected)
    same = same and found.drop(columns=list(expected)).isna().all(axis=None)
    return "accepted, content as written" if same else "SILENTLY WRONG"


def mutated_header(folder: Path, rng: np.random.Generator) -> str:
    """One to four bytes of a header."""
    data = bytearray(nifti())
    for position in rng.integers(0, HEADER_BYTES, rng.integers(1, 5)):
        data[position] = rng.integers(256)
    path = folder / "scan.nii"
    path.write_bytes(data)
    try:
        check_scan(path)
    except ScanError as error:
        return error.reason
    except Exception as error:
        return f"NOT A REASON: {error!r}"
    return "accepted"


def volumes() -> pd.DataFrame:
    """A table of 200 scans of four organs."""
    rng = np.random.default_rng(0)
    n = 200
    return pd.DataFrame(
        {
            "scan_id": np.repeat([f"sub-{i:04d}" for i in range(n)], 4),
            "structure": np.tile(["liver", "spleen", "kidney_left", "kidney_right"], n),
            "volume_ml": rng.normal(500, 100, 4 * n),
            "n_voxels": pd.array(rng.integers(1000, 100_000, 4 * n), dtype="Int64"),
            "qc": np.where(rng.random(4 * n) < 0.9, "pass", "flag"),
        }
    )


def flip(data: bytes, rng: np.random.Generator) -> bytes:
    """The bytes with one bit changed."""
    changed = bytearray(data)
    changed[rng.integers(len(data))] ^= 1 << int(rng.integers(8))
    return bytes(changed)


WAYS = {"nifti": flipped_nifti, "parquet": flipped_parquet, "headers": mutated_header}


if __name__ == "__main__":
    main()

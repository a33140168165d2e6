"""A shard of small scans and a process that segments it, for the tests of the worker."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd

from cohortvol.store.files import sha256_of
from cohortvol.store.schemas import INGEST
from cohortvol.store.tables import append_rows, write_table

# Each scan takes a little longer than it must, so that there is time to interrupt it.
WORKER = """
import sys, time, logging
from pathlib import Path
from cohortvol.errors import CohortvolError
from cohortvol.stages.segment import Segmenter, run_shard
quick = Segmenter.predict
def predict(*scan):
    time.sleep(0.2)
    return quick(*scan)
Segmenter.predict = predict
logging.basicConfig(level=logging.INFO)
ingest, model, folder, out = map(Path, sys.argv[1:5])
try:
    run_shard(ingest=ingest, model=model, folder=folder, out=out, threads=1, device="cpu")
except CohortvolError as error:
    print(error, file=sys.stderr)
    sys.exit(error.exit_code)
"""


def scan(seed: int, shape: tuple[int, int, int] = (30, 24, 20)) -> np.ndarray:
    """Smooth random voxels, different for every seed."""
    noise = np.random.default_rng(seed).normal(size=shape)
    return noise.cumsum(0).cumsum(1).cumsum(2).astype(np.float32)


def write_scan(path: Path, data: np.ndarray, affine: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(data, affine), path)


AFFINE = np.array([[-2.0, 0, 0, 30], [0, 0, 4.0, -20], [0, -2.5, 0, 10], [0, 0, 0, 1]])


def write_ingest(path: Path, images: dict[str, Path], **states: str) -> None:
    """The table ingest would write; a scan named in `states` has that state, not ready."""
    rows = [
        {
            "scan_id": scan_id,
            "state": states.get(scan_id, "ready"),
            "reason": "SRC_TRUNCATED" if scan_id in states else None,
            "image": str(image),
            "image_sha256": sha256_of(image) if image.exists() else "0" * 64,
        }
        for scan_id, image in images.items()
    ]
    write_table(path, append_rows(rows, INGEST), INGEST)


class Shard:
    """Shard 0000 of a results folder: its images, its ingest table, its outputs."""

    def __init__(self, results: Path, model: Path, images: dict[str, Path]) -> None:
        self.results, self.model, self.images = results, model, images
        self.ingest = results / "ingest" / "0000.parquet"
        self.folder = results / "segment" / "tiny" / "0000"
        self.out = results / "segment" / "tiny" / "0000.parquet"
        write_ingest(self.ingest, images)

    def arguments(self) -> dict[str, Path]:
        return {
            "ingest": self.ingest, "model": self.model, "folder": self.folder, "out": self.out
        }  # fmt: skip

    def start(self) -> subprocess.Popen[bytes]:
        """Segment the shard in a process of its own."""
        places = [str(path) for path in self.arguments().values()]
        return subprocess.Popen(
            [sys.executable, "-c", WORKER, *places],
            stderr=subprocess.PIPE,
            env={"PYTHONPATH": ":".join(sys.path), "OMP_NUM_THREADS": "1", "PATH": "/usr/bin:/bin"},
        )

    def receipts(self) -> dict[str, bytes]:
        return {
            path.stem: path.read_bytes()
            for path in self.folder.glob("*.json")
            if not path.name.endswith(".started.json")
        }

    def marks(self) -> dict[str, str]:
        """Scans at work, or at work when the process was killed, with the start of each."""
        found = {}
        for path in self.folder.glob("*.started.json"):
            with contextlib.suppress(FileNotFoundError):
                found[path.name] = path.read_text()
        return found

    def label_maps(self) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in self.folder.glob("*_dseg.nii.gz")}

    def table(self) -> pd.DataFrame:
        return pd.read_parquet(self.out).set_index("scan_id")

"""What tests of the workflow share: scans that are simulated once for all workers of a run."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from cohortvol.tools.simulate import run as simulate

N_SCANS = 6


@pytest.fixture(scope="session")
def six_scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What ``simulate`` makes; by the first worker that asks for it."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    with (folder / "six_scans.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "six_scans" / "truth.parquet").exists():  # the last that is written
            simulate.run(folder / "six_scans", n=N_SCANS, seed=5)
    return folder / "six_scans"


@pytest.fixture(scope="session")
def simulated(six_scans: Path) -> Callable[[Path, int], None]:
    """Write the first so many of these scans with their labels and manifest, to be changed."""

    def write(out: Path, n: int) -> None:
        for kind in ("images", "labels"):
            (out / kind).mkdir(parents=True)
            for path in sorted((six_scans / kind).iterdir())[:n]:
                shutil.copyfile(path, out / kind / path.name)
        rows = (six_scans / "manifest.csv").read_text().splitlines(keepends=True)
        (out / "manifest.csv").write_text("".join(rows[: 1 + n]))

    return write

"""A cohort on a real Slurm while everything is broken on purpose, against the same cohort in peace.

    python tests/slurm/lab.py run -- python benchmarks/chaos.py --scans 2000

Every 20 to 40 s one fault, drawn at random: the driver killed, a worker killed, the daemon of a
node killed, a job cancelled, requeued or cut short by its time limit, the disk full, a table of a
shard damaged. The driver is started again with the same command whenever it has ended. In the end
every scan must be accounted for once, the final tables equal those of the calm run byte for byte,
and no receipt may ever have been replaced.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd

from cohortvol.tools.simulate import run as simulate

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "slurm"))
import lab

REPOSITORY = Path(__file__).resolve().parents[1]
N_DIFFERENT = 24
BOX_MM = 90.0
TABLES = ("volumes.parquet", "scans.parquet")
DISK_MB = 400
FULL_DISK_SECONDS = 12.0


def main() -> int:
    """Run the cohort twice, once in peace, and print what happened."""
    options = _options()
    rng = random.Random(options.seed)  # noqa: S311
    manifest = small_scans(options.out / "source", options.scans)
    calm = options.out / "calm"
    started = time.monotonic()
    run(manifest, calm, options.shard_size, "--cores", "2").wait()
    calm_s = time.monotonic() - started
    print(f"calm run on this machine: {calm_s:.0f} s", flush=True)
    with small_disk(options.out / "disk") as disk:
        results = disk / "results"
        chaos = Chaos(results, disk, manifest, options, rng)
        chaos.run()
        told = chaos.verdict(calm) | {"seed": options.seed, "calm_s": round(calm_s)}
    (options.out / "chaos.json").write_text(json.dumps(told, indent=1) + "\n")
    print(json.dumps(told, indent=1))
    return 0 if told["as_in_peace"] and not told["receipts_replaced"] else 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scans", type=int, default=2000)
    parser.add_argument("--shard-size", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--every", type=float, nargs=2, default=(20.0, 40.0), metavar="S")
    parser.add_argument("--limit", type=float, default=3600.0, help="seconds until it is given up")
    parser.add_argument("--out", type=Path, default=Path("results/chaos"))
    return parser.parse_args()


def small_scans(folder: Path, n: int) -> Path:
    """Boxes around the right kidney of simulated scans, each with noise of its own."""
    manifest = folder / "manifest.csv"
    if manifest.exists() and len(pd.read_csv(manifest)) == n:
        return manifest
    simulate.run(folder / "whole", n=N_DIFFERENT, seed=31, processes=2)
    whole = pd.read_csv(folder / "whole" / "manifest.csv")
    boxes = [box(folder / "whole" / path) for path in whole["image"]]
    rows = []
    for number in range(n):
        image = boxes[number % N_DIFFERENT]
        noise = np.random.default_rng(number).normal(0, 4, image.shape)
        data = np.clip(np.asanyarray(image.dataobj) + noise, 0, None).astype(np.int16)
        path = folder / "images" / f"scan{number:05d}.nii.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        nib.save(nib.Nifti1Image(data, image.affine), path)
        row = dict(whole.iloc[number % N_DIFFERENT])
        rows.append(row | {"scan_id": f"s{number:05d}", "subject_id": f"p{number:05d}",
                           "image": path.relative_to(folder)})  # fmt: skip
    pd.DataFrame(rows).to_csv(manifest, index=False)
    return manifest


def box(path: Path) -> nib.Nifti1Image:
    """The middle of a scan."""
    image = nib.as_closest_canonical(nib.load(path))
    edges = [max(8, round(BOX_MM / edge_mm)) for edge_mm in image.header.get_zooms()]
    starts = [max(0, (n - edge) // 2) for n, edge in zip(image.shape, edges, strict=True)]
    return image.slicer[tuple(slice(start, start + edge)
                              for start, edge in zip(starts, edges, strict=True))]  # fmt: skip


def run(manifest: Path, results: Path, shard_size: int, *words: str) -> subprocess.Popen[bytes]:
    """Start the workflow in a process group of its own."""
    return subprocess.Popen(
        [
            sys.executable, "-m", "snakemake", *words, "--config", f"manifest={manifest}",
            f"results={results}", f"shard_size={shard_size}", "segment={threads: 1, device: cpu}",
        ],
        cwd=REPOSITORY, start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=open(results.with_suffix(".log"), "ab"),
    )  # fmt: skip


@contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """A file system of its own for the results, small enough to be filled."""
    folder.mkdir(parents=True, exist_ok=True)
    words = ["mount", "-t", "tmpfs", "-o", f"size={DISK_MB}m", "tmpfs", str(folder)]
    subprocess.run(words, check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=False)


class Chaos:
    """One cohort, its driver, and whoever breaks it."""

    def __init__(
        self,
        results: Path,
        disk: Path,
        manifest: Path,
        options: argparse.Namespace,
        rng: random.Random,
    ) -> None:
        self.results, self.disk, self.manifest = results, disk, manifest
        self.options, self.rng = options, rng
        self.faults: Counter[str] = Counter()
        self.drivers = 0
        self.replaced: list[str] = []
        self.seconds = 0.0
        self._done = threading.Event()

    def run(self) -> None:
        """Start the driver until it ends with 0, and break something all the while."""
        start = time.monotonic()
        watcher = threading.Thread(target=self._watch_receipts)
        watcher.start()
        next_fault = start + self.rng.uniform(*self.options.every)
        driver = self._driver()
        try:
            while time.monotonic() - start < self.options.limit:
                time.sleep(0.5)
                ended = driver.poll()
                if ended == 0:
                    break
                if ended is not None:
                    driver = self._driver()
                if time.monotonic() > next_fault:
                    self._break_something(driver)
                    next_fault = time.monotonic() + self.rng.uniform(*self.options.every)
            else:
                os.killpg(driver.pid, signal.SIGKILL)
        finally:
            self.seconds = time.monotonic() - start
            self._done.set()
            watcher.join()

    def _driver(self) -> subprocess.Popen[bytes]:
        self.drivers += 1
        words = ("--profile", "slurm", "--seconds-between-status-checks", "3")
        return run(self.manifest, self.results, self.options.shard_size, *words)

    def _break_something(self, driver: subprocess.Popen[bytes]) -> None:
        kinds: dict[str, Callable[[], bool]] = {
            "driver killed": lambda: self._kill_driver(driver),
            "worker killed": self._kill_worker,
            "node daemon killed": self._kill_node,
            "job cancelled": lambda: self._job("scancel", "{id}"),
            "job requeued": lambda: self._job("scontrol", "requeue", "{id}"),
            "time limit": lambda: self._job("scontrol", "update", "JobId={id}", "TimeLimit=1"),
            "disk full": self._fill_disk,
            "table damaged": self._damage_table,
        }
        kind = self.rng.choice(list(kinds))
        if kinds[kind]():
            self.faults[kind] += 1
        n_receipts = len(self._receipts())
        print(f"{kind:20} receipts {n_receipts}, driver {self.drivers}", flush=True)

    def _kill_driver(self, driver: subprocess.Popen[bytes]) -> bool:
        os.killpg(driver.pid, signal.SIGKILL)
        driver.wait()
        return True

    def _kill_worker(self) -> bool:
        worker = f"cohortvol segment --ingest {re.escape(str(self.results))}/"
        found = subprocess.run(["pgrep", "-f", worker], capture_output=True, text=True)
        pids = found.stdout.split()
        if pids:
            with _unless_gone():
                os.kill(int(self.rng.choice(pids)), signal.SIGKILL)
        return bool(pids)

    def _kill_node(self) -> bool:
        node = self.rng.choice(lab.NODES)
        with _unless_gone():
            pid = int((lab.FOLDER / "run" / f"slurmd.{node}.pid").read_text())
            os.kill(pid, signal.SIGKILL)
        time.sleep(self.rng.choice([1.0, 25.0]))  # the cluster gives a node up after 20 s
        lab.start_node(node)
        return True

    def _job(self, *words: str) -> bool:
        asked = subprocess.run(
            ["squeue", "--noheader", "--states=RUNNING", "--format=%A"],
            capture_output=True, text=True,
        )  # fmt: skip
        running = asked.stdout.split()
        if running:
            chosen = self.rng.choice(running)
            subprocess.run([word.replace("{id}", chosen) for word in words], capture_output=True)
        return bool(running)

    def _fill_disk(self) -> bool:
        ballast = self.disk / "ballast"
        free = shutil.disk_usage(self.disk).free
        with open(ballast, "wb") as stream, suppress(OSError):  # a worker may be quicker
            os.posix_fallocate(stream.fileno(), 0, max(free - 4096, 1))
        time.sleep(FULL_DISK_SECONDS)
        ballast.unlink()
        return True

    def _damage_table(self) -> bool:
        tables = sorted(self.results.glob("*/**/[0-9]*.parquet"))
        if tables:
            with _unless_gone():
                chosen = self.rng.choice(tables)
                content = bytearray(chosen.read_bytes())
                content[len(content) // 2] ^= 0x10
                chosen.write_bytes(content[: self.rng.choice([len(content), len(content) // 2])])
        return bool(tables)

    def _receipts(self) -> dict[str, int]:
        found = {}
        for path in self.results.glob("segment/*/*/s?????.json"):
            with _unless_gone():
                found[path.name] = path.stat().st_ino
        return found

    def _watch_receipts(self) -> None:
        """Note every receipt that was replaced or went away once it was there."""
        known: dict[str, int] = {}
        while not self._done.wait(1.0):
            now = self._receipts()
            self.replaced += [name for name, inode in known.items() if now.get(name) != inode]
            known = now

    def verdict(self, calm: Path) -> dict[str, object]:
        """Whether all is as in peace, and what it took."""
        scans = pd.read_parquet(self.results / "scans.parquet")
        equal = {
            name: (self.results / name).read_bytes() == (calm / name).read_bytes()
            for name in TABLES
        }
        return {
            "scans": len(scans),
            "scans_accounted_for_once": int(scans["scan_id"].nunique()),
            "states": {str(k): int(v) for k, v in scans["state"].value_counts().items()},
            "as_in_peace": all(equal.values()),
            "receipts": len(self._receipts()),
            "receipts_replaced": sorted(set(self.replaced)),
            "faults": dict(self.faults),
            "drivers": self.drivers,
            "seconds": round(self.seconds),
        }


@contextmanager
def _unless_gone() -> Iterator[None]:
    try:
        yield
    except (FileNotFoundError, ProcessLookupError):
        return


if __name__ == "__main__":
    sys.exit(main())

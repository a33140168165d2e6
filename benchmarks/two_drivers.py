"""Two runs in one results folder, the second at a random moment of the first.

    python benchmarks/two_drivers.py --trials 20
    python tests/slurm/lab.py run -- python benchmarks/two_drivers.py --trials 20 --slurm

The second run is the same again, or has another manifest, another model or another setting, from
the same checkout or a copy of it. Of all of them exactly one works: it ends with 0, its tables are
those of a calm run of its own on this machine, and on Slurm none of its jobs was cancelled; the
others end with 73, name it, and submit nothing. Then the driver alone is killed with -9 at a random
moment, and a run that starts at once goes on. A second run that finds the first gone is drawn
again.
"""

from __future__ import annotations

import argparse
import csv
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from cohortvol.errors import IN_USE, InUseError
from cohortvol.store.files import sha256_of
from cohortvol.store.locks import IN_USE as LOCK
from cohortvol.store.locks import claim
from cohortvol.tools.simulate import run as simulate

REPOSITORY = Path(__file__).resolve().parents[1]
KINDS = ("same", "manifest", "model", "setting", "checkout")
TABLES = ("volumes.parquet", "scans.parquet")
N_SCANS = 3
"""Of the manifest; the other manifest has one less."""


def main() -> int:
    """Try as often as was asked, and say what came of it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--at-once", type=int, default=1, help="second runs in one first")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--slurm", action="store_true", help="both runs with --profile slurm")
    parser.add_argument(
        "--images", action="store_true", help="scans that are there; without, all stages run too"
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="two-drivers-") as place:
        chance = random.Random(options.seed)  # noqa: S311
        trials = Trials(Path(place), options.slurm, options.images, chance)
        while (left := options.trials - trials.tried) > 0:
            n_runs = range(trials.tried, trials.tried + min(left, options.at_once))
            trials.at_once([KINDS[n % len(KINDS)] for n in n_runs])
        for _ in range(options.kills):
            trials.killed()
    print(trials.line())
    return 0 if not trials.faults else 1


class Run:
    """A driver, and what it says."""

    def __init__(self, words: list[str], checkout: Path, log: Path) -> None:
        self._log = log
        with open(log, "w") as stream:
            self.process = subprocess.Popen(words, cwd=checkout, stdout=stream, stderr=stream)

    def is_over(self) -> bool:
        return self.process.poll() is not None

    @property
    def last_word(self) -> float:
        """When it had said all; a busy machine may need seconds more to see the process go."""
        return self._log.stat().st_mtime

    def wait(self, *others: Run) -> None:
        """Until this run and the others are over."""
        waiting = [self, *others]
        while waiting := [run for run in waiting if not run.is_over()]:
            time.sleep(0.02)

    @property
    def code(self) -> int | None:
        return self.process.returncode

    @property
    def said(self) -> str:
        return self._log.read_text()


@dataclass
class Trials:
    """The cohort, its calm runs, and what was found."""

    place: Path
    on_slurm: bool
    with_images: bool
    random: random.Random
    tried: int = 0
    first_worked: int = 0
    drawn_again: int = 0
    killed_drivers: int = 0
    faults: list[str] = field(default_factory=list)
    _calm: dict[str, list[str]] = field(default_factory=dict)
    _seconds: float = 0.0
    _folders: int = 0

    def __post_init__(self) -> None:
        source = self.place / "source"
        rows = [f"{number}.nii.gz" for number in range(N_SCANS)]
        if self.with_images:
            simulate.run(source, n=N_SCANS, seed=5)
            with open(source / "manifest.csv", newline="") as stream:
                rows = [row["image"] for row in csv.DictReader(stream)]
        for name, n in (("same", N_SCANS), ("other", N_SCANS - 1)):
            lines = [f"{name}{number},{source / image}" for number, image in enumerate(rows[:n])]
            (self.place / f"{name}.csv").write_text("\n".join(["scan_id,image", *lines]) + "\n")
        model = self.place / "another-model"
        shutil.copytree(REPOSITORY / "models" / "embedded-v2", model)
        card = model / "card.json"
        card.write_text(card.read_text().replace('"embedded-v2"', '"another-model"'))
        self._copy_checkout(self.place / "checkout")
        self._tables_of_calm_run("same")

    def _copy_checkout(self, to: Path) -> None:
        for name in ("Snakefile", "workflow", "config", "profiles", "reports", "envs"):
            copy = shutil.copytree if (REPOSITORY / name).is_dir() else shutil.copy
            to.mkdir(exist_ok=True)
            copy(REPOSITORY / name, to / name)
        (to / "slurm").symlink_to("profiles/slurm")
        (to / "models").symlink_to(REPOSITORY / "models")

    # --- trials

    def at_once(self, kinds: list[str]) -> None:
        """Second runs of some kinds at random moments of a first."""
        results = self._new_folder()
        moments = sorted(self.random.uniform(0, self._seconds) for _ in kinds)
        start, runs = time.monotonic(), [("same", self._start("same", results))]
        for kind, moment in zip(kinds, moments, strict=True):
            while time.monotonic() < start + moment:
                time.sleep(0.02)
            if any(run.is_over() and run.code == 0 for _, run in runs):
                self.drawn_again += 1
                continue
            runs.append((kind, self._start(kind, results)))
        first = runs[0][1]
        first.wait(*(run for _, run in runs))
        worked = [(kind, run) for kind, run in runs if run.code == 0]
        over = min((run.last_word for _, run in worked), default=0.0)
        came_after = len(worked) == 2 and self._since(results) >= over - 1
        if came_after:
            gone = max(worked, key=lambda one: one[1].last_word)
            runs.remove(gone)
            worked.remove(gone)
            self.drawn_again += 1
        self.tried += len(runs) - 1
        self.first_worked += (len(runs) - 1) * (first.code == 0)
        refused = [run for _, run in runs if run.code != 0]
        names = [f"process {run.process.pid} on " for _, run in worked]
        is_calm = came_after or (len(worked) == 1 and self._is_calm(worked[0][0], results))
        what = [
            (len(worked) == 1, f"{len(worked)} worked"),
            (all(run.code == IN_USE for run in refused), f"ends {[run.code for run in refused]}"),
            (all(name in run.said for name in names for run in refused), "one names another"),
            (all("has been submitted" not in run.said for run in refused), "one submits jobs"),
            (is_calm, "tables differ"),
            (not any(self._cancelled(run) for _, run in worked), "jobs were cancelled"),
        ]
        when = zip(kinds, moments, strict=True)
        trial = ", ".join(f"{kind} after {moment:.1f} s" for kind, moment in when)
        self._note(trial, what, *(run for _, run in runs))

    def killed(self) -> None:
        """The driver alone is killed, and a second starts at once."""
        results = self._new_folder()
        moment = self.random.uniform(0, self._seconds)
        first = self._start("same", results)
        time.sleep(moment)
        if first.is_over():
            self.drawn_again += 1
            self.killed()
            return
        os.kill(first.process.pid, signal.SIGKILL)
        first.wait()
        try:
            claim(results).close()
            is_free = True
        except InUseError:
            is_free = False
        second = self._start("same", results)
        second.wait()
        self.killed_drivers += 1
        what = [
            (is_free, "a lock is left"),
            (second.code == 0, f"the next ends with {second.code}"),
            (self._is_calm("same", results), "tables differ"),
        ]
        self._note(f"killed after {moment:.1f} s", what, first, second)

    def _note(self, trial: str, what: list[tuple[bool, str]], *runs: Run) -> None:
        wrong = "; ".join(fault for is_right, fault in what if not is_right)
        print(f"{trial}: {wrong or 'right'}", flush=True)
        if wrong:
            self.faults.append(f"{trial}: {wrong}")
            print(*(run.said[-3000:] for run in runs), sep="\n---\n", file=sys.stderr)

    # --- runs

    def _start(self, kind: str, results: Path, how: tuple[str, ...] | None = None) -> Run:
        settings = {
            "manifest": self.place / ("other.csv" if kind == "manifest" else "same.csv"),
            "results": results,
            "shard_size": N_SCANS,
            "segment": "{threads: 1, device: cpu}",
            "model": self.place / "another-model" if kind == "model" else "embedded-v2",
            "ingest": "{min_slices: 7}" if kind == "setting" else "{min_slices: 8}",
        }
        slurm = ("--profile", "slurm", "--seconds-between-status-checks", "2")
        how = how or (slurm if self.on_slurm else ("--cores", "1"))
        words = [
            sys.executable, "-m", "snakemake", str(results / "files.sha256"), *how, "--config",
            *(f"{name}={value}" for name, value in settings.items()),
        ]  # fmt: skip
        checkout = self.place / "checkout" if kind == "checkout" else REPOSITORY
        return Run(words, checkout, self.place / f"log-{time.monotonic_ns()}")

    def _tables_of_calm_run(self, kind: str) -> list[str]:
        kind = "same" if kind == "checkout" else kind
        if kind not in self._calm:
            results, start = self._new_folder(), time.monotonic()
            run = self._start(kind, results, ("--cores", "1"))
            run.wait()
            if run.code != 0:
                raise RuntimeError(run.said[-5000:])
            # On Slurm each job waits for its turn, and starts Snakemake once more.
            took = (time.monotonic() - start) * (3 if self.on_slurm else 1)
            self._seconds = self._seconds or took
            self._calm[kind] = [sha256_of(results / name) for name in TABLES]
        return self._calm[kind]

    def _is_calm(self, kind: str, results: Path) -> bool:
        tables = [results / name for name in TABLES]
        there = all(path.exists() for path in tables)
        return there and [sha256_of(path) for path in tables] == self._tables_of_calm_run(kind)

    def _cancelled(self, run: Run) -> bool:
        name = re.search(r"SLURM run ID: (\S+)", run.said)
        if not self.on_slurm or name is None:
            return False
        words = ["squeue", "--states=all", "--noheader", "--format=%T", f"--name={name[1]}"]
        return "CANCELLED" in subprocess.run(words, capture_output=True, text=True).stdout

    def _since(self, results: Path) -> float:
        """When the folder was held last."""
        found = re.search(r"since (.+)\)", (results / LOCK).read_text())
        return datetime.fromisoformat(found[1]).timestamp() if found else 0.0

    def _new_folder(self) -> Path:
        self._folders += 1
        return self.place / f"results-{self._folders}"

    def line(self) -> str:
        where = "on Slurm" if self.on_slurm else "on one machine"
        return (
            f"{self.tried} second runs {where}, of a run of {self._seconds:.0f} s: exactly one "
            f"worked each time but {sum('killed' not in fault for fault in self.faults)}, "
            f"{self.first_worked} times the first; {self.killed_drivers} drivers killed, "
            f"{sum('killed' in fault for fault in self.faults)} left a lock or another table; "
            f"{self.drawn_again} drawn again"
        )


if __name__ == "__main__":
    sys.exit(main())

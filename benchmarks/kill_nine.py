"""A process that segments, measures and assembles, killed without warning again and again.

    python benchmarks/kill_nine.py --kills 1000
    python benchmarks/kill_nine.py --kills 1000 --store packed

Two shards of small scans go through the stages as the workflow runs them, in a process of its own
that SIGKILL ends: half of the times at a random moment, half inside a call that writes, chosen at
random (in the middle of a write, before a sync, a rename or a removal). Then the same is started
again, until the cohort is done; then the next round begins. After each kill

- every receipt that was there before or was acknowledged by the process (it says so through a pipe
  when a receipt is written) is there, byte for byte, with a label map of the sha256 it names;
- every file under a final name is whole;
- no table holds a scan twice.

In the end of a round its label maps and tables are those of a calm run, byte for byte. Scans that
were started three times without an end would be given up; here the kills are to blame, so the limit
is lifted.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import zlib
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

import torch

import cohortvol.stages.segment.infer  # noqa: F401 - loaded here, so that no child has to load torch
import nnunet_fixture
from cohortvol.errors import CohortvolError
from cohortvol.models.networks import Source, import_nnunet
from cohortvol.stages import assemble, ingest, manifest, measure
from cohortvol.stages.segment import pipeline, run_shard
from cohortvol.store import of_scans
from cohortvol.store.files import make_folder
from cohortvol.store.of_scans import LABEL_MAP, RECEIPT, STORES
from cohortvol.store.schemas import COHORT_VOLUMES, INGEST, SCANS, SEGMENT, VOLUMES
from cohortvol.store.tables import read_as_written, read_table
from cohortvol.tools.verify.reading import receipt_is_whole
from killed_child import count_calls, die_inside, in_child, run_child
from segment_cohort import AFFINE, scan, write_scan

MODEL = "tiny"
SHAPE = (20, 18, 12)
SCHEMAS = {
    "segment": SEGMENT, "measure": VOLUMES, "volumes.parquet": COHORT_VOLUMES,
    "scans.parquet": SCANS,
}  # fmt: skip


def main() -> int:
    """Kill as often as was asked, and say what came of it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--scans", type=int, default=4)
    parser.add_argument("--store", choices=STORES, default="files", help="as in the config")
    parser.add_argument("--keep", type=Path, help="folder for what a fault left, for a look at it")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="kill-nine-") as place:
        loop = Loop(Path(place), options.scans, options.seed, options.store, options.keep)
        found = loop.run(options.kills)
    print(found.line())
    print(json.dumps(asdict(found), indent=1))
    return 0 if found.is_sound() else 1


@dataclass
class Found:
    """What came of the kills."""

    kills: int = 0
    inside_writes: int = 0
    torn: int = 0
    lost: int = 0
    duplicated: int = 0
    differing: int = 0
    rounds: int = 0
    acknowledged: int = 0
    temporary_files_left: int = 0
    seconds: float = 0.0
    seconds_calm: float = 0.0
    writing_calls_calm: int = 0
    what: list[str] = field(default_factory=list)

    def is_sound(self) -> bool:
        return not (self.torn or self.lost or self.duplicated or self.differing or self.what)

    def line(self) -> str:
        return (
            f"{self.kills} kills, {self.inside_writes} of them inside writes: {self.torn} torn, "
            f"{self.lost} lost, {self.duplicated} duplicated; {self.rounds} rounds, "
            f"{self.differing} other than the calm run; {self.seconds:.0f} s"
        )


class Loop:
    """The cohort, its calm run, and the kills."""

    def __init__(
        self, place: Path, n_scans: int, seed: int, store: str = "files", keep: Path | None = None
    ) -> None:
        torch.set_num_threads(1)
        self.place, self.store, self.keep = place, store, keep
        self.random = random.Random(seed)  # noqa: S311
        self.found = Found()
        self.n_scans = n_scans
        self.model = place / "models" / MODEL
        self.start = place / "start"
        self.calm = place / "calm"
        self.log = place / "log"
        in_child(self._prepare, self.log)
        shutil.copytree(self.start, self.calm)
        began = time.monotonic()
        counted = in_child(partial(count_calls, self._work, self.calm), self.log)
        self.pace_s = time.monotonic() - began
        self.found.seconds_calm = round(self.pace_s, 2)
        self.found.writing_calls_calm = int(counted.split()[-1])

    def run(self, kills: int) -> Found:
        """Rounds until there were as many kills."""
        began = time.monotonic()
        while self.found.kills < kills:
            results = self.place / f"round-{self.found.rounds}"
            shutil.copytree(self.start, results)
            known: dict[str, str] = {}
            while self.found.kills < kills and not self._killed_once(results, known):
                pass
            if not self._is_done(results):
                in_child(partial(self._work, results), self.log)
            self._check(results, known)
            self._compare(results)
            self.found.temporary_files_left += len([*results.rglob(".*.tmp")])
            self.found.rounds += 1
            self.found.seconds = round(time.monotonic() - began, 1)
            print(f"so far: {self.found.line()}", file=sys.stderr, flush=True)
            shutil.rmtree(results)
        return self.found

    def _killed_once(self, results: Path, known: dict[str, str]) -> bool:
        """Start the work and kill it; True if it came to its end before."""
        left = 1.05 - 0.3 * len(known) / self.n_scans  # the tables are still to be made
        aimed, began = self.random.random() < 0.5, time.monotonic()
        if aimed:
            calls = max(2, round(left * self.found.writing_calls_calm))
            action = partial(die_inside, self.random.randrange(calls), self._work, results)
            ended, said = run_child(action, self.log)
        else:
            seconds = self.random.uniform(0, left * self.pace_s)
            ended, said = run_child(partial(self._work, results), self.log, kill_after_s=seconds)
        if ended != -signal.SIGKILL:
            # A machine with other work is faster at one time than at another.
            self.pace_s += ((time.monotonic() - began) / left - self.pace_s) / 2
            if ended != 0:
                self._fault(
                    "differing", results, f"ended with {ended}: {self.log.read_text()[-2000:]}"
                )
            return True
        self.found.kills += 1
        self.found.inside_writes += aimed
        for scan_id, digest in (line.split() for line in said.splitlines() if " " in line):
            known.setdefault(scan_id, digest)
            self.found.acknowledged += 1
        self._check(results, known)
        return False

    def _check(self, results: Path, known: dict[str, str]) -> None:
        """All that must hold at any moment."""
        receipts = {
            scan_id: folder / f"{scan_id}{RECEIPT}"
            for folder in results.glob(f"segment/{MODEL}/*/")
            for scan_id in of_scans.receipts(folder)
        }
        for scan_id, digest in known.items():
            if scan_id not in receipts:
                self._fault("lost", results, f"{scan_id}: its receipt is gone")
            elif of_scans.digest(receipts[scan_id]) != digest:
                self._fault("duplicated", results, f"{scan_id}: it was segmented again")
        for scan_id, path in receipts.items():
            known.setdefault(scan_id, of_scans.digest(path))
            if why := why_of_receipt(path):
                self._fault("torn", results, f"{path.relative_to(results)}: {why}")
        for path in results.rglob("*"):
            if path.is_dir() or path.name.startswith("."):
                continue
            if why := why_torn(path, results):
                self._fault("torn", results, f"{path.relative_to(results)}: {why}")
        for path in results.glob("**/*.parquet"):
            stage = path.relative_to(results).parts[0]
            if stage in SCHEMAS:
                rows = read_table(path, SCHEMAS[stage])
                what, *key = ("volume", "structure") if "structure" in rows else ("scan",)
                if rows.duplicated(["scan_id", *key]).any():
                    self._fault("duplicated", results, f"{path}: a {what} twice")

    def _compare(self, results: Path) -> None:
        """What is the same in every run, against the calm one."""
        finals = ("volumes.parquet", "scans.parquet", "files.sha256")
        calm = [self.calm / name for name in finals]
        calm += [path for path in (self.calm / "measure").rglob("*") if path.is_file()]
        for folder in self.calm.glob(f"segment/{MODEL}/*/"):
            calm += [folder / f"{scan_id}{LABEL_MAP}" for scan_id in of_scans.receipts(folder)]
        for path in sorted(calm):
            name = path.relative_to(self.calm)
            other = results / name
            if not of_scans.exists(other) or of_scans.read(other) != of_scans.read(path):
                self._fault("differing", results, f"{name}: is not that of the calm run")
        if marks := [*results.rglob("*.started.json")]:
            self._fault("differing", results, f"marks left: {[path.name for path in marks]}")

    def _fault(self, kind: str, results: Path, what: str) -> None:
        setattr(self.found, kind, getattr(self.found, kind) + 1)
        self.found.what.append(f"kill {self.found.kills}: {kind}: {what}")
        print(self.found.what[-1], file=sys.stderr, flush=True)
        if self.keep and not self.keep.exists():
            shutil.copytree(results, self.keep)

    def _is_done(self, results: Path) -> bool:
        return (results / "files.sha256").exists()

    # --- in a child

    def _prepare(self) -> None:
        """A model, images, and the tables of manifest and ingest."""
        trained = nnunet_fixture.results_folder(self.place / "trained")
        import_nnunet([Source(trained)], self.model, model_id=MODEL, licence="test")
        lines = ["scan_id,image,age_years,sex"]
        for n in range(self.n_scans):
            image = self.place / "images" / f"s{n}.nii.gz"
            write_scan(image, 100 * scan(n, SHAPE), AFFINE)
            lines.append(f"s{n},{image},{50 + n},F")
        (self.place / "scans.csv").write_text("\n".join(lines) + "\n")
        shard_size = -(-self.n_scans // 2)
        manifest.run(self.place / "scans.csv", self.start, shard_size=shard_size)
        for shard in _shards(self.start):
            listed = self.start / "manifest" / "shards" / f"{shard}.parquet"
            ingest.run(listed, self.start / "ingest" / f"{shard}.parquet")
            states = read_table(self.start / "ingest" / f"{shard}.parquet", INGEST)
            if set(states["state"]) != {"ready"}:
                raise ValueError(states[["scan_id", "state", "reason"]])

    def _work(self, results: Path) -> None:
        """What the workflow does: a stage runs where its table is missing."""
        pipeline.STARTS_BEFORE_GIVING_UP = 10**9  # type: ignore[misc]
        for shard in _shards(results):
            ingested = results / "ingest" / f"{shard}.parquet"
            segmented = results / "segment" / MODEL / f"{shard}.parquet"
            measured = results / "measure" / MODEL / f"{shard}.parquet"
            if not segmented.exists():
                run_shard(
                    ingested, self.model, segmented.with_suffix(""), segmented, threads=1,
                    device="cpu", store=self.store,
                )  # fmt: skip
            if not measured.exists():
                make_folder(measured.parent)
                measure.run_shard(segmented, ingested, self.model, results, measured)
        assemble.run(results, MODEL)


def _shards(results: Path) -> list[str]:
    return sorted(path.stem for path in (results / "manifest" / "shards").glob("*.parquet"))


def why_of_receipt(path: Path) -> str | None:
    """What is wrong with a receipt or the label map that it names; None if they are whole."""
    try:
        receipt = json.loads(of_scans.read(path))
        if not receipt_is_whole(receipt):
            return "not the receipt that was written"
        if of_scans.digest(path.parent / receipt["label_map"]) != receipt["label_map_sha256"]:
            return "its label map is another"
    except (OSError, ValueError, KeyError) as error:
        return f"{type(error).__name__}: {error}"
    return None


def why_torn(path: Path, results: Path) -> str | None:
    """What is wrong with a file under its final name; None if it is whole."""
    try:
        if path.suffix == ".json":
            json.loads(path.read_bytes())
        elif path.suffix == ".gz":
            gzip.decompress(path.read_bytes())
        elif path.suffix == ".parquet":
            stage = path.relative_to(results).parts[0]
            if stage in SCHEMAS:
                read_as_written(path, SCHEMAS[stage])
        elif path.suffix in (".tsv", ".sha256"):
            if not path.read_text().endswith("\n"):
                return "no end of line"
    except (OSError, EOFError, ValueError, KeyError, zlib.error, CohortvolError) as error:
        return f"{type(error).__name__}: {error}"
    return None


if __name__ == "__main__":
    sys.exit(main())

"""A process that segments, measures and assembles, killed without warning again and again.

    python benchmarks/kill_nine.py --kills 1000

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
import io
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
import traceback
import zlib
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

import torch

import cohortvol.stages.segment.infer  # noqa: F401 - loaded here, so that no child has to load torch
import nnunet_fixture
from cohortvol.errors import CohortvolError
from cohortvol.models.networks import Source, import_nnunet
from cohortvol.stages import assemble, ingest, manifest, measure
from cohortvol.stages.segment import pipeline, run_shard
from cohortvol.stages.segment.receipts import ShardFolder
from cohortvol.store import files
from cohortvol.store.files import make_folder, sha256_of
from cohortvol.store.schemas import COHORT_VOLUMES, INGEST, SCANS, SEGMENT, VOLUMES
from cohortvol.store.tables import read_as_written, read_table
from cohortvol.tools.verify.reading import receipt_is_whole
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
    parser.add_argument("--keep", type=Path, help="folder for what a fault left, for a look at it")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="kill-nine-") as place:
        found = Loop(Path(place), options.scans, options.seed, options.keep).run(options.kills)
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

    def __init__(self, place: Path, n_scans: int, seed: int, keep: Path | None = None) -> None:
        torch.set_num_threads(1)
        self.place, self.keep = place, keep
        self.random = random.Random(seed)  # noqa: S311
        self.found = Found()
        self.n_scans = n_scans
        self.model = place / "models" / MODEL
        self.start = place / "start"
        self.calm = place / "calm"
        self.log = place / "log"
        _in_child(self._prepare, self.log)
        shutil.copytree(self.start, self.calm)
        began = time.monotonic()
        counted = _in_child(partial(_count_calls, self._work, self.calm), self.log)
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
                _in_child(partial(self._work, results), self.log)
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
            action = partial(_die_inside, self.random.randrange(calls), self._work, results)
            ended, said = _run(action, self.log)
        else:
            seconds = self.random.uniform(0, left * self.pace_s)
            ended, said = _run(partial(self._work, results), self.log, kill_after_s=seconds)
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
            path.stem: path
            for path in results.glob(f"segment/{MODEL}/*/*.json")
            if not path.name.endswith((".started.json", ".resources.json"))
        }
        for scan_id, digest in known.items():
            if scan_id not in receipts:
                self._fault("lost", results, f"{scan_id}: its receipt is gone")
            elif sha256_of(receipts[scan_id]) != digest:
                self._fault("duplicated", results, f"{scan_id}: it was segmented again")
        for scan_id, path in receipts.items():
            known.setdefault(scan_id, sha256_of(path))
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
        for path in sorted(self.calm.rglob("*")):
            name = path.relative_to(self.calm)
            same = name.name.endswith("_dseg.nii.gz") or name.parts[0] in (
                "measure", "volumes.parquet", "scans.parquet", "files.sha256"
            )  # fmt: skip
            if not same or path.is_dir():
                continue
            other = results / name
            if not other.exists() or other.read_bytes() != path.read_bytes():
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
                    device="cpu",
                )  # fmt: skip
            if not measured.exists():
                make_folder(measured.parent)
                measure.run_shard(segmented, ingested, self.model, results, measured)
        assemble.run(results, MODEL)


def _shards(results: Path) -> list[str]:
    return sorted(path.stem for path in (results / "manifest" / "shards").glob("*.parquet"))


def why_torn(path: Path, results: Path) -> str | None:
    """What is wrong with a file under its final name; None if it is whole."""
    try:
        if path.name.endswith((".started.json", ".resources.json")):
            json.loads(path.read_bytes())
        elif path.parent.parent.parent == results / "segment" and path.suffix == ".json":
            receipt = json.loads(path.read_bytes())
            if not receipt_is_whole(receipt):
                return "not the receipt that was written"
            if sha256_of(path.parent / receipt["label_map"]) != receipt["label_map_sha256"]:
                return "its label map is another"
        elif path.suffix == ".json":
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


# --- children


def _in_child(action: Callable[[], Any], log: Path) -> str:
    ended, said = _run(action, log)
    if ended != 0:
        raise RuntimeError(f"ended with {ended}: {log.read_text()[-4000:]}")
    return said


def _run(
    action: Callable[[], Any], log: Path, kill_after_s: float | None = None
) -> tuple[int, str]:
    """Do something in a fork of this process, which has all modules loaded and no threads.

    Returns
    -------
    int
        Exit code, or minus the signal that ended it.
    str
        What it said through the pipe: ``<scan_id> <sha256 of its receipt>`` for every scan.
    """
    ours, theirs = os.pipe()
    if (child := os.fork()) == 0:
        os.close(ours)
        _be_a_child(action, theirs, log)
    os.close(theirs)
    killer = None
    if kill_after_s is not None:
        killer = threading.Timer(kill_after_s, os.kill, (child, signal.SIGKILL))
        killer.start()
    with open(ours, "rb") as stream:
        said = stream.read().decode()  # until it has ended, and with it all who hold the pipe
    if killer is not None:
        killer.cancel()
        killer.join()
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), said


def _be_a_child(action: Callable[[], Any], pipe: int, log: Path) -> None:
    code = 1
    try:
        handle = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
        os.dup2(handle, 1)
        os.dup2(handle, 2)
        finish = ShardFolder.finish

        def acknowledged(shard: ShardFolder, claim: Any, outcome: Any) -> None:
            finish(shard, claim, outcome)
            scan_id = claim.work.scan_id
            digest = sha256_of(shard.folder / f"{scan_id}.json")
            os.write(pipe, f"{scan_id} {digest}\n".encode())

        ShardFolder.finish = acknowledged  # type: ignore[method-assign]
        if (counted := action()) is not None:
            os.write(pipe, f"{counted}\n".encode())
        code = 0
    except BaseException:
        os.write(2, traceback.format_exc().encode())
    finally:
        os._exit(code)


class Calls:
    """Counts the calls that write, and ends the process inside one of them."""

    def __init__(self, last: int | None = None) -> None:
        self.count, self.last = 0, last
        self._lock = threading.Lock()
        for name in ("fsync", "replace", "unlink"):
            setattr(os, name, self._counted(getattr(os, name)))
        files.open = self._open  # type: ignore[attr-defined]

    def one(self) -> None:
        with self._lock:
            if self.count == self.last:
                os.kill(os.getpid(), signal.SIGKILL)
            self.count += 1

    def _counted(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*arguments: Any, **options: Any) -> Any:
            self.one()
            return call(*arguments, **options)

        return counted

    def _open(self, path: Any, mode: str = "r", *rest: Any, **options: Any) -> Any:
        if mode != "xb":
            return open(path, mode, *rest, **options)
        return _Halved(self, path, "x", opener=options["opener"])


class _Halved(io.FileIO):
    """A file of which a write may be cut in its middle."""

    def __init__(self, calls: Calls, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._calls = calls

    def write(self, content: Any) -> int:
        content = bytes(content)
        half = len(content) // 2
        super().write(content[:half])
        self._calls.one()
        super().write(content[half:])
        return len(content)


def _count_calls(work: Callable[[Path], None], results: Path) -> int:
    calls = Calls()
    work(results)
    return calls.count


def _die_inside(number: int, work: Callable[[Path], None], results: Path) -> None:
    Calls(number)
    work(results)


if __name__ == "__main__":
    sys.exit(main())

"""The resident worker: one shard, one model in memory, one receipt per scan."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from cohortvol.errors import (
    CohortvolError,
    InUseError,
    ScanError,
    TemporaryError,
    log_unforeseen,
)
from cohortvol.files import IN_USE, commit, commit_text, lock, make_folder
from cohortvol.kept import Kept
from cohortvol.models import (
    Card,
    choose_profile,
    load_card,
    restrict,
    segmentation_key,
    verify,
)
from cohortvol.nifti import nifti_gz
from cohortvol.resources import Job
from cohortvol.segment.images import read_image
from cohortvol.segment.progress import ShardProgress
from cohortvol.segment.receipts import (
    STARTS_BEFORE_GIVING_UP,
    Claim,
    Outcome,
    ShardFolder,
    Work,
    state_of,
)
from cohortvol.segment.watchdog import LEAST_SECONDS, Watchdog
from cohortvol.tables import INGEST, SEGMENT, append_rows, read_table, write_table

if TYPE_CHECKING:
    import torch

    from cohortvol.segment.infer import Predicted, Prepared, Segmenter

LOG = logging.getLogger(__name__)

T = TypeVar("T")

WRITE_BEHIND = 2
LOOK_AGAIN_SECONDS = 2.0
OUT_OF_MEMORY = {"RUN_GPU_OOM", "RUN_HOST_OOM"}
LABEL_NAMES = "dseg.tsv"


def run_shard(
    ingest: Path,
    model: Path,
    folder: Path,
    out: Path,
    profile: str | None = None,
    threads: int = 0,
    device: str = "auto",
    roi: Sequence[str] = (),
    attempts_left: int = 0,
    workers: int | None = None,
    job: Job | None = None,
    kept: Kept | None = None,
) -> dict[str, int]:
    """Segment the ready scans of one shard, and write the table of them.

    Scans whose receipt stands are not touched. The model is loaded once, and only if a scan
    needs it. SIGTERM, SIGUSR1 and SIGINT end the run after the scan in hand.

    Parameters
    ----------
    ingest : Path
        ``ingest/<shard>.parquet``; only its rows with state ``ready`` are segmented.
    model : Path
        The model folder.
    folder : Path
        ``segment/<model>/<shard>`` below the results folder, for label maps and receipts.
    out : Path
        ``segment/<model>/<shard>.parquet``, written when every scan has a receipt.
    profile : str, optional
        Inference profile; the card's default if not given.
    threads : int
        CPU threads for torch; 0 takes what the machine gives.
    device : str
        ``auto``, ``cpu``, ``cuda`` or ``cuda:1``.
    roi : sequence of str
        Structures wanted; all of the model's if empty.
    attempts_left : int
        Times this shard may still be run with more memory; while there are any, a scan that does
        not fit is left for the next instead of given up.
    workers : int, optional
        Threads that read and prepare scans ahead of the network; 0 does one scan after the other
        in this thread alone. `workers_for` the device if not given.
    job : Job, optional
        Where to count what the scans take.
    kept : Kept, optional
        Rows of scans that were measured and whose label map need not be there.

    Returns
    -------
    dict of str to int
        Number of scans by state.

    Raises
    ------
    ModelError, TableError
        If the model or the ingest table cannot be used.
    TemporaryError
        If the run was told to stop, the disk is full, the GPU is lost, or a scan needs more
        memory: run it again.
    """
    folder, out = Path(folder), Path(out)
    card = restrict(load_card(Path(model)), roi)
    works = _works(Path(ingest), card, profile, kept)
    verify(card)
    shard = ShardFolder(make_folder(folder))
    _write_label_names(folder / LABEL_NAMES, card)

    def load_segmenter() -> Segmenter:
        from cohortvol.segment.infer import Segmenter

        segmenter = Segmenter.load(
            card.folder, profile=profile, device=device, threads=threads, roi=roi
        )
        if job is not None:
            _describe_device(job, segmenter.device)
        return segmenter

    with _stop_on_signals() as stop, _alone(folder, stop):
        shard.sweep()
        todo = [work for work in works if not shard.is_finished(work)]
        with ShardProgress(folder.name, len(todo), len(works) - len(todo), job) as progress:
            _Worker(shard, load_segmenter, progress, stop, attempts_left, workers).run(todo)
        return _write_segment_table(shard, works, out)


def workers_for(device: torch.device) -> int:
    """One where the network takes the cores itself; enough to keep a GPU from waiting otherwise."""
    return 1 if device.type == "cpu" else 4


def _describe_device(job: Job, device: torch.device) -> None:
    """The model is in memory: from here on the job works for its scans."""
    import torch

    job.device = device.type
    if device.type == "cuda":
        job.gpu_name = torch.cuda.get_device_name(device)
        job.gpu_memory_bytes = partial(torch.cuda.max_memory_allocated, device)
    job.ready()


class _Inline(Executor):
    """Does what it is given at once, in the thread that gives it."""

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        """See `Executor.submit`."""
        done: Future[T] = Future()
        try:
            done.set_result(fn(*args, **kwargs))
        except Exception as error:
            done.set_exception(error)
        return done


class _Stop:
    """Set by a signal: finish the scan in hand and claim no other."""

    def __init__(self) -> None:
        self.signal: int | None = None

    def __bool__(self) -> bool:
        return self.signal is not None

    @property
    def name(self) -> str:
        return signal.Signals(self.signal).name if self.signal is not None else "nothing"


@contextmanager
def _stop_on_signals() -> Iterator[_Stop]:
    stop = _Stop()

    def handle(number: int, _frame: Any) -> None:
        if stop.signal == signal.SIGINT and number == signal.SIGINT:
            raise KeyboardInterrupt
        stop.signal = number

    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    numbers = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
    before = {number: signal.signal(number, handle) for number in numbers}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _alone(folder: Path, stop: _Stop) -> Iterator[None]:
    """Hold a shard's folder, and wait as long as another job holds it.

    There are two where the driver of a cluster was killed and its jobs went on. The second finds
    the scans of the first finished.
    """
    told = False
    while True:
        try:
            held = lock(folder / IN_USE, f"{folder.name}: {{owner}} is working on this shard")
            break
        except InUseError as error:
            if stop:
                raise TemporaryError(f"{error}\n  Run the same command again.") from error
            if not told:
                LOG.warning("%s; waiting for it", error)
                told = True
            time.sleep(LOOK_AGAIN_SECONDS)
    with held:
        yield


class _Worker:
    """Reads and prepares ahead in threads, predicts in this one, finishes behind in another."""

    def __init__(
        self,
        shard: ShardFolder,
        load_segmenter: Callable[[], Segmenter],
        progress: ShardProgress,
        stop: _Stop,
        attempts_left: int,
        workers: int | None,
    ) -> None:
        self._shard = shard
        self._load_segmenter = load_segmenter
        self._progress = progress
        self._stop = stop
        self._todo: deque[Work] = deque()
        self._ahead: deque[tuple[Claim, Future[tuple[Prepared, float]]]] = deque()
        self._behind: deque[Future[None]] = deque()
        self._attempts_left = attempts_left
        self._given_workers = workers
        self._threads = ExitStack()
        self._second_try: set[str] = set()
        self._too_large: list[str] = []
        self._in_flight: dict[str, Claim] = {}
        self._watchdog = Watchdog(self._note_hang, self._least_seconds)

    @cached_property
    def _segmenter(self) -> Segmenter:
        """Loaded when the first scan needs it."""
        return self._load_segmenter()

    @cached_property
    def _workers(self) -> int:
        given = self._given_workers
        return workers_for(self._segmenter.device) if given is None else given

    @cached_property
    def _reader(self) -> Executor:
        return self._threads.enter_context(self._executor(self._workers, "read"))

    @cached_property
    def _writer(self) -> Executor:
        return self._threads.enter_context(self._executor(1, "write"))

    def _executor(self, n_threads: int, name: str) -> Executor:
        return ThreadPoolExecutor(n_threads, name) if self._workers else _Inline()

    def run(self, works: list[Work]) -> None:
        """Bring every scan to a receipt, or raise TemporaryError."""
        self._todo.extend(sorted(works, key=self._shard.starts))  # those that crashed come last
        with self._watchdog, self._threads:
            try:
                while self._read_ahead() and not self._stop:
                    self._wait_for_writes(WRITE_BEHIND - 1)
                    self._one_scan(*self._ahead.popleft())
                left = len(self._todo) + len(self._ahead)
                self._give_back_ahead()
                self._wait_for_writes(0)
            except Exception:
                self._give_back_ahead()
                raise
        if left:
            raise TemporaryError(
                f"{self._shard.folder.name}: stopped by {self._stop.name}, {left} scans left\n"
                "  Finished scans are kept. Run the same command again."
            )
        if self._too_large:
            raise TemporaryError(
                f"{self._shard.folder.name}: not enough memory for {', '.join(self._too_large)}\n"
                "  Every other scan is finished and kept. Run the same command again with more "
                "memory."
            )

    def _read_ahead(self) -> bool:
        """Claim the next scans and let the readers prepare them; False if there is none.

        A scan that may have killed the process, or did not fit beside others, goes through alone,
        so that nothing else is lost or blamed with it.
        """
        if not self._todo and not self._ahead:
            self._wait_for_writes(0)  # one of them may want a second try
        while self._todo and not self._stop:
            starts = self._shard.starts(self._todo[0])
            if starts >= STARTS_BEFORE_GIVING_UP:
                work = self._todo.popleft()
                self._progress.finished(work.scan_id, self._shard.give_up(work))
                continue
            if self._ahead and (starts or self._ahead[-1][0].starts > 1):
                break
            if starts:
                self._wait_for_writes(0)
            segmenter = self._segmenter
            if self._stop or len(self._ahead) > self._workers:  # stopped while the model loaded
                break
            with self._storage_errors():
                claim = self._shard.claim(self._todo.popleft())
            self._in_flight[claim.work.scan_id] = claim
            self._watchdog.moved()
            read = self._reader.submit(_read_and_prepare, claim.work, segmenter)
            self._ahead.append((claim, read))
        return bool(self._ahead)

    def _one_scan(self, claim: Claim, read: Future[tuple[Prepared, float]]) -> None:
        """Segment one scan and hand it to the writer."""
        start = time.perf_counter()
        try:
            with self._storage_errors(claim, (TemporaryError,)):
                prepared, seconds = read.result()
            start = time.perf_counter()
            predicted = self._segmenter.predict(prepared)
        except TemporaryError:
            raise
        except Exception as error:
            self._failed(claim, error, time.perf_counter() - start)
            return
        seconds += time.perf_counter() - start
        self._behind.append(self._writer.submit(self._finish, claim, predicted, seconds))

    def _failed(self, claim: Claim, error: Exception, seconds: float) -> None:
        """Try a scan that did not fit once more alone, then leave it for a job with more memory."""
        work = claim.work
        outcome = _outcome_of(error, work.scan_id, seconds)
        if outcome.reason in OUT_OF_MEMORY and work.scan_id not in self._second_try:
            self._second_try.add(work.scan_id)
            self._todo.append(work)
        elif outcome.reason in OUT_OF_MEMORY and self._attempts_left:
            self._give_back(claim)
            self._too_large.append(work.scan_id)
        else:
            self._end(claim, outcome)

    def _finish(self, claim: Claim, predicted: Predicted, seconds: float) -> None:
        """Label map and receipt of one scan."""
        start = time.perf_counter()
        try:
            labels = self._segmenter.finish(predicted)
        except TemporaryError:
            raise
        except Exception as error:
            self._failed(claim, error, seconds)
            return
        content = nifti_gz(labels, predicted.prepared.affine)
        with self._storage_errors(claim):
            sha256 = commit(
                self._shard.label_map(claim.work.scan_id), lambda stream: stream.write(content)
            )
        self._end(
            claim,
            Outcome(
                state="segmented",
                seconds=seconds + time.perf_counter() - start,
                seconds_network=predicted.seconds_network,
                label_map_sha256=sha256,
                label_map_bytes=len(content),
                softmax=predicted.softmax,
                numerics=self._segmenter.numerics,
            ),
        )

    def _end(self, claim: Claim, outcome: Outcome) -> None:
        with self._storage_errors(claim):
            self._shard.finish(claim, outcome)
        self._in_flight.pop(claim.work.scan_id, None)
        self._watchdog.moved(outcome.seconds)
        self._progress.finished(claim.work.scan_id, outcome)

    @contextmanager
    def _storage_errors(
        self,
        claim: Claim | None = None,
        errors: tuple[type[Exception], ...] = (CohortvolError, OSError),
    ) -> Iterator[None]:
        """The disk is at fault, not the scan: its start does not count, the run pauses."""
        try:
            yield
        except errors as error:
            if claim is not None:
                self._give_back(claim)
            if isinstance(error, TemporaryError):
                raise
            raise TemporaryError(
                f"{self._shard.folder}: cannot be written ({error})\n"
                "  Finished scans are kept. Run the same command again."
            ) from error

    def _wait_for_writes(self, allowed: int) -> None:
        while len(self._behind) > allowed:
            self._behind.popleft().result()

    def _give_back_ahead(self) -> None:
        """Scans that were prepared for nothing count as never started."""
        while self._ahead:
            claim, read = self._ahead.popleft()
            read.cancel()
            self._give_back(claim)

    def _give_back(self, claim: Claim) -> None:
        self._in_flight.pop(claim.work.scan_id, None)
        self._shard.give_back(claim)

    def _least_seconds(self) -> float:
        loaded = "_segmenter" in self.__dict__
        return LEAST_SECONDS["cuda" if loaded and self._segmenter.device.type == "cuda" else "cpu"]

    def _note_hang(self) -> None:
        for claim in list(self._in_flight.values()):
            self._shard.note_hang(claim)


def _read_and_prepare(work: Work, segmenter: Segmenter) -> tuple[Prepared, float]:
    """The scan, ready for the network, and the seconds it took."""
    start = time.perf_counter()
    image = read_image(work.image, work.image_sha256, segmenter.dtype)
    prepared = segmenter.prepare(image.data, image.affine)
    return prepared, time.perf_counter() - start


def _outcome_of(error: Exception, scan_id: str, seconds: float) -> Outcome:
    if isinstance(error, ScanError):
        return Outcome(state_of(error.reason), error.reason, error.detail or None, seconds)
    if isinstance(error, MemoryError):
        return Outcome("failed", "RUN_HOST_OOM", None, seconds)
    return Outcome("failed", "BUG_UNEXPECTED", log_unforeseen(LOG, scan_id, error), seconds)


def _works(ingest: Path, card: Card, profile: str | None, kept: Kept | None) -> list[Work]:
    table = read_table(ingest, INGEST)
    ready = table[table["state"] == "ready"].sort_values("scan_id")
    chosen = choose_profile(card, profile)
    key = segmentation_key(card, chosen.name)
    return [
        Work(
            scan_id=row["scan_id"],
            image=Path(row["image"]),
            image_sha256=row["image_sha256"],
            model=card.id,
            profile=chosen.name,
            segmentation_key=key,
            keeps_softmax=chosen.keeps_softmax,
            measured_sha256=kept.label_map_sha256(row) if kept is not None else None,
        )
        for row in ready.to_dict("records")
    ]


def _write_label_names(path: Path, card: Card) -> None:
    lines = {
        label: f"{label}\t{name}" + (f"\t{layer}" if len(card.layers) > 1 else "")
        for layer, labels in enumerate(card.labels_by_layer)
        for label, name in labels.items()
    }
    header = "index\tname" + ("\tlayer" if len(card.layers) > 1 else "")
    text = "\n".join([header, *(lines[label] for label in sorted(lines))]) + "\n"
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        commit_text(path, text)


def _write_segment_table(shard: ShardFolder, works: list[Work], out: Path) -> dict[str, int]:
    folder = Path(os.path.abspath(shard.folder))
    results = [folder, *folder.parents][:4][-1]  # results/segment/<model>/<shard>
    rows = []
    for work in works:
        receipt = shard.receipt(work.scan_id)
        if receipt is None:
            raise TemporaryError(
                f"{shard.folder}: the receipt of {work.scan_id} went away while the shard ran\n"
                "  Is another run working in the same folder? Run the same command again."
            )
        row = {name: receipt.get(name) for name in SEGMENT}
        if receipt["label_map"] is not None:
            row["label_map"] = (folder / receipt["label_map"]).relative_to(results).as_posix()
        row["cohortvol_version"] = receipt["versions"]["cohortvol"]
        rows.append(row)
    write_table(out, append_rows(rows, SEGMENT), SEGMENT)
    counts = Counter(str(row["state"]) for row in rows)
    LOG.info("%s: %s", shard.folder.name, ", ".join(f"{n} {s}" for s, n in sorted(counts.items())))
    return dict(counts)

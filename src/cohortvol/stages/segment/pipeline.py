"""Scans of a shard through threads: read and prepared ahead, predicted, and written behind."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

from cohortvol.anatomy.nifti import nifti_gz
from cohortvol.errors import (
    CohortvolError,
    InstallationError,
    ScanError,
    TemporaryError,
    log_unforeseen,
)
from cohortvol.reasons import state_of
from cohortvol.stages.segment.elsewhere import LabelMaps, Processor
from cohortvol.stages.segment.images import read_image
from cohortvol.stages.segment.progress import ShardProgress
from cohortvol.stages.segment.receipts import (
    STARTS_BEFORE_GIVING_UP,
    Claim,
    Outcome,
    ShardFolder,
    Work,
)
from cohortvol.stages.segment.stopping import Stop
from cohortvol.stages.segment.watchdog import LEAST_SECONDS, Watchdog

if TYPE_CHECKING:
    import torch

    from cohortvol.stages.segment.infer import Segmenter

    Maker = Segmenter | LabelMaps

LOG = logging.getLogger(__name__)

T = TypeVar("T")

WRITE_BEHIND = 2
OUT_OF_MEMORY = {"RUN_GPU_OOM", "RUN_HOST_OOM"}


class Pipeline:
    """Reads and prepares ahead in threads, predicts in this one, finishes behind in another."""

    def __init__(
        self,
        shard: ShardFolder,
        load_segmenter: Callable[[], Maker],
        progress: ShardProgress,
        stop: Stop,
        attempts_left: int,
        workers: int | None,
    ) -> None:
        self._shard = shard
        self._load_segmenter = load_segmenter
        self._progress = progress
        self._stop = stop
        self._todo: deque[Work] = deque()
        self._ahead: deque[tuple[Future[Claim], Future[tuple[Any, float]]]] = deque()
        self._alone = False
        self._behind: deque[Future[None]] = deque()
        self._attempts_left = attempts_left
        self._given_workers = workers
        self._threads = ExitStack()
        self._second_try: dict[str, Claim] = {}  # with the claim of the first
        self._too_large: list[str] = []
        self._in_flight: dict[str, Claim] = {}
        self._watchdog = Watchdog(self._note_hang, self._least_seconds)

    @cached_property
    def _segmenter(self) -> Maker:
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
        """Let the readers claim and prepare the next scans; False if there is none.

        A scan that may have killed the process, or did not fit beside others, goes through alone,
        so that nothing else is lost or blamed with it.
        """
        if not self._todo and not self._ahead:
            self._wait_for_writes(0)  # one of them may want a second try
        while self._todo and not self._stop:
            starts = self._shard.starts(self._todo[0])
            if starts >= STARTS_BEFORE_GIVING_UP:
                work = self._todo.popleft()
                with self._storage_errors():
                    outcome = self._shard.give_up(work)
                self._progress.finished(work.scan_id, outcome)
                continue
            if self._ahead and (starts or self._alone):
                break
            if starts:
                self._wait_for_writes(0)
            segmenter = self._segmenter
            if self._stop or len(self._ahead) > self._workers:  # stopped while the model loaded
                break
            self._alone = starts > 0
            claimed = self._reader.submit(self._claim, self._todo.popleft())
            read = self._reader.submit(_read_and_prepare, claimed, segmenter)
            self._ahead.append((claimed, read))
        return bool(self._ahead)

    def _claim(self, work: Work) -> Claim:
        """In a reader's thread, so that no network waits for the disk to have the mark."""
        with self._storage_errors(self._second_try.get(work.scan_id)):
            claim = self._shard.claim(work)
        self._in_flight[work.scan_id] = claim
        self._watchdog.moved()
        return claim

    def _one_scan(self, claimed: Future[Claim], read: Future[tuple[Any, float]]) -> None:
        """Segment one scan and hand it to the writer."""
        claim = claimed.result()
        start = time.perf_counter()
        try:
            with self._storage_errors(claim, (TemporaryError,)):
                prepared, seconds = read.result()
            start = time.perf_counter()
            predicted = self._segmenter.predict(prepared)
        except TemporaryError:
            raise
        except InstallationError:
            self._give_back(claim)
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
            self._second_try[work.scan_id] = claim
            self._todo.append(work)
        elif outcome.reason in OUT_OF_MEMORY and self._attempts_left:
            self._give_back(claim)
            self._too_large.append(work.scan_id)
        else:
            self._end(claim, outcome)

    def _finish(self, claim: Claim, predicted: Any, seconds: float) -> None:
        """Label map and receipt of one scan."""
        start = time.perf_counter()
        try:
            labels = self._segmenter.finish(predicted)
        except TemporaryError:
            raise
        except InstallationError:
            self._give_back(claim)
            raise
        except Exception as error:
            self._failed(claim, error, seconds)
            return
        content = nifti_gz(labels, predicted.prepared.affine)
        with self._storage_errors(claim):
            sha256 = self._shard.commit_label_map(claim.work.scan_id, content)
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
            claimed, read = self._ahead.popleft()
            read.cancel()
            if not claimed.cancel():
                with suppress(TemporaryError):  # it could not be claimed
                    self._give_back(claimed.result())
        for work in self._todo:
            if work.scan_id in self._second_try:
                self._give_back(self._second_try[work.scan_id])

    def _give_back(self, claim: Claim) -> None:
        """Take a start back; with a second try of this process, the first as well."""
        self._in_flight.pop(claim.work.scan_id, None)
        self._shard.give_back(self._second_try.get(claim.work.scan_id, claim))

    def _least_seconds(self) -> float:
        loaded = "_segmenter" in self.__dict__
        return LEAST_SECONDS["cuda" if loaded and self._segmenter.device.type == "cuda" else "cpu"]

    def _note_hang(self) -> None:
        for claim in list(self._in_flight.values()):
            self._shard.note_hang(claim)


def workers_for(device: torch.device | Processor) -> int:
    """One where the network takes the cores itself; enough to keep a GPU from waiting otherwise."""
    return 1 if device.type == "cpu" else 4


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


def _read_and_prepare(claimed: Future[Claim], segmenter: Maker) -> tuple[Any, float]:
    """The scan, ready for the network, and the seconds it took."""
    work = claimed.result().work
    start = time.perf_counter()
    if isinstance(segmenter, LabelMaps):
        prepared: Any = segmenter.read(work)
    else:
        image = read_image(work.image, work.image_sha256, segmenter.dtype)
        prepared = segmenter.prepare(image.data, image.affine)
    return prepared, time.perf_counter() - start


def _outcome_of(error: Exception, scan_id: str, seconds: float) -> Outcome:
    if isinstance(error, ScanError):
        return Outcome(state_of(error.reason), error.reason, error.detail or None, seconds)
    if isinstance(error, MemoryError):
        return Outcome("failed", "RUN_HOST_OOM", None, seconds)
    return Outcome("failed", "BUG_UNEXPECTED", log_unforeseen(LOG, scan_id, error), seconds)

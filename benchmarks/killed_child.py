"""A fork of this process that says what it finished, killed if need be inside a write."""

from __future__ import annotations

import io
import os
import signal
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cohortvol.stages.segment.receipts import ShardFolder
from cohortvol.store import files, of_scans, pack


def in_child(action: Callable[[], Any], log: Path) -> str:
    ended, said = run_child(action, log)
    if ended != 0:
        raise RuntimeError(f"ended with {ended}: {log.read_text()[-4000:]}")
    return said


def run_child(
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
            digest = of_scans.digest(shard.folder / f"{scan_id}{of_scans.RECEIPT}")
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
        for module in (files, pack):
            module.open = self._open  # type: ignore[attr-defined]

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
        if mode not in ("xb", "r+b"):
            return open(path, mode, *rest, **options)
        return _Halved(self, path, mode.replace("b", ""), **options)


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


def count_calls(work: Callable[[Path], None], results: Path) -> int:
    calls = Calls()
    work(results)
    return calls.count


def die_inside(number: int, work: Callable[[Path], None], results: Path) -> None:
    Calls(number)
    work(results)

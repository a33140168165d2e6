"""What a process tree took: seconds, memory, and the time the GPU was at work."""

from __future__ import annotations

import resource
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import psutil


def measured(command: list[str], environment: Mapping[str, str], log: Path) -> dict[str, float]:
    """Wall and processor seconds, peak memory, and the share of time the GPU was busy."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.perf_counter()
    with open(log, "w") as stream:
        process = subprocess.Popen(command, env=dict(environment), stdout=stream, stderr=stream)
    memory, gpu = _Memory(process.pid), _Gpu()
    code = process.wait()
    seconds = time.perf_counter() - start
    memory.end()
    busy = gpu.end()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if code:
        raise SystemExit(f"{' '.join(command)}: exit {code}, see {log}")
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {
        "wall_s": round(seconds, 1),
        "cpu_s": round(used, 1),
        "peak_mb": round(memory.peak_bytes / 2**20),
        **busy,
    }


class _Memory(threading.Thread):
    """Looks every two seconds at the memory of a process tree.

    Not more often: the kernel walks through all of its pages, and they wait meanwhile.
    """

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self._process = psutil.Process(pid)
        self._ended = threading.Event()
        self.peak_bytes = 0
        self.start()

    def run(self) -> None:
        while not self._ended.wait(2.0):
            try:
                tree = [self._process, *self._process.children(recursive=True)]
                total = sum(process.memory_full_info().pss for process in tree)
            except psutil.Error:  # one ended while we looked
                continue
            self.peak_bytes = max(self.peak_bytes, total)

    def end(self) -> None:
        self._ended.set()
        self.join()


class _Gpu:
    """Asks nvidia-smi ten times a second for how much of the time the GPU is busy."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        if smi := shutil.which("nvidia-smi"):
            query = ["--query-gpu=utilization.gpu", "--format=csv,noheader,nounits"]
            self._printed = tempfile.TemporaryFile()
            self._process = subprocess.Popen(
                [smi, *query, "--id=0", "--loop-ms=100"], stdout=self._printed
            )

    def end(self) -> dict[str, float]:
        """Share of the whole run, and of the time from its first use to its last."""
        if self._process is None:
            return {}
        self._process.terminate()
        self._process.wait()
        self._printed.seek(0)
        percent = np.array([float(line) for line in self._printed])
        (used,) = np.nonzero(percent)
        if not len(used):
            return {"gpu_busy": 0.0}
        at_work = percent[used[0] : used[-1] + 1]
        return {
            "gpu_busy": round(percent.mean() / 100, 2),
            "gpu_busy_at_work": round(at_work.mean() / 100, 2),
            "gpu_at_work_s": round(len(at_work) / 10, 1),
        }

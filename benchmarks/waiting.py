"""What a fast network would wait for: the worker's own work between two scans.

    python benchmarks/waiting.py --network-s 0.3
    python benchmarks/waiting.py --network-s 0.3 --fsync-ms 20     # as a file server may take

The worker as it is, on the scans of side_by_side.py, with a network that only takes its time, as
one on a GPU does while the processor is free, and gives the same labels for every scan. Printed
are the share of the time that it is at work, and what it waits between two scans.
"""

from __future__ import annotations

import argparse
import os
import shutil
import time
from functools import cache
from pathlib import Path

import numpy as np

from cohortvol.stages.segment import run_shard
from cohortvol.stages.segment.infer import Predicted, Prepared, Segmenter
from cohortvol.stages.segment.together import Spoken
from side_by_side_models import random_model
from side_by_side_scans import checked_shard, common_scans

WARM_AFTER = 2
"""Scans before the first that counts."""


def main() -> None:
    """Run the worker on one shard and print how much of the time the network was at work."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--network-s", type=float, default=0.3, help="seconds a scan in the network"
    )
    parser.add_argument("--fsync-ms", type=float, default=0.0, help="added to every fsync")
    parser.add_argument("--scans", type=int, default=48)
    parser.add_argument("--workers", type=int, default=4, help="readers, as on a GPU")
    parser.add_argument("--out", type=Path, default=Path("results/side_by_side"))
    options = parser.parse_args()
    work = options.out.resolve()
    ingest = checked_shard(common_scans(work, options.scans))
    model = random_model(work, "tiny")
    out = work / "waiting"
    shutil.rmtree(out, ignore_errors=True)

    network = Network(options.network_s)
    Segmenter.predict = lambda segmenter, prepared: network.predict(segmenter, prepared)
    fsync = os.fsync

    def slow_fsync(descriptor: int) -> None:
        time.sleep(options.fsync_ms / 1000)
        fsync(descriptor)

    os.fsync = slow_fsync
    run_shard(
        ingest=ingest,
        model=model,
        folder=out / "shard",
        out=out / "segment.parquet",
        profile="ts218",
        device="cpu",
        threads=1,
        workers=options.workers,
    )
    network.report()


class Network:
    """Takes its time, and says of every scan of one shape the same."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._calls: list[tuple[float, float]] = []

    def predict(self, segmenter: Segmenter, prepared: Prepared) -> Predicted:
        """In place of `Segmenter.predict`."""
        start = time.perf_counter()
        time.sleep(self._seconds)
        self._calls.append((start, time.perf_counter()))
        said = []
        for part in segmenter._parts:
            source = prepared.inputs[part.name]
            said.append(Spoken(part, source, _labels(source.cropped)))
        return Predicted(prepared, said, self._seconds)

    def report(self) -> None:
        """Share of the time at work, and the waits."""
        start, end = np.array(self._calls[WARM_AFTER:]).T
        waits_ms = 1000 * (start[1:] - end[:-1])
        share = (end - start).sum() / (end[-1] - start[0])
        print(f"network at work {share:.1%} of the time")
        print(f"wait between two scans: median {np.median(waits_ms):.1f} ms, "
              f"longest {waits_ms.max():.1f} ms")  # fmt: skip


@cache
def _labels(shape: tuple[int, ...]) -> np.ndarray:
    """Twenty labels in slanting layers."""
    layers = np.indices(shape).sum(axis=0) // 30 % 20
    return layers.astype(np.uint8)


if __name__ == "__main__":
    main()

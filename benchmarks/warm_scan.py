"""Where the time of a warm scan goes: the network, and every other stage of the worker.

    python benchmarks/warm_scan.py --network tiny --scans 12

One worker in this process, on the scans and weights of side_by_side.py. The wall time of a scan
once the model is warm is held against the time in the network's forward plus the slowest other
stage: what a pipeline without gaps needs.
"""

from __future__ import annotations

import argparse
import shutil
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cohortvol.stages.segment import infer, nnunet, pipeline, run_shard, tiles
from cohortvol.store import of_scans
from side_by_side_models import SETTINGS, random_model
from side_by_side_scans import checked_shard, common_scans

STAGES: dict[str, tuple[Any, str]] = {
    "read and prepare": (pipeline, "_read_and_prepare"),
    "blend": (tiles._Blender, "add"),
    "sums to logits": (tiles._Blender, "advance"),
    "label of the greatest": (nnunet, "label_of_greatest"),
    "labels to the scan": (infer.Segmenter, "finish"),
    "encode": (pipeline, "nifti_gz"),
    "write": (of_scans.Files, "commit"),
}


def main() -> None:
    """Run the worker with a clock around every stage, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", choices=list(SETTINGS), default="tiny")
    parser.add_argument("--scans", type=int, default=12)
    parser.add_argument("--profile", default="ts218")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--out", type=Path, default=Path("results/side_by_side"))
    options = parser.parse_args()
    work = options.out.resolve()
    ingest = checked_shard(common_scans(work, options.scans))
    model = random_model(work, options.network)
    out = work / "warm" / options.network
    shutil.rmtree(out, ignore_errors=True)

    clock = Clock()
    for stage, (owner, name) in STAGES.items():
        setattr(owner, name, clock.around(stage, getattr(owner, name)))
    make = nnunet.PartNetwork._network
    nnunet.PartNetwork._network = lambda *given: clock.around("network", make(*given))
    run_shard(
        ingest=ingest,
        model=model,
        folder=out / "shard",
        out=out / "segment.parquet",
        profile=options.profile,
        device=options.device,
    )
    clock.report()


class Clock:
    """Seconds per stage, and when every scan was written."""

    def __init__(self) -> None:
        self.calls: dict[str, list[tuple[float, float]]] = defaultdict(list)

    def around(self, stage: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, with its start and end noted; a generator is run to its end."""

        def timed(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            result = function(*args, **kwargs)
            if stage == "sums to logits":
                result = list(result)
            self.calls[stage].append((start, time.perf_counter()))
            return result

        return timed

    def report(self) -> None:
        """Mean seconds of a scan by stage, without the first scan, and the ratio."""
        written = [end for _, end in self.calls["write"]]
        first, last, n = written[0], written[-1], len(written) - 1
        wall = (last - first) / n
        seconds = {
            stage: sum(end - start for start, end in calls if first < end <= last) / n
            for stage, calls in self.calls.items()
        }
        network = seconds.pop("network")
        slowest = max(seconds, key=seconds.__getitem__)
        print(f"{'network':24} {network:.3f} s a scan")
        for stage, value in seconds.items():
            print(f"{stage:24} {value:.3f}")
        print(f"{'wall':24} {wall:.3f}")
        print(f"wall / (network + {slowest}): {wall / (network + seconds[slowest]):.2f}")


if __name__ == "__main__":
    main()

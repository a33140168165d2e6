"""A disk that fails at every call that changes a file, of every stage, in every way.

The trials of ``tests/test_failing_disk.py``, of which that runs a few: EIO, ENOSPC and EROFS,
before or after the call was done, once, for one kind of call or for all; in a first run, with new
weights, with a withdrawal, and where label maps are not kept.

    python benchmarks/failing_disk.py --step 1
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from cohortvol.store import storage
from failing_disk import trial, ways


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--step", type=int, default=1, help="only every so many calls")
    parser.add_argument("--first", type=int, default=1, help="the first call")
    options = parser.parse_args()
    logging.disable(logging.CRITICAL)
    storage.WAITS_S = (0.0,) * len(storage.WAITS_S)
    start, faults, wrong = time.monotonic(), 0, Counter[str]()
    for stage, what, fault in ways():
        at = options.first
        while True:
            try:
                happened = trial(stage, what, fault, at)
            except Exception as error:
                happened = True
                kind = f"{type(error).__name__}: {str(error).splitlines()[0][:100]}"
                wrong[kind] += 1
                print(f"{what}, {stage}, call {at}, {fault}: {kind}", flush=True)
            if not happened:
                break
            faults += 1
            at += options.step
    print(f"{faults:,} faults, {wrong.total():,} with an end that is not right")
    for kind, n in wrong.most_common():
        print(f"  {n:,}  {kind}")
    print(f"{time.monotonic() - start:,.0f} s, {time.process_time():,.0f} s of processor")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())

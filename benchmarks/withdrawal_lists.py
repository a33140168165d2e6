"""Lists of people who withdrew, in all dialects: removed and proven, or refused; never in silence.

Every list of ``tests/withdrawal_lists.py`` is given to ``cohortvol manifest --withdrawals`` and to
``cohortvol verify --withdrawn`` on a copy of a finished results folder. Prints how many ended how,
and every one that went wrong.

    python benchmarks/withdrawal_lists.py
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from withdrawal_lists import LISTS
from withdrawal_trial import OUTCOMES, Cohort


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--verbose", action="store_true", help="a line for every list")
    options.add_argument("--every", type=int, default=1, metavar="N", help="each Nth list alone")
    given = options.parse_args()
    verbose, lists = given.verbose, LISTS[:: given.every]
    logging.disable(logging.CRITICAL)
    began = time.monotonic()
    found: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)  # where no .snakemake is
        cohort = Cohort(Path(folder))
        for one in lists:
            outcome = cohort.judge(one)
            wrong = outcome not in OUTCOMES
            found["WRONG" if wrong else outcome] += 1
            if verbose or wrong:
                print(f"{one.name!r}, {one.file}: {outcome}", flush=True)
    print(f"{len(lists)} lists in {time.monotonic() - began:.0f} s")
    for outcome, n in found.most_common():
        print(f"{n:5d}  {outcome}")
    return 1 if found["WRONG"] else 0


if __name__ == "__main__":
    sys.exit(main())

"""A page for every subset of the manifest's optional columns, of 1, 2, 20 and 400 scans.

The scans are simulated as tables; manifest, assemble, analyse and report are the real ones
(``tests/subset_cohort.py``). Of each cell the page is made for the house and, with ``--public``,
for outside it too; a cell fails with an exception, or where its page lacks what it must say.
Figures are small PNG unless ``--full`` is given, as drawing them for print takes most of the time.

    python benchmarks/subsets.py --public
"""

from __future__ import annotations

import argparse
import contextlib
import io
import logging
import os
import sys
import tempfile
import time
import traceback
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from cohortvol.drawing import pages, style
from subset_cohort import Cell, cells, faults_of, page_of, results_of


def main() -> int:
    options = _options()
    os.umask(0o077)
    logging.disable(logging.CRITICAL)
    if not options.full:
        style.FORMATS, style.DPI, pages.SCREEN_PX = ("png",), 50, 320
    start, n_pages, wrong = time.monotonic(), 0, 0
    with tempfile.TemporaryDirectory(prefix="subsets-") as scratch:
        folder = options.keep or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        chosen = [cell for cell in cells() if not options.only or str(cell) in options.only]
        for cell in chosen:
            made, faults = _tried(folder, cell, public=options.public)
            print(f"{cell}: {made} pages", file=sys.stderr, flush=True)
            n_pages += made
            wrong += bool(faults)
            for fault in faults:
                print(f"{cell}: {fault}", flush=True)
    print(
        f"{len(chosen):,} cohorts, {n_pages:,} pages, {wrong:,} cohorts with a fault; "
        f"{time.monotonic() - start:,.0f} s, {time.process_time():,.0f} s of processor"
    )
    return int(wrong > 0)


def _tried(folder: Path, cell: Cell, *, public: bool) -> tuple[int, list[str]]:
    """Pages made of one cell, and what is wrong with it."""
    made, faults = 0, []
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # what stages print of their accounts
            results = results_of(folder, cell)
        for outside in (False, True) if public else (False,):
            page = page_of(results, public=outside)
            made += 1
            faults += [
                f"{page.parent.name}: {fault}" for fault in faults_of(page, cell, public=outside)
            ]
    except Exception:
        faults.append(traceback.format_exc())
    return made, faults


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--public", action="store_true", help="a page for outside the house too")
    parser.add_argument("--only", nargs="*", help="cells by name, such as age+sex-20; all if none")
    parser.add_argument("--keep", type=Path, help="folder to leave the results in")
    parser.add_argument("--full", action="store_true", help="figures as a report has them")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())

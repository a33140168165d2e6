"""Two public pages of cohorts that differ by a few people: what they give away of these people.

    python benchmarks/differencing.py pairs --pairs 500 --other OLD/src/cohortvol/report/disclosure.py
    python benchmarks/differencing.py folders OUT --pairs 4

``pairs`` draws people, analyses the cohorts before and after 1 to 5 of them left, came, or were
changed in age and volumes (``--differ`` gives other numbers of people), makes the tables of both
public pages and plays a reader who has both, knows how many people differ and in which way, and
how numbers are rounded. It prints what comes out and how much of it is true: of the pages that one
results folder lets be made; as if each page had been made in a folder of its own, where nothing is
known of the other; and, with ``--other``, of pages by the rules of another commit, before there
was such a memory. ``folders`` makes whole pages with all figures, which takes most of the time, and
compares what is drawn in SVG and PDF with what is written.

The reader's means: every n that fits rho and p, or a slope with its interval and p; counts bounded
by each other (sexes, bands of age); n x mean of both pages; quantiles that moved; leave-one-out
slopes solved for age; numbers of one sex that moved while those of the other did not; places of
curves in SVG and PDF.
"""  # noqa: E501

from __future__ import annotations

import argparse
import importlib.util
import re
import sys
import zlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd

from cohortvol.stages import analyse, report
from cohortvol.stages.report.tables import disclosure, published
from cohortvol.store.schemas import SCANS, VOLUMES
from cohortvol.store.tables import write_table
from differencing_claims import Claim, solve
from differencing_pages import Page
from differencing_pairs import Made, Pair, Rule, pairs_of

# ---- truth ---------------------------------------------------------------------------------------


def is_true(claim: Claim, pair: Pair) -> bool:
    """Whether what was said of these people holds."""
    scans = [made.scans[made.scans["scan_id"].isin(pair.who)] for made in (pair.before, pair.after)]
    there = scans[0] if len(scans[0]) else scans[1]
    if claim.what in ("sex", "women among those who differ"):
        return bool((there["sex"] == "F").sum() == claim.low)
    if claim.what in ("age", "decade of age"):
        return bool(claim.low <= there["age_years"].iloc[0] <= claim.high)
    structure, sex = claim.key.split(" ")
    names = there if sex == "all" else there[there["sex"] == sex]
    totals = [
        float(volumes.loc[
            volumes["scan_id"].isin(names["scan_id"])
            & (volumes["structure"] == structure) & (volumes["status"] == "ok"), "volume_ml"
        ].sum())
        for volumes in (pair.before.volumes, pair.after.volumes)
    ]  # fmt: skip
    truth = totals[1] - totals[0] if "change" in claim.what else max(totals)
    slack = 1e-6 * abs(truth) + 1e-6
    return bool(claim.low - slack <= truth <= claim.high + slack)


def n_found(page: Page, made: Made) -> tuple[int, int]:
    """Rows of one page of which the exact n comes out, and rows in all."""
    truth = made.analysis.correlations.set_index(["structure", "sex"])["n_used"]
    hits = [key for key, here in page.counts.items() if here.width < 1 and here.low == truth[key]]
    return len(hits), len(page.counts)


# ---- figures -------------------------------------------------------------------------------------


def drawn_numbers(path: Path) -> np.ndarray:
    """Every number with decimals of an SVG or PDF, in its order."""
    data = path.read_bytes()
    if path.suffix == ".pdf":
        streams = re.findall(rb"stream\r?\n(x.*?)endstream", data, re.DOTALL)
        data = b"\n".join(zlib.decompressobj().decompress(stream) for stream in streams)
    return np.array([float(number) for number in re.findall(rb"-?\d+\.\d+", data)])


def figures_beyond_their_tables(before: Path, after: Path) -> list[str]:
    """Figures whose numbers on paper differ though their CSV and the words in them do not."""
    return [
        path.name
        for kind in ("svg", "pdf")
        for path in sorted((before / "figures").glob(f"*.{kind}"))
        if (after / "figures" / path.name).is_file()
        and path.with_suffix(".csv").read_bytes()
        == (after / "figures" / f"{path.stem}.csv").read_bytes()
        and not np.array_equal(drawn_numbers(path), drawn_numbers(after / "figures" / path.name))
    ]


def curve_error(page: Path) -> float:
    """How far the curves of the SVG lie from their numbers in the CSV, by their height.

    What is drawn from more digits than are written lies off them.
    """
    data = pd.read_csv(page / "figures" / "trends.csv")
    svg = (page / "figures" / "trends.svg").read_text(encoding="utf-8")
    paths = [
        np.array([[float(x), float(y)] for x, y in re.findall(r"[ML] ([\d.]+) ([\d.]+)", text)])
        for text in re.findall(r'd="(M [^"z]+?)"', svg)
    ]
    worst = 0.0
    for _, fit in data[data["kind"] == "fit"].groupby(["structure", "sex", "model"]):
        ordered = fit.sort_values("age_years")["volume_ml"]
        if ordered.nunique() == 1:
            continue  # a level line fits any place
        design = np.column_stack([ordered, np.ones(len(ordered))])
        errors = [
            np.abs(design @ np.linalg.lstsq(design, line[:, 1], rcond=None)[0] - line[:, 1]).max()
            / np.ptp(line[:, 1])
            for line in paths
            if len(line) == len(ordered) and np.ptp(line[:, 1]) > 0
        ]
        worst = max(worst, min(errors, default=0.0))
    return worst


# ---- the campaigns -------------------------------------------------------------------------------


@dataclass
class Found:
    """What the reader found out over all pairs."""

    pairs: int = 0
    refused: int = 0
    n_rows: int = 0
    rows: int = 0
    said: Counter[tuple[str, bool]] = field(default_factory=Counter)
    in_pairs: Counter[str] = field(default_factory=Counter)

    def tell(self) -> None:
        print(f"  {self.pairs} pairs, second page refused: {self.refused}")
        print(f"  rows of the first page whose exact n comes out: {self.n_rows} of {self.rows}")
        for what in sorted({what for what, _ in self.said}):
            right, wrong = self.said[what, True], self.said[what, False]
            print(f"  {what}: in {self.in_pairs[what]} pairs; said {right + wrong}, true {right}")
        if not self.said:
            print("  nothing found out of who differs")

    def add(self, pair: Pair, name: str, rule: Rule, *, compared: bool) -> None:
        """Read both pages of a pair, if the second is made where it is `compared`."""
        before, after = (made.page(name, rule) for made in (pair.before, pair.after))
        n_rows, rows = n_found(before, pair.before)
        self.pairs, self.n_rows, self.rows = self.pairs + 1, self.n_rows + n_rows, self.rows + rows
        if compared and published.too_near(pair.before.people, pair.after.people):
            self.refused += 1
            return
        said = [(claim.what, is_true(claim, pair))
                for claim in solve(before, after, len(pair.who), pair.way)]  # fmt: skip
        self.said.update(said)
        self.in_pairs.update({what for what, right in said if right})


def rules_of(path: Path) -> Rule:
    """The function of another commit's file that makes an analysis public."""
    spec = importlib.util.spec_from_file_location("other_disclosure", path)
    if spec is None or spec.loader is None:
        raise SystemExit(f"{path}: no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    rule: Rule = module.public
    return rule


def read_pairs(pairs: Iterable[Pair], other: Path | None = None) -> dict[str, Found]:
    """What comes out of the pages of these pairs, made in each of the ways."""
    ways: dict[str, tuple[str, Rule, bool]] = {
        "both pages from one results folder": ("now", disclosure.public, True),
        "each page from a results folder of its own": ("now", disclosure.public, False),
    }
    if other is not None:
        ways[f"by the rules of {other}"] = ("other", rules_of(other), False)
    found = {words: Found() for words in ways}
    for number, pair in enumerate(pairs, start=1):
        for words, (name, rule, compared) in ways.items():
            found[words].add(pair, name, rule, compared=compared)
        if number % 50 == 0:
            print(f"{number} pairs", file=sys.stderr)
    return found


def make_folders(out: Path, n_pairs: int, most: tuple[int, int]) -> None:
    """Whole pages of some pairs, each in a results folder of its own, and what is drawn in them."""
    beyond: Counter[str] = Counter()
    worst = 0.0
    for number, pair in enumerate(pairs_of(n_pairs, most, out)):
        pages = []
        for which, made in (("before", pair.before), ("after", pair.after)):
            results = out / f"{number:04d}" / which
            write_table(results / "scans.parquet", made.scans, SCANS)
            write_table(results / "volumes.parquet", made.volumes, VOLUMES)
            tables = results / "volumes.parquet", results / "scans.parquet"
            analyse.run(*tables, results / "analyse", bootstrap_draws=100)
            report.run(results / "analyse", *tables, results / "report", public=True)
            pages.append(results / "report")
        beyond.update(figures_beyond_their_tables(*pages))
        worst = max([worst, *map(curve_error, pages)])
    print(f"{n_pairs} pairs: curves off their CSV by at most {worst:.1e} of their height")
    print(f"figures that differ while their CSV does not: {dict(beyond) or 'none'}")


def main() -> None:
    """Either campaign."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("campaign", choices=("pairs", "folders"))
    parser.add_argument("out", type=Path, nargs="?", help="folder of the pages of `folders`")
    parser.add_argument("--pairs", type=int, default=500)
    parser.add_argument("--differ", type=int, nargs=2, default=(1, 5), metavar=("LEAST", "MOST"))
    parser.add_argument("--other", type=Path, help="disclosure.py of another commit")
    options = parser.parse_args()
    most = tuple(options.differ)
    if options.campaign == "folders":
        make_folders(options.out, options.pairs, most)
        return
    with TemporaryDirectory() as folder:
        found = read_pairs(pairs_of(options.pairs, most, Path(folder)), options.other)
    for words, of_way in found.items():
        print(f"{words}:")
        of_way.tell()


if __name__ == "__main__":
    main()

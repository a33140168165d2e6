"""A cohort with any of the manifest's optional columns, from its CSV to its page.

The scans are simulated as tables, so that ingest, segment and measure need no image; manifest,
assemble, analyse and report are the real ones.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html.parser import HTMLParser
from itertools import chain, combinations, product
from pathlib import Path

import numpy as np
import pandas as pd

from cohortvol.drawing import style
from cohortvol.stages import analyse, assemble, manifest, report
from cohortvol.stages.report.tables import rounding
from cohortvol.store.schemas import MANIFEST, VOLUMES
from cohortvol.store.tables import read_table, write_table
from cohortvol.tools.simulate import population

GROUPS = {
    "repeats": ("subject_id",),
    "visit": ("session_id", "acquisition_date"),
    "age": ("age_years",),
    "sex": ("sex",),
    "size": ("height_cm", "weight_kg"),
    "machine": ("site", "scanner", "field_strength_t", "sequence", "contrast"),
}
"""Optional columns of a manifest, those together that are given together."""
SIZES = (1, 2, 20, 400)
"""Numbers of scans."""
STRUCTURES = ("liver", "kidney_left", "kidney_right")
"""Structures of a cell: a pair, and one that has no other side."""
SEED = 22


@dataclass(frozen=True)
class Cell:
    """Which columns a manifest has, of how many scans."""

    groups: tuple[str, ...]
    n: int

    def __str__(self) -> str:
        return f"{'+'.join(self.groups) or 'nothing'}-{self.n}"


def cells() -> Iterator[Cell]:
    """Every subset of `GROUPS` with every number of scans."""
    subsets = list(chain.from_iterable(combinations(GROUPS, k) for k in range(len(GROUPS) + 1)))
    yield from (Cell(subset, n) for subset, n in product(subsets, SIZES))


def drawn(folder: Path, n: int, structures: Sequence[str] = STRUCTURES) -> Path:
    """Tables of ingest, segment and measure of `n` scans, made once; where they are."""
    results = folder / f"drawn-{n}"
    if not results.exists():
        population.run(results, n, SEED)
        table = results / "measure" / population.MODEL / "0000.parquet"
        volumes = read_table(table, VOLUMES)
        write_table(table, volumes[volumes["structure"].isin(structures)], VOLUMES)
    return results


def manifest_of(source: Path, cell: Cell) -> pd.DataFrame:
    """The manifest of a cell; of its people every third was scanned before, a year younger."""
    scans = read_table(source / "manifest" / "scans.parquet", MANIFEST)
    number = np.arange(len(scans))
    first = np.where(number % 3 == 1, number - 1, number)
    if "repeats" in cell.groups:
        scans["subject_id"] = scans["subject_id"].to_numpy()[first]
        scans["sex"] = scans["sex"].to_numpy()[first]
        scans["age_years"] = scans["age_years"].to_numpy()[first] + (number != first)
    scans["session_id"] = np.where(number == first, "first", "second")
    scans["acquisition_date"] = np.where(number == first, "2018-04-03", "2019-04-10")
    scans["contrast"] = np.where(number % 2 == 0, "none", "gadolinium")
    given = [column for group in cell.groups for column in GROUPS[group]]
    return scans[["scan_id", "image", *given]]


def results_of(folder: Path, cell: Cell) -> Path:
    """The results folder of a cell, assembled."""
    source, results = drawn(folder, cell.n), folder / str(cell)
    table = folder / f"{cell}.csv"
    manifest_of(source, cell).to_csv(table, index=False)
    manifest.run(table, results, shard_size=population.SHARD_SIZE)
    for stage in ("ingest", "segment", "measure"):
        shutil.copytree(source / stage, results / stage)
    assemble.run(results, population.MODEL)
    return results


def page_of(results: Path, *, public: bool = False) -> Path:
    """Analyse and report of a results folder: its page."""
    tables = results / "volumes.parquet", results / "scans.parquet"
    if not (results / "analyse").exists():
        analyse.run(*tables, results / "analyse")
    out = results / ("public" if public else "report")
    return report.run(results / "analyse", *tables, out, public=public)


class _Seen(HTMLParser):
    """What a reader of a page sees, and where its links lead."""

    def __init__(self) -> None:
        super().__init__()
        self.words: list[str] = []
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.hidden = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.ids.add(given.get("id") or "")
        if tag == "a" and given.get("href"):
            self.links.append(str(given["href"]))
        if tag in ("style", "script", "code"):
            self.hidden = tag

    def handle_endtag(self, tag: str) -> None:
        self.hidden = "" if tag == self.hidden else self.hidden

    def handle_data(self, data: str) -> None:
        if not self.hidden:
            self.words.append(data)


def faults_of(page: Path, cell: Cell, *, public: bool = False) -> list[str]:
    """What is wrong with the page of a cell: what is said, what is left out, where links lead."""
    seen = _Seen()
    seen.feed(page.read_text(encoding="utf-8"))
    text = " ".join(" ".join(seen.words).split())
    unwritten = {"pdf", "svg", "png"} - set(style.FORMATS)
    faults = [f"{word!r} on the page" for word in re.findall(r"\b(?:nan|NaN|inf|NaT)\b", text)]
    for link in seen.links:
        if link.startswith("#") and link[1:] not in seen.ids:
            faults.append(f"nothing at {link}")
        elif Path(link).suffix[1:] in unwritten:
            continue
        elif not link.startswith("#") and not (page.parent / link).exists():
            faults.append(f"no file {link}")
    if not (" all accounted for." in text or "Counts are rounded" in text):
        faults.append("no flow of scans")
    if "Liver" not in text:
        faults.append("no volumes")
    trends = (page.parent / "figures" / "forest.csv").exists()
    cannot = "What these scans cannot say" in text
    volumes = (page.parent / "figures" / "volumes.csv").exists()
    volumes |= "No figure of volumes: quantiles of so few scans are not given" in text and public
    if trends and "No figure of volumes" in text:
        faults.append("a figure is missed that trends stand for")
    if not trends and not (cannot and volumes):
        faults.append("neither trends, nor volumes and why there are none")
    if trends != ("age" in cell.groups and cell.n > (rounding.LEAST_N if public else 9)):
        faults.append("trends" if trends else "no trends")
    if ("No ages are known" in text) != ("age" not in cell.groups):
        faults.append(
            "'No ages are known' where they are" if "age" in cell.groups else "no word of ages"
        )
    for group, sentence in (("sex", "No sex is known"), ("size", "No height and weight are known")):
        if (sentence in text) != (group not in cell.groups):
            faults.append(f"{sentence!r} is {'not ' * (sentence not in text)}said")
    return faults

"""Pairs of cohorts that differ by a few people, as they are before and after."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from cohortvol.stages.analyse.answers.correlation import correlations
from cohortvol.stages.analyse.answers.slopes import trends
from cohortvol.stages.analyse.cohort.bands import age_bands
from cohortvol.stages.analyse.cohort.describe import dropped, flow, summary, table1
from cohortvol.stages.analyse.cohort.inputs import read_scans, read_volumes
from cohortvol.stages.analyse.cohort.settings import Settings
from cohortvol.stages.analyse.cohort.usable import build
from cohortvol.stages.analyse.outputs import SCHEMAS
from cohortvol.stages.report.tables import inputs, published
from cohortvol.stages.report.tables.inputs import Analysis
from cohortvol.store.schemas import SCANS, VOLUMES
from cohortvol.store.tables import to_arrow, to_pandas, write_table
from cohortvol.tools.simulate.cohort import draw_subjects, draw_volumes
from differencing_pages import Page

STRUCTURES = ("liver", "spleen", "pancreas", "kidney_left", "kidney_right")
WAYS = ("left", "came", "changed")
COHORTS = 10
Tables = tuple[pd.DataFrame, pd.DataFrame]
"""Scans and volumes."""
Rule = Callable[[Analysis], Analysis]
"""From an analysis to what of it is public."""


def draw(n: int, rng: np.random.Generator, prefix: str) -> Tables:
    """Scans of `n` people with the columns of SCANS that matter, and their volumes, long."""
    people = draw_subjects(n, rng)
    names = [f"{prefix}{number:04d}" for number in range(n)]
    scans = people.assign(
        scan_id=names, subject_id=names, state="done", qc="pass", model="simulated", shard="0000"
    )
    wide = draw_volumes(people, rng)[list(STRUCTURES)].assign(scan_id=names)
    volumes = wide.melt("scan_id", var_name="structure", value_name="volume_ml")
    cut = rng.random(len(volumes)) < 0.03
    volumes["label"] = volumes["structure"].map({name: i for i, name in enumerate(STRUCTURES, 1)})
    return scans, volumes.assign(
        status=np.where(cut, "cut", "ok"), cut_by_fov=cut, qc="pass", model="simulated"
    )


def differ(whole: Tables, who: list[str], way: str, rng: np.random.Generator) -> Tables:
    """The cohort without these people, or with these changed."""
    if way != "changed":
        scans, volumes = (table[~table["scan_id"].isin(who)] for table in whole)
        return scans, volumes
    scans, volumes = (table.copy() for table in whole)
    there = scans["scan_id"].isin(who)
    scans.loc[there, "age_years"] = rng.uniform(25, 85, there.sum()).round(1)
    here = volumes["scan_id"].isin(who)
    volumes.loc[here, "volume_ml"] *= np.exp(rng.normal(0, 0.3, here.sum()))
    return scans, volumes


@dataclass
class Made:
    """A cohort, what its analysis says as far as the reader uses it, and who is counted."""

    scans: pd.DataFrame
    volumes: pd.DataFrame
    analysis: Analysis
    people: published.Counts
    pages: dict[str, Page] = field(default_factory=dict)

    def page(self, name: str, rule: Rule) -> Page:
        """Its public tables by a rule of this name, made once."""
        if name not in self.pages:
            self.pages[name] = Page.of(rule(self.analysis))
        return self.pages[name]


def make(tables: Tables, folder: Path) -> Made:
    """Analyse a cohort; `folder` is for the two tables."""
    scans, volumes = folder / "scans.parquet", folder / "volumes.parquet"
    write_table(scans, tables[0], SCANS)
    write_table(volumes, tables[1], VOLUMES)
    settings = Settings()
    cohort = build(
        read_volumes(volumes), read_scans(scans), exclude_cut=True, segmentation_model=None
    )
    slopes, interactions = trends(cohort, settings)
    found = {
        "slopes": slopes,
        "interactions": interactions,
        "correlations": correlations(cohort, settings),
        "summary": summary(cohort, settings),
        "dropped": dropped(cohort),
        "table1": table1(cohort, settings),
        "flow": flow(cohort),
        "age_bands": age_bands(cohort, settings),
    }
    shaped = {
        name: to_pandas(to_arrow(frame, SCHEMAS[f"analyse/{name}"]))
        for name, frame in found.items()
    }
    bands = {"age_bands": shaped.pop("age_bands")}
    curves = pd.DataFrame(columns=inputs.ANALYSE_COLUMNS["curves"])
    analysis = Analysis(**shaped, curves=curves, record={}, beside=bands)
    return Made(*tables, analysis, count(scans, volumes))


def count(scans: Path, volumes: Path) -> published.Counts:
    """Who is compared with another page."""
    points = inputs.read_points(volumes, inputs.read_scans(scans), keep_cut=False)
    return published.count_people(inputs.read_people(scans), points)


@dataclass
class Pair:
    """Two cohorts, and who differs in which way."""

    before: Made
    after: Made
    who: list[str]
    way: str


def pairs_of(n_pairs: int, most: tuple[int, int], folder: Path) -> Iterator[Pair]:
    """Pairs of cohorts of 200 to 900 people, of `COHORTS` in turn."""
    cohorts: dict[int, Made] = {}
    for number in range(n_pairs):
        rng = np.random.default_rng(number)
        which = number % COHORTS
        if which not in cohorts:
            of_cohort = np.random.default_rng(1000 + which)
            n = int(of_cohort.integers(200, 901))
            cohorts[which] = make(draw(n, of_cohort, f"S{which}"), folder)
        whole = cohorts[which]
        n = int(rng.integers(most[0], most[1] + 1))
        who = sorted(rng.choice(whole.scans["scan_id"], n, replace=False))
        way = WAYS[number // COHORTS % len(WAYS)]
        other = make(differ((whole.scans, whole.volumes), who, way, rng), folder)
        yield Pair(*((other, whole) if way == "came" else (whole, other)), who, way)

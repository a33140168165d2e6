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
import io
import re
import sys
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from cohortvol.stages import analyse, report
from cohortvol.stages.analyse.answers.correlation import correlations
from cohortvol.stages.analyse.answers.slopes import trends
from cohortvol.stages.analyse.cohort.bands import age_bands
from cohortvol.stages.analyse.cohort.describe import dropped, flow, summary, table1
from cohortvol.stages.analyse.cohort.inputs import read_scans, read_volumes
from cohortvol.stages.analyse.cohort.settings import Settings
from cohortvol.stages.analyse.cohort.usable import build
from cohortvol.stages.analyse.outputs import SCHEMAS
from cohortvol.stages.report.tables import disclosure, inputs, published
from cohortvol.stages.report.tables.inputs import Analysis
from cohortvol.store.schemas import SCANS, VOLUMES
from cohortvol.store.tables import csv_text, to_arrow, to_pandas, write_table
from cohortvol.tools.simulate.cohort import draw_subjects, draw_volumes

STRUCTURES = ("liver", "spleen", "pancreas", "kidney_left", "kidney_right")
WAYS = ("left", "came", "changed")
COHORTS = 10
QUANTILES = {"p5_ml": 0.05, "q25_ml": 0.25, "median_ml": 0.5, "q75_ml": 0.75, "p95_ml": 0.95}
SD_OF_IQR = 1.349
NARROW_SD, NARROW_YEARS = 0.5, 5.0
"""An interval this narrow counts as a value found out: half a standard deviation of the volumes of
all people, five years."""


Tables = tuple[pd.DataFrame, pd.DataFrame]
"""Scans and volumes."""
Rule = Callable[[Analysis], Analysis]
"""From an analysis to what of it is public."""


# ---- cohorts -------------------------------------------------------------------------------------


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


# ---- what a reader knows -------------------------------------------------------------------------


@dataclass
class Interval:
    """What a number may be."""

    low: float = -np.inf
    high: float = np.inf

    def meet(self, low: float, high: float) -> None:
        """Both this and that; an impossible meeting is left alone, as rounding is not all known."""
        if max(self.low, low) <= min(self.high, high) + 1e-9:
            self.low, self.high = max(self.low, low), min(self.high, high)

    @property
    def width(self) -> float:
        return self.high - self.low


@dataclass
class Page:
    """The tables of a public folder."""

    tables: dict[str, pd.DataFrame]
    counts: dict[tuple[str, str], Interval] = field(default_factory=dict)

    @classmethod
    def of(cls, told: Analysis) -> Page:
        """The tables as a public folder has them."""
        names = ("slopes", "interactions", "correlations", "summary", "dropped", "table1")
        tables = {name: getattr(told, name) for name in names}
        tables["age_bands"] = told.table("age_bands")
        written = {
            name: pd.read_csv(io.StringIO(csv_text(table)))
            for name, table in tables.items()
            if len(table)
        }
        return cls(written, bound_counts(written))

    def row(self, table: str, **keys: str) -> dict[str, Any] | None:
        rows = self.tables[table]
        for name, value in keys.items():
            rows = rows[rows[name] == value]
        return rows.to_dict("records")[0] if len(rows) else None


def is_exact(value: float) -> bool:
    """Whether a number was written with all its digits."""
    return len(f"{abs(value):.12g}".replace(".", "").strip("0")) > 6


def half_step(value: float, error: float, n: float) -> float:
    """How far the number behind a printed one may be from it; the rule of rounding is no secret."""
    if is_exact(value):
        return 1e-9 * abs(value)
    if not (error > 0 and n > 0):
        return np.inf
    wide = error * max(1.0, 10 / np.sqrt(n))
    power = 10.0 ** np.floor(np.log10(wide))
    return 0.5 * power * (5 if wide >= 5 * power else 2 if wide >= 2 * power else 1)


def shown_count(value: float) -> tuple[float, float]:
    """What a count may be that is printed rounded to five, or not printed."""
    if pd.isna(value):
        return 1, 4
    return (0, 0) if value == 0 else (max(value - 2, 5), value + 2)


def bound_counts(tables: dict[str, pd.DataFrame]) -> dict[tuple[str, str], Interval]:
    """Scans of each structure and sex: all that bounds them."""
    found: dict[tuple[str, str], Interval] = {}
    for row in tables["correlations"].to_dict("records"):
        here = found.setdefault((row["structure"], row["sex"]), Interval())
        here.meet(*shown_count(row["n_used"]))
        meet_fits(here, [n for n in candidates(here) if fits_rho(row, n)])
    for row in tables["slopes"].query("model == 'M1'").to_dict("records"):
        here = found.setdefault((row["structure"], row["sex"]), Interval())
        here.meet(*shown_count(row["n_used"]))
        if row["sex"] == "all":
            meet_fits(here, [n for n in candidates(here) if fits_slope(row, n - 3)])
    for row in tables["summary"].to_dict("records"):
        found.setdefault((row["structure"], row["sex"]), Interval()).meet(*shown_count(row["n"]))
    for structure in {name for name, _ in found}:
        parts = {
            sex: found[structure, sex] for sex in ("all", "F", "M") if (structure, sex) in found
        }
        bands = tables.get("age_bands", pd.DataFrame(columns=["structure"]))
        for sex, here in parts.items():
            of_sex = bands[(bands["structure"] == structure) & (bands.get("sex") == sex)]
            if len(of_sex):
                ends = np.array([shown_count(n) for n in of_sex["n"]])
                here.meet(*ends.sum(axis=0))
        if len(parts) == 3:
            for _ in range(2):
                f, m, both = parts["F"], parts["M"], parts["all"]
                both.meet(f.low + m.low, f.high + m.high)
                f.meet(both.low - m.high, both.high - m.low)
                m.meet(both.low - f.high, both.high - f.low)
    return found


def candidates(here: Interval) -> range:
    return range(int(here.low), int(here.high) + 1) if np.isfinite(here.width) else range(0)


def meet_fits(here: Interval, fits: list[int]) -> None:
    if fits:
        here.meet(min(fits), max(fits))


def fits_rho(row: dict[str, Any], n: int) -> bool:
    """Whether rho of n people has this p."""
    rho, p = row["spearman_rho"], row["p_value"]
    if n < 4 or pd.isna(rho) or pd.isna(p) or p < 1e-290:
        return n >= 4
    half = half_step(rho, 1 / np.sqrt(n), n)
    ends = [min(abs(rho) + half, 0.999999), max(abs(rho) - half, 0.0)]
    low, high = (2 * stats.t.sf(r * np.sqrt((n - 2) / (1 - r * r)), n - 2) for r in ends)
    return overlaps(p, low, high)


def overlaps(p: float, low: float, high: float) -> bool:
    """Whether a printed p may lie between two values."""
    if is_exact(p):
        return low * (1 - 1e-6) <= p <= high * (1 + 1e-6)
    unit = 0.1 if p >= 0.1 else 0.01 if p >= 0.01 else 0.001
    least = 0.0 if p <= 0.001 else p - 0.5 * unit
    return low <= p + unit and high >= least


def fits_slope(row: dict[str, Any], df: int) -> bool:
    """Whether a slope in % with this interval has this p with so many degrees of freedom."""
    names = ("slope_pct_per_decade", "slope_pct_per_decade_ci_low", "slope_pct_per_decade_ci_high")
    values, p = [row[name] for name in names], row["p_value"]
    if df < 2 or any(map(pd.isna, [*values, p])) or not is_exact(values[0]) or p < 1e-290:
        return True
    b, low, high = (np.log1p(value / 100) for value in values)
    error = (high - low) / 2 / stats.t.ppf(0.975, df)
    return bool(np.isclose(2 * stats.t.sf(abs(b) / error, df), p, rtol=1e-7))


# ---- what comes out ------------------------------------------------------------------------------


@dataclass
class Claim:
    """Something the reader says: what, and between which values it lies."""

    what: str
    key: str
    low: float
    high: float


def sex_claims(before: Page, after: Page, n: int, way: str) -> Iterator[Claim]:
    """How many of those who differ are women."""
    women = Interval(0, n)
    if way != "changed":
        of_all = {
            sex: [
                after.counts[key].low - here.high
                if way == "came"
                else here.low - after.counts[key].high
                for key, here in before.counts.items()
                if key in after.counts and key[1] == sex
            ]
            for sex in ("F", "M")
        }
        women.meet(max([0, *of_all["F"]]), n)  # of a structure, at most: some are cut
        women.meet(0, n - max([0, *of_all["M"]]))
    moved = {sex: has_moved(before, after, sex) for sex in ("F", "M")}
    if moved["F"]:
        women.meet(1, n)
    if moved["M"]:
        women.meet(0, n - 1)
    everything = exact(before) and exact(after)  # nothing can have changed without being seen
    if everything and moved["F"] != moved["M"]:
        women.meet(*((n, n) if moved["F"] else (0, 0)))
    if women.width < 1:
        yield Claim("sex" if n == 1 else "women among those who differ", "", women.low, women.high)


def exact(page: Page) -> bool:
    """Whether means stand with all their digits."""
    return page.tables["slopes"]["mean_volume_ml"].dropna().map(is_exact).mean() > 0.5


def has_moved(before: Page, after: Page, sex: str) -> bool:
    """Whether a number that comes from one sex alone differs between the pages."""
    for name in ("summary", "correlations", "age_bands"):
        both = [page.tables.get(name, pd.DataFrame({"sex": []})) for page in (before, after)]
        first, second = (
            table[table["sex"] == sex].drop(columns="p_bonferroni", errors="ignore")
            .reset_index(drop=True) for table in both
        )  # fmt: skip
        if not first.equals(second):
            return True
    return False


def volume_claims(before: Page, after: Page, n: int, way: str) -> Iterator[Claim]:
    """The volume of the person who differs, or what those who differ hold together."""
    if way == "changed":
        yield from change_claims(before, after, n)
        return
    sign = 1 if way == "came" else -1
    for key in before.counts:
        if key not in after.counts:
            continue
        first, second = before.counts[key], after.counts[key]
        sums, spread = [], np.nan
        for page, count in ((before, first), (after, second)):
            summed, spread = sum_of(page, key, count)
            sums.append(summed)
        total = Interval(
            sign * sums[1].low - sign * sums[0].high if sign > 0 else sums[0].low - sums[1].high,
            sums[1].high - sums[0].low if sign > 0 else sums[0].high - sums[1].low,
        )
        gone = Interval(
            *sorted((sign * (second.low - first.high), sign * (second.high - first.low)))
        )
        gone.meet(0, n)
        if gone.low == gone.high == 1:
            narrow_by_quantiles(total, before, after, key, way)
            if total.width <= NARROW_SD * spread:
                yield Claim("volume of one person", f"{key[0]} {key[1]}", total.low, total.high)
        elif gone.low == gone.high >= 2 and total.width <= NARROW_SD * spread * gone.low:
            yield Claim("sum of volumes of 2 to 5", f"{key[0]} {key[1]}", total.low, total.high)


def change_claims(before: Page, after: Page, n: int) -> Iterator[Claim]:
    """By how much the volumes of those who were changed did so, of all of them together."""
    for key in before.counts:
        if key not in after.counts:
            continue
        (first, spread), (second, _) = (
            sum_of(page, key, page.counts[key]) for page in (before, after)
        )
        change = Interval(second.low - first.high, second.high - first.low)
        if change.width <= NARROW_SD * spread and (change.low > 0 or change.high < 0):
            what = "change of one person's volume" if n == 1 else "sum of changes of 2 to 5"
            yield Claim(what, f"{key[0]} {key[1]}", change.low, change.high)


def sum_of(page: Page, key: tuple[str, str], count: Interval) -> tuple[Interval, float]:
    """n x mean of a structure and sex, and the standard deviation that the quartiles show."""
    row = page.row("slopes", structure=key[0], sex=key[1], model="M1")
    quartiles = page.row("summary", structure=key[0], sex=key[1])
    if row is None or quartiles is None or pd.isna(row["mean_volume_ml"]):
        return Interval(), np.nan
    spread = (quartiles["q75_ml"] - quartiles["q25_ml"]) / SD_OF_IQR
    mean, middle = row["mean_volume_ml"], (count.low + count.high) / 2
    half = half_step(mean, spread / np.sqrt(middle), middle)
    return Interval(count.low * (mean - half), count.high * (mean + half)), spread


def narrow_by_quantiles(
    total: Interval, before: Page, after: Page, key: tuple[str, str], way: str
) -> None:
    """Quantiles that moved tell on which side of them a single person is."""
    rows = [page.row("summary", structure=key[0], sex=key[1]) for page in (before, after)]
    with_person, without = rows if way == "left" else rows[::-1]
    for name in QUANTILES:
        first, second = with_person[name], without[name]
        if pd.isna(first) or pd.isna(second) or first == second:
            continue
        if first > second:  # it is higher with this person
            total.meet(second, np.inf)
        else:
            total.meet(-np.inf, second)


def age_claims(before: Page, after: Page, n: int, way: str, sexes: list[str]) -> Iterator[Claim]:
    """The age of the one who differs: from leave-one-out slopes, and from counts in bands."""
    if n != 1 or way == "changed":
        return
    for sex in sexes:
        rows = []
        for structure in STRUCTURES:
            slopes = [page.row("slopes", structure=structure, sex=sex, model="M1")
                      for page in (before, after)]  # fmt: skip
            with_person, without = slopes if way == "left" else slopes[::-1]
            if with_person is None or without is None:
                continue
            b, other = (row["slope_ml_per_decade"] for row in (with_person, without))
            means = with_person["mean_volume_ml"], without["mean_volume_ml"]
            if not all(map(is_exact, (b, other, *means))) or means[0] == means[1]:
                continue
            key = (structure, sex)
            count = (before if way == "left" else after).counts[key]
            size = round((count.low + count.high) / 2)
            volume = size * means[0] - (size - 1) * means[1]
            # other - b = -u (v - m - b u) / (S (1 - h)); u from the mean age, in decades
            rows.append([b - other, -(volume - means[1]), other])
        ages = solved_ages(np.array(rows), median_age(before, sex)) if len(rows) >= 4 else []
        if len(ages) and np.ptp(ages) <= NARROW_YEARS - 2:
            yield Claim("age", sex, min(ages) - 1, max(ages) + 1)
            return
    bands = Interval()
    sign = 1 if way == "came" else -1
    for first in before.tables.get("age_bands", pd.DataFrame()).to_dict("records"):
        second = after.row("age_bands", structure=first["structure"], sex=first["sex"],
                           age_from_years=first["age_from_years"])  # fmt: skip
        if second is None:
            continue
        (low, _), (_, high) = shown_count(second["n"]), shown_count(first["n"])
        (least, _), (_, most) = shown_count(first["n"]), shown_count(second["n"])
        if (low - high if sign > 0 else least - most) > 0:
            below = first["age_below_years"]
            bands.meet(first["age_from_years"], 120 if pd.isna(below) else below)
    if bands.width <= 10:
        yield Claim("decade of age", "", bands.low, bands.high)


def solved_ages(rows: np.ndarray, middle: float) -> np.ndarray:
    """Ages at which D a + u b + u^2 c = 0 nearly holds for the rows (a, b, c) of all structures.

    u is the age from the mean, in decades; D the unknown sum of squares of the ages. Scans are cut
    here and there, so that both differ a little between structures.
    """
    ages = np.arange(18.0, 96.0, 0.25)
    u = (ages - middle) / 10
    of_person = u[:, None] * rows[:, 1] + u[:, None] ** 2 * rows[:, 2]
    weight = 1 / np.abs(rows[:, 1])
    a, b = rows[:, 0] * weight, of_person * weight
    squares = -(b @ a) / (a @ a)
    off = np.linalg.norm(b + squares[:, None] * a, axis=1) / (np.linalg.norm(b, axis=1) + 1e-12)
    good = (squares > 0) & (off < 0.1) & (off < 2 * off.min())
    return ages[good]


def median_age(page: Page, sex: str) -> float:
    row = page.row("table1", variable="age_years", level="median (IQR)", group=sex)
    return float(re.findall(r"[\d.]+", row["value"])[0])


def solve(before: Page, after: Page, n: int, way: str) -> list[Claim]:
    """All that a reader of both pages says of the `n` people who differ."""
    said = list(sex_claims(before, after, n, way))
    known = [claim for claim in said if claim.what == "sex"]
    sexes = ["F" if claim.low == 1 else "M" for claim in known] or ["F", "M"]
    said += volume_claims(before, after, n, way)
    said += age_claims(before, after, n, way, sexes)
    return said


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

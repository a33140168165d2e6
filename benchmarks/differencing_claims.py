"""What a reader of two public pages says of the people who differ: sex, volumes, age."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd

from differencing_pages import Interval, Page, half_step, is_exact, shown_count
from differencing_pairs import STRUCTURES

QUANTILES = {"p5_ml": 0.05, "q25_ml": 0.25, "median_ml": 0.5, "q75_ml": 0.75, "p95_ml": 0.95}
SD_OF_IQR = 1.349
NARROW_SD, NARROW_YEARS = 0.5, 5.0
"""An interval this narrow counts as a value found out: half a standard deviation of the volumes of
all people, five years."""


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

"""Columns of the models: age, sex, body size, and fixed effects of how the scan was made."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from cohortvol.stages.analyse.cohort.usable import SEXES, Cohort
from cohortvol.stages.analyse.fits.regression import count_subjects
from cohortvol.store.schemas import CONTINUOUS, FACTOR

YEARS_PER_DECADE = 10.0
AGE_FENCE = (1.0, 99.0)
"""Percentiles of the ages used between which there are curves and centiles."""
FACTORS = ("site", "scanner", "sequence", "contrast")
"""Columns of the scans table that M2 and M3 have fixed effects of, where they vary. A later one
that an earlier one gives, such as a scanner that is the only one of its site, is left out."""
NOT_GIVEN = "not given"
TIME_OF_DAY = "time of day"
HARMONIC = (f"{TIME_OF_DAY} (sin)", f"{TIME_OF_DAY} (cos)")
"""Terms of one harmonic of 24 hours."""
ROWS_PER_LEVEL = 5
"""Rows there must be for each level with a term of its own, on average."""
ALIASED = 1e-7
"""Length of what the other columns leave of a column, over its own: below, they give it."""


@dataclass(frozen=True)
class Factor:
    """One covariate with levels, over all scans."""

    name: str
    codes: np.ndarray
    """(scans,): index into `levels`."""
    levels: tuple[str, ...]

    def lump(self, mask: np.ndarray, least: int) -> Lump:
        """Which levels have a term of their own among some rows.

        Levels with fewer than `least` rows are put together, and with the next smallest ones
        until they have as many; so are the smallest where there are less than `ROWS_PER_LEVEL`
        rows for each.
        """
        counts = np.bincount(self.codes[mask], minlength=len(self.levels))
        of_all = np.bincount(self.codes, minlength=len(self.levels))  # one order for all structures
        present = [int(i) for i in np.argsort(-of_all, kind="stable") if counts[i]]
        most = int(counts.sum()) // ROWS_PER_LEVEL
        largest = sorted(present, key=lambda i: -counts[i])[:most]
        own = [i for i in present if counts[i] >= least and i in largest]
        pooled = [i for i in present if i not in own]
        while pooled and own and counts[pooled].sum() < least:
            smallest = min(own, key=lambda i: int(counts[i]))
            own.remove(smallest)
            pooled.append(smallest)
        return Lump(self.name, tuple(own), tuple(pooled))


@dataclass(frozen=True)
class Lump:
    """Levels of a factor: those with a term of their own, the commonest first, and the rest."""

    factor: str
    own: tuple[int, ...]
    pooled: tuple[int, ...]

    @property
    def varies(self) -> bool:
        """Whether there is more than one group of rows."""
        return len(self.own) + bool(self.pooled) > 1

    def note(self, least: int) -> str:
        """What the reader must know of it; empty if nothing."""
        if not self.pooled or len(self.own) + len(self.pooled) < 2:
            return ""
        if self.varies and len(self.pooled) == 1:
            return ""  # alone in its term, it has one of its own
        if not self.varies:
            return f"not adjusted for {self.factor}: fewer than two levels have {least} scans"
        return f"{self.factor}: {len(self.pooled)} levels pooled (too few scans for a term each)"


@dataclass(frozen=True)
class Design:
    """The columns of one model over some scans."""

    columns: np.ndarray
    """(rows, terms) of float."""
    names: tuple[str, ...]
    adjusted_for: tuple[str, ...]
    """Covariates beside age and sex."""
    notes: tuple[str, ...]

    def weights(self, *names: str) -> np.ndarray:
        """(terms,): 1 at each named column, so that a contrast is the sum of their terms."""
        out = np.zeros(len(self.names))
        out[[self.names.index(name) for name in names]] = 1.0
        return out

    def slope(self, sex: str) -> np.ndarray:
        """(terms,): weights of the slope of one sex, or of all where the slopes do not differ."""
        differs = sex == "M" and "age x male" in self.names
        return self.weights("age", "age x male") if differs else self.weights("age")


def factors_of(cohort: Cohort) -> tuple[Factor, ...]:
    """Those of `FACTORS` and of further columns that the scans table has and that differ between
    usable scans."""
    found = []
    for name in (*FACTORS, *(name for name, kind in cohort.covariates.items() if kind == FACTOR)):
        if name not in cohort.scans:
            continue
        values = cohort.scans[name]
        texts = values.astype(object).where(values.notna(), NOT_GIVEN).astype(str)
        codes, levels = pd.factorize(texts, sort=True)
        if len(np.unique(codes[cohort.in_trends])) > 1:
            found.append(Factor(name, codes, tuple(str(level) for level in levels)))
    return tuple(found)


def continuous_of(cohort: Cohort) -> tuple[str, ...]:
    """Further columns that hold numbers and differ between usable scans."""
    numbers = [name for name, kind in cohort.covariates.items() if kind == CONTINUOUS]
    usable = cohort.scans[cohort.in_trends]
    return tuple(name for name in numbers if usable[name].nunique() > 1)


def harmonic(hours: np.ndarray) -> np.ndarray:
    """(n, 2): sine and cosine of the time of day, one turn in 24 hours."""
    turns = 2 * np.pi * np.asarray(hours, dtype=float) / 24
    # without the last digits, so that the cosine of 6 and of 18 hours is 0 and no column of noise
    columns: np.ndarray = np.round(np.column_stack([np.sin(turns), np.cos(turns)]), 12)
    return columns


def trouble(age_years: np.ndarray, volumes: np.ndarray, subjects: np.ndarray, least: int) -> str:
    """Why no age slope can be fitted to some scans, empty if it can: `least` subjects or more."""
    n = count_subjects(subjects)
    if n < least:
        return f"ANA_TOO_FEW: {n} usable subjects, at least {least} needed"
    for name, values in (("ages", age_years), ("volumes", volumes)):
        if np.ptp(values) == 0:
            return f"ANA_NO_VARIANCE: all {name} are equal"
    return ""


def sexes_pooled(counts: Mapping[str, int]) -> tuple[str, ...]:
    """Sexes whose scans enter a pooled fit: one scan tells nothing but its sex."""
    several = tuple(sex for sex in SEXES if counts[sex] >= 2)
    return several or tuple(sex for sex in SEXES if counts[sex])


def fenced(age_years: np.ndarray) -> tuple[float, float]:
    """1st and 99th percentile of the ages used, years: nothing is said of ages outside."""
    low, high = np.percentile(age_years, AGE_FENCE)
    return float(low), float(high)


def ages_of_curve(low: float, high: float) -> np.ndarray:
    """Both ends of an age range, and the whole years between."""
    return np.unique(np.concatenate([[low], np.arange(math.ceil(low), high), [high]]))


def linear(decades: np.ndarray) -> np.ndarray:
    """Age as it is: one column."""
    return decades[:, None]


def build(
    cohort: Cohort,
    rows: np.ndarray,
    *,
    center: float,
    sexes: tuple[str, ...],
    interaction: bool,
    size: bool = False,
    continuous: tuple[str, ...] = (),
    factors: tuple[Factor, ...] = (),
    lumps: tuple[Lump, ...] = (),
    least: int = 0,
    time_of_day: bool = False,
    basis: Callable[[np.ndarray], np.ndarray] = linear,
) -> Design:
    """One design: 1, age, then male and age x male with two sexes, size, further columns, fixed
    effects.

    Parameters
    ----------
    rows : (rows,) array of whole numbers
        Scans, by place in the cohort.
    center : float
        Years at which age is 0.
    sexes : tuple of str
        Sexes among the rows; terms of sex only if both are.
    interaction : bool
        Whether the terms of age differ between the sexes.
    size : bool
        With ln(height) and ln(BMI), centred.
    continuous : tuple of str
        Further columns of the scans that hold numbers, known for all rows; their SD is 1.
    factors, lumps : tuples
        Fixed effects, and their levels among these rows.
    least : int
        Rows that a level of its own has, for the notes.
    time_of_day : bool
        With the `harmonic` of the time of day, known for all rows, as far as nothing else gives it.
    basis : function
        (rows,) decades from `center` to (rows, k) columns of age.
    """
    scans = cohort.scans.iloc[rows]
    decades = (scans["age_years"].to_numpy(dtype=float) - center) / YEARS_PER_DECADE
    male = (scans["sex"] == "M").to_numpy(dtype=float) if len(sexes) == 2 else None
    columns, names = age_and_sex(basis(decades), male, interaction)
    adjusted = []
    if size:
        for name, label in (("height_cm", "ln(height)"), ("bmi", "ln(BMI)")):
            values = np.log(scans[name].to_numpy(dtype=float))
            columns.append(values - values.mean())
            names.append(label)
        adjusted = ["height", "BMI"]
    for name in continuous:
        values = scans[name].to_numpy(dtype=float)
        columns.append((values - values.mean()) / (values.std() or 1.0))
        names.append(name)
        adjusted.append(name)
    fixed, notes = len(names), []
    for factor, lump in zip(factors, lumps, strict=True):
        notes.append(lump.note(least))
        if not lump.varies:
            continue
        notes.append(_no_common_ages(factor, lump, rows, decades))
        codes = factor.codes[rows]
        groups: list[tuple[tuple[int, ...], str]]
        groups = [((code,), factor.levels[code]) for code in lump.own]
        groups += [(lump.pooled, "pooled levels")] if lump.pooled else []
        for members, level in groups[1:]:  # the commonest is what the others are compared with
            columns.append(np.isin(codes, members).astype(float))
            names.append(f"{factor.name}={level}")
    if time_of_day:
        columns += list(harmonic(scans["time_of_day_h"].to_numpy(dtype=float)).T)
        names += HARMONIC
    columns, names, aliased = _without_aliases(columns, names, fixed)
    if aliased:
        more = f" and {len(aliased) - 5} more" if len(aliased) > 5 else ""
        notes.append(f"left out because other terms give it: {', '.join(aliased[:5])}{more}")
    adjusted += [
        factor.name
        for factor in factors
        if any(name.startswith(f"{factor.name}=") for name in names[fixed:])
    ]
    adjusted += [TIME_OF_DAY] if set(HARMONIC) & set(names) else []
    return Design(
        np.column_stack(columns), tuple(names), tuple(adjusted), tuple(n for n in notes if n)
    )


def age_and_sex(
    age: np.ndarray, male: np.ndarray | None, interaction: bool
) -> tuple[list[np.ndarray], list[str]]:
    """1 and the (rows, k) columns of age, then male and its products with age; with their names."""
    labels = age_names(age.shape[1])
    columns, names = [np.ones(len(age)), *age.T], ["1", *labels]
    if male is not None:
        columns.append(male)
        names.append("male")
        if interaction:
            columns += [term * male for term in age.T]
            names += [f"{label} x male" for label in labels]
    return columns, names


def age_names(count: int) -> list[str]:
    """Names of the columns of age: the line, then the bends of a spline."""
    return ["age", *(f"age bend {i}" for i in range(1, count))]


def _no_common_ages(factor: Factor, lump: Lump, rows: np.ndarray, decades: np.ndarray) -> str:
    """Says which levels share no age with the others: only within them is age compared."""
    codes = factor.codes[rows]
    groups = [((code,), factor.levels[code]) for code in lump.own]
    apart = []
    for members, level in groups:
        inside = np.isin(codes, members)
        here, others = decades[inside], decades[~inside]
        if (
            len(here)
            and len(others)
            and not (here.min() <= others.max() and others.min() <= here.max())
        ):
            apart.append(f"{factor.name}={level}")
    return f"no common ages with the other levels: {', '.join(apart)}" if apart else ""


def _without_aliases(
    columns: list[np.ndarray], names: list[str], fixed: int
) -> tuple[list[np.ndarray], list[str], list[str]]:
    """Columns after the first `fixed` without those that earlier columns give."""
    basis = np.empty((len(columns[0]), min(len(columns), len(columns[0]))))
    kept: list[int] = []
    for i, column in enumerate(columns):
        left, q = column, basis[:, : len(kept)]
        for _ in range(2):  # once more for the digits that cancelled
            left = left - q @ (q.T @ left)
        length = float(np.linalg.norm(left))
        if i >= fixed and not length > ALIASED * float(np.linalg.norm(column)):
            continue
        if len(kept) < basis.shape[1]:
            basis[:, len(kept)] = left / length if length > 0 else 0.0
        kept.append(i)
    aliased = [names[i] for i in range(len(names)) if i not in set(kept)]
    return [columns[i] for i in kept], [names[i] for i in kept], aliased

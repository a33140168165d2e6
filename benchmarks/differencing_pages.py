"""What a reader of one public page knows: between which values its counts lie."""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from cohortvol.stages.report.tables.inputs import Analysis
from cohortvol.store.tables import csv_text


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

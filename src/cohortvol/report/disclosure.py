"""Tables of a page that may leave the house: nothing in them is about a few people.

Counts of 1 to 4 are not given and every other count is rounded to a multiple of five, so that
no small count comes out by subtracting others, within a table or between two. Ages end at 90.
Quantiles are given where at least five scans lie beyond them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from cohortvol.report.inputs import Analysis

SMALL = 5
"""Counts from 1 to one less than this are not given; all others are rounded to multiples of it."""
OLDEST_YEARS = 90.0
"""Higher ages count as this one (45 CFR 164.514(b)(2)(i)(C): ages over 89 as 90 or older)."""
LEAST_N = {"median_ml": 10, "q25_ml": 20, "q75_ml": 20, "p5_ml": 100, "p95_ml": 100}
"""Scans needed for a quantile, so that at least `SMALL` lie on either side of it."""
OTHER = "other reasons"

_OF_SCANS = ("scan ", "age ", "sex ", "size ")
"""How reasons begin that `dropped` repeats for every structure; the flow has them."""

_COUNTED = (
    (r"[\d,]+ usable (?:subjects|scans), ", ""),
    (r"[\d,]+ subjects scanned at", "subjects scanned at"),
    (r"[\d,]+ (rows|subjects) for", r"too few \1 for"),
    (r"[\d,]+ scans of [\d,]+ people", "several scans of one person"),
)
"""Counts in notes of `analyse`, and what stands in their place."""


def rounded(counts: pd.Series) -> pd.Series:
    """Counts to the nearest multiple of `SMALL`; missing where they are small but not 0."""
    n = counts.astype("Float64")
    nearest = (n / SMALL).round() * SMALL
    return nearest.mask((n > 0) & (n < SMALL)).astype("Int64")


def rounded_one(count: float | None) -> int | None:
    """`rounded` for one count."""
    found = rounded(pd.Series([count], dtype="Float64")).iloc[0]
    return None if pd.isna(found) else int(found)


def top_coded(ages_years: pd.Series) -> pd.Series:
    """Ages with every one above `OLDEST_YEARS` as that."""
    return ages_years.clip(upper=OLDEST_YEARS)


def public(analysis: Analysis) -> Analysis:
    """The tables of an analysis as they may be passed on."""
    counts = {name: rounded_one(n) for name, n in analysis.record.get("counts", {}).items()}
    spline = dict(analysis.record.get("spline", {}))
    spline["knots_years"] = [
        min(float(round(knot)), OLDEST_YEARS) for knot in spline.get("knots_years", [])
    ]
    record = analysis.record | {
        "counts": {name: n for name, n in counts.items() if n is not None},
        "spline": spline,
        "sentences": [_without_small_counts(text) for text in analysis.sentences],
    }
    return Analysis(
        slopes=_estimates(analysis.slopes),
        interactions=_estimates(analysis.interactions),
        correlations=_estimates(analysis.correlations),
        curves=_curves(analysis.curves),
        summary=_quantiles(analysis.summary),
        dropped=_dropped(analysis.dropped),
        table1=_table1(analysis.table1),
        flow=_flow(analysis.flow),
        record=record,
        beside={name: rule(analysis.table(name)) for name, rule in _BESIDE.items()},
    )


def _estimates(rows: pd.DataFrame) -> pd.DataFrame:
    """Estimates with the scans behind them rounded, and no count of those that are not."""
    n = rows["n_used"].astype("Float64")
    changed: dict[str, Any] = {"n_used": rounded(n)}
    if "n_dropped" in rows:
        changed["n_dropped"] = pd.array([None] * len(rows), dtype="Int64")
    if "mean_volume_ml" in rows:
        changed["mean_volume_ml"] = rows["mean_volume_ml"].where(n >= LEAST_N["median_ml"])
    if "note" in rows:
        changed["note"] = rows["note"].map(_without_counts, na_action="ignore").astype(object)
    return rows.assign(**changed)


def _without_counts(note: str) -> str:
    """A note without how many scans or people it is about; thresholds stay."""
    for counted, plain in _COUNTED:
        note = re.sub(counted, plain, note)
    return note


def _without_small_counts(sentence: str) -> str:
    """A sentence of `analyse` that begins with a count, with that count rounded."""

    def shown(found: re.Match[str]) -> str:
        n = rounded_one(float(found[0].replace(",", "")))
        return "Fewer than 5" if n is None else f"About {n:,}"

    return re.sub(r"^\d[\d,]*", shown, sentence)


def _quartiles_of_age(rows: pd.DataFrame) -> pd.DataFrame:
    """Boxes without whiskers, whose ends are single scans."""
    kept = _quantiles(rows)
    nothing = pd.array([np.nan] * len(rows), dtype=float)
    return kept.assign(
        whisker_low_ml=nothing,
        whisker_high_ml=nothing,
        n_implausible=rounded(rows["n_implausible"]),
        age_above_years=_whole_years(rows["age_above_years"]),
        age_to_years=_whole_years(rows["age_to_years"]),
    )


def _quantiles(rows: pd.DataFrame) -> pd.DataFrame:
    """Quantiles where enough scans are behind them, and the counts rounded."""
    n = rows["n"].astype("Float64")
    kept = {
        name: rows[name].where((n >= least).fillna(False))
        for name, least in LEAST_N.items()
        if name in rows
    }
    return rows.assign(n=rounded(n), **kept)


def _whole_years(ages: pd.Series) -> pd.Series:
    return top_coded(ages.astype(float).round())


def _age_bands(rows: pd.DataFrame) -> pd.DataFrame:
    """Bands of age; one that begins above `OLDEST_YEARS` would tell of the oldest."""
    return _quantiles(rows[rows["age_from_years"] <= OLDEST_YEARS])


def _centiles(rows: pd.DataFrame) -> pd.DataFrame:
    """Centiles at whole years up to `OLDEST_YEARS`, where the ages are not sparse."""
    age = rows["age_years"].astype(float)
    sparse = rows["sparse"].fillna(False).astype(bool)
    kept = rows[(age == age.round()) & (age <= OLDEST_YEARS) & ~sparse]
    return kept.assign(n_used=rounded(kept["n_used"]))


def _peaks(rows: pd.DataFrame) -> pd.DataFrame:
    names = [name for name in rows if str(name).startswith("peak_age_years")]
    return _estimates(rows).assign(**{name: _whole_years(rows[name]) for name in names})


def _slopes_at_age(rows: pd.DataFrame) -> pd.DataFrame:
    return _estimates(rows[rows["age_years"].astype(float) <= OLDEST_YEARS])


def _within_between(rows: pd.DataFrame) -> pd.DataFrame:
    counts = {name: rounded(rows[name]) for name in ("n_subjects", "n_rescanned")}
    return _estimates(rows).assign(**counts)


def _sensitivity(rows: pd.DataFrame) -> pd.DataFrame:
    kept = _estimates(rows).assign(n_censored=rounded(rows["n_censored"]))
    return kept.assign(note=pd.array([None] * len(rows), dtype=object))


def _missingness(rows: pd.DataFrame) -> pd.DataFrame:
    """Shares from rounded counts; none where one is not given, and no limits of the thirds."""
    scans, unusable = rounded(rows["n_scans"]), rounded(rows["n_unusable"])
    share = (100 * unusable / scans.mask(scans == 0)).astype("Float64")
    level = _without_limits(rows["level"])
    return rows.assign(
        n_scans=scans, n_unusable=unusable, unusable_pct=share.clip(upper=100), level=level
    )


def _without_limits(levels: pd.Series) -> pd.Series:
    """``upper third``, without the age or height at which it begins."""
    return levels.astype(object).map(lambda level: level.split(", ")[0], na_action="ignore")


_BESIDE: dict[str, Callable[[pd.DataFrame], pd.DataFrame]] = {
    "nonlinearity": _estimates,
    "slopes_at_age": _slopes_at_age,
    "peaks": _peaks,
    "quartiles": _quartiles_of_age,
    "age_bands": _age_bands,
    "centiles": _centiles,
    "within_between": _within_between,
    "sensitivity": _sensitivity,
    "missingness": _missingness,
    "literature": _estimates,
    "tipping": lambda rows: rows,
    "asymmetry": _estimates,
    "two_models": lambda rows: _estimates(rows).assign(level=_without_limits(rows["level"])),
}
"""Tables beside the slopes that a public report may show, and how; no other is shown."""


def _curves(curves: pd.DataFrame) -> pd.DataFrame:
    """Fitted curves at whole years up to `OLDEST_YEARS`; their ends are ages of people."""
    age = curves["age_years"].astype(float)
    return curves[(age == age.round()) & (age <= OLDEST_YEARS)]


def _dropped(rows: pd.DataFrame) -> pd.DataFrame:
    of_structure = ~rows["reason"].str.startswith(_OF_SCANS)
    return rows[of_structure].assign(n=lambda kept: rounded(kept["n"]))


def _flow(flow: pd.DataFrame) -> pd.DataFrame:
    """Totals rounded; reasons of few scans added up within their step."""
    few = flow["reason"].notna() & (flow["n"] < SMALL)
    reason = flow["reason"].mask(few, OTHER)
    merged = (
        flow.assign(reason=reason.fillna(""))
        .groupby(["step", "reason"], sort=False, as_index=False)["n"]
        .sum()
    )
    return merged.assign(n=rounded(merged["n"]))


def _table1(rows: pd.DataFrame) -> pd.DataFrame:
    """Table 1 with counts and shares of rounded counts, quartiles where twenty are known."""
    is_count = rows["level"] != "median (IQR)"
    n = rounded(rows["n"].where(is_count))
    scans = rows[rows["variable"] == "scans"]
    totals = dict(zip(scans["group"], n[scans.index], strict=True))
    values = []
    for row, count in zip(rows.to_dict("records"), n, strict=True):
        if row["level"] == "median (IQR)":
            enough = pd.notna(row["n"]) and row["n"] >= LEAST_N["q25_ml"]
            values.append(_quartiles(row["variable"], row["value"]) if enough else "–")
        elif pd.isna(count):
            values.append(f"<{SMALL}")
        else:
            total = totals.get(row["group"])
            share = "" if row["level"] == "n" else _share(int(count), total)
            values.append(f"{int(count):,}{share}")
    return rows.assign(value=values).drop(columns="n")


def _share(count: int, total: Any) -> str:
    return "" if pd.isna(total) or not total else f" ({min(100 * count / total, 100):.0f} %)"


def _quartiles(variable: str, value: str) -> str:
    if variable != "age_years":
        return value

    def top(found: re.Match[str]) -> str:
        return "90+" if float(found[0]) >= OLDEST_YEARS else found[0]

    return re.sub(r"\d+(?:\.\d+)?", top, value)


def hexagon_counts(counts: np.ndarray) -> np.ndarray:
    """Counts of scans in cells of a figure; 0 where they are small."""
    shown: np.ndarray = rounded(pd.Series(counts)).fillna(0).to_numpy(dtype=float)
    return shown


def whole_decades(ages_years: tuple[float, float]) -> tuple[float, float]:
    """A range of ages from decade to decade, so that it ends at nobody's age."""
    low, high = ages_years
    return 10.0 * math.floor(low / 10), min(10.0 * math.ceil(high / 10), OLDEST_YEARS)

"""Tables of a page that may leave the house: every number rounded to what its people support.

One rule for each column of each table, `RULES`; a table or a column without one is left out. A
statistic is rounded to a step near its standard error, never less than what one person four
standard deviations off can move it by; nothing is given of fewer than `LEAST_N` scans. Counts are
multiples of five, those of 1 to 4 are not given. Curves stand at every tenth year, ages end at 90.
Figures, page and files are made of these tables alone.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from cohortvol.stages.report.tables.inputs import HIGH, LOW, SLOPE, Analysis
from cohortvol.stages.report.tables.rounding import (
    LEAST_N,
    SMALL,
    rounded,
    rounded_one,
    step_of,
    to_step,
)
from cohortvol.stages.report.tables.rules import (
    CURVE_YEARS,
    OLDEST_YEARS,
    QUANTILE,
    RULES,
    SD_OF_IQR,
    age,
    by_rule,
)

OTHER = "other reasons"
_TOO_FEW = f"No trend with age is given: each stands on fewer than {LEAST_N} scans."
OTHER_LEVELS = "other, few each"


_OF_SCANS = ("scan ", "age ", "sex ", "size ")
"""How reasons begin that `dropped` repeats for every structure; the flow has them."""


# ---- rules ---------------------------------------------------------------------------------------


# ---- tables --------------------------------------------------------------------------------------


def public(analysis: Analysis) -> Analysis:
    """The tables of an analysis as they may be passed on."""
    counts = {name: rounded_one(n) for name, n in analysis.record.get("counts", {}).items()}
    spline = dict(analysis.record.get("spline", {}))
    knots = pd.DataFrame({"age": spline.get("knots_years", [])}, dtype=float)
    spline["knots_years"] = age(knots, "age").tolist()
    main = {
        name: by_rule(name, _CHOSEN.get(name, _all)(analysis, getattr(analysis, name)))
        for name in ("slopes", "interactions", "correlations", "curves", "summary", "dropped")
    }
    main["curves"] = main["curves"].dropna(subset=["volume_ml"])
    too_few = analysis.has_trends and not main["slopes"][SLOPE].notna().any()
    record = analysis.record | {
        "counts": {name: n for name, n in counts.items() if n is not None},
        "spline": spline,
        "least_shown": max(analysis.settings.get("suppress_below", SMALL), SMALL),
        "sentences": [_without_small_counts(text) for text in analysis.sentences],
        "cannot_say": [_TOO_FEW] * too_few
        + [_without_small_counts(text) for text in analysis.cannot_say],
    }
    beside = {
        name: by_rule(name, _CHOSEN.get(name, _all)(analysis, table))
        for name, table in analysis.beside.items()
        if name in RULES
    }
    return Analysis(
        **main,
        table1=_table1(analysis.table1),
        flow=_flow(analysis.flow),
        record=record,
        beside=beside,
    )


def _all(_analysis: Analysis, rows: pd.DataFrame) -> pd.DataFrame:
    return rows


def _with_sd(analysis: Analysis, rows: pd.DataFrame) -> pd.DataFrame:
    """Slopes with how far the volumes spread, from their quartiles."""
    spread = (analysis.summary["q75_ml"] - analysis.summary["q25_ml"]) / SD_OF_IQR
    return _joined(rows, analysis.summary[["structure", "sex"]].assign(sd_ml=spread))


def _curves(analysis: Analysis, rows: pd.DataFrame) -> pd.DataFrame:
    """Every tenth year up to `OLDEST_YEARS`, with the scans behind M1; ends are ages of people."""
    first = analysis.slopes[analysis.slopes["model"] == "M1"]
    return _joined(rows[_at_decades(rows)], first[["structure", "sex", "n_used"]])


def _centiles(_analysis: Analysis, rows: pd.DataFrame) -> pd.DataFrame:
    """Every tenth year up to `OLDEST_YEARS`, where the ages are not sparse."""
    sparse = rows["sparse"].fillna(False).astype(bool)
    return rows[_at_decades(rows) & ~sparse]


def _at_decades(rows: pd.DataFrame) -> pd.Series:
    years = rows["age_years"].astype(float)
    return (years % CURVE_YEARS == 0) & (years <= OLDEST_YEARS)


def _tipping(analysis: Analysis, rows: pd.DataFrame) -> pd.DataFrame:
    """With the intervals of the slopes that they are about."""
    keys = ["structure", "sex", "model"]
    return _joined(rows, analysis.slopes[[*keys, LOW, HIGH, "n_used"]])


def _joined(rows: pd.DataFrame, other: pd.DataFrame) -> pd.DataFrame:
    keys = [name for name in ("structure", "sex", "model") if name in other]
    if rows.empty or other.empty:  # without values their keys have no common type
        return rows.assign(**{name: np.nan for name in other if name not in rows})
    return rows.merge(other, on=keys, how="left", validate="m:1")


def _up_to_the_oldest(column: str) -> Callable[[Analysis, pd.DataFrame], pd.DataFrame]:
    return lambda _analysis, rows: rows[rows[column].astype(float) <= OLDEST_YEARS]


def _dropped(_analysis: Analysis, rows: pd.DataFrame) -> pd.DataFrame:
    return rows[~rows["reason"].str.startswith(_OF_SCANS)]


_CHOSEN: dict[str, Callable[[Analysis, pd.DataFrame], pd.DataFrame]] = {
    "slopes": _with_sd,
    "curves": _curves,
    "dropped": _dropped,
    "slopes_at_age": _up_to_the_oldest("age_years"),
    "age_bands": _up_to_the_oldest("age_from_years"),
    "centiles": _centiles,
    "tipping": _tipping,
}
"""Rows that are passed on, with what their rules need from another table; all where none is
named."""


def _without_small_counts(sentence: str) -> str:
    """A sentence of `analyse` that begins with a count, with that count rounded."""

    def shown(found: re.Match[str]) -> str:
        n = rounded_one(float(found[0].replace(",", "")))
        return "Fewer than 5" if n is None else f"About {n:,}"

    return re.sub(r"^\d[\d,]*", shown, sentence)


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
    """Table 1: rounded counts with shares of these, levels of few added up, rounded quartiles."""
    rows = _without_rare_levels(rows[rows["variable"] != "time_of_day_h"])
    is_count = rows["level"] != "median (IQR)"
    n = rounded(rows["n"].where(is_count))
    scans = rows[rows["variable"] == "scans"]
    totals = dict(zip(scans["group"], n[scans.index], strict=True))
    values = []
    for row, count in zip(rows.to_dict("records"), n, strict=True):
        if row["level"] == "median (IQR)":
            values.append(_quartiles(row["variable"], row["value"], row["n"]))
        elif pd.isna(count):
            values.append(f"<{SMALL}")
        else:
            total = totals.get(row["group"])
            share = "" if row["level"] == "n" else _share(int(count), total)
            values.append(f"{int(count):,}{share}")
    return rows.assign(value=values)[["variable", "level", "group", "value"]]


def _without_rare_levels(rows: pd.DataFrame) -> pd.DataFrame:
    """Sites, scanners and the like of fewer than five scans under one name."""
    named = ~rows["level"].isin(["n", "missing", "median (IQR)"])
    whole = rows[named & (rows["group"] == "all")]
    # analyse leaves the count of a small cell out
    few = whole[whole["n"].isna() | ((whole["n"] > 0) & (whole["n"] < SMALL))]
    keys = set(zip(few["variable"], few["level"], strict=True))
    rare = pd.Series(
        [key in keys for key in zip(rows["variable"], rows["level"], strict=True)], rows.index
    )
    merged = rows.assign(level=rows["level"].mask(rare, OTHER_LEVELS))
    cells = merged.groupby(["variable", "level", "group"], sort=False, dropna=False)
    first = cells[["value"]].first()
    return first.assign(n=cells["n"].sum(min_count=1)).reset_index()


def _share(count: int, total: Any) -> str:
    return "" if pd.isna(total) or not total else f" ({min(100 * count / total, 100):.0f} %)"


def _quartiles(variable: str, value: str, n: float) -> str:
    """``58 (44–72)``: median and quartiles of `n` values, rounded as those of volumes."""
    found = [float(text) for text in re.findall(r"\d+(?:\.\d+)?", value)]
    if len(found) != 3 or pd.isna(n):
        return "–"
    sd = (found[2] - found[1]) / SD_OF_IQR
    step = float(step_of(QUANTILE["median"] * sd / np.sqrt(n), n))
    if np.isnan(step):
        return "–"
    shown = [
        "90+" if variable == "age_years" and number >= OLDEST_YEARS else f"{number:g}"
        for number in to_step(found, step)
    ]
    return f"{shown[0]} ({shown[1]}–{shown[2]})"

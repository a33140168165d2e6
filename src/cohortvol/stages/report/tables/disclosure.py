"""Tables of a page that may leave the house: every number rounded to what its people support.

One rule for each column of each table, `RULES`; a table or a column without one is left out. A
statistic is rounded to a step near its standard error, never less than what one person four
standard deviations off can move it by; nothing is given of fewer than `LEAST_N` scans. Counts are
multiples of five, those of 1 to 4 are not given. Curves stand at every tenth year, ages end at 90.
Figures, page and files are made of these tables alone.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from cohortvol.stages.report.tables.inputs import HIGH, LOW, SLOPE, Analysis

SMALL = 5
"""Counts from 1 to one less than this are not given; all others are rounded to multiples of it."""
OLDEST_YEARS = 90.0
"""Higher ages count as this one (45 CFR 164.514(b)(2)(i)(C): ages over 89 as 90 or older)."""
LEAST_N = 20
"""Scans behind any statistic, so that at least `SMALL` lie beyond a quartile."""
LEAST_N_OF_TAILS = 100
"""Scans behind the 5th and 95th centile, so that at least `SMALL` lie beyond them."""
LEAST_P = 0.001
"""Smaller p and q are given as this one."""
CURVE_YEARS = 10
"""Years between two points of a curve. Points close together would give its few coefficients
away beyond the step, since each is rounded on its own."""
OTHER = "other reasons"
_TOO_FEW = f"No trend with age is given: each stands on fewer than {LEAST_N} scans."
OTHER_LEVELS = "other, few each"

_Z95 = 1.959964
_SD_OF_IQR = 1.349
_QUANTILE = {"median": 1.4, "q25": 1.4, "q75": 1.4, "p5": 2.2, "p95": 2.2}
_CENTILE = {"p5": 2.2, "p25": 1.4, "p50": 1.4, "p75": 1.4, "p95": 2.2}
"""Standard error of a quantile of normal values over that of their mean, rounded up."""
_SHARE_OF_N_AT_AN_AGE = 0.2
"""Of all people, how many a smooth centile curve leans on at one age: it has five coefficients."""
_LEVELS = (0.01, 0.05, 0.1)

_OF_SCANS = ("scan ", "age ", "sex ", "size ")
"""How reasons begin that `dropped` repeats for every structure; the flow has them."""

_COUNTED = (
    (r"[\d,]+ usable (?:subjects|scans), ", ""),
    (r"[\d,]+ subjects scanned at", "subjects scanned at"),
    (r"[\d,]+ (rows|subjects) for", r"too few \1 for"),
    (r"[\d,]+ scans of [\d,]+ people", "several scans of one person"),
)
"""Counts in notes of `analyse`, and what stands in their place."""
_PLAIN = re.compile(
    r"(?:n < |fewer than |at least )[\d,]+|[\d,]+ needed|\d+ (?:terms|levels pooled)|\bM\d\b"
)
"""Numbers in notes that are thresholds or names."""

_NUMBER = re.compile(r"(?<![\w.-])\d[\d,.]*\b")

Rule = Callable[[pd.DataFrame, str], pd.Series]
"""From the rows of a table and the name of a column to that column as it may be passed on."""


def rounded(counts: pd.Series) -> pd.Series:
    """Counts to the nearest multiple of `SMALL`; missing where they are small but not 0."""
    n = counts.astype("Float64")
    nearest = (n / SMALL).round() * SMALL
    return nearest.mask((n > 0) & (n < SMALL)).astype("Int64")


def rounded_one(count: float | None) -> int | None:
    """`rounded` for one count."""
    found = rounded(pd.Series([count], dtype="Float64")).iloc[0]
    return None if pd.isna(found) else int(found)


def step_of(error: Any, n: Any) -> np.ndarray:
    """The step that statistics of `n` scans with these standard errors are rounded to.

    The largest 1, 2 or 5 times a power of ten that is not above the error. One person z standard
    deviations off moves a mean by z / sqrt(n) of its error: below 100 scans the error counts
    sqrt(100 / n) times, so that a step is never less than what z = 4 can do.

    Returns
    -------
    numpy.ndarray
        NaN where the error is not known, 0, or of fewer than `LEAST_N` scans.
    """
    n = np.asarray(n, dtype=float)
    error = np.asarray(error, dtype=float)
    with np.errstate(divide="ignore", invalid="ignore"):
        enough = (n >= LEAST_N) & (error > 0)
        wide = np.where(enough, error * np.maximum(1, 10 / np.sqrt(n)), np.nan)
        power = 10.0 ** np.floor(np.log10(wide))
        first = np.where(wide >= 5 * power, 5.0, np.where(wide >= 2 * power, 2.0, 1.0))
    return np.asarray(first * power)


def to_step(values: Any, step: Any) -> np.ndarray:
    """Values to the nearest multiple of their step; NaN where there is none."""
    values, step = np.broadcast_arrays(np.asarray(values, float), np.asarray(step, float))
    nearest = np.round(values / step) * step
    digits = np.clip(-np.floor(np.log10(step)), 0, 15)
    plain = [
        round(value, int(places)) + 0.0 if np.isfinite(value) else np.nan
        for value, places in zip(nearest.ravel(), digits.ravel(), strict=True)
    ]
    return np.array(plain, dtype=float).reshape(nearest.shape)


# ---- rules ---------------------------------------------------------------------------------------


def words(rows: pd.DataFrame, name: str) -> pd.Series:
    """Texts and flags as they are; a number is none of them and is not given."""
    values = rows[name]
    is_number = pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values)
    return hidden(rows, name) if is_number else values


def constant(rows: pd.DataFrame, name: str) -> pd.Series:
    """What does not come from the people: keys, limits of bands, values that others published."""
    return rows[name]


def hidden(rows: pd.DataFrame, name: str) -> pd.Series:
    """Nothing."""
    kind = rows[name].dtype
    kind = "Int64" if pd.api.types.is_integer_dtype(kind) else kind
    kind = float if pd.api.types.is_float_dtype(kind) else kind
    return pd.Series(pd.NA if kind == "Int64" else np.nan, rows.index, dtype=kind)


def count(rows: pd.DataFrame, name: str) -> pd.Series:
    """`rounded`."""
    return rounded(rows[name])


def note(rows: pd.DataFrame, name: str) -> pd.Series:
    """A note without how many scans or people it is about; thresholds stay."""
    return rows[name].map(_without_counts, na_action="ignore").astype(object)


def estimate(rows: pd.DataFrame, name: str) -> pd.Series:
    """An estimate or a limit of its interval, by the standard error that the interval shows."""
    return _like(rows, name, re.sub("_ci_(low|high)$", "", name))


def like(of: str, times: float = 1.0) -> Rule:
    """By the interval of another estimate of the same rows."""

    def rule(rows: pd.DataFrame, name: str) -> pd.Series:
        return _like(rows, name, of, times)

    return rule


def _like(rows: pd.DataFrame, name: str, of: str, times: float = 1.0) -> pd.Series:
    width = _floats(rows, f"{of}_ci_high") - _floats(rows, f"{of}_ci_low")
    step = step_of(times * width / (2 * _Z95), _n(rows))
    return pd.Series(to_step(_floats(rows, name), step), rows.index)


def mean(rows: pd.DataFrame, name: str) -> pd.Series:
    """A mean volume, by the quartiles of these volumes."""
    step = step_of(_floats(rows, "sd_ml") / _root(_n(rows)), _n(rows))
    return pd.Series(to_step(_floats(rows, name), step), rows.index)


def quantile(rows: pd.DataFrame, name: str) -> pd.Series:
    """A quantile of volumes: a single person, unless rounded to a step that holds several."""
    return _quantile(rows, name, _QUANTILE, ("q25_ml", "q75_ml"), _n(rows))


def centile(rows: pd.DataFrame, name: str) -> pd.Series:
    """A point of a smooth centile curve."""
    at_an_age = _n(rows) * _SHARE_OF_N_AT_AN_AGE
    return _quantile(rows, name, _CENTILE, ("p25_ml", "p75_ml"), at_an_age)


def _quantile(
    rows: pd.DataFrame,
    name: str,
    errors: Mapping[str, float],
    quartiles: tuple[str, str],
    n: np.ndarray,
) -> pd.Series:
    which = name.removesuffix("_ml")
    sd = (_floats(rows, quartiles[1]) - _floats(rows, quartiles[0])) / _SD_OF_IQR
    step = step_of(errors[which] * sd / _root(n), n)
    if which in ("p5", "p95"):
        step = np.where(_n(rows) >= LEAST_N_OF_TAILS, step, np.nan)
    return pd.Series(to_step(_floats(rows, name), step), rows.index)


def correlation(rows: pd.DataFrame, name: str) -> pd.Series:
    """Rounded to 1 / sqrt(n), so that rho and p do not give n away."""
    n = _n(rows)
    return pd.Series(to_step(_floats(rows, name), step_of(1 / _root(n), n)), rows.index)


def probability(rows: pd.DataFrame, name: str) -> pd.Series:
    """p or q to one digit, at least `LEAST_P`; what is below 0.01, 0.05 or 0.1 stays below it."""
    p = pd.Series(_floats(rows, name), rows.index).where(_n(rows) >= LEAST_N)
    return p.map(_one_digit, na_action="ignore")


def _one_digit(p: float) -> float:
    least = max(p, LEAST_P)
    digits = 1 if least >= 0.1 else 2 if least >= 0.01 else 3
    short = round(least, digits)
    for level in _LEVELS:
        if p < level <= short:
            return round(level - 10.0**-digits, digits)
    return short


def hundredths(rows: pd.DataFrame, name: str) -> pd.Series:
    """To 0.01, of `LEAST_N` scans or more."""
    values = pd.Series(_floats(rows, name), rows.index)
    return values.round(2).where(_n(rows) >= LEAST_N)


def whole_years(rows: pd.DataFrame, name: str) -> pd.Series:
    """To whole years, of `LEAST_N` scans or more."""
    return pd.Series(_floats(rows, name), rows.index).round().where(_n(rows) >= LEAST_N)


def age(rows: pd.DataFrame, name: str) -> pd.Series:
    """An age that people set the place of, to five years, up to `OLDEST_YEARS`."""
    return ((_floats_of(rows[name]) / 5).round() * 5).clip(upper=OLDEST_YEARS)


def estimated_age(rows: pd.DataFrame, name: str) -> pd.Series:
    """`estimate`, up to `OLDEST_YEARS`."""
    return estimate(rows, name).clip(upper=OLDEST_YEARS)


def share(rows: pd.DataFrame, name: str) -> pd.Series:
    """A share of the counts as they are given, to whole percents."""
    scans, unusable = rounded(rows["n_scans"]), rounded(rows["n_unusable"])
    percent = (100 * unusable / scans.mask(scans == 0)).astype("Float64")
    return percent.clip(upper=100).round()


def level(rows: pd.DataFrame, name: str) -> pd.Series:
    """``upper third``, without the age or height at which it begins."""
    return rows[name].astype(object).map(lambda text: text.split(", ")[0], na_action="ignore")


def _floats_of(values: pd.Series) -> pd.Series:
    return pd.Series(values.astype("Float64").to_numpy(float, na_value=np.nan), values.index)


def _floats(rows: pd.DataFrame, name: str) -> np.ndarray:
    return np.asarray(_floats_of(rows[name]))


def _n(rows: pd.DataFrame) -> np.ndarray:
    return _floats(rows, "n_used" if "n_used" in rows else "n")


def _root(n: np.ndarray) -> np.ndarray:
    return np.asarray(np.sqrt(np.maximum(n, 1)))


def _ends(name: str, rule: Rule = estimate) -> dict[str, Rule]:
    return {name: rule, f"{name}_ci_low": rule, f"{name}_ci_high": rule}


def _keys(*names: str) -> dict[str, Rule]:
    return dict.fromkeys(names, words)


_PCT, _ML = _ends(SLOPE), _ends("slope_ml_per_decade")
_TESTED: dict[str, Rule] = {"p_value": probability, "q_value": probability}
_USED: dict[str, Rule] = {"n_used": count}
_QUANTILES: dict[str, Rule] = {f"{name}_ml": quantile for name in _QUANTILE}

RULES: dict[str, dict[str, Rule]] = {
    "slopes": {
        **_keys("structure", "sex", "model", "se_kind", "adjusted_for"),
        **_PCT, **_ML, **_TESTED, **_USED,
        "log10_p": hidden, "n_dropped": hidden, "mean_volume_ml": mean, "note": note,
    },
    "interactions": {
        **_keys("structure", "model"), **_ends("difference_pct_per_decade"),
        **_TESTED, **_USED, "note": note,
    },
    "correlations": {
        **_keys("structure", "sex"), "spearman_rho": correlation, "pearson_r": correlation,
        "p_value": probability, "p_bonferroni": probability, **_USED, "n_dropped": hidden,
    },
    "curves": {
        **_keys("structure", "sex", "model"), "age_years": constant, **_ends("volume_ml"),
    },
    "summary": {**_keys("structure", "sex"), "n": count, **_QUANTILES},
    "dropped": {**_keys("structure", "reason"), "n": count},
    "nonlinearity": {**_keys("structure", "sex"), **_TESTED, **_USED, "log10_p": hidden},
    "slopes_at_age": {**_keys("structure", "sex"), "age_years": constant, **_PCT, **_USED},
    "peaks": {**_keys("structure", "sex"), **_ends("peak_age_years", estimated_age), **_USED},
    "quartiles": {
        **_keys("structure", "sex"), "quartile": constant,
        "age_above_years": age, "age_to_years": age, "n": count,
        **{name: rule for name, rule in _QUANTILES.items() if name[0] in "mq"},
        "whisker_low_ml": hidden, "whisker_high_ml": hidden, "n_implausible": count,
    },
    "age_bands": {
        **_keys("structure", "sex"), "age_from_years": constant, "age_below_years": constant,
        "n": count, **_QUANTILES,
    },
    "centiles": {
        **_keys("structure", "sex", "sparse"), "age_years": constant,
        **{f"{name}_ml": centile for name in _CENTILE}, **_USED, "note": note,
    },
    "within_between": {
        **_keys("structure", "sex", "model"), **_ends("between_pct_per_decade"),
        **_ends("within_pct_per_decade"), "difference_p_value": probability, **_USED,
        "n_subjects": count, "n_rescanned": count, "years_between_median": whole_years,
        "note": note,
    },
    "sensitivity": {
        **_keys("structure", "sex", "analysis", "model"), **_PCT, **_USED,
        "n_censored": count, "note": hidden,
    },
    "missingness": {
        **_keys("structure", "variable"), "level": level,
        "n_scans": count, "n_unusable": count, "unusable_pct": share,
    },
    "literature": {
        **_keys("structure", "sex", "model", "modality", "evidence", "source", "plotted"),
        **_keys("verdict", "reference_direction"), **_PCT, **_ML, **_USED, "note": note,
        **{
            f"reference_{name}": constant
            for name in ("age_ref_years", "age_low_years", "age_high_years", "mean_ml", "sd_ml",
                         "slope_ml_per_decade", "slope_pct_per_decade", "n")
        },
    },
    "tipping": {
        **_keys("structure", "sex", "model", "within_dice"), SLOPE: estimate,
        "bias_pct_per_decade": like(SLOPE), "bias_ci_pct_per_decade": like(SLOPE),
        "bias_over_ages_pct": like(SLOPE, 5.0),
        "dice": constant, "ratio_low": constant, "ratio_high": constant, "note": note,
    },
    "two_models": {
        **_keys("structure", "other_model", "variable"), "level": level,
        **_ends("difference_mean_pct"), "limit_low_pct": like("difference_mean_pct", 1.7),
        "limit_high_pct": like("difference_mean_pct", 1.7), "dice_median": hundredths, **_USED,
    },
}  # fmt: skip
"""How each column of each table may be passed on. What stands here not is left out, such as the
asymmetry of paired structures, whose figure draws people, and the calibration of centiles."""


def by_rule(name: str, rows: pd.DataFrame) -> pd.DataFrame:
    """A table with the columns that have a rule, each as its rule gives it."""
    rules = RULES[name]
    return pd.DataFrame(
        {column: rules[column](rows, column) for column in rows if column in rules},
        index=rows.index,
    )


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
    spread = (analysis.summary["q75_ml"] - analysis.summary["q25_ml"]) / _SD_OF_IQR
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


def _without_counts(text: str) -> str:
    for counted, plain in _COUNTED:
        text = re.sub(counted, plain, text)
    return "; ".join(
        _NUMBER.sub("…", part) if _NUMBER.search(_PLAIN.sub("", part)) else part
        for part in text.split("; ")
    )


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
    rows = _without_rare_levels(rows)
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
    sd = (found[2] - found[1]) / _SD_OF_IQR
    step = float(step_of(_QUANTILE["median"] * sd / np.sqrt(n), n))
    if np.isnan(step):
        return "–"
    shown = [
        "90+" if variable == "age_years" and number >= OLDEST_YEARS else f"{number:g}"
        for number in to_step(found, step)
    ]
    return f"{shown[0]} ({shown[1]}–{shown[2]})"

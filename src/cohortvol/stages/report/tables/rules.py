"""How each column of each table may be passed on: one rule for each."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd

from cohortvol.stages.report.tables.inputs import SLOPE
from cohortvol.stages.report.tables.rounding import (
    LEAST_N,
    rounded,
    step_of,
    to_step,
)

OLDEST_YEARS = 90.0
"""Higher ages count as this one (45 CFR 164.514(b)(2)(i)(C): ages over 89 as 90 or older)."""
LEAST_N_OF_TAILS = 100
"""Scans behind the 5th and 95th centile, so that at least `SMALL` lie beyond them."""
LEAST_P = 0.001
"""Smaller p and q are given as this one."""
CURVE_YEARS = 10
"""Years between two points of a curve. Points close together would give its few coefficients
away beyond the step, since each is rounded on its own."""
_Z95 = 1.959964
SD_OF_IQR = 1.349
QUANTILE = {"median": 1.4, "q25": 1.4, "q75": 1.4, "p5": 2.2, "p95": 2.2}
_CENTILE = {"p5": 2.2, "p25": 1.4, "p50": 1.4, "p75": 1.4, "p95": 2.2}
"""Standard error of a quantile of normal values over that of their mean, rounded up."""
_SHARE_OF_N_AT_AN_AGE = 0.2
"""Of all people, how many a smooth centile curve leans on at one age: it has five coefficients."""
_LEVELS = (0.01, 0.05, 0.1)
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
    return _quantile(rows, name, QUANTILE, ("q25_ml", "q75_ml"), _n(rows))


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
    sd = (_floats(rows, quartiles[1]) - _floats(rows, quartiles[0])) / SD_OF_IQR
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
_QUANTILES: dict[str, Rule] = {f"{name}_ml": quantile for name in QUANTILE}
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
    "peaks": {
        **_keys("structure", "sex"), **_ends("peak_age_years", estimated_age), **_USED,
        "note": note,
    },
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
        **_keys("structure", "sex", "sparse", "family", "drawn_at"), "age_years": constant,
        **{f"{name}_ml": centile for name in _CENTILE}, **_USED, "note": note,
    },
    "within_between": {
        **_keys("structure", "sex", "model"), **_ends("between_pct_per_decade"),
        **_ends("within_pct_per_decade"), "within_sd_pct_per_decade": hidden,
        "difference_p_value": probability, **_USED,
        "n_subjects": count, "n_rescanned": count, "years_between_median": whole_years,
        "note": note,
    },
    "site_slopes": {
        **_keys("structure", "sex", "model", "by"), **_ends("between_pct_per_decade"),
        **_ends("within_pct_per_decade"), **_ends("terms_pct_per_decade"),
        "p_value": probability, "q_value": probability, **_USED, "n_sites": count,
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
        **dict.fromkeys(("ratio", "ratio_ci_low", "ratio_ci_high"), hidden),
        "difference_ml_per_decade": hidden,
        **{
            f"reference_{name}": constant
            for name in ("age_ref_years", "age_low_years", "age_high_years", "mean_ml", "sd_ml",
                         "slope_ml_per_decade", "slope_pct_per_decade", "n")
        },
    },
    "published_centiles": {
        **_keys("structure", "sex", "modality", "evidence", "source"),
        **dict.fromkeys(("reference_centile", "reference_ml"), constant),
        **dict.fromkeys(("age_from_years", "age_below_years"), constant),
        **_ends("below_pct"), "here_ml": hidden, "ratio": hidden, **_USED, "note": note,
    },
    "tipping": {
        **_keys("structure", "sex", "model", "within_dice"), SLOPE: estimate,
        "bias_pct_per_decade": like(SLOPE), "bias_ci_pct_per_decade": like(SLOPE),
        "bias_over_ages_pct": like(SLOPE, 5.0),
        "dice": constant, "ratio_low": constant, "ratio_high": constant, "note": note,
    },
    "suspected": {
        **_keys("structure", "kind"), "n": count, "n_used": count,
        **dict.fromkeys(
            ("n_both_sides", "n_other_large", "n_beside_other", "limit_pct", "limit_ml"), hidden
        ),
    },
    "time_of_day": {  # when somebody was where is nobody's
        "structure": words,
        **_ends("difference_pct", hidden), **_ends("difference_ml", hidden),
        **dict.fromkeys(
            ("from_h", "to_h", "amplitude_pct", "peak_h", "q_value", "n_used", "note"), hidden
        ),
    },
    "two_models": {
        **_keys("structure", "other_model", "variable"), "level": level,
        **_ends("difference_mean_pct"), "limit_low_pct": like("difference_mean_pct", 1.7),
        "limit_high_pct": like("difference_mean_pct", 1.7), "dice_median": hundredths, **_USED,
    },
}  # fmt: skip
"""How each column of each table may be passed on. What stands here not is left out, such as the
asymmetry of paired structures, whose figure draws people, the calibration of centiles, and their
worm plots, whose ends are single people."""


def by_rule(name: str, rows: pd.DataFrame) -> pd.DataFrame:
    """A table with the columns that have a rule, each as its rule gives it."""
    rules = RULES[name]
    return pd.DataFrame(
        {column: rules[column](rows, column) for column in rows if column in rules},
        index=rows.index,
    )


def _without_counts(text: str) -> str:
    for counted, plain in _COUNTED:
        text = re.sub(counted, plain, text)
    return "; ".join(
        _NUMBER.sub("…", part) if _NUMBER.search(_PLAIN.sub("", part)) else part
        for part in text.split("; ")
    )

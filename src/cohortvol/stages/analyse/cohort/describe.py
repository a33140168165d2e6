"""Who is in the cohort and what was measured: counts and quantiles, no models."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from cohortvol.ranges import SIZES
from cohortvol.stages.analyse.cohort.settings import Settings
from cohortvol.stages.analyse.cohort.usable import (
    AGE_IMPLAUSIBLE,
    AGE_MISSING,
    COVARIATE_MISSING,
    GROUPS,
    REASONS,
    SCAN_QC,
    SCAN_REVIEW,
    SEX_MISSING,
    SIZE_IMPLAUSIBLE,
    SIZE_MISSING,
    Cohort,
    accepted_by_review,
    excluded_by_review,
)
from cohortvol.stages.analyse.fits.designs import continuous_of

ACCEPTED = "accepted by review against automatic QC"
NUMBERS = {"age_years": 1, "height_cm": 1, "weight_kg": 1, "bmi": 1, "time_of_day_h": 1}
"""Variables of Table 1 printed as median (IQR), with their decimals."""
LEVELS = ("site", "scanner", "field_strength_t", "sequence", "contrast")
LIMITS = 1.96
"""Standard deviations to either side of the limits of agreement (Bland and Altman 1986)."""
QUANTILES = {"median_ml": 50, "q25_ml": 25, "q75_ml": 75, "p5_ml": 5, "p95_ml": 95}


def summary(cohort: Cohort, settings: Settings) -> pd.DataFrame:
    """Quantiles of the volumes per structure and sex: ``analyse/summary``.

    Of every volume that can be used, whether or not the age and sex of the person are known.
    """
    rows: list[dict[str, Any]] = []
    for index, structure in enumerate(cohort.structures):
        for group in GROUPS:
            volume_ml = cohort.volume_ml[cohort.sound[:, index] & cohort.of_sex(group), index]
            row: dict[str, Any] = {"structure": structure, "sex": group, "n": len(volume_ml)}
            if len(volume_ml) >= max(settings.suppress_below, 1):
                row |= quantile_cells(volume_ml)
            rows.append(row)
    return pd.DataFrame(rows)


def quantile_cells(volume_ml: np.ndarray) -> dict[str, float]:
    """`QUANTILES` of some volumes."""
    values = np.percentile(volume_ml, list(QUANTILES.values()))
    return dict(zip(QUANTILES, values.tolist(), strict=True))


def agreement(differences: np.ndarray, mean: str, unit: str) -> dict[str, float]:
    """Mean of some differences with its 95 % interval, and their limits of agreement.

    Parameters
    ----------
    mean, unit : str
        The column of the mean, and how the names of the limits end.
    """
    n, bias, sd = len(differences), float(differences.mean()), float(differences.std(ddof=1))
    half = float(stats.t.ppf(0.975, n - 1)) * sd / math.sqrt(n)
    return {
        mean: bias,
        f"{mean}_ci_low": bias - half,
        f"{mean}_ci_high": bias + half,
        f"limit_low_{unit}": bias - LIMITS * sd,
        f"limit_high_{unit}": bias + LIMITS * sd,
    }


def dropped(cohort: Cohort) -> pd.DataFrame:
    """Scans not used per structure and reason: ``analyse/dropped``.

    Scans used and dropped add up to the rows of the scans table; those without height or
    weight are used by all but M2.
    """
    rows: list[dict[str, Any]] = []
    unknown = ~cohort.knows(continuous_of(cohort))
    if cohort.time_of_day:
        unknown |= ~cohort.knows(["time_of_day_h"])
    if cohort.has_size.any():
        unknown &= cohort.has_size
    for index, structure in enumerate(cohort.structures):
        counts = pd.Series(cohort.reason[:, index], dtype=object).value_counts()
        without = cohort.usable(index) & ~cohort.has_size
        if cohort.has_size.any():
            counts[SIZE_MISSING] = int((without & ~cohort.size_outside).sum())
        counts[SIZE_IMPLAUSIBLE] = int((without & cohort.size_outside).sum())
        counts[COVARIATE_MISSING] = int((cohort.usable(index) & unknown).sum())
        rows += [
            {"structure": structure, "reason": reason, "n": int(counts[reason])}
            for reason in REASONS
            if counts.get(reason, 0)
        ]
    return pd.DataFrame(rows)


def flow(cohort: Cohort) -> pd.DataFrame:
    """From the manifest to the scans that trends are fitted to: ``analyse/flow``."""
    scans = cohort.scans
    rows: list[dict[str, Any]] = [{"step": "manifest", "reason": None, "n": len(scans)}]
    for state in ("quarantined", "skipped", "failed"):
        those = scans[scans["state"] == state]
        codes = those["reason"].where(those["reason"].notna(), "no reason given")
        rows += [
            {"step": state, "reason": code, "n": int(n)}
            for code, n in codes.value_counts().sort_index().items()
        ]
    done = int((scans["state"] == "done").sum())
    rows.append({"step": "done", "reason": None, "n": done})
    is_done = scans["state"] == "done"
    by_review = is_done & excluded_by_review(scans)
    failed_qc = is_done & ~cohort.counted & ~by_review
    bad_age = cohort.counted & cohort.outside["age_years"]
    no_age = cohort.counted & scans["age_years"].isna() & ~bad_age
    no_sex = cohort.counted & scans["age_years"].notna() & scans["sex"].isna()
    no_sex &= cohort.knows_sex  # where none is known, all are analysed as one
    for reason, those in (
        (SCAN_QC, failed_qc),
        (SCAN_REVIEW, by_review),
        (AGE_MISSING, no_age),
        (AGE_IMPLAUSIBLE, bad_age),
        (SEX_MISSING, no_sex),
    ):
        if those.any():
            rows.append({"step": "unusable", "reason": reason, "n": int(those.sum())})
    if accepted := int((cohort.in_trends & accepted_by_review(scans)).sum()):
        rows.append({"step": "kept", "reason": ACCEPTED, "n": accepted})
    rows.append({"step": "usable for trends", "reason": None, "n": int(cohort.in_trends.sum())})
    rows += [
        {"step": "out of range", "reason": f"{name} outside {SIZES[name]}", "n": int(those.sum())}
        for name, outside in cohort.outside.items()
        if name in SIZES and (those := cohort.counted & outside).any()
    ]
    with_size = int((cohort.in_trends & cohort.has_size).sum())
    rows.append({"step": "with height and weight", "reason": None, "n": with_size})
    return pd.DataFrame(rows)


def table1(cohort: Cohort, settings: Settings) -> pd.DataFrame:
    """The cohort by sex: ``analyse/table1``, of scans that are done and passed QC."""
    masks = {group: cohort.counted & cohort.of_sex(group) for group in GROUPS}
    groups = {group: cohort.scans[mask] for group, mask in masks.items()}
    rows: list[dict[str, Any]] = []

    def count(variable: str, level: str, group: str, n: int, of: int | None = None) -> None:
        # ASSUME: no cell is hidden only so that another cannot be found by subtraction
        few = 0 < n < settings.suppress_below
        share = "" if of is None or of == 0 else f" ({100 * n / of:.1f} %)"
        value = f"<{settings.suppress_below}" if few else f"{n:,}{share}"
        cell = {"variable": variable, "level": level, "group": group, "value": value}
        rows.append({**cell, "n": None if few else n})

    for group, scans in groups.items():
        count("scans", "n", group, len(scans))
    for group, scans in groups.items():
        count("subjects", "n", group, scans["subject"].nunique())
    for variable, decimals in NUMBERS.items():
        if cohort.scans[variable].isna().all():
            continue
        for group, scans in groups.items():
            given = scans[variable].dropna()
            cell = {"variable": variable, "level": "median (IQR)", "group": group}
            if len(given) < max(settings.suppress_below, 1):
                rows.append({**cell, "value": "–", "n": None})
                continue
            q25, q50, q75 = (f"{q:.{decimals}f}" for q in np.percentile(given, [25, 50, 75]))
            rows.append({**cell, "value": f"{q50} ({q25}–{q75})", "n": len(given)})
        for group, scans in groups.items():
            count(variable, "missing", group, int(scans[variable].isna().sum()), len(scans))
    for group, scans in groups.items():
        if group == "all":
            count("sex", "missing", group, int(scans["sex"].isna().sum()), len(scans))
    for variable in LEVELS:
        if variable not in cohort.scans or cohort.scans[variable].isna().all():
            continue
        codes, values = pd.factorize(cohort.scans[variable])
        named = np.array([*map(_level, values), None], dtype=object)[codes]
        levels = {group: pd.Series(named[mask]).dropna() for group, mask in masks.items()}
        counts = levels["all"].value_counts().sort_index()
        counts = counts.sort_values(ascending=False, kind="stable")
        top = [str(level) for level in counts.index[: settings.top_levels]]
        rest = len(counts) - len(top)
        for level in top:
            for group, scans in groups.items():
                count(variable, level, group, int((levels[group] == level).sum()), len(scans))
        for group, scans in groups.items():
            if rest:
                n = int((~levels[group].isin(top)).sum())
                count(variable, f"other ({rest})", group, n, len(scans))
        for group, scans in groups.items():
            count(variable, "missing", group, int(scans[variable].isna().sum()), len(scans))
    return pd.DataFrame(rows)


def _level(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)

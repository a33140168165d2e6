"""Volume against age: slopes by sex, their difference, and the curves for the figures."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from cohortvol.analyse.cohort import Cohort
from cohortvol.analyse.regression import (
    Estimate,
    Fit,
    contrast,
    count_subjects,
    false_discovery_rate,
    fit,
    fitted_means,
    natural_spline,
)
from cohortvol.analyse.settings import Settings
from cohortvol.errors import EstimateError

SEXES = ("F", "M")
KNOT_PERCENTILES = (5.0, 27.5, 50.0, 72.5, 95.0)
YEARS_PER_DECADE = 10.0
LOG, ML = 0, 1
"""Responses of every fit: ln(volume in mL), and volume in mL."""


@dataclass(frozen=True)
class Rows:
    """The scans that one model of one structure is fitted to."""

    volume_ml: np.ndarray
    age_years: np.ndarray
    male: np.ndarray
    subjects: np.ndarray
    size: np.ndarray
    """(n, 2): ln(height in cm) and ln(BMI), centred on these rows; (n, 0) without size."""

    def take(self, mask: np.ndarray) -> Rows:
        """Some of the rows, with the size terms centred anew."""
        size = self.size[mask]
        if len(size):
            size = size - size.mean(axis=0)
        return Rows(
            self.volume_ml[mask],
            self.age_years[mask],
            self.male[mask],
            self.subjects[mask],
            size,
        )

    def of_sex(self, sex: str) -> np.ndarray:
        """(n,) of bool."""
        return self.male if sex == "M" else ~self.male

    @property
    def responses(self) -> np.ndarray:
        """(n, 2): ln(volume), and volume in mL."""
        return np.column_stack([np.log(self.volume_ml), self.volume_ml])


def rows_for(cohort: Cohort, structure: int, with_size: bool) -> Rows:
    """The usable rows of one structure, for M2 those with known height and weight."""
    mask = cohort.usable(structure)
    if with_size:
        mask = mask & cohort.has_size
    scans = cohort.scans[mask]
    size = np.empty((len(scans), 0))
    if with_size:
        size = np.log(scans[["height_cm", "bmi"]].to_numpy(dtype=float))
    rows = Rows(
        volume_ml=cohort.volume_ml[mask, structure],
        age_years=scans["age_years"].to_numpy(dtype=float),
        male=(scans["sex"] == "M").to_numpy(dtype=bool),
        subjects=scans["subject"].to_numpy(),
        size=size,
    )
    return rows.take(np.ones(len(scans), dtype=bool))


def models_of(cohort: Cohort) -> tuple[str, ...]:
    """``M1``, and ``M2`` where anyone's height and weight are given."""
    return ("M1", "M2") if cohort.has_size.any() else ("M1",)


def trends(cohort: Cohort, settings: Settings) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Slopes per structure, sex and model, and the sex difference of the slopes.

    M1 is ``ln(volume) ~ a * sex`` with a = (age - age_center) / 10, M2 has ln(height) and
    ln(BMI) besides. Slopes of F and M are contrasts of one joint fit; the slope of ``all``
    is that of a fit without interaction but with sex. Slopes in mL come from the same
    designs with the volume in mL.

    Returns
    -------
    tuple of pandas.DataFrame
        ``analyse/slopes`` and ``analyse/interactions`` as `outputs.SCHEMAS` has them. What
        cannot be estimated is null, with the reason in ``note``.
    """
    slopes: list[dict[str, Any]] = []
    differences: list[dict[str, Any]] = []
    scans_of = {name: int(cohort.of_sex(name).sum()) for name in ("all", *SEXES)}
    for index, structure in enumerate(cohort.structures):
        for model in models_of(cohort):
            rows = rows_for(cohort, index, with_size=model == "M2")
            key = {"structure": structure, "model": model}
            pooled = _pooled_slope(rows, settings)
            by_sex, difference = _slopes_by_sex(rows, settings)
            for name, slope in {"all": pooled, **by_sex}.items():
                slope["n_dropped"] = scans_of[name] - slope["n_used"]
                slopes.append({**key, "sex": name, **slope})
            differences.append({**key, **difference})
    return _with_q(pd.DataFrame(slopes)), _with_q(pd.DataFrame(differences))


def _with_q(frame: pd.DataFrame) -> pd.DataFrame:
    """Benjamini-Hochberg q, each model being one family over structures and sexes."""
    if frame.empty:
        return frame
    p_values = frame.groupby("model")["p_value"]
    return frame.assign(q_value=p_values.transform(lambda p: false_discovery_rate(p.to_numpy())))


def _design(rows: Rows, sexes: tuple[str, ...], interaction: bool, center: float) -> np.ndarray:
    """Columns: 1, a, then male and a x male as far as both sexes are there, then size."""
    decades = (rows.age_years - center) / YEARS_PER_DECADE
    columns = [np.ones(len(decades)), decades]
    if len(sexes) == 2:
        columns.append(rows.male.astype(float))
        if interaction:
            columns.append(decades * rows.male)
    return np.column_stack([*columns, rows.size])


def _trouble(rows: Rows, mask: np.ndarray, least: int) -> str:
    """Why no age slope can be fitted to these rows; empty if it can."""
    n = count_subjects(rows.subjects[mask])
    if n < least:
        return f"ANA_TOO_FEW: {n} usable subjects, at least {least} needed"
    if np.ptp(rows.age_years[mask]) == 0:
        return "ANA_NO_VARIANCE: all ages are equal"
    if np.ptp(rows.volume_ml[mask]) == 0:
        return "ANA_NO_VARIANCE: all volumes are equal"
    return ""


def _few(rows: Rows, mask: np.ndarray, settings: Settings) -> str:
    n = count_subjects(rows.subjects[mask])
    least = settings.min_n_per_sex
    return f"descriptive only: n < {least} per sex" if n < least else ""


def _joined(*notes: str) -> str | None:
    return "; ".join(dict.fromkeys(note for note in notes if note)) or None


def _slope_row(fitted: Fit, weights: np.ndarray, volume_ml: np.ndarray) -> dict[str, Any]:
    log, ml = contrast(fitted, weights, LOG), contrast(fitted, weights, ML)
    percent, low, high = _percent(log)
    return {
        "slope_pct_per_decade": percent,
        "slope_pct_per_decade_ci_low": low,
        "slope_pct_per_decade_ci_high": high,
        "slope_ml_per_decade": ml.value,
        "slope_ml_per_decade_ci_low": ml.ci_low,
        "slope_ml_per_decade_ci_high": ml.ci_high,
        "p_value": log.p_value,
        "log10_p": log.log10_p,
        "n_used": len(volume_ml),
        "mean_volume_ml": float(volume_ml.mean()),
        "se_kind": fitted.se_kind,
    }


def _no_slope(volume_ml: np.ndarray) -> dict[str, Any]:
    mean = float(volume_ml.mean()) if len(volume_ml) else float("nan")
    return {
        "p_value": float("nan"),
        "n_used": len(volume_ml),
        "mean_volume_ml": mean,
        "se_kind": None,
    }


def _percent(log: Estimate) -> tuple[float, float, float]:
    """Change of the volume per decade in percent, limits transformed like the value."""
    return (
        100 * math.expm1(log.value),
        100 * math.expm1(log.ci_low),
        100 * math.expm1(log.ci_high),
    )


def _pooled_slope(rows: Rows, settings: Settings) -> dict[str, Any]:
    """One slope for both sexes, from a fit with a sex term and without interaction."""
    counts = {sex: int(rows.of_sex(sex).sum()) for sex in SEXES}
    sexes = tuple(sex for sex in SEXES if counts[sex] >= 2)  # one scan tells nothing but its sex
    if not sexes:
        sexes = tuple(sex for sex in SEXES if counts[sex])
    rows = rows.take(np.isin(np.where(rows.male, "M", "F"), sexes))
    everyone = np.ones(len(rows.male), dtype=bool)
    trouble = _trouble(rows, everyone, settings.min_n_fit)
    if trouble:
        return {**_no_slope(rows.volume_ml), "note": trouble}
    design = _design(rows, sexes, interaction=False, center=settings.age_center)
    try:
        fitted = fit(design, rows.responses, rows.subjects)
    except EstimateError as error:
        return {**_no_slope(rows.volume_ml), "note": str(error)}
    weights = np.eye(design.shape[1])[1]
    note = _joined(
        *(_few(rows, rows.of_sex(sex), settings) for sex in sexes),
        f"{sexes[0]} only" if len(sexes) == 1 else "",
    )
    return {**_slope_row(fitted, weights, rows.volume_ml), "note": note}


def _slopes_by_sex(
    rows: Rows, settings: Settings
) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    """Slopes of F and M as contrasts of one fit, and M minus F."""
    trouble = {sex: _trouble(rows, rows.of_sex(sex), settings.min_n_fit) for sex in SEXES}
    slopes = {
        sex: {**_no_slope(rows.volume_ml[rows.of_sex(sex)]), "note": trouble[sex]} for sex in SEXES
    }
    sexes = tuple(sex for sex in SEXES if not trouble[sex])
    rows = rows.take(np.isin(np.where(rows.male, "M", "F"), sexes))
    difference: dict[str, Any] = {
        "p_value": float("nan"),
        "n_used": len(rows.male) if len(sexes) == 2 else 0,
        "note": _joined(*(f"{sex}: {trouble[sex]}" for sex in SEXES if trouble[sex])),
    }
    if not sexes:
        return slopes, difference
    design = _design(rows, sexes, interaction=True, center=settings.age_center)
    try:
        fitted = fit(design, rows.responses, rows.subjects)
    except EstimateError as error:
        for sex in sexes:
            slopes[sex]["note"] = str(error)
        return slopes, {**difference, "note": str(error)}

    unit = np.eye(design.shape[1])
    weights = {sexes[0]: unit[1]}
    few = ""
    if len(sexes) == 2:
        weights = {"F": unit[1], "M": unit[1] + unit[3]}
    for sex in sexes:
        mask = rows.of_sex(sex)
        note = _few(rows, mask, settings)
        few = few or note
        slopes[sex] = {
            **_slope_row(fitted, weights[sex], rows.volume_ml[mask]),
            "note": note or None,
        }
    if len(sexes) == 2:
        log = contrast(fitted, unit[3], LOG)
        percent, low, high = _percent(log)
        difference |= {
            "difference_pct_per_decade": percent,
            "difference_pct_per_decade_ci_low": low,
            "difference_pct_per_decade_ci_high": high,
            "p_value": log.p_value,
            "log10_p": log.log10_p,
            "note": few or None,
        }
    return slopes, difference


def knots_years(cohort: Cohort) -> np.ndarray:
    """Knots of the spline curves: percentiles of the ages of all scans in the trends."""
    ages = cohort.scans.loc[cohort.in_trends, "age_years"].to_numpy(dtype=float)
    return np.percentile(ages, KNOT_PERCENTILES) if len(ages) else np.empty(0)


def curves(cohort: Cohort, settings: Settings) -> pd.DataFrame:
    """Fitted volume by age for the figures: M1, and the natural spline by sex.

    A curve is exp(mean of ln(volume)), so about the median volume, with the 95 % interval
    of that mean. It stands only between the 1st and 99th percentile of the ages of its sex.
    The spline is fitted where a sex has `Settings.min_n_per_sex` subjects.
    """
    knots = knots_years(cohort)
    pieces = []
    for index, structure in enumerate(cohort.structures):
        rows = rows_for(cohort, index, with_size=False)
        for model, least in (("M1", settings.min_n_fit), ("spline", settings.min_n_per_sex)):
            for sex in SEXES:
                mask = rows.of_sex(sex)
                if _trouble(rows, mask, least):
                    continue
                try:
                    curve = _curve(rows.take(mask), knots if model == "spline" else None)
                except EstimateError:
                    continue  # the slopes table says why
                pieces.append(curve.assign(structure=structure, sex=sex, model=model))
    return pd.concat(pieces, ignore_index=True) if pieces else pd.DataFrame()


def _curve(rows: Rows, knots: np.ndarray | None) -> pd.DataFrame:
    """One sex alone: the line of the joint fit, in which every term has its interaction."""
    low, high = np.percentile(rows.age_years, [1, 99])
    ages = np.unique(np.concatenate([[low], np.arange(math.ceil(low), high), [high]]))
    if knots is not None and (np.diff(knots) <= 0).any():
        raise EstimateError("ANA_COLLINEAR", "too few different ages for a spline")

    def basis(years: np.ndarray) -> np.ndarray:
        terms = years if knots is None else natural_spline(years, knots)
        return np.column_stack([np.ones(len(years)), terms])

    fitted = fit(basis(rows.age_years), rows.responses[:, LOG], rows.subjects)
    mean, half = fitted_means(fitted, basis(ages))
    return pd.DataFrame(
        {
            "age_years": ages,
            "volume_ml": np.exp(mean),
            "volume_ml_ci_low": np.exp(mean - half),
            "volume_ml_ci_high": np.exp(mean + half),
        }
    )

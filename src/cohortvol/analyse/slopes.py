"""Slopes of volume with age by sex, and the difference of the slopes of men and women."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from cohortvol.analyse.cohort import Cohort
from cohortvol.analyse.designs import SEXES
from cohortvol.analyse.groups import LOG, ML, Fitted, Model, fit_structures, ladder, rows_of
from cohortvol.analyse.regression import (
    Estimate,
    Fit,
    contrast,
    count_subjects,
    false_discovery_rate,
    false_discovery_rate_of_any_dependence,
)
from cohortvol.analyse.settings import Settings
from cohortvol.errors import EstimateError

AVERAGE = "average: the trend bends"
"""Note of a slope where one number for all ages hides a bend that the data show."""


@dataclass(frozen=True)
class Part:
    """The scans of one structure and sex that a model may use."""

    n: int
    subjects: int
    mean_volume_ml: float
    trouble: str
    """Why no age slope can be fitted to these; empty if it can."""

    def note(self, settings: Settings) -> str:
        """Whether there are too few for more than a description."""
        least = settings.min_n_per_sex
        return f"descriptive only: n < {least} per sex" if self.subjects < least else ""


def part(cohort: Cohort, structure: int, mask: np.ndarray, least: int) -> Part:
    """Count, mean and trouble of some scans of one structure."""
    volume_ml = cohort.volume_ml[mask, structure]
    ages = cohort.scans["age_years"].to_numpy(dtype=float)[mask]
    subjects = count_subjects(cohort.scans["subject"].to_numpy()[mask])
    trouble = ""
    if subjects < least:
        trouble = f"ANA_TOO_FEW: {subjects} usable subjects, at least {least} needed"
    elif np.ptp(ages) == 0:
        trouble = "ANA_NO_VARIANCE: all ages are equal"
    elif np.ptp(volume_ml) == 0:
        trouble = "ANA_NO_VARIANCE: all volumes are equal"
    mean = float(volume_ml.mean()) if len(volume_ml) else float("nan")
    return Part(len(volume_ml), subjects, mean, trouble)


def trends(cohort: Cohort, settings: Settings) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Slopes per structure, sex and model, and the sex difference of the slopes.

    M1 is ``ln(volume) ~ a * sex`` with a = (age - age_center) / 10. M2 has ln(height), ln(BMI)
    and fixed effects of `designs.FACTORS` besides, as far as they are known and differ. Slopes
    of F and M are contrasts of one joint fit; the slope of ``all`` is that of a fit without
    interaction but with sex, and beside it stands the slope that a fit without sex would give.
    Slopes in mL come from the same designs with the volume in mL.

    Returns
    -------
    tuple of pandas.DataFrame
        ``analyse/slopes`` and ``analyse/interactions`` as `outputs.SCHEMAS` has them. What
        cannot be estimated is null, with the reason in ``note``.
    """
    tables = [_of_model(cohort, model, settings) for model in ladder(cohort)]
    order = {structure: place for place, structure in enumerate(cohort.structures)}

    def joined(frames: Iterable[list[dict[str, Any]]]) -> pd.DataFrame:
        frame = pd.DataFrame([row for rows in frames for row in rows])
        if frame.empty:
            return frame
        frame = frame.sort_values("structure", key=lambda s: s.map(order), kind="stable")
        return with_q(frame.reset_index(drop=True), by="model")

    return joined(slopes for slopes, _ in tables), joined(rows for _, rows in tables)


def with_q(frame: pd.DataFrame, by: str | None = None) -> pd.DataFrame:
    """With q of Benjamini-Hochberg and of Benjamini-Yekutieli, each value of `by` one family."""
    if frame.empty:
        return frame

    def adjusted(rule: Callable[[np.ndarray], np.ndarray]) -> pd.Series:
        p_values = frame["p_value"].astype(float)
        families = p_values.groupby(frame[by] if by else np.zeros(len(frame)))
        return families.transform(lambda p: rule(p.to_numpy()))

    return frame.assign(
        q_value=adjusted(false_discovery_rate),
        q_value_by=adjusted(false_discovery_rate_of_any_dependence),
    )


def joined_notes(*notes: str) -> str | None:
    """Notes in one cell, each once; None if there is nothing to say."""
    return "; ".join(dict.fromkeys(note for note in notes if note)) or None


def parts_of(cohort: Cohort, structure: int, model: Model, settings: Settings) -> dict[str, Part]:
    """`Part` of F and M."""
    return {
        sex: part(cohort, structure, rows_of(cohort, structure, model, (sex,)), settings.min_n_fit)
        for sex in SEXES
    }


def sexes_pooled(parts: dict[str, Part]) -> tuple[str, ...]:
    """Sexes whose scans enter the pooled fit: one scan tells nothing but its sex."""
    several = tuple(sex for sex in SEXES if parts[sex].n >= 2)
    return several or tuple(sex for sex in SEXES if parts[sex].n)


def sexes_joint(parts: dict[str, Part]) -> tuple[str, ...]:
    """Sexes that a slope of their own can be fitted to."""
    return tuple(sex for sex in SEXES if not parts[sex].trouble)


def _of_model(
    cohort: Cohort, model: Model, settings: Settings
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows of both tables for one model."""
    structures = range(len(cohort.structures))
    parts = {s: parts_of(cohort, s, model, settings) for s in structures}
    pooled_sexes = {s: sexes_pooled(parts[s]) for s in structures}
    everyone = {
        s: part(cohort, s, rows_of(cohort, s, model, pooled_sexes[s]), settings.min_n_fit)
        for s in structures
    }
    able = {s: pooled_sexes[s] for s in structures if not everyone[s].trouble}
    pooled = fit_structures(cohort, model, able, settings, interaction=False)
    without_sex = fit_structures(cohort, model, able, settings, interaction=False, with_sex=False)
    joint_sexes = {s: sexes for s in structures if (sexes := sexes_joint(parts[s]))}
    joint = fit_structures(cohort, model, joint_sexes, settings, interaction=True)

    scans_of = {name: int(cohort.of_sex(name).sum()) for name in ("all", *SEXES)}
    slopes: list[dict[str, Any]] = []
    differences: list[dict[str, Any]] = []
    for s in structures:
        key = {"structure": cohort.structures[s], "model": model.name}
        by_sex, difference = _by_sex(parts[s], joint_sexes.get(s, ()), joint.get(s), settings)
        notes = _notes_of_all(cohort, pooled_sexes[s], parts[s], everyone[s], settings)
        all_ = _slope(everyone[s], pooled.get(s), ("age",), notes)
        all_ |= _naive(without_sex.get(s))
        for name, slope in {"all": all_, **by_sex}.items():
            slope["n_dropped"] = scans_of[name] - slope["n_used"]
            slopes.append({**key, "sex": name, **slope})
        differences.append({**key, **difference})
    return slopes, differences


def _notes_of_all(
    cohort: Cohort,
    sexes: tuple[str, ...],
    parts: dict[str, Part],
    everyone: Part,
    settings: Settings,
) -> tuple[str, ...]:
    if not cohort.knows_sex:
        return (everyone.note(settings), "sex is not known: no term of sex")
    few = tuple(parts[sex].note(settings) for sex in sexes)
    return (*few, f"{sexes[0]} only" if len(sexes) == 1 else "")


def _by_sex(
    parts: dict[str, Part],
    sexes: tuple[str, ...],
    fitted: Fitted | None,
    settings: Settings,
) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    """Slopes of F and M as contrasts of one fit, and M minus F."""
    slopes = {sex: _slope(parts[sex], None, (), ()) for sex in SEXES}
    n_used = sum(parts[sex].n for sex in sexes)
    difference: dict[str, Any] = {
        "p_value": float("nan"),
        "n_used": n_used if len(sexes) == 2 else 0,
        "note": joined_notes(
            *(f"{sex}: {parts[sex].trouble}" for sex in SEXES if parts[sex].trouble)
        ),
    }
    if fitted is None:
        return slopes, difference
    terms: dict[str, tuple[str, ...]] = dict.fromkeys(sexes, ("age",))
    if len(sexes) == 2:
        terms["M"] = ("age", "age x male")
    for sex in sexes:
        slopes[sex] = _slope(parts[sex], fitted, terms[sex], (parts[sex].note(settings),))
    if len(sexes) == 2:
        few = (parts[sex].note(settings) for sex in SEXES)
        difference |= _difference(fitted, (*few, *fitted.design.notes))
    elif isinstance(fitted.fit, EstimateError):
        difference["note"] = joined_notes(difference["note"] or "", str(fitted.fit))
    return slopes, difference


def _difference(fitted: Fitted, notes: tuple[str, ...]) -> dict[str, Any]:
    if isinstance(fitted.fit, EstimateError):
        return {"note": joined_notes(str(fitted.fit), *notes)}
    log = contrast(fitted.fit, fitted.design.weights("age x male"), LOG)
    percent, low, high = as_percent(log)
    return {
        "difference_pct_per_decade": percent,
        "difference_pct_per_decade_ci_low": low,
        "difference_pct_per_decade_ci_high": high,
        "p_value": log.p_value,
        "log10_p": log.log10_p,
        "note": joined_notes(*notes),
    }


def _slope(
    those: Part, fitted: Fitted | None, terms: tuple[str, ...], notes: tuple[str, ...]
) -> dict[str, Any]:
    """Cells of one slope: the sum of some terms of a fit, or why there is none."""
    row: dict[str, Any] = {
        "p_value": float("nan"),
        "n_used": those.n,
        "mean_volume_ml": those.mean_volume_ml,
        "se_kind": None,
        "note": those.trouble or None,
    }
    if fitted is None:
        return row
    row["adjusted_for"] = ", ".join(fitted.design.adjusted_for) or None
    if isinstance(fitted.fit, EstimateError):
        return {**row, "note": joined_notes(str(fitted.fit), *fitted.design.notes)}
    weights = fitted.design.weights(*terms)
    log, ml = contrast(fitted.fit, weights, LOG), contrast(fitted.fit, weights, ML)
    percent, low, high = as_percent(log)
    return {
        **row,
        "slope_pct_per_decade": percent,
        "slope_pct_per_decade_ci_low": low,
        "slope_pct_per_decade_ci_high": high,
        "slope_ml_per_decade": ml.value,
        "slope_ml_per_decade_ci_low": ml.ci_low,
        "slope_ml_per_decade_ci_high": ml.ci_high,
        "p_value": log.p_value,
        "log10_p": log.log10_p,
        "se_kind": fitted.fit.se_kind,
        "note": joined_notes(*notes, *fitted.design.notes),
    }


def _naive(fitted: Fitted | None) -> dict[str, float]:
    """The pooled slope as a model without sex has it, to be compared with the slope."""
    if fitted is None or not isinstance(fitted.fit, Fit):
        return {}
    estimate = contrast(fitted.fit, fitted.design.weights("age"), LOG)
    return {"slope_without_sex_pct_per_decade": as_percent(estimate)[0]}


def as_percent(log: Estimate) -> tuple[float, float, float]:
    """Change of the volume per decade in percent, limits transformed like the value."""
    return (
        100 * math.expm1(log.value),
        100 * math.expm1(log.ci_low),
        100 * math.expm1(log.ci_high),
    )

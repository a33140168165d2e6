"""Slopes of volume with age by sex, and the difference of the slopes of men and women."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pandas as pd

from cohortvol.errors import EstimateError
from cohortvol.stages.analyse.cohort.groups import LOG, ML, Fitted, Model, fit_structures, ladder
from cohortvol.stages.analyse.cohort.parts import Part, Parts
from cohortvol.stages.analyse.cohort.settings import Settings
from cohortvol.stages.analyse.cohort.usable import GROUPS, Cohort
from cohortvol.stages.analyse.fits.regression import (
    Fit,
    contrast,
    false_discovery_rate,
    false_discovery_rate_of_any_dependence,
)

AVERAGE = "average: the trend bends"
"""Note of a slope where one number for all ages hides a bend that the data show."""


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


def _of_model(
    cohort: Cohort, model: Model, settings: Settings
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows of both tables for one model."""
    parts = Parts(cohort, model, settings)
    pooled = fit_structures(cohort, model, parts.able, settings, interaction=False)
    without_sex = fit_structures(
        cohort, model, parts.able, settings, interaction=False, with_sex=False
    )
    joint = fit_structures(cohort, model, parts.joint, settings, interaction=True)

    scans_of = {name: int(cohort.of_sex(name).sum()) for name in GROUPS}
    slopes: list[dict[str, Any]] = []
    differences: list[dict[str, Any]] = []
    for s, structure in enumerate(cohort.structures):
        key = {"structure": structure, "model": model.name}
        notes = _notes_of_all(cohort, parts, s, settings)
        all_ = _slope(parts.of_all[s], pooled.get(s), "all", notes) | _naive(without_sex.get(s))
        by_sex = _by_sex(parts, s, joint.get(s), settings)
        for name, slope in {"all": all_, **by_sex}.items():
            slope["n_dropped"] = scans_of[name] - slope["n_used"]
            slopes.append({**key, "sex": name, **slope})
        differences.append({**key, **_difference(parts, s, joint.get(s), settings)})
    return slopes, differences


def _notes_of_all(cohort: Cohort, parts: Parts, s: int, settings: Settings) -> tuple[str, ...]:
    if not cohort.knows_sex:
        return (parts.of_all[s].note(settings), "sex is not known: no term of sex")
    sexes = parts.pooled[s]
    few = tuple(parts.of_sex[s][sex].note(settings) for sex in sexes)
    return (*few, f"{sexes[0]} only" if len(sexes) == 1 else "")


def _by_sex(
    parts: Parts, s: int, fitted: Fitted | None, settings: Settings
) -> dict[str, dict[str, Any]]:
    """Slopes of F and M as contrasts of one fit."""
    joint = parts.joint.get(s, ())
    return {
        sex: _slope(those, fitted if sex in joint else None, sex, (those.note(settings),))
        for sex, those in parts.of_sex[s].items()
    }


def _difference(parts: Parts, s: int, fitted: Fitted | None, settings: Settings) -> dict[str, Any]:
    """M minus F, where both have a slope."""
    sexes, trouble = parts.joint.get(s, ()), parts.troubles(s)
    nothing: dict[str, Any] = {"p_value": float("nan"), "n_used": 0}
    if fitted is None or len(sexes) < 2:
        if fitted is not None and isinstance(fitted.fit, EstimateError):
            trouble = (*trouble, str(fitted.fit))
        return nothing | {"note": joined_notes(*trouble)}
    few = (parts.of_sex[s][sex].note(settings) for sex in sexes)
    notes = (*few, *fitted.design.notes)
    row = nothing | {"n_used": sum(parts.of_sex[s][sex].n for sex in sexes)}
    if isinstance(fitted.fit, EstimateError):
        return row | {"note": joined_notes(str(fitted.fit), *notes)}
    log = contrast(fitted.fit, fitted.design.weights("age x male"), LOG)
    return {
        **row,
        **log.percent_cells("difference_pct_per_decade"),
        "p_value": log.p_value,
        "log10_p": log.log10_p,
        "note": joined_notes(*notes),
    }


def _slope(those: Part, fitted: Fitted | None, sex: str, notes: tuple[str, ...]) -> dict[str, Any]:
    """Cells of one slope, or why there is none."""
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
    weights = fitted.design.slope(sex)
    log, ml = contrast(fitted.fit, weights, LOG), contrast(fitted.fit, weights, ML)
    return {
        **row,
        **log.percent_cells("slope_pct_per_decade"),
        **ml.cells("slope_ml_per_decade"),
        "p_value": log.p_value,
        "log10_p": log.log10_p,
        "se_kind": fitted.fit.se_kind,
        "note": joined_notes(*notes, *fitted.design.notes),
    }


def _naive(fitted: Fitted | None) -> dict[str, float]:
    """The pooled slope as a model without sex has it, to be compared with the slope."""
    if fitted is None or not isinstance(fitted.fit, Fit):
        return {}
    name = "slope_without_sex_pct_per_decade"
    cells = contrast(fitted.fit, fitted.design.slope("all"), LOG).percent_cells(name)
    return {name: cells[name]}

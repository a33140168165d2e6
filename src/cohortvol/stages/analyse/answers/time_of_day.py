"""How volumes go with the time of day, at equal age, sex and whatever else M2 has."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd

from cohortvol.errors import EstimateError
from cohortvol.stages.analyse.answers.slopes import joined_notes, with_q
from cohortvol.stages.analyse.cohort.groups import LOG, ML, Fitted, fit_structures, ladder
from cohortvol.stages.analyse.cohort.hours import HOURS
from cohortvol.stages.analyse.cohort.parts import Parts
from cohortvol.stages.analyse.cohort.settings import Settings
from cohortvol.stages.analyse.cohort.usable import Cohort
from cohortvol.stages.analyse.fits.designs import HARMONIC, Design, fenced, harmonic
from cohortvol.stages.analyse.fits.regression import Fit, contrast, wald

FROM_H, TO_H = 8.0, 12.0
"""Hours that are compared, where there are scans before the one and after the other."""
WHOLE_SWING_H = 12.0
"""Hours that scans must span for amplitude and peak: half a turn, which has a peak or a trough."""


def time_of_day(cohort: Cohort, settings: Settings) -> pd.DataFrame:
    """The harmonic of M2: ``analyse/time_of_day``; without rows where M2 has none.

    Women and men together. The difference between two hours is a contrast of the two terms; where
    8 and 12 hours are not both inside the 1st to 99th percentile of the times, whole hours near
    their 10th and 90th are taken. Amplitude and peak need scans over half a turn.
    """
    model = ladder(cohort)[-1]
    if not model.time_of_day:
        return pd.DataFrame()
    parts = Parts(cohort, model, settings)
    fits = fit_structures(cohort, model, parts.able, settings, interaction=False)
    rows = []
    for s, structure in enumerate(cohort.structures):
        key = {"structure": structure, "n_used": parts.of_all[s].n, "p_value": float("nan")}
        if s not in fits:
            rows.append(key | {"note": parts.of_all[s].trouble or None})
        else:
            rows.append(key | _cells(cohort, fits[s]))
    return with_q(pd.DataFrame(rows))


def _cells(cohort: Cohort, fitted: Fitted) -> dict[str, Any]:
    """What one fit says of the time of day."""
    fit, design = fitted.fit, fitted.design
    cells: dict[str, Any] = {"adjusted_for": ", ".join(design.adjusted_for) or None}
    if isinstance(fit, EstimateError):
        return cells | {"note": joined_notes(str(fit), *design.notes)}
    if not set(HARMONIC) <= set(design.names):
        return cells | {"note": joined_notes(*design.notes)}
    hours = cohort.scans[HOURS].to_numpy(dtype=float)[fitted.rows][fitted.given]
    low, high = fenced(hours)
    test = wald(fit, _terms(design, np.eye(2)), LOG)
    cells |= {"p_value": test.p_value, "log10_p": test.log10_p}
    between = _between(hours, low, high)
    if between is not None:
        start, end = harmonic(np.array(between))
        weights = _terms(design, (end - start)[None])[0]
        cells |= {"from_h": between[0], "to_h": between[1]}
        cells |= contrast(fit, weights, LOG).percent_cells("difference_pct")
        cells |= contrast(fit, weights, ML).cells("difference_ml")
    if high - low >= WHOLE_SWING_H:
        return cells | _swing(fit, design) | {"note": joined_notes(*design.notes)}
    short = f"amplitude and peak need scans over {WHOLE_SWING_H:g} hours of the day"
    return cells | {"note": joined_notes(short, *design.notes)}


def _terms(design: Design, columns: np.ndarray) -> np.ndarray:
    """(k, terms) weights that apply (k, 2) columns to the harmonic."""
    weights = np.zeros((len(columns), len(design.names)))
    weights[:, [design.names.index(name) for name in HARMONIC]] = columns
    return weights


def _between(hours: np.ndarray, low: float, high: float) -> tuple[float, float] | None:
    if low <= FROM_H and high >= TO_H:
        return FROM_H, TO_H
    start, end = (float(hour) for hour in np.round(np.percentile(hours, [10, 90])))
    return (start, end) if low <= start < end <= high else None


def _swing(fit: Fit, design: Design) -> dict[str, float]:
    """How far the curve of a day lies above its mean where it is highest, and when."""
    sine, cosine = (float(fit.coefficients[design.names.index(name), LOG]) for name in HARMONIC)
    peak = math.atan2(sine, cosine) * 24 / (2 * math.pi) % 24
    return {"amplitude_pct": 100 * math.expm1(math.hypot(sine, cosine)), "peak_h": peak}

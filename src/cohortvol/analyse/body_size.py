"""Volumes and body size: estimated exponents, and the ratio to body surface beside them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from cohortvol.analyse.cohort import Cohort
from cohortvol.analyse.designs import SEXES
from cohortvol.analyse.groups import LOG, Fitted, fit_structures, ladder, rows_of
from cohortvol.analyse.regression import Fit, contrast
from cohortvol.analyse.settings import Settings
from cohortvol.analyse.slopes import (
    as_percent,
    joined_notes,
    part,
    parts_of,
    sexes_joint,
    sexes_pooled,
)

EXPONENTS = {"height_exponent": "ln(height)", "bmi_exponent": "ln(BMI)"}
WAYS = ("unadjusted", "adjusted", "ratio")


def body_surface_m2(scans: pd.DataFrame) -> np.ndarray:
    """(scans,): body surface area by Mosteller (1987), sqrt(height in cm x weight in kg / 3600)."""
    product = scans["height_cm"].to_numpy(dtype=float) * scans["weight_kg"].to_numpy(dtype=float)
    surface: np.ndarray = np.sqrt(product / 3600)
    return surface


def body_size(cohort: Cohort, settings: Settings) -> pd.DataFrame:
    """Exponents of height and BMI, and the slope three ways on the same scans.

    Unadjusted has neither height nor BMI, adjusted is M2, ratio is the volume divided by body
    surface. All have the fixed effects of M2. A ratio adjusts rightly only where the volume grows
    in proportion to body surface, which is where the exponents are 1.5 of height and 0.5 of BMI.

    Returns
    -------
    pandas.DataFrame
        ``analyse/body_size``; no rows where height and weight are not known.
    """
    model = ladder(cohort)[-1]
    if not model.size:
        return pd.DataFrame()
    surface = body_surface_m2(cohort.scans)
    structures = range(len(cohort.structures))
    parts = {s: parts_of(cohort, s, model, settings) for s in structures}
    pooled = {s: sexes_pooled(parts[s]) for s in structures}
    everyone = {
        s: part(cohort, s, rows_of(cohort, s, model, pooled[s]), settings.min_n_fit)
        for s in structures
    }
    able = {s: pooled[s] for s in structures if not everyone[s].trouble}
    joint = {s: sexes for s in structures if (sexes := sexes_joint(parts[s]))}

    def fits(
        sexes_of: dict[int, tuple[str, ...]], interaction: bool
    ) -> dict[str, dict[int, Fitted]]:
        def one(size: bool, divided_by: np.ndarray | None) -> dict[int, Fitted]:
            return fit_structures(
                cohort,
                model,
                sexes_of,
                settings,
                interaction=interaction,
                size=size,
                divided_by=divided_by,
            )

        return {
            "unadjusted": one(False, None),
            "adjusted": one(True, None),
            "ratio": one(False, surface),
        }

    found = {"all": fits(able, interaction=False), "by sex": fits(joint, interaction=True)}
    rows: list[dict[str, Any]] = []
    for s in structures:
        for sex in ("all", *SEXES):
            those = everyone[s] if sex == "all" else parts[s][sex]
            row: dict[str, Any] = {"structure": cohort.structures[s], "sex": sex}
            row |= {"n_used": those.n, "note": those.trouble or None}
            kind = "all" if sex == "all" else "by sex"
            if not those.trouble:
                row |= _cells({way: found[kind][way][s] for way in WAYS}, sex)
            rows.append(row)
    return pd.DataFrame(rows)


def _cells(fits: dict[str, Fitted], sex: str) -> dict[str, Any]:
    cells: dict[str, Any] = {}
    notes: list[str] = []
    for way, fitted in fits.items():
        notes += fitted.design.notes
        if not isinstance(fitted.fit, Fit):
            notes.insert(0, str(fitted.fit))
            continue
        terms = ["age"]
        if sex == "M" and "age x male" in fitted.design.names:
            terms.append("age x male")
        estimate = contrast(fitted.fit, fitted.design.weights(*terms), LOG)
        name = f"{way}_pct_per_decade"
        values = zip((name, f"{name}_ci_low", f"{name}_ci_high"), as_percent(estimate), strict=True)
        cells |= dict(values)
        if way == "adjusted":
            for column, term in EXPONENTS.items():
                exponent = contrast(fitted.fit, fitted.design.weights(term), LOG)
                cells[column] = exponent.value
                cells[f"{column}_ci_low"] = exponent.ci_low
                cells[f"{column}_ci_high"] = exponent.ci_high
    return cells | {"note": joined_notes(*notes)}

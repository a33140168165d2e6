"""Volumes and body size: estimated exponents, and the ratio to body surface beside them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from cohortvol.stages.analyse.answers.slopes import joined_notes
from cohortvol.stages.analyse.cohort.groups import LOG, Fitted, fit_structures, ladder
from cohortvol.stages.analyse.cohort.parts import Parts
from cohortvol.stages.analyse.cohort.settings import Settings
from cohortvol.stages.analyse.cohort.usable import GROUPS, Cohort
from cohortvol.stages.analyse.fits.regression import Fit, contrast

EXPONENTS = {"height_exponent": "ln(height)", "bmi_exponent": "ln(BMI)"}


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
    parts = Parts(cohort, model, settings)

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

    pooled = fits(parts.able, interaction=False)
    joint = fits(parts.joint, interaction=True)
    rows: list[dict[str, Any]] = []
    for s, structure in enumerate(cohort.structures):
        for sex in GROUPS:
            those, found = parts.of(s, sex), pooled if sex == "all" else joint
            row: dict[str, Any] = {"structure": structure, "sex": sex}
            row |= {"n_used": those.n, "note": those.trouble or None}
            if not those.trouble:
                row |= _cells({way: fits_of[s] for way, fits_of in found.items()}, sex)
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
        slope = contrast(fitted.fit, fitted.design.slope(sex), LOG)
        cells |= slope.percent_cells(f"{way}_pct_per_decade")
        if way == "adjusted":
            for column, term in EXPONENTS.items():
                cells |= contrast(fitted.fit, fitted.design.weights(term), LOG).cells(column)
    return cells | {"note": joined_notes(*notes)}

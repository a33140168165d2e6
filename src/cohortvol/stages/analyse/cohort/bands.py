"""Volumes by age without a model: four age quartiles, and bands of ten years."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from cohortvol.anatomy.structures import plausible_ml
from cohortvol.stages.analyse.cohort.describe import quantile_cells
from cohortvol.stages.analyse.cohort.settings import Settings
from cohortvol.stages.analyse.cohort.usable import GROUPS, Cohort

BAND_EDGES_YEARS = (0.0, *np.arange(20.0, 91.0, 10.0).tolist(), np.inf)
WHISKER = 1.5
"""Box lengths that a whisker may reach beyond its box."""


def implausibly_small(cohort: Cohort) -> np.ndarray:
    """(scans, structures) of bool: below the least plausible volume; False where none is stated."""
    least = [plausible_ml().get(structure, (0.0, 0.0))[0] for structure in cohort.structures]
    small: np.ndarray = cohort.volume_ml < np.array(least)
    return small


def quartiles(cohort: Cohort, settings: Settings) -> pd.DataFrame:
    """Box plots of the volumes in four quartiles of age: ``analyse/quartiles``.

    The bounds are the quartiles of the ages of all scans in the trends, the same for every
    structure and sex. Implausibly small volumes are left out and counted. Whiskers end at the
    last volume within 1.5 box lengths of the box (Tukey).
    """
    ages = cohort.scans["age_years"].to_numpy(dtype=float)
    known = ages[cohort.in_trends]
    if not len(known):
        return pd.DataFrame()
    bounds = np.percentile(known, [25, 50, 75])
    quartile = np.where(np.isnan(ages), 0, 1 + np.searchsorted(bounds, ages, side="left"))
    edges = [None, *bounds.tolist(), None]
    small = implausibly_small(cohort)
    rows: list[dict[str, Any]] = []
    for s, structure in enumerate(cohort.structures):
        usable = cohort.usable(s)
        for group in GROUPS:
            of_sex = cohort.of_sex(group)
            for k in range(1, 5):
                mask = usable & of_sex & (quartile == k)
                row = {"structure": structure, "sex": group, "quartile": k}
                row |= {"age_above_years": edges[k - 1], "age_to_years": edges[k]}
                row["n_implausible"] = settings.shown(int((mask & small[:, s]).sum()))
                rows.append(row | _box(cohort.volume_ml[mask & ~small[:, s], s], settings))
    return pd.DataFrame(rows)


def _box(volume_ml: np.ndarray, settings: Settings) -> dict[str, Any]:
    cells: dict[str, Any] = {"n": settings.shown(len(volume_ml))}
    if len(volume_ml) < max(settings.suppress_below, 1):
        return cells | {"note": _few(len(volume_ml), settings)}
    q25, median, q75 = np.percentile(volume_ml, [25, 50, 75])
    inside = volume_ml[
        (volume_ml >= q25 - WHISKER * (q75 - q25)) & (volume_ml <= q75 + WHISKER * (q75 - q25))
    ]
    return cells | {
        "median_ml": median,
        "q25_ml": q25,
        "q75_ml": q75,
        "whisker_low_ml": inside.min(),
        "whisker_high_ml": inside.max(),
    }


def age_bands(cohort: Cohort, settings: Settings) -> pd.DataFrame:
    """Quantiles of the usable volumes by bands of ten years and sex: ``analyse/age_bands``.

    Only bands that hold a scan in the trends; cells of fewer than `Settings.suppress_below`
    scans are empty.
    """
    ages = cohort.scans["age_years"].to_numpy(dtype=float)
    band = np.searchsorted(BAND_EDGES_YEARS, ages, side="right") - 1
    held = np.unique(band[cohort.in_trends])
    rows: list[dict[str, Any]] = []
    for s, structure in enumerate(cohort.structures):
        usable = cohort.usable(s)
        for group in GROUPS:
            of_sex = cohort.of_sex(group)
            for k in held:
                volume_ml = cohort.volume_ml[usable & of_sex & (band == k), s]
                below = BAND_EDGES_YEARS[k + 1]
                row: dict[str, Any] = {
                    "structure": structure,
                    "sex": group,
                    "age_from_years": BAND_EDGES_YEARS[k],
                    "age_below_years": below if np.isfinite(below) else None,
                    "n": settings.shown(len(volume_ml)),
                }
                if len(volume_ml) >= max(settings.suppress_below, 1):
                    row |= quantile_cells(volume_ml)
                else:
                    row["note"] = _few(len(volume_ml), settings)
                rows.append(row)
    return pd.DataFrame(rows)


def _few(n: int, settings: Settings) -> str:
    return f"<{settings.suppress_below} scans" if n else "no scans"

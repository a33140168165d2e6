"""How far the error of segmentation would have to drift with age to make a slope by itself."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd

from cohortvol.models.published import published_dice
from cohortvol.stages.analyse.cohort.usable import Cohort
from cohortvol.stages.analyse.fits.designs import YEARS_PER_DECADE

AGES = (5.0, 95.0)
"""Percentiles of age between which a drift is summed up."""


def lowest_published_dice(model: str | None) -> dict[str, tuple[float, str]]:
    """Lowest mean Dice of each structure over the publisher's MRI test sets, and its test set."""
    mine = published_dice(model)
    lowest = mine.loc[mine.groupby("structure")["dice"].idxmin()]
    return {
        str(row["structure"]): (float(row["dice"]), str(row["test_set"]))
        for row in lowest.to_dict("records")
    }


def volume_ratios(dice: float) -> tuple[float, float]:
    """Least and greatest measured over true volume that a Dice allows: D / (2 - D) and inverse.

    With A and B the two volumes, Dice is at most 2 min(A, B) / (A + B).
    """
    least = dice / (2 - dice)
    return least, 1 / least


def cancelling(slope_pct: float) -> float:
    """Drift of measured over true volume, % per decade, that takes a slope in % away."""
    return 100 * (1 / (1 + slope_pct / 100) - 1)


def tipping(cohort: Cohort, slopes: pd.DataFrame) -> pd.DataFrame:
    """Drift of the measurement with age that would cancel each slope: ``analyse/tipping``.

    Parameters
    ----------
    slopes : pandas.DataFrame
        ``analyse/slopes``, of which structure, sex, model and the % slope with limits are used.
    """
    dice = lowest_published_dice(cohort.segmentation_model)
    ages = cohort.scans.loc[cohort.in_trends, "age_years"].to_numpy(dtype=float)
    years = float(np.ptp(np.percentile(ages, AGES))) if len(ages) else math.nan
    decades = years / YEARS_PER_DECADE
    rows: list[dict[str, Any]] = []
    for slope in slopes.to_dict("records"):
        row = {name: slope[name] for name in ("structure", "sex", "model")}
        value = slope.get("slope_pct_per_decade")
        structure = str(slope["structure"])
        if structure in dice:
            row["dice"], row["test_set"] = dice[structure]
            row["ratio_low"], row["ratio_high"] = volume_ratios(row["dice"])
        if value is None or math.isnan(value):
            rows.append({**row, "note": "no slope to cancel"})
            continue
        limits = (slope["slope_pct_per_decade_ci_low"], slope["slope_pct_per_decade_ci_high"])
        nearest = limits[0] if value > 0 else limits[1]  # the limit that is nearer to 0
        cancels = cancelling(value)
        row |= {
            "slope_pct_per_decade": value,
            "bias_pct_per_decade": cancels,
            "bias_ci_pct_per_decade": cancelling(nearest) if nearest * value > 0 else 0.0,
            "bias_over_ages_pct": 100 * math.expm1(math.log1p(cancels / 100) * decades),
        }
        if "dice" in row:
            drift = 1 + row["bias_over_ages_pct"] / 100
            row["within_dice"] = row["ratio_low"] <= drift <= row["ratio_high"]
        elif cohort.segmentation_model is None:
            row["note"] = "the tables do not name the segmentation model"
        elif not dice:
            row["note"] = f"no Dice published of model {cohort.segmentation_model}"
        else:
            row["note"] = f"no Dice of this structure published of {cohort.segmentation_model}"
        rows.append(row)
    return pd.DataFrame(rows)

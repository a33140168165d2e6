"""What a cohort cannot say, and why, in plain words."""

from __future__ import annotations

import numpy as np
import pandas as pd

from cohortvol.ranges import age_range
from cohortvol.stages.analyse.cohort.settings import Settings
from cohortvol.stages.analyse.cohort.usable import Cohort
from cohortvol.stages.analyse.fits.regression import count_subjects


def cannot_say(cohort: Cohort, slopes: pd.DataFrame, settings: Settings) -> list[str]:
    """Sentences for whoever looks for a result that these scans do not give; empty if none is.

    Parameters
    ----------
    slopes : pandas.DataFrame
        ``analyse/slopes``; without any slope in it the reason comes first.
    """
    if not cohort.counted.any():
        return [
            "No scan was measured and passed QC: there are no volumes, and nothing is said of them."
        ]
    said = []
    estimated = slopes.get("slope_pct_per_decade", pd.Series(dtype=float))
    if not estimated.notna().any():
        said.append(f"{_no_trends(cohort, slopes, settings)}: no trends with age and no centiles.")
    sexes = cohort.scans.loc[cohort.counted, "sex"].dropna().unique()
    if len(sexes) == 0:
        said.append("No sex is known: women and men are not told apart.")
    elif len(sexes) == 1:
        said.append("All whose sex is known are of one sex: women and men are not compared.")
    if not (cohort.counted & cohort.has_size).any():
        said.append("No height and weight are known: nothing is adjusted for body size.")
    return said


def _no_trends(cohort: Cohort, slopes: pd.DataFrame, settings: Settings) -> str:
    """Why no slope could be estimated at all."""
    known = cohort.counted & cohort.scans["age_years"].notna().to_numpy(dtype=bool)
    if not known.any():
        if (cohort.counted & cohort.outside["age_years"]).any():
            return f"No age inside {age_range(settings.age_range_years)} is known"
        return "No ages are known"
    if not cohort.in_trends.any():
        return "No scan has an age and a sex"
    ages = cohort.scans.loc[cohort.in_trends, "age_years"].to_numpy(dtype=float)
    people = count_subjects(cohort.scans.loc[cohort.in_trends, "subject"].to_numpy())
    if people < settings.min_n_fit:
        whom = "person has a known age" if people == 1 else "people have a known age"
        return f"{people} {whom}, and a trend needs {settings.min_n_fit}"
    if np.ptp(ages) == 0:
        return "All ages are equal"
    notes = slopes.loc[slopes["sex"] == "all", "note"].fillna("") if len(slopes) else []
    if all("ANA_TOO_FEW" in note for note in notes):
        return "No structure has enough usable volumes for a trend"
    return "No structure has volumes that a trend can be fitted to"

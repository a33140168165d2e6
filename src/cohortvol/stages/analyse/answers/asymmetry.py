"""Left against right of paired structures, of which body size and scanner are the same."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from cohortvol.errors import EstimateError
from cohortvol.stages.analyse.cohort.describe import agreement
from cohortvol.stages.analyse.cohort.settings import Settings
from cohortvol.stages.analyse.cohort.usable import GROUPS, Cohort, one_scan_each
from cohortvol.stages.analyse.fits.joint import problems
from cohortvol.stages.analyse.fits.regression import contrast, false_discovery_rate, fit


def pairs(structures: tuple[str, ...]) -> list[tuple[str, int, int]]:
    """Name of a pair, and where its left and right side stand among the structures."""
    place = {name: index for index, name in enumerate(structures)}
    stems = [name.removesuffix("_left") for name in structures if name.endswith("_left")]
    return [
        (stem, place[f"{stem}_left"], place[f"{stem}_right"])
        for stem in stems
        if f"{stem}_right" in place
    ]


def asymmetry(cohort: Cohort, settings: Settings) -> pd.DataFrame:
    """Asymmetry 2 (L - R) / (L + R) against age, and Bland-Altman of L and R.

    Of scans in which both sides are usable, one scan per subject, that at the lowest age.

    Returns
    -------
    pandas.DataFrame
        ``analyse/asymmetry`` as `outputs.SCHEMAS` has it.
    """
    subjects = cohort.scans["subject"].to_numpy()
    ages = cohort.scans["age_years"].to_numpy(dtype=float)
    rows: list[dict[str, Any]] = []
    for pair, left, right in pairs(cohort.structures):
        kept = one_scan_each(cohort.usable(left) & cohort.usable(right), subjects, ages)
        left_ml, right_ml = cohort.volume_ml[kept, left], cohort.volume_ml[kept, right]
        scans = cohort.scans.iloc[kept]
        percent = 200 * (left_ml - right_ml) / (left_ml + right_ml)
        found, why = problems(
            scans, percent, np.empty((len(kept), 0)), settings.age_center, settings.min_n_fit
        )
        slopes: dict[str, dict[str, Any]] = {sex: {"note": note} for sex, note in why.items()}
        for problem in found:
            try:
                clusters = scans["cluster"].to_numpy()[problem.keep]
                fitted = fit(problem.design, percent[problem.keep], clusters)
            except EstimateError as error:
                slopes |= {sex: {"note": str(error)} for sex in problem.slopes}
                continue
            for sex, weights in problem.slopes.items():
                slope = contrast(fitted, weights)
                slopes[sex] = slope.cells("slope_points_per_decade") | {"p_value": slope.p_value}
        for sex in GROUPS:
            here = (
                np.ones(len(kept), bool) if sex == "all" else (scans["sex"] == sex).to_numpy(bool)
            )
            row: dict[str, Any] = {"pair": pair, "sex": sex, "n_used": int(here.sum())}
            if here.sum() >= max(settings.min_n_fit, 2):
                row |= agreement((left_ml - right_ml)[here], "bias_ml", "ml")
                row["asymmetry_mean_pct"] = float(percent[here].mean())
            rows.append({**row, **slopes.get(sex, {})})
    frame = pd.DataFrame(rows)
    if len(frame):
        frame = frame.reindex(columns=list(dict.fromkeys([*frame, "p_value"])))
        frame["q_value"] = false_discovery_rate(frame["p_value"].to_numpy(dtype=float))
    return frame

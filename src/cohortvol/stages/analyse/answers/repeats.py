"""People scanned more than once: slopes within and between people."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from cohortvol.errors import EstimateError
from cohortvol.stages.analyse.cohort.settings import Settings
from cohortvol.stages.analyse.cohort.usable import GROUPS, Cohort
from cohortvol.stages.analyse.each import Each, one_by_one
from cohortvol.stages.analyse.fits.designs import YEARS_PER_DECADE
from cohortvol.stages.analyse.fits.random_effects import (
    LEAST_ROWS,
    random_intercept,
    random_slopes,
)

WITH_SIZE = "M1 + size"


def within_between(cohort: Cohort, settings: Settings, each: Each = one_by_one) -> pd.DataFrame:
    """Slopes of ln(volume) with age within people and between them, where people were rescanned.

    Age is split into a person's mean and the distance from it, each with a slope of its own, in
    a model with a random intercept per person, with cluster-robust errors. How much people differ
    in their slopes within comes from a model with a random slope besides. The second model has
    ln(height) and ln(BMI) besides, each as the person's mean; neither has fixed effects of how a
    scan was made.

    Returns
    -------
    pandas.DataFrame
        ``analyse/within_between`` as `outputs.SCHEMAS` has it.
    """
    models = ("M1", WITH_SIZE) if cohort.has_size.any() else ("M1",)
    scans = cohort.scans[["age_years", "sex", "subject", "cluster", "height_cm", "bmi"]]

    def of_structure(index: int) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = []
        for model in models:
            usable = cohort.usable(index) & (cohort.has_size if model == WITH_SIZE else True)
            for sex in GROUPS:
                key = {"structure": cohort.structures[index], "sex": sex, "model": model}
                mask = usable & cohort.of_sex(sex)
                data = scans[mask].assign(log_ml=np.log(cohort.volume_ml[mask, index]))
                rows.append({**key, **_of_one(data, model == WITH_SIZE, settings)})
        return rows

    return pd.DataFrame(each(of_structure, cohort.structures))


def _of_one(data: pd.DataFrame, with_size: bool, settings: Settings) -> dict[str, Any]:
    by_person = data.groupby("subject")
    ages = data["age_years"]
    span = by_person["age_years"].max() - by_person["age_years"].min()
    rescanned = span[span > 0]
    found: dict[str, Any] = {
        "n_used": len(data),
        "n_subjects": len(span),
        "n_rescanned": len(rescanned),
        "years_between_median": rescanned.median() if len(rescanned) else None,
    }
    if len(rescanned) < settings.min_n_rescanned:
        few = f"{len(rescanned)} subjects scanned at several ages"
        return {**found, "note": f"ANA_TOO_FEW: {few}, {settings.min_n_rescanned} needed"}
    mean = by_person["age_years"].transform("mean")
    columns = [
        np.ones(len(data)),
        (mean - mean.mean()) / YEARS_PER_DECADE,
        (ages - mean) / YEARS_PER_DECADE,
    ]
    if data["sex"].nunique() == 2:
        columns.append((data["sex"] == "M").astype(float))
    if with_size:
        size = np.log(data[["height_cm", "bmi"]]).groupby(data["subject"]).transform("mean")
        columns += [size[name] - size[name].mean() for name in size]
    try:
        if np.ptp(data["log_ml"].to_numpy()) == 0:
            raise EstimateError("ANA_NO_VARIANCE", "all volumes are equal")
        fitted = random_intercept(
            np.column_stack(columns),
            data["log_ml"].to_numpy(),
            data["subject"].to_numpy(),
            data["cluster"].to_numpy(),
        )
    except EstimateError as error:
        return {**found, "note": str(error)}
    between, within = np.eye(len(columns))[[1, 2]]
    found |= fitted.robust.contrast(between).percent_cells("between_pct_per_decade")
    found |= fitted.robust.contrast(within).percent_cells("within_pct_per_decade")
    difference = fitted.robust.contrast(within - between)
    found |= {"difference_p_value": difference.p_value, "icc": fitted.icc}
    return found | _own_slopes(data, np.column_stack(columns), settings)


def _own_slopes(data: pd.DataFrame, design: np.ndarray, settings: Settings) -> dict[str, Any]:
    """How much people differ in their slopes, where enough were scanned at three ages."""
    ages = data.groupby("subject")["age_years"].nunique()
    if (ages >= LEAST_ROWS).sum() < settings.min_n_rescanned:
        return {}
    subjects, log_ml = data["subject"].to_numpy(), data["log_ml"].to_numpy()
    try:
        fitted = random_slopes(design, log_ml, design[:, 2], subjects)
    except EstimateError as error:
        return {"note": str(error)}
    return {"within_sd_pct_per_decade": 100 * fitted.slope_sd}

"""Replication mode: correlation of volume with age, as published studies print it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from cohortvol.stages.analyse.cohort.bands import implausibly_small
from cohortvol.stages.analyse.cohort.settings import Settings
from cohortvol.stages.analyse.cohort.usable import GROUPS, Cohort
from cohortvol.stages.analyse.each import Each, one_by_one
from cohortvol.stages.analyse.fits.regression import bonferroni, count_subjects, two_sided_p


def correlation(first: np.ndarray, second: np.ndarray) -> tuple[float, float]:
    """Pearson's r, and its two-sided p from t on n - 2 degrees of freedom.

    The same as ``scipy.stats.pearsonr``; of ranks, the same as ``scipy.stats.spearmanr``.
    """
    first = first - first.mean()
    second = second - second.mean()
    r = float(first @ second / np.sqrt((first @ first) * (second @ second)))
    rest = 1 - r * r
    if rest <= 0:
        return r, 0.0
    degrees_of_freedom = len(first) - 2
    return r, two_sided_p(r * np.sqrt(degrees_of_freedom / rest), degrees_of_freedom)[0]


def correlations(cohort: Cohort, settings: Settings, each: Each = one_by_one) -> pd.DataFrame:
    """Spearman's rho and Pearson's r of volume with age per structure, pooled and by sex.

    Implausibly small volumes are left out, as published studies do, and counted.
    p takes every scan as independent; the note says ANA_REPEATED_MEASURES where they are not.
    Bonferroni counts the structures within one stratum (all, F or M).

    Returns
    -------
    pandas.DataFrame
        ``analyse/correlations`` as `outputs.SCHEMAS` has it.
    """
    ages = cohort.scans["age_years"].to_numpy(dtype=float)
    strata = {name: cohort.of_sex(name) for name in GROUPS}
    small = implausibly_small(cohort)
    subjects = cohort.scans["subject"].to_numpy()

    def of_structure(index: int) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = []
        usable = cohort.usable(index)
        for name, stratum in strata.items():
            mask = usable & stratum & ~small[:, index]
            n = int(mask.sum())
            key = {"structure": cohort.structures[index], "sex": name}
            counts = {"n_used": n, "n_dropped": int(stratum.sum()) - n}
            counts["n_implausible"] = int((usable & stratum & small[:, index]).sum())
            found = _of_one(ages[mask], cohort.volume_ml[mask, index], settings.min_n_fit)
            n_people = count_subjects(subjects[mask])
            if n_people < n and "note" not in found:
                found["note"] = f"ANA_REPEATED_MEASURES: {n} scans of {n_people} people"
            rows.append({**key, **found, **counts})
        return rows

    frame = pd.DataFrame(each(of_structure, cohort.structures))
    if len(frame):
        p_values = frame.groupby("sex")["p_value"]
        frame["p_bonferroni"] = p_values.transform(lambda p: bonferroni(p.to_numpy()))
    return frame


def _of_one(ages: np.ndarray, volume_ml: np.ndarray, least: int) -> dict[str, Any]:
    nothing = {"p_value": float("nan")}
    if len(ages) < least:
        return {**nothing, "note": f"ANA_TOO_FEW: {len(ages)} usable scans, {least} needed"}
    for name, values in (("ages", ages), ("volumes", volume_ml)):
        if np.ptp(values) == 0:
            return {**nothing, "note": f"ANA_NO_VARIANCE: all {name} are equal"}
    rho, p_value = correlation(stats.rankdata(ages), stats.rankdata(volume_ml))
    pearson_r, pearson_p_value = correlation(ages, volume_ml)
    return {
        "spearman_rho": rho,
        "p_value": p_value,
        "pearson_r": pearson_r,
        "pearson_p_value": pearson_p_value,
    }

"""Slopes with age within sites, and between sites whose people differ in age."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from cohortvol.errors import EstimateError
from cohortvol.stages.analyse.answers.slopes import with_q
from cohortvol.stages.analyse.cohort.settings import Settings
from cohortvol.stages.analyse.cohort.usable import GROUPS, Cohort
from cohortvol.stages.analyse.each import Each, one_by_one
from cohortvol.stages.analyse.fits.designs import YEARS_PER_DECADE, trouble
from cohortvol.stages.analyse.fits.random_effects import random_intercept
from cohortvol.stages.analyse.fits.regression import fit

PLACES = ("site", "scanner")
"""Columns of the scans table that tell where a scan was made; the first that differs is used."""
LEAST_SITES = 6
"""Sites below which nobody can say how their volumes go with the ages of their people."""
WITH_SIZE = "M1 + size"


def site_slopes(cohort: Cohort, settings: Settings, each: Each = one_by_one) -> pd.DataFrame:
    """Slopes of ln(volume) with age within sites and between them, and whether these differ.

    Age is split into the mean of a site and the distance from it, each with a slope of its own, in
    a model with a random intercept per site. Beside the slope within stands that of a model with a
    term for every site, which says nothing of slopes between. Errors are cluster-robust by site.

    Returns
    -------
    pandas.DataFrame
        ``analyse/site_slopes`` as `outputs.SCHEMAS` has it; empty where all scans are of one site.
    """
    here = cohort.scans[cohort.in_trends]
    named = [name for name in PLACES if name in here and here[name].nunique() > 1]
    if not named:
        return pd.DataFrame()
    place = cohort.scans[named[0]]
    models = ("M1", WITH_SIZE) if cohort.has_size.any() else ("M1",)
    scans = cohort.scans[["age_years", "sex", "subject", "height_cm", "bmi"]]

    def of_structure(index: int) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = []
        for model in models:
            usable = cohort.usable(index) & place.notna().to_numpy(dtype=bool)
            usable &= cohort.has_size if model == WITH_SIZE else True
            for sex in GROUPS:
                mask = usable & cohort.of_sex(sex)
                data = scans[mask].assign(log_ml=np.log(cohort.volume_ml[mask, index]))
                data["site"] = pd.factorize(place[mask])[0]
                found: dict[str, Any] = {"n_used": len(data), "n_sites": data["site"].nunique()}
                try:
                    found |= _of_one(data, model == WITH_SIZE, settings)
                except EstimateError as error:
                    found |= {"p_value": float("nan"), "note": str(error)}
                key = {"structure": cohort.structures[index], "sex": sex}
                rows.append(key | {"model": model, "by": named[0]} | found)
        return rows

    return with_q(pd.DataFrame(each(of_structure, cohort.structures)), by="model")


def _of_one(data: pd.DataFrame, with_size: bool, settings: Settings) -> dict[str, Any]:
    ages, log_ml = data["age_years"].to_numpy(dtype=float), data["log_ml"].to_numpy()
    sites = data["site"].to_numpy()
    if note := trouble(ages, log_ml, data["subject"].to_numpy(), settings.min_n_fit):
        return {"p_value": float("nan"), "note": note}
    of_several = int((np.bincount(sites) > 1).sum())
    if of_several < LEAST_SITES:
        few = f"{of_several} sites of two scans or more, {LEAST_SITES} needed"
        raise EstimateError("ANA_TOO_FEW", few)
    decades = ages / YEARS_PER_DECADE
    mean = _means(decades[:, None], sites)[:, 0]
    male = (data["sex"] == "M").to_numpy(dtype=float)
    further = [male] if 0 < male.sum() < len(male) else []
    if with_size:
        further += list(np.log(data[["height_cm", "bmi"]].to_numpy(dtype=float)).T)
    others = np.column_stack([decades - mean, *further])
    others = others - others.mean(axis=0)
    design = np.column_stack([np.ones(len(data)), mean - mean.mean(), others])
    robust = random_intercept(design, log_ml, sites, sites).robust
    between, within = np.eye(design.shape[1])[[1, 2]]
    difference = robust.contrast(within - between)

    moved = np.column_stack([log_ml, decades, *further])
    moved = moved - _means(moved, sites)
    terms = fit(moved[:, 1:], moved[:, 0], sites).of(0).contrast(np.eye(moved.shape[1] - 1)[0])
    return {
        **robust.contrast(between).percent_cells("between_pct_per_decade"),
        **robust.contrast(within).percent_cells("within_pct_per_decade"),
        **terms.percent_cells("terms_pct_per_decade"),
        "p_value": difference.p_value,
    }


def _means(values: np.ndarray, sites: np.ndarray) -> np.ndarray:
    """(n, k): of every row the means of its site."""
    return np.asarray(pd.DataFrame(values).groupby(sites).transform("mean"))


def site_sentences(slopes: pd.DataFrame, settings: Settings) -> list[str]:
    """That slopes between sites differ from those within, if they do, women and men together."""
    if slopes.empty:
        return []
    pooled = slopes[(slopes["sex"] == "all") & (slopes["model"] == max(slopes["model"]))]
    differ = pooled[pooled["q_value"].astype(float) < settings.fdr]
    if differ.empty:
        return []
    tested = pooled["q_value"].notna().sum()
    by = differ["by"].iloc[0]
    return [
        f"Volumes change with the mean age of the people of a {by} otherwise than with age within "
        f"{by}s in {len(differ)} of {tested} structures (q below {settings.fdr:g}): "
        f"{', '.join(differ['structure'])}. M1 mixes both changes; a model with a term for every "
        f"{by} shows that within."
    ]

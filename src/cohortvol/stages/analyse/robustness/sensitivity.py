"""The age slopes again, each time with one decision of the analysis taken differently."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from cohortvol.errors import EstimateError
from cohortvol.stages.analyse.cohort.groups import Model, ladder
from cohortvol.stages.analyse.cohort.settings import Settings
from cohortvol.stages.analyse.cohort.usable import GROUPS, Cohort, one_scan_each
from cohortvol.stages.analyse.fits.designs import build
from cohortvol.stages.analyse.fits.joint import Problem, problems
from cohortvol.stages.analyse.fits.regression import Estimated, fit
from cohortvol.stages.analyse.fits.robust import comparable_sites, harmonised, huber, outliers
from cohortvol.stages.analyse.fits.survey import weighted_to_population
from cohortvol.stages.analyse.robustness.body_size import body_surface_m2
from cohortvol.stages.analyse.robustness.selection import (
    censored_regression,
    inverse_probability_weights,
)


@dataclass(frozen=True)
class Data:
    """The scans of one analysis of one structure."""

    scans: pd.DataFrame
    log_volume: np.ndarray
    extra: np.ndarray
    """(n, k): further columns of the design."""
    weights: np.ndarray
    censored: np.ndarray
    note: str = ""

    def take(self, mask: np.ndarray, note: str = "") -> Data:
        """Some of the scans."""
        return Data(
            self.scans[mask],
            self.log_volume[mask],
            self.extra[mask],
            self.weights[mask],
            self.censored[mask],
            note,
        )


Estimator = Callable[[Problem, Data], Estimated]
Prepare = Callable[[Cohort, int, Model, Settings], Data]


def sensitivity(cohort: Cohort, settings: Settings) -> pd.DataFrame:
    """Slopes of every structure by every analysis: ``analyse/sensitivity``.

    ``complete`` is the main analysis, M1 and, where there is anything to adjust for, M2. The
    others are ``one_scan_each`` (of every person that at the lowest age: people, not scans),
    ``sampling_weights`` (the slope of the population that the sample was drawn from, where the
    scans table has them), ``ipw`` (scans weighted by one over the chance of being usable, so the
    slope of the whole cohort), ``tobit`` (cut volumes as lower bounds), ``huber``,
    ``without_outliers``, ``bsa_ratio`` (volume over body surface), ``size_only`` (without the
    fixed effects of how the scan was made) and ``site_harmonised`` (in place of those effects).
    """
    simple, *more = ladder(cohort)
    full = more[0] if more else simple
    without = replace(full, factors=())
    plan: list[tuple[str, Model, Prepare, Estimator]] = [
        *(("complete", model, _complete, _least_squares) for model in (simple, *more)),
        ("ipw", simple, _weighted, _least_squares),
        ("tobit", full, _with_cut, _tobit),
        ("huber", full, _complete, _huber),
        ("without_outliers", full, _without_outliers, _least_squares),
    ]
    if cohort.scans.loc[cohort.in_trends, "subject"].duplicated().any():
        plan.insert(len(more) + 1, ("one_scan_each", full, _one_scan_each, _least_squares))
    if cohort.scans.loc[cohort.in_trends, "sampling_weight"].notna().any():
        plan.append(("sampling_weights", full, _drawn, _of_population))
    if full.size:
        plan.append(("bsa_ratio", simple, _over_surface, _least_squares))
    if full.factors:
        plan.append(("size_only", without, _complete, _least_squares))
    plan.append(("site_harmonised", without, _harmonised, _least_squares))
    rows: list[dict[str, Any]] = []
    for index, structure in enumerate(cohort.structures):
        for analysis, model, prepare, estimate in plan:
            key = {"structure": structure, "analysis": analysis, "model": model.name}
            try:
                data = prepare(cohort, index, model, settings)
            except EstimateError as error:
                rows += [{**key, "sex": sex, "note": str(error)} for sex in GROUPS]
                continue
            rows += [{**key, **row} for row in _slopes(data, estimate, settings)]
    return pd.DataFrame(rows)


def _slopes(data: Data, estimate: Estimator, settings: Settings) -> list[dict[str, Any]]:
    found, why = problems(
        data.scans, data.log_volume, data.extra, settings.age_center, settings.min_n_fit
    )
    rows: dict[str, dict[str, Any]] = {sex: {"note": note} for sex, note in why.items()}
    for problem in found:
        kept = data.take(problem.keep)
        try:
            fitted = estimate(problem, kept)
        except EstimateError as error:
            rows |= {sex: {"note": str(error)} for sex in problem.slopes}
            continue
        for sex, weights in problem.slopes.items():
            slope = fitted.contrast(weights).percent_cells("slope_pct_per_decade")
            rows[sex] = {**slope, "note": data.note or None}
    for sex, row in rows.items():
        here = np.ones(len(data.scans), bool) if sex == "all" else data.scans["sex"] == sex
        row |= {"n_used": int(here.sum()), "n_censored": int(data.censored[here].sum())}
    return [{"sex": sex, **rows[sex]} for sex in GROUPS if sex in rows]


def _data(cohort: Cohort, index: int, mask: np.ndarray, model: Model, settings: Settings) -> Data:
    """The scans of a mask, with what the model has beside age and sex."""
    mask = mask & model.knows(cohort)
    if not mask.any():
        raise EstimateError(
            "ANA_TOO_FEW", f"0 usable subjects, at least {settings.min_n_fit} needed"
        )
    scans = cohort.scans[mask]
    n = len(scans)
    design = build(
        cohort,
        np.flatnonzero(mask),
        center=settings.age_center,
        sexes=(),
        interaction=False,
        size=model.size,
        continuous=model.continuous,
        factors=model.factors,
        lumps=tuple(factor.lump(mask, settings.min_n_per_level) for factor in model.factors),
        least=settings.min_n_per_level,
        time_of_day=model.time_of_day,
    )
    log_volume = np.log(cohort.volume_ml[mask, index])
    return Data(scans, log_volume, design.columns[:, 2:], np.ones(n), np.zeros(n, dtype=bool))


def _complete(cohort: Cohort, index: int, model: Model, settings: Settings) -> Data:
    return _data(cohort, index, cohort.usable(index), model, settings)


def _one_scan_each(cohort: Cohort, index: int, model: Model, settings: Settings) -> Data:
    usable = cohort.usable(index) & model.knows(cohort)
    subjects = cohort.scans["subject"].to_numpy()
    rows = one_scan_each(usable, subjects, cohort.scans["age_years"].to_numpy(dtype=float))
    kept = np.zeros(len(usable), dtype=bool)
    kept[rows] = True
    return _data(cohort, index, kept, model, settings)


def _drawn(cohort: Cohort, index: int, model: Model, settings: Settings) -> Data:
    """Scans of people of whom it is known how many others they stand for."""
    weight = cohort.scans["sampling_weight"].to_numpy(dtype=float)
    usable = cohort.usable(index)
    data = _data(cohort, index, usable & (weight > 0), model, settings)
    without = int((usable & model.knows(cohort) & ~(weight > 0)).sum())
    note = f"{without} scans without a weight left out" if without else ""
    return replace(data, weights=data.scans["sampling_weight"].to_numpy(dtype=float), note=note)


def _weighted(cohort: Cohort, index: int, model: Model, settings: Settings) -> Data:
    """Usable scans, weighted to stand for all scans in the trends of which size is known."""
    sized = bool(cohort.has_size.any())
    known = cohort.in_trends & (cohort.has_size if sized else True) & model.knows(cohort)
    known &= ~cohort.by_surgery(index)  # nobody else stands for them
    usable = cohort.usable(index)
    weights = inverse_probability_weights(cohort.scans[known], usable[known], sized)
    data = _data(cohort, index, known & usable, model, settings)
    kept = weights[usable[known]]
    note = f"largest weight {kept.max():.1f} times the mean" if kept.max() > 10 else ""
    return replace(data, weights=kept, note=note)


def _with_cut(cohort: Cohort, index: int, model: Model, settings: Settings) -> Data:
    bound = cohort.lower_bound(index)
    if not bound.any():
        raise EstimateError("ANA_TOO_FEW", "no volume is left out as cut")
    mask = cohort.usable(index) | bound
    data = _data(cohort, index, mask, model, settings)
    censored = bound[mask & model.knows(cohort)]
    return replace(data, censored=censored)


def _without_outliers(cohort: Cohort, index: int, model: Model, settings: Settings) -> Data:
    data = _complete(cohort, index, model, settings)
    flagged = np.zeros(len(data.scans), dtype=bool)
    found, _ = problems(data.scans, data.log_volume, data.extra, settings.age_center, 1)
    if found:
        problem = found[-1]
        flagged[problem.keep] = outliers(problem.design, data.log_volume[problem.keep])
    return data.take(~flagged, f"{int(flagged.sum())} outliers left out")


def _over_surface(cohort: Cohort, index: int, model: Model, settings: Settings) -> Data:
    """Volume over body surface."""
    data = _data(cohort, index, cohort.usable(index) & cohort.has_size, model, settings)
    return replace(data, log_volume=data.log_volume - np.log(body_surface_m2(data.scans)))


def _harmonised(cohort: Cohort, index: int, model: Model, settings: Settings) -> Data:
    """Scans of comparable sites, their volumes moved to a common mean and spread."""
    named = [name for name in ("site", "scanner") if name in cohort.scans]
    named = [name for name in named if cohort.scans[name].notna().any()]
    if not named:
        raise EstimateError("ANA_SITES", "neither site nor scanner is given")
    data = _complete(cohort, index, model, settings)
    ages = data.scans["age_years"].to_numpy(dtype=float)
    keep, note = comparable_sites(data.scans[named[0]], ages)
    by = "" if named[0] == "site" else "by scanner"
    data = data.take(keep, "; ".join(part for part in (by, note) if part))
    found, _ = problems(data.scans, data.log_volume, data.extra, settings.age_center, 1)
    if not found or not found[-1].keep.all():
        raise EstimateError("ANA_SITES", "age or volume is the same for all of a sex")
    moved = harmonised(found[-1].design, data.log_volume, data.scans[named[0]])
    return replace(data, log_volume=moved)


def _least_squares(problem: Problem, data: Data) -> Estimated:
    subjects = data.scans["cluster"].to_numpy()
    return fit(problem.design, data.log_volume, subjects, weights=data.weights).of(0)


def _of_population(problem: Problem, data: Data) -> Estimated:
    strata = pd.factorize(data.scans["stratum"].fillna(""))[0]
    clusters = data.scans["cluster"].to_numpy()
    return weighted_to_population(problem.design, data.log_volume, data.weights, strata, clusters)


def _tobit(problem: Problem, data: Data) -> Estimated:
    subjects = data.scans["cluster"].to_numpy()
    terms = problem.design.shape[1]
    whole = problem.design[~data.censored]
    if len(whole) < 2 * terms:
        raise EstimateError("ANA_TOO_FEW", f"{len(whole)} volumes are not cut")
    if np.linalg.matrix_rank(whole) < terms:
        raise EstimateError("ANA_COLLINEAR", "the terms of the model cannot be told apart")
    fitted, _, _ = censored_regression(problem.design, data.log_volume, data.censored, subjects)
    few = fitted.few and fitted.few.seen_through(np.eye(terms, terms + 1))  # without ln(sigma)
    return Estimated(fitted.coefficients[:-1], fitted.covariance[:-1, :-1], few=few)


def _huber(problem: Problem, data: Data) -> Estimated:
    if np.linalg.matrix_rank(problem.design) < problem.design.shape[1]:
        raise EstimateError("ANA_COLLINEAR", "the terms of the model cannot be told apart")
    return huber(problem.design, data.log_volume, data.scans["cluster"].to_numpy())

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
from cohortvol.stages.analyse.each import Each, one_by_one
from cohortvol.stages.analyse.fits.designs import build
from cohortvol.stages.analyse.fits.joint import Problem, problems
from cohortvol.stages.analyse.fits.regression import Estimated, fit, orthonormal
from cohortvol.stages.analyse.fits.robust import comparable_sites, harmonised, huber, outliers
from cohortvol.stages.analyse.fits.survey import weighted_to_population
from cohortvol.stages.analyse.robustness.body_size import body_surface_m2
from cohortvol.stages.analyse.robustness.selection import (
    censored_regression,
    inverse_probability_weights,
)

COLUMNS = (
    *("age_years", "sex", "height_cm", "weight_kg", "site", "scanner"),
    *("subject", "cluster", "stratum", "sampling_weight"),
)
"""Of the scans, what any of the analyses asks for."""


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


class OfStructure:
    """The scans of one structure, as each analysis takes them."""

    def __init__(self, cohort: Cohort, index: int, settings: Settings) -> None:
        self.cohort, self.index, self.settings = cohort, index, settings
        self.usable = cohort.usable(index)
        self._known: dict[tuple[int, bytes], Data] = {}

    def _data(self, mask: np.ndarray, model: Model) -> Data:
        """The scans of a mask, with what the model has beside age and sex.

        Several analyses are of the same scans.
        """
        mask = mask & model.knows(self.cohort)
        key = id(model), mask.tobytes()
        if key not in self._known:
            self._known[key] = self._drawn_up(mask, model)
        return self._known[key]

    def _drawn_up(self, mask: np.ndarray, model: Model) -> Data:
        cohort, settings = self.cohort, self.settings
        if not mask.any():
            raise EstimateError(
                "ANA_TOO_FEW", f"0 usable subjects, at least {settings.min_n_fit} needed"
            )
        scans = cohort.scans.loc[mask, [name for name in COLUMNS if name in cohort.scans]]
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
        log_volume = np.log(cohort.volume_ml[mask, self.index])
        return Data(scans, log_volume, design.columns[:, 2:], np.ones(n), np.zeros(n, dtype=bool))

    def _problems(self, data: Data) -> list[Problem]:
        found, _ = problems(data.scans, data.log_volume, data.extra, self.settings.age_center, 1)
        return found

    def complete(self, model: Model) -> Data:
        """Those that are usable."""
        return self._data(self.usable, model)

    def one_each(self, model: Model) -> Data:
        """Of every person that at the lowest age."""
        scans = self.cohort.scans
        usable = self.usable & model.knows(self.cohort)
        ages = scans["age_years"].to_numpy(dtype=float)
        kept = np.zeros(len(usable), dtype=bool)
        kept[one_scan_each(usable, scans["subject"].to_numpy(), ages)] = True
        return self._data(kept, model)

    def drawn(self, model: Model) -> Data:
        """Scans of people of whom it is known how many others they stand for."""
        weighted = self.cohort.scans["sampling_weight"].to_numpy(dtype=float) > 0
        data = self._data(self.usable & weighted, model)
        without = int((self.usable & model.knows(self.cohort) & ~weighted).sum())
        note = f"{without} scans without a weight left out" if without else ""
        return replace(data, weights=data.scans["sampling_weight"].to_numpy(dtype=float), note=note)

    def weighted(self, model: Model) -> Data:
        """Usable scans, weighted to stand for all scans in the trends of which size is known."""
        cohort = self.cohort
        sized = bool(cohort.has_size.any())
        known = cohort.in_trends & (cohort.has_size if sized else True) & model.knows(cohort)
        known &= ~cohort.by_surgery(self.index)  # nobody else stands for them
        weights = inverse_probability_weights(cohort.scans[known], self.usable[known], sized)
        data = self._data(known & self.usable, model)
        kept = weights[self.usable[known]]
        note = f"largest weight {kept.max():.1f} times the mean" if kept.max() > 10 else ""
        return replace(data, weights=kept, note=note)

    def with_cut(self, model: Model) -> Data:
        """Cut volumes too, as lower bounds."""
        bound = self.cohort.lower_bound(self.index)
        if not bound.any():
            raise EstimateError("ANA_TOO_FEW", "no volume is left out as cut")
        mask = self.usable | bound
        data = self._data(mask, model)
        return replace(data, censored=bound[mask & model.knows(self.cohort)])

    def without_outliers(self, model: Model) -> Data:
        """Those whose residual is not far out."""
        data = self.complete(model)
        flagged = np.zeros(len(data.scans), dtype=bool)
        if found := self._problems(data):
            kept, design = found[-1].keep, found[-1].design
            flagged[kept] = outliers(design, data.log_volume[kept])
        return data.take(~flagged, f"{int(flagged.sum())} outliers left out")

    def over_surface(self, model: Model) -> Data:
        """Volume over body surface."""
        data = self._data(self.usable & self.cohort.has_size, model)
        return replace(data, log_volume=data.log_volume - np.log(body_surface_m2(data.scans)))

    def harmonised(self, model: Model) -> Data:
        """Scans of comparable sites, their volumes moved to a common mean and spread."""
        scans = self.cohort.scans
        named = [name for name in ("site", "scanner") if name in scans]
        named = [name for name in named if scans[name].notna().any()]
        if not named:
            raise EstimateError("ANA_SITES", "neither site nor scanner is given")
        data = self.complete(model)
        ages = data.scans["age_years"].to_numpy(dtype=float)
        keep, note = comparable_sites(data.scans[named[0]], ages)
        by = "" if named[0] == "site" else "by scanner"
        data = data.take(keep, "; ".join(part for part in (by, note) if part))
        found = self._problems(data)
        if not found or not found[-1].keep.all():
            raise EstimateError("ANA_SITES", "age or volume is the same for all of a sex")
        moved = harmonised(found[-1].design, data.log_volume, data.scans[named[0]])
        return replace(data, log_volume=moved)


Estimator = Callable[[Problem, Data], Estimated]
Prepare = Callable[[OfStructure, Model], Data]


def sensitivity(cohort: Cohort, settings: Settings, each: Each = one_by_one) -> pd.DataFrame:
    """Slopes of every structure by every analysis: ``analyse/sensitivity``.

    ``complete`` is the main analysis, M1 and, where there is anything to adjust for, M2. The
    others are ``one_scan_each`` (of every person that at the lowest age: people, not scans),
    ``sampling_weights`` (the slope of the population that the sample was drawn from, where the
    scans table has them), ``ipw`` (scans weighted by one over the chance of being usable, so the
    slope of the whole cohort), ``tobit`` (cut volumes as lower bounds), ``huber``,
    ``without_outliers``, ``bsa_ratio`` (volume over body surface), ``size_only`` (without the
    fixed effects of how the scan was made) and ``site_harmonised`` (in place of those effects).
    """
    # Sexes are compared and taken some thousand times: as codes, not as objects.
    cohort = replace(cohort, scans=cohort.scans.assign(sex=pd.Categorical(cohort.scans["sex"])))
    simple, *more = ladder(cohort)
    full = more[0] if more else simple
    without = replace(full, factors=())
    plan: list[tuple[str, Model, Prepare, Estimator]] = [
        *(("complete", model, OfStructure.complete, _least_squares) for model in (simple, *more)),
        ("ipw", simple, OfStructure.weighted, _least_squares),
        ("tobit", full, OfStructure.with_cut, _tobit),
        ("huber", full, OfStructure.complete, _huber),
        ("without_outliers", full, OfStructure.without_outliers, _least_squares),
    ]
    if cohort.scans.loc[cohort.in_trends, "subject"].duplicated().any():
        plan.insert(len(more) + 1, ("one_scan_each", full, OfStructure.one_each, _least_squares))
    if cohort.scans.loc[cohort.in_trends, "sampling_weight"].notna().any():
        plan.append(("sampling_weights", full, OfStructure.drawn, _of_population))
    if full.size:
        plan.append(("bsa_ratio", simple, OfStructure.over_surface, _least_squares))
    if full.factors:
        plan.append(("size_only", without, OfStructure.complete, _least_squares))
    plan.append(("site_harmonised", without, OfStructure.harmonised, _least_squares))

    def of_structure(index: int) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = []
        scans = OfStructure(cohort, index, settings)
        for analysis, model, prepare, estimate in plan:
            key = {"structure": cohort.structures[index]}
            key |= {"analysis": analysis, "model": model.name}
            try:
                data = prepare(scans, model)
            except EstimateError as error:
                rows += [{**key, "sex": sex, "note": str(error)} for sex in GROUPS]
                continue
            rows += [{**key, **row} for row in _slopes(data, estimate, settings)]
        return rows

    return pd.DataFrame(each(of_structure, cohort.structures))


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
    orthonormal(whole)  # or it raises
    fitted, _, _ = censored_regression(problem.design, data.log_volume, data.censored, subjects)
    few = fitted.few and fitted.few.seen_through(np.eye(terms, terms + 1))  # without ln(sigma)
    return Estimated(fitted.coefficients[:-1], fitted.covariance[:-1, :-1], few=few)


def _huber(problem: Problem, data: Data) -> Estimated:
    return huber(problem.design, data.log_volume, data.scans["cluster"].to_numpy())

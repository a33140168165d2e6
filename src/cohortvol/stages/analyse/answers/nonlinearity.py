"""Whether a trend bends, and where it does, how steep it is at which age and where it peaks."""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np
import pandas as pd

from cohortvol.errors import EstimateError
from cohortvol.stages.analyse.answers.curves import knots_years
from cohortvol.stages.analyse.answers.slopes import AVERAGE, joined_notes, with_q
from cohortvol.stages.analyse.cohort.groups import (
    LOG,
    Fitted,
    Model,
    fit_structures,
    ladder,
    rows_of,
)
from cohortvol.stages.analyse.cohort.parts import part
from cohortvol.stages.analyse.cohort.settings import Settings
from cohortvol.stages.analyse.cohort.usable import SEXES, Cohort
from cohortvol.stages.analyse.each import Each, one_by_one
from cohortvol.stages.analyse.fits.batch import fit_weighted
from cohortvol.stages.analyse.fits.designs import YEARS_PER_DECADE, Design, age_names, fenced
from cohortvol.stages.analyse.fits.regression import (
    Fit,
    contrast,
    natural_spline,
    natural_spline_slope,
    wald,
)

AGES_YEARS = (35.0, 50.0, 65.0, 80.0)
"""Where the slope of a bent trend is given."""
PEAK_STEP_YEARS = 0.25
ALL = "all"


class Splines:
    """M3 of every structure: natural cubic spline of age x sex, with the terms of M2."""

    def __init__(self, cohort: Cohort, settings: Settings) -> None:
        self.cohort, self.settings = cohort, settings
        self.knots = (knots_years(cohort) - settings.age_center) / YEARS_PER_DECADE
        self.model: Model = ladder(cohort)[-1]
        self.trouble: dict[int, dict[str, str]] = {}
        self.sexes: dict[int, tuple[str, ...]] = {}
        self.fits: dict[int, Fitted] = {}
        least = max(settings.min_n_per_sex, settings.min_n_fit)
        groups = SEXES if cohort.knows_sex else (ALL,)
        for s in range(len(cohort.structures)):
            masks = {sex: self._mask(s, sex) for sex in groups}
            self.trouble[s] = {sex: part(cohort, s, masks[sex], least).trouble for sex in groups}
            self.sexes[s] = tuple(sex for sex in groups if not self.trouble[s][sex])
        able = {
            s: () if not cohort.knows_sex else sexes for s, sexes in self.sexes.items() if sexes
        }
        if len(self.knots):
            self.fits = fit_structures(
                cohort,
                self.model,
                able,
                settings,
                interaction=True,
                basis=lambda decades: natural_spline(decades, self.knots),
            )
        else:
            why = "ANA_COLLINEAR: too few different ages for a spline"
            for s in able:
                self.trouble[s] = {sex: self.trouble[s][sex] or why for sex in groups}
                self.sexes[s] = ()

    def _mask(self, structure: int, sex: str) -> np.ndarray:
        return rows_of(self.cohort, structure, self.model, () if sex == ALL else (sex,))

    def count(self, structure: int, sex: str) -> int:
        """Scans that the test of a sex, or of all, is of."""
        sexes = self.sexes[structure] if sex == ALL else (sex,)
        return sum(int(self._mask(structure, each).sum()) for each in sexes)

    def ages_years(self, structure: int, sex: str) -> tuple[float, float]:
        """Between which ages anything is said of a sex, years."""
        ages = self.cohort.scans["age_years"].to_numpy(dtype=float)[self._mask(structure, sex)]
        return fenced(ages)

    def terms(self, design: Design, sex: str, columns: np.ndarray) -> np.ndarray:
        """(k, terms) weights that apply (k, age terms) columns to the curve of one sex."""
        names = age_names(columns.shape[1])
        weights = np.zeros((len(columns), len(design.names)))
        for label, values in zip(names, columns.T, strict=True):
            weights[:, design.names.index(label)] = values
            if sex == "M" and f"{label} x male" in design.names:
                weights[:, design.names.index(f"{label} x male")] = values
        return weights

    def decades(self, years: np.ndarray) -> np.ndarray:
        """Ages as the models have them."""
        return (years - self.settings.age_center) / YEARS_PER_DECADE


def nonlinearity(splines: Splines) -> pd.DataFrame:
    """Robust Wald test that M3 is straight, for F, for M and for both: ``analyse/nonlinearity``."""
    cohort, rows = splines.cohort, []
    for s, structure in enumerate(cohort.structures):
        for sex in (ALL, *SEXES):
            row: dict[str, Any] = {"structure": structure, "sex": sex, "p_value": float("nan")}
            row["n_used"] = splines.count(s, sex) if sex == ALL or sex in splines.sexes[s] else 0
            rows.append(row | _tested(splines, s, sex))
    return with_q(pd.DataFrame(rows))


def _tested(splines: Splines, s: int, sex: str) -> dict[str, Any]:
    trouble, sexes = splines.trouble[s], splines.sexes[s]
    of = sexes if sex == ALL else tuple(each for each in sexes if each == sex)
    fitted = splines.fits.get(s)
    if not of or fitted is None:
        if sex in trouble:
            return {"note": trouble[sex]}
        if not splines.cohort.knows_sex:
            return {"note": "sex is not known"}
        return {"note": joined_notes(*(f"{each}: {trouble[each]}" for each in SEXES))}
    adjusted = {"adjusted_for": ", ".join(fitted.design.adjusted_for) or None}
    if isinstance(fitted.fit, EstimateError):
        return {**adjusted, "note": joined_notes(str(fitted.fit), *fitted.design.notes)}
    bends = np.eye(len(splines.knots) - 1)[1:]
    weights = np.vstack([splines.terms(fitted.design, each, bends) for each in of])
    only = f"{of[0]} only" if sex == ALL and of[0] != ALL and len(of) == 1 else ""
    try:
        test = wald(fitted.fit, weights, LOG)
    except EstimateError as error:
        return {**adjusted, "note": joined_notes(str(error), only, *fitted.design.notes)}
    return {
        **adjusted,
        "wald_statistic": test.statistic,
        "df": test.df,
        "p_value": test.p_value,
        "log10_p": test.log10_p,
        "note": joined_notes(only, *fitted.design.notes),
    }


def bent(tests: pd.DataFrame, settings: Settings) -> set[tuple[str, str]]:
    """Structure and sex of the trends that bend, by the q value."""
    if tests.empty:
        return set()
    found = tests[tests["q_value"] < settings.fdr]
    return set(zip(found["structure"], found["sex"], strict=True))


def label_average(slopes: pd.DataFrame, bends: set[tuple[str, str]]) -> pd.DataFrame:
    """Slopes with `AVERAGE` in the note of those whose trend bends; of all, if any sex's does."""
    if slopes.empty:
        return slopes
    structures = {structure for structure, _ in bends}
    cells = slopes[["structure", "sex", "note", "p_value"]].itertuples(index=False)
    notes = []
    for structure, sex, note, p_value in cells:
        hides = (structure, sex) in bends or (sex == ALL and structure in structures)
        own = note if isinstance(note, str) else ""
        notes.append(joined_notes(own, AVERAGE if hides and pd.notna(p_value) else ""))
    return slopes.assign(note=pd.Series(notes, index=slopes.index, dtype=object))


_Bent = tuple[int, str, str, Fitted, Fit]
"""Place, structure, sex and fit of a curve that bends."""


def _bent_curves(splines: Splines, bends: set[tuple[str, str]]) -> list[_Bent]:
    """Every one; of all, where sex is unknown."""
    found = []
    for s, structure in enumerate(splines.cohort.structures):
        for sex in SEXES if splines.cohort.knows_sex else (ALL,):
            if (structure, sex) in bends and isinstance(fit := splines.fits[s].fit, Fit):
                found.append((s, structure, sex, splines.fits[s], fit))
    return found


def slopes_at_age(splines: Splines, bends: set[tuple[str, str]]) -> pd.DataFrame:
    """Slope of M3 at `AGES_YEARS` where the trend bends: ``analyse/slopes_at_age``."""
    rows: list[dict[str, Any]] = []
    for s, structure, sex, fitted, fit in _bent_curves(splines, bends):
        low, high = splines.ages_years(s, sex)
        steep = natural_spline_slope(splines.decades(np.array(AGES_YEARS)), splines.knots)
        weights = splines.terms(fitted.design, sex, steep)
        for age, direction in zip(AGES_YEARS, weights, strict=True):
            row: dict[str, Any] = {"structure": structure, "sex": sex, "age_years": age}
            row["n_used"] = splines.count(s, sex)
            if low <= age <= high:
                slope = contrast(fit, direction, LOG)
                row |= slope.percent_cells("slope_pct_per_decade")
            else:
                row["note"] = f"outside the ages of the scans, {low:.0f} to {high:.0f} years"
            rows.append(row)
    return pd.DataFrame(rows)


def peaks(splines: Splines, bends: set[tuple[str, str]], each: Each = one_by_one) -> pd.DataFrame:
    """Age at which a bent trend is highest, with a bootstrap interval: ``analyse/peaks``.

    Subjects are drawn with replacement, all their scans with them. Where the curve is highest
    at the youngest or oldest ages there is no peak; the note says at which.
    """
    bent_curves = _bent_curves(splines, bends)

    def of_structure(index: int) -> list[dict[str, Any]]:
        curves = [curve for curve in bent_curves if curve[0] == index]
        draws = _draws(splines, index, splines.fits[index]) if curves else np.empty(0)
        return [_peak(splines, curve, draws) for curve in curves]

    return pd.DataFrame(each(of_structure, splines.cohort.structures))


def _peak(splines: Splines, bent_curve: _Bent, draws: np.ndarray) -> dict[str, Any]:
    """Row of one curve; `draws` are the coefficients of each draw."""
    s, structure, sex, fitted, fit = bent_curve
    low, high = splines.ages_years(s, sex)
    steps = max(int(np.ceil((high - low) / PEAK_STEP_YEARS)), 1)
    years = np.linspace(low, high, steps + 1)
    curve = splines.terms(fitted.design, sex, natural_spline(splines.decades(years), splines.knots))
    at = int(np.argmax(curve @ fit.coefficients[:, LOG]))
    usable = draws[np.isfinite(draws).all(axis=1)]
    found = years[np.argmax(curve @ usable.T, axis=0)]
    row: dict[str, Any] = {
        "structure": structure,
        "sex": sex,
        "draws": len(usable),
        "n_used": splines.count(s, sex),
    }
    if at in (0, steps):
        where = "youngest" if at == 0 else "oldest"
        return row | {"note": f"no peak: highest at the {where} ages, {years[at]:.0f} years"}
    if len(usable) < splines.settings.bootstrap_draws / 2:
        return row | {"note": "ANA_TOO_FEW: the spline cannot be fitted to half of the draws"}
    lower, upper = np.percentile(found, [2.5, 97.5])
    row |= {"peak_age_years": years[at]}
    row |= {"peak_age_years_ci_low": lower, "peak_age_years_ci_high": upper}
    if lower == years[0] or upper == years[-1]:
        row["note"] = "the interval reaches the end of the ages of the scans"
    return row


def _draws(splines: Splines, s: int, fitted: Fitted) -> np.ndarray:
    """(draws, terms): coefficients of M3 of ln(volume) over subjects drawn with replacement."""
    settings, cohort = splines.settings, splines.cohort
    structure = cohort.structures[s]
    rows = fitted.rows[fitted.given]
    people = np.unique(cohort.scans["cluster"].to_numpy()[rows], return_inverse=True)[1]
    n = int(people.max()) + 1
    random = np.random.default_rng([settings.seed, zlib.crc32(structure.encode())])
    times = np.stack(
        [
            np.bincount(random.integers(0, n, n), minlength=n).astype(np.uint16)
            for _ in range(settings.bootstrap_draws)
        ],
        axis=1,
    )
    response = np.log(cohort.volume_ml[rows, s])
    return fit_weighted(fitted.design.columns[fitted.given], response, times[people])

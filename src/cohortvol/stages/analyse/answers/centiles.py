"""Centile curves of volume by age, per sex: a fitted family, quantile regression beside it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from cohortvol.errors import EstimateError
from cohortvol.stages.analyse.answers.worms import quarters, worms
from cohortvol.stages.analyse.cohort.settings import Settings
from cohortvol.stages.analyse.cohort.usable import SEXES, Cohort, one_scan_each
from cohortvol.stages.analyse.each import Each, one_by_one
from cohortvol.stages.analyse.fits.centile_choice import People, choose
from cohortvol.stages.analyse.fits.centile_model import CentileModel
from cohortvol.stages.analyse.fits.chart_terms import Term, columns_of, terms_of
from cohortvol.stages.analyse.fits.designs import ages_of_curve, fenced
from cohortvol.stages.analyse.fits.quantiles import quantile_curves

CENTILES = (5, 25, 50, 75, 95)
SPARSE_SUBJECTS = 50
SPARSE_YEARS = 5.0
"""Centiles are sparse at ages with fewer subjects than this within so many years around."""


@dataclass(frozen=True)
class Sample:
    """One scan per subject of one structure and sex, and the centiles fitted to them."""

    structure: str
    sex: str
    people: People
    terms: tuple[Term, ...]
    """Covariates in the centiles, in the order of the columns of `people.further`."""
    model: CentileModel | None
    """None where there are no centiles."""
    note: str | None
    """Why there are none."""

    @property
    def age_years(self) -> np.ndarray:
        """(n,): of its people."""
        return self.people.age_years

    @property
    def volume_ml(self) -> np.ndarray:
        """(n,): of its people."""
        return self.people.volume_ml

    @property
    def age_range_years(self) -> tuple[float, float]:
        """Between these ages centiles are given."""
        return fenced(self.age_years)


def samples(cohort: Cohort, settings: Settings, index: int) -> list[Sample]:
    """Centiles of one structure by sex: none with fewer than `min_n_centiles` subjects.

    People without a value of `centile_covariates` are left out.
    """
    kinds = {name: cohort.covariates[name] for name in settings.centile_covariates}
    known = cohort.knows(list(kinds))
    subjects = cohort.scans["subject"].to_numpy()
    ages = cohort.scans["age_years"].to_numpy(dtype=float)
    found = []
    for sex in SEXES:
        mask = cohort.usable(index) & cohort.of_sex(sex) & known
        rows = one_scan_each(mask, subjects, ages)
        values = cohort.scans[list(kinds)].iloc[rows]
        terms = terms_of(values, kinds)
        further = columns_of(terms, values)
        if further is not None:
            told = ~np.isnan(further).any(axis=1)
            rows, further = rows[told], further[told]
        people = People(ages[rows], cohort.volume_ml[rows, index], further)
        model, note = None, None
        try:
            least = settings.min_n_centiles
            if len(rows) < least:
                raise EstimateError(
                    "ANA_TOO_FEW", f"{len(rows)} usable subjects, {least} needed for centiles"
                )
            model = choose(people)
        except EstimateError as error:
            note = str(error)
        found.append(Sample(cohort.structures[index], sex, people, terms, model, note))
    return found


def centiles(
    cohort: Cohort, settings: Settings, each: Each = one_by_one
) -> dict[str, pd.DataFrame]:
    """Curves, and how well they are calibrated in four age bands.

    Returns
    -------
    dict of str to pandas.DataFrame
        ``centiles``, ``calibration`` and ``worms`` as `outputs.SCHEMAS` has them. A structure and
        sex without centiles has one row of the first, with the reason.
    """

    def of_structure(index: int) -> list[dict[str, pd.DataFrame]]:
        return [_tables(sample, settings) for sample in samples(cohort, settings, index)]

    tables = each(of_structure, cohort.structures)
    found = {}
    for name in ("centiles", "calibration", "worms"):
        frames = [of_sample[name] for of_sample in tables if name in of_sample]
        found[name] = pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()
    return found


def _tables(sample: Sample, settings: Settings) -> dict[str, pd.DataFrame]:
    """What one sample has in each table."""
    key = {"structure": sample.structure, "sex": sample.sex, "n_used": len(sample.age_years)}
    if sample.model is None:
        return {"centiles": pd.DataFrame([{**key, "note": sample.note}])}
    ages = ages_of_curve(*sample.age_range_years)
    on_ages = sample.model.centiles_ml(ages, CENTILES)
    curve = {f"p{c}_ml": values for c, values in on_ages.items()}
    at_scans = {"model": sample.people.centiles_ml(sample.model, CENTILES)}
    if settings.quantile_check:
        on_curve, at_scans["quantile"] = quantile_curves(sample.people, ages, CENTILES)
        curve |= {f"quantile_p{c}_ml": values for c, values in on_curve.items()}
    near = subjects_near(sample.age_years, ages)
    curve = {"age_years": ages, **curve, "sparse": near < SPARSE_SUBJECTS}
    drawn_at = ", ".join(term.said() for term in sample.terms) or None
    family = sample.model.family
    bands = [
        {**key, "method": method, **row}
        for method, values in at_scans.items()
        for row in calibration(sample, values)
    ]
    z = sample.people.z(sample.model)
    return {
        "centiles": pd.DataFrame(curve).assign(family=family, drawn_at=drawn_at, **key),
        "calibration": pd.DataFrame(bands),
        "worms": worms(z, sample.age_years).assign(**key),
    }


def subjects_near(age_years: np.ndarray, at_years: np.ndarray) -> np.ndarray:
    """Subjects within half of `SPARSE_YEARS` to either side of each age."""
    ordered = np.sort(age_years)
    half = SPARSE_YEARS / 2
    below = np.searchsorted(ordered, at_years - half, side="left")
    return np.searchsorted(ordered, at_years + half, side="right") - below


def calibration(sample: Sample, centile_ml: Mapping[float, np.ndarray]) -> Iterator[dict[str, Any]]:
    """Share of the sample below each centile against what the centile claims, by age band.

    The bands are quarters of the sample by age. A sampling error of sqrt(p (1 - p) / n), at most
    50 / sqrt(n) points, is part of the difference.
    """
    for low, high, here in quarters(sample.age_years):
        for c, values in centile_ml.items():
            observed = 100 * float(np.mean(sample.volume_ml[here] < values[here]))
            yield {
                "age_low_years": low,
                "age_high_years": high,
                "centile": c,
                "observed_pct": observed,
                "difference_points": observed - c,
                "n_band": int(here.sum()),
            }

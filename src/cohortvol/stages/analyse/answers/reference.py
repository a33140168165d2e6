"""A reference model: centiles of one cohort as a small file, and scores of other scans in it."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from cohortvol import __version__
from cohortvol.errors import ConfigError, TableError
from cohortvol.ranges import AGE_RANGE_YEARS
from cohortvol.stages.analyse.answers import transfer
from cohortvol.stages.analyse.answers.centiles import samples
from cohortvol.stages.analyse.cohort import usable as cohort_of
from cohortvol.stages.analyse.cohort.inputs import read_scans, read_volumes
from cohortvol.stages.analyse.cohort.settings import checked
from cohortvol.stages.analyse.cohort.usable import Cohort
from cohortvol.stages.analyse.each import one_by_one
from cohortvol.stages.analyse.fits.centile_model import CentileModel
from cohortvol.stages.analyse.fits.chart_terms import Term, columns_of
from cohortvol.stages.analyse.fits.families import FAMILIES
from cohortvol.store.files import commit_json, commit_text, sha256_of
from cohortvol.store.schemas import Column, real, text
from cohortvol.store.tables import csv_text, write_table

log = logging.getLogger(__name__)

FORMAT = "cohortvol reference 3"
METHOD = (
    "r = ln(volume / M); ln M (mL) and ln S are an intercept and a natural cubic spline of age in "
    "years, linear outside the first and last knot, in truncated-power form: age; then for each "
    "knot k but the last two ((age-k)+^3 - (age-k[-2])+^3 (k[-1]-k)/(k[-1]-k[-2]) + (age-k[-1])+^3 "
    "(k[-2]-k)/(k[-1]-k[-2])) / (k[-1]-k[0])^2; a shape is at_50_years + per_decade (age - 50) / "
    "10. BCCG: x = (exp(L r) - 1) / (L S) is normal, cut off at -1 / (L S); BCT: x has Student's t "
    "on tau degrees of freedom, cut off there; SHASH: with u = asinh(r / S), (exp(tau u) - exp(-nu "
    "u)) / 2 is normal; BCCG_low, _high and _both: BCCG, and at these log odds against it a share "
    "of people whose r is below or above 0 by a gamma variable of shape 3 and mean 1.5. z is the "
    "standard normal score of the same probability. M is that of people at the stated values of "
    "the terms: each adds per_unit times the difference, or the value of the group, to ln M."
)
SAMPLE = "one scan per subject, that at the lowest age; volumes cut by the field of view left out"

UNKNOWN_STRUCTURE = "structure not in the reference"
NO_CENTILES = "no centiles of this structure and sex in the reference"
OUTSIDE_AGES = "age outside the reference"
MISSING = "missing, and the reference depends on it: "
OTHER_GROUP = "a group that the reference does not have: "

SCORES = {
    "scan_id": Column(text, "row key"),
    "structure": Column(text, "anatomical structure"),
    "sex": Column(text, "F or M"),
    "age_years": Column(real, "age at the scan, years"),
    "volume_ml": Column(real, "volume as measured, mL"),
    "z": Column(real, "score in the reference, standard normal there; null without one"),
    "centile": Column(real, "share of the reference of that age and sex below, %"),
    "beyond": Column(
        text,
        "below or above: smaller or larger, over the median of age and sex, than anyone of the "
        "reference; z is the family's guess there; null otherwise",
    ),
    "reason": Column(text, "why there is no score; null where there is one"),
    "shift": Column(real, "what the site adds to z, drawn towards 0; null where not adapted"),
    "shift_se": Column(real, "standard error of the shift"),
    "scale": Column(real, "SD of z at the site, drawn towards 1"),
    "z_adapted": Column(real, "z less the shift, over the scale"),
    "centile_adapted": Column(real, "its share of the reference below, %"),
}
"""Columns of a table of scores."""


def fit(
    volumes: Path,
    scans: Path,
    out: Path,
    segmentation_model: str | None = None,
    min_n_centiles: int = 300,
    age_range_years: Sequence[float] = AGE_RANGE_YEARS,
    covariates: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Fit centiles of every structure and sex, and save them as JSON.

    The file holds knots, coefficients, age ranges and counts, and no row of any person. Ages
    outside `age_range_years` count as unknown. The median depends on `covariates`, columns of the
    scans table and their kinds; who lacks one is left out.

    Returns
    -------
    dict
        What the file holds.

    Raises
    ------
    TableError, ConfigError
        As `cohortvol.stages.analyse.run`.
    ConfigError
        If no structure and sex has enough subjects, with the reasons.
    """
    kinds = dict(covariates or {})
    settings = checked(
        {
            "segmentation_model": segmentation_model,
            "min_n_centiles": min_n_centiles,
            "covariates": kinds,
            "centile_covariates": tuple(kinds),
        }
    )
    read = read_scans(scans, kinds)
    cohort = _cohort(volumes, read, segmentation_model, age_range_years, kinds)
    models, refused = [], []
    for sample in one_by_one(partial(samples, cohort, settings), cohort.structures):
        key = {"structure": sample.structure, "sex": sample.sex}
        n = len(sample.age_years)
        if sample.model is None:
            few = f"ANA_TOO_FEW: fewer than {min_n_centiles} usable subjects"  # no small counts
            refused.append({**key, "note": few if n < min_n_centiles else sample.note})
            continue
        low, high = sample.age_range_years
        further = sample.people.further
        seen = _seen(sample.volume_ml / sample.model.median_ml(sample.age_years, further))
        models.append(
            {
                **key,
                "n": n,
                "age_low_years": low,
                "age_high_years": high,
                "ratio_low": seen[0],
                "ratio_high": seen[1],
                **_as_json(sample.model),
                "terms": _terms_as_json(sample.terms, sample.model.terms),
            }
        )
    if not models:
        notes = sorted({f"{row['structure']} {row['sex']}: {row['note']}" for row in refused})
        raise ConfigError("no centiles can be fitted\n  " + "\n  ".join(notes[:10]))
    record = {
        "format": FORMAT,
        "method": METHOD,
        "sample": SAMPLE,
        "covariates": kinds,
        "segmentation_model": cohort.segmentation_model,
        "cohortvol_version": __version__,
        "inputs": {
            name: {"file": path.name, "sha256": sha256_of(path)}
            for name, path in (("volumes", volumes), ("scans", scans))
        },
        "models": models,
        "refused": refused,
    }
    commit_json(out, record)
    log.info("%d models in %s, %d without centiles", len(models), out, len(refused))
    return record


def score(
    reference: Path,
    volumes: Path,
    scans: Path,
    out: Path,
    segmentation_model: str | None = None,
    any_model: bool = False,
    age_range_years: Sequence[float] = AGE_RANGE_YEARS,
    adapt_by: str | None = None,
) -> pd.DataFrame:
    """Centile and z of every scan and structure; null with a reason where there is none.

    Parameters
    ----------
    reference : Path
        A file that `fit` wrote.
    volumes, scans : Path
        As for `cohortvol.stages.analyse.run`.
    out : Path
        Table of `SCORES` to write: Parquet if it ends in ``.parquet``, otherwise CSV.
    segmentation_model : str, optional
        Which model's volumes, where the table holds several.
    any_model : bool
        Score volumes of another segmentation model than that of the reference.
    age_range_years : (low, high)
        A scan of an age outside has no score.
    adapt_by : str, optional
        Column of the scans table, ``site`` or ``scanner``, whose levels are adapted to: see
        `transfer.adapted`. Without it, sites that are off are only named.

    Raises
    ------
    TableError
        If `reference` is no such file, or a table cannot be used, as where it lacks a covariate
        of the reference.
    ConfigError
        If the volumes are of another segmentation model and `any_model` is not set, or the scans
        table has no column `adapt_by`.
    """
    record = read_reference(reference)
    kinds = record["covariates"]
    read = read_scans(scans, kinds, named_by=f"the reference {reference}")
    cohort = _cohort(volumes, read, segmentation_model, age_range_years, kinds)
    theirs, ours = record["segmentation_model"], cohort.segmentation_model
    if theirs and ours and theirs != ours and not any_model:
        raise ConfigError(
            f"volumes of {ours}, but the reference is of {theirs}\n"
            "  Two segmentation models measure the same organ differently. Score volumes of "
            f"{theirs}, fit a reference of {ours}, or say --any-model."
        )
    table = scores(cohort, record)
    if adapt_by is not None and adapt_by not in cohort.scans:
        raise ConfigError(f"{scans}: no column {adapt_by} to adapt to")
    by = adapt_by or ("site" if "site" in cohort.scans else "scanner")
    site = pd.Series(None, index=table.index, dtype=object)
    if by in cohort.scans:
        of_scans = cohort.scans[by].to_numpy(dtype=object)
        site = pd.Series(np.repeat(of_scans, len(cohort.structures)), index=table.index)
    said = transfer.warnings(table, site, by)
    if adapt_by is not None:
        table = table.assign(**transfer.adapted(table, site))
    elif said:
        said.append(f"scores of these are not comparable with others; --adapt-by {by} adapts them")
    for line in said:
        log.warning("%s", line)
    if out.suffix == ".parquet":
        write_table(out, table, SCORES)
    else:
        commit_text(out, csv_text(table))
    log.info("%d of %d volumes scored in %s", int(table["z"].notna().sum()), len(table), out)
    return table


def scores(cohort: Cohort, record: dict[str, Any]) -> pd.DataFrame:
    """One row per scan and structure of a cohort: `SCORES`."""
    models = {(row["structure"], row["sex"]): row for row in record["models"]}
    known = {row["structure"] for row in [*record["models"], *record["refused"]]}
    ages = cohort.scans["age_years"].to_numpy(dtype=float)
    pieces = []
    for index, structure in enumerate(cohort.structures):
        reason = cohort.reason[:, index].copy()
        z = np.full(len(ages), np.nan)
        beyond = np.full(len(ages), None, dtype=object)
        if structure not in known:
            reason[reason == cohort_of.USABLE] = UNKNOWN_STRUCTURE
        for sex in ("F", "M"):
            rows = np.flatnonzero((reason == cohort_of.USABLE) & cohort.of_sex(sex))
            model = models.get((structure, sex))
            if model is None:
                reason[rows] = NO_CENTILES
                continue
            low, high = model["age_low_years"], model["age_high_years"]
            inside = (ages[rows] >= low) & (ages[rows] <= high)
            reason[rows[~inside]] = f"{OUTSIDE_AGES}: {low:.1f} to {high:.1f} years"
            rows = rows[inside]
            fitted, terms = _model(model)
            for term in terms:
                values = cohort.scans[term.name].iloc[rows]
                unknown = np.isnan(term.columns(values)).any(axis=1)
                lacks = values[unknown].isna().to_numpy(dtype=bool)
                reason[rows[unknown]] = np.where(lacks, MISSING, OTHER_GROUP).astype(object)
                reason[rows[unknown]] += term.name
                rows = rows[~unknown]
            volume_ml = cohort.volume_ml[rows, index]
            further = columns_of(terms, cohort.scans.iloc[rows])
            z[rows] = fitted.z(ages[rows], volume_ml, further)
            ratio = volume_ml / fitted.median_ml(ages[rows], further)
            beyond[rows[ratio < model["ratio_low"]]] = "below"
            beyond[rows[ratio > model["ratio_high"]]] = "above"
        reason[(reason == cohort_of.USABLE) & np.isnan(z)] = cohort_of.SEX_MISSING
        pieces.append(
            pd.DataFrame(
                {
                    "scan_id": cohort.scans["scan_id"],
                    "structure": structure,
                    "sex": cohort.scans["sex"],
                    "age_years": ages,
                    "volume_ml": cohort.volume_ml[:, index],
                    "z": z,
                    "centile": 100 * stats.norm.cdf(z),
                    "beyond": beyond,
                    "reason": pd.Series(reason, dtype=object).where(np.isnan(z), None),
                }
            )
        )
    if not pieces:
        return pd.DataFrame(columns=list(SCORES))
    table = pd.concat(pieces, ignore_index=True)
    order = np.arange(len(table)).reshape(len(pieces), -1).T.ravel()  # scan by scan
    return table.iloc[order].reset_index(drop=True).reindex(columns=list(SCORES))


def read_reference(path: Path) -> dict[str, Any]:
    """A reference as `fit` wrote it.

    Raises
    ------
    TableError
        If there is no such file, or it is another one.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise TableError(f"{path}: no such file") from error
    except (OSError, ValueError) as error:
        raise TableError(f"{path}: cannot be read as JSON ({error})") from error
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        found = record.get("format") if isinstance(record, dict) else None
        raise TableError(
            f"{path}: not a reference of this version\n  expected   {FORMAT}\n  found   {found}\n"
            "  Make one with `cohortvol reference fit`."
        )
    try:
        for model in record["models"]:
            _model(model)[0].z(np.array([model["age_low_years"]]), np.array([1.0]))
            _ = model["ratio_low"] + model["ratio_high"]
        _ = record["refused"], record["segmentation_model"], record["covariates"].keys()
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise TableError(f"{path}: damaged reference ({error!r}); fit it again") from error
    return record


def _cohort(
    volumes: Path,
    scans: pd.DataFrame,
    segmentation_model: str | None,
    age_range_years: Sequence[float],
    covariates: Mapping[str, str],
) -> Cohort:
    return cohort_of.build(
        read_volumes(volumes),
        scans,
        exclude_cut=True,
        segmentation_model=segmentation_model,
        age_range_years=age_range_years,
        covariates=covariates,
    )


def _seen(ratio: np.ndarray) -> tuple[float, float]:
    """Least and greatest volume over the median, moved outward to one digit, so that they are
    nobody's.
    """
    found = []
    for value, outward in ((ratio.min(), np.floor), (ratio.max(), np.ceil)):
        digit = 10.0 ** np.floor(np.log10(value))
        found.append(float(np.round(outward(value / digit) * digit, 12)))
    return found[0], found[1]


def _as_json(model: CentileModel) -> dict[str, Any]:
    names = FAMILIES[model.family].shapes
    return {
        "family": model.family,
        "M": _spline(model.median_knots_years, model.median_coefficients),
        "S": _spline(model.spread_knots_years, model.spread_coefficients),
        "shapes": {
            name: {"at_50_years": at, "per_decade": change}
            for name, (at, change) in zip(names, model.shapes, strict=True)
        },
    }


def _spline(knots: np.ndarray, coefficients: np.ndarray) -> dict[str, list[float]]:
    return {"knots_years": knots.tolist(), "coefficients": coefficients.tolist()}


def _terms_as_json(terms: Sequence[Term], coefficients: np.ndarray) -> list[dict[str, Any]]:
    found, left = [], coefficients.tolist()
    for term in terms:
        here, left = left[: term.n_columns], left[term.n_columns :]
        added = dict(zip(term.groups, here, strict=True)) if term.groups else here[0]
        found.append(
            {"name": term.name, "at": term.at, "groups" if term.groups else "per_unit": added}
        )
    return found


def _model(saved: dict[str, Any]) -> tuple[CentileModel, tuple[Term, ...]]:
    median, spread, shapes = saved["M"], saved["S"], saved["shapes"]
    terms = tuple(
        Term(one["name"], one["at"], tuple(one.get("groups", ()))) for one in saved["terms"]
    )
    added = [one.get("groups", {"": one.get("per_unit")}).values() for one in saved["terms"]]
    model = CentileModel(
        saved["family"],
        np.array(median["knots_years"], dtype=float),
        np.array(median["coefficients"], dtype=float),
        np.array(spread["knots_years"], dtype=float),
        np.array(spread["coefficients"], dtype=float),
        tuple(
            (float(shapes[name]["at_50_years"]), float(shapes[name]["per_decade"]))
            for name in FAMILIES[saved["family"]].shapes
        ),
        np.array([value for values in added for value in values], dtype=float),
    )
    return model, terms

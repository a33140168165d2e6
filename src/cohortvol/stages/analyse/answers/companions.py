"""Change with age of what companions show in the structures, such as the fat of the liver."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cohortvol.errors import EstimateError, TableError
from cohortvol.stages.analyse.answers.slopes import joined_notes, with_q
from cohortvol.stages.analyse.cohort.groups import ML, Fitted, Model, fit_structures, ladder
from cohortvol.stages.analyse.cohort.parts import Part, Parts
from cohortvol.stages.analyse.cohort.settings import Settings
from cohortvol.stages.analyse.cohort.usable import GROUPS, NOT_MEASURED, USABLE, Cohort
from cohortvol.stages.analyse.fits.regression import contrast
from cohortvol.store.schemas import COMPANIONS
from cohortvol.store.tables import read_table

_COLUMNS = ("scan_id", "model", "structure", "companion", "unit", "median")


def companion_slopes(cohort: Cohort, settings: Settings) -> pd.DataFrame:
    """Slopes of medians in their own unit: ``analyse/companion_slopes``; no rows if not asked for.

    The designs are those of the slopes of volumes, of the same scans as far as the companion was
    measured in them: a structure whose volume is not used has no fat fraction that is.

    Raises
    ------
    TableError
        If the table of the setting `companions` cannot be read, or has none of these scans.
    """
    if settings.companions is None:
        return pd.DataFrame()
    path = Path(settings.companions)
    table = read_table(path, {name: COMPANIONS[name] for name in _COLUMNS})
    if cohort.segmentation_model is not None:
        table = table[table["model"] == cohort.segmentation_model]
    table = table[table["structure"].isin(cohort.structures) & table["median"].notna()]
    place = pd.Index(cohort.scans["scan_id"]).get_indexer(pd.Index(table["scan_id"]))
    if len(table) and not (place >= 0).any():
        raise TableError(f"{path}: none of its scans stands in the scans table")
    known = table.assign(place=place)[place >= 0]
    rows = [
        {"companion": companion, "unit": of_one["unit"].iloc[0], **row}
        for companion, of_one in known.groupby("companion")
        for row in _slopes(cohort, of_one, settings)
    ]
    return with_q(pd.DataFrame(rows), by="model")


def _slopes(cohort: Cohort, table: pd.DataFrame, settings: Settings) -> Iterator[dict[str, Any]]:
    """Rows of one companion."""
    values = np.full(cohort.volume_ml.shape, np.nan)
    column = pd.Index(cohort.structures).get_indexer(pd.Index(table["structure"]))
    values[table["place"], column] = table["median"]
    # The core fits a logarithm beside what is measured. It is not read here, and must exist: slopes
    # are the same wherever the values begin.
    start = float(np.nanmin(values)) - 1
    missing = np.isnan(values) & (cohort.reason == USABLE)
    reason = np.where(missing, NOT_MEASURED, cohort.reason)
    measured = replace(cohort, volume_ml=values - start, reason=reason)
    for model in ladder(measured):
        yield from _of_model(measured, model, start, settings)


def _of_model(
    cohort: Cohort, model: Model, start: float, settings: Settings
) -> Iterator[dict[str, Any]]:
    parts = Parts(cohort, model, settings)
    pooled = fit_structures(cohort, model, parts.able, settings, interaction=False)
    joint = fit_structures(cohort, model, parts.joint, settings, interaction=True)
    for s, structure in enumerate(cohort.structures):
        for sex in GROUPS:
            is_own = sex != "all" and sex in parts.joint.get(s, ())
            fitted = pooled.get(s) if sex == "all" else joint.get(s) if is_own else None
            cells = _cells(parts.of(s, sex), fitted, sex, settings)
            mean = parts.of(s, sex).mean_volume_ml + start
            yield {"structure": structure, "sex": sex, "model": model.name, "mean": mean, **cells}


def _cells(those: Part, fitted: Fitted | None, sex: str, settings: Settings) -> dict[str, Any]:
    """One slope, or why there is none."""
    row: dict[str, Any] = {"n_used": those.n, "p_value": np.nan, "note": those.trouble or None}
    if fitted is None:
        return row
    row["adjusted_for"] = ", ".join(fitted.design.adjusted_for) or None
    if isinstance(fitted.fit, EstimateError):
        return row | {"note": joined_notes(str(fitted.fit), *fitted.design.notes)}
    slope = contrast(fitted.fit, fitted.design.slope(sex), ML)
    return {
        **row,
        **slope.cells("slope_per_decade"),
        "p_value": slope.p_value,
        "log10_p": slope.log10_p,
        "se_kind": fitted.fit.se_kind,
        "note": joined_notes(those.note(settings), *fitted.design.notes),
    }

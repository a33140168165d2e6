"""How another segmentation model differs, and whether it differs by age, sex or height."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cohortvol.errors import TableError
from cohortvol.stages.analyse.cohort.describe import agreement
from cohortvol.stages.analyse.cohort.settings import Settings
from cohortvol.stages.analyse.cohort.usable import Cohort
from cohortvol.stages.analyse.robustness.selection import levels_of
from cohortvol.store.schemas import AGREEMENT
from cohortvol.store.tables import read_table

COLUMNS = ("scan_id", "structure", "other_model", "volume_difference_pct", "dice")


def two_models(cohort: Cohort, settings: Settings) -> pd.DataFrame:
    """Differences of volume by group: ``analyse/two_models``, without rows where not asked for.

    A difference that grows with age is an error of one model or both that an age slope takes for
    ageing. Of scans whose volume by this model is usable, and which the other measured too.

    Raises
    ------
    TableError
        If the table of the setting `agreement` cannot be read, or has none of these scans.
    """
    if settings.agreement is None:
        return pd.DataFrame()
    path = Path(settings.agreement)
    table = read_table(path, {name: AGREEMENT[name] for name in COLUMNS})
    table = table[table["volume_difference_pct"].notna()]
    place = pd.Index(cohort.scans["scan_id"]).get_indexer(pd.Index(table["scan_id"]))
    if len(table) and not (place >= 0).any():
        raise TableError(f"{path}: none of its scans stands in the scans table")
    groups: list[tuple[str, str | None, np.ndarray]] = [("all", None, cohort.in_trends)]
    for (variable, level), mask in levels_of(cohort.scans[cohort.in_trends]).items():
        members = np.zeros(len(cohort.scans), dtype=bool)
        members[np.flatnonzero(cohort.in_trends)[mask]] = True
        groups.append((variable, level, members))
    rows: list[dict[str, Any]] = []
    for index, structure in enumerate(cohort.structures):
        mine = (table["structure"] == structure) & (place >= 0)
        for other, compared in table[mine].assign(place=place[mine]).groupby("other_model"):
            usable = compared[cohort.usable(index)[compared["place"]]]
            key = {"structure": structure, "other_model": other}
            for variable, name, members in groups:
                here = usable[members[usable["place"]]]
                of_group = _of_group(here, settings)
                rows.append({**key, "variable": variable, "level": name, **of_group})
    return pd.DataFrame(rows)


def _of_group(compared: pd.DataFrame, settings: Settings) -> dict[str, Any]:
    n, least = len(compared), max(settings.min_n_fit, settings.suppress_below)
    if n < least:
        return {
            "n_used": settings.shown(n),
            "note": f"ANA_TOO_FEW: {least} scans measured by both needed",
        }
    difference = compared["volume_difference_pct"].to_numpy()
    return {
        "n_used": n,
        **agreement(difference, "difference_mean_pct", "pct"),
        "dice_median": float(compared["dice"].median()),
    }

"""Which rows of a manifest can be used, which cannot and why, and what the usable ones are."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import pandas as pd

from cohortvol import reasons
from cohortvol.errors import FINISHED_WITH_PROBLEMS, OK

EXAMPLES = 5
"""Lines of the manifest named per reason."""
LISTED_LEVELS = 20
"""Levels of a covariate that are counted by name; the rest are added up."""
THICK = 1.5
"""A slice this many times as thick as the voxels are wide shows the plane of the scan."""

_PLANE = {"S": "axial", "I": "axial", "A": "coronal", "P": "coronal"}
_NEEDED = {"age_years": "age", "sex": "sex"}
_COUNTED = ("plane", "sequence", "contrast", "scanner", "site")


def findings(rows: pd.DataFrame) -> dict[str, Any]:
    """Accounts of an intake.

    Parameters
    ----------
    rows : pandas.DataFrame
        One per row of the manifest: columns of the tables MANIFEST and INGEST, ``state`` being
        ready where the scan can be used.

    Returns
    -------
    dict
        ``rows``; ``usable``; ``states``, counts; ``problems`` of rows that cannot be used and
        ``marks`` of rows that can, each with ``state``, ``reason``, ``sentence``,
        ``what_to_do``, ``n`` and ``lines`` of the manifest; ``without``, usable rows without
        age or sex; ``counts`` of usable rows by plane, sequence and the like, where any is
        known; ``exit_code``.
    """
    is_usable = rows["state"] == "ready"
    usable = rows[is_usable]
    marked = usable.assign(reason=usable["warnings"].str.split(";")).explode("reason")
    described = usable.assign(plane=plane(usable))
    return {
        "rows": len(rows),
        "usable": len(usable),
        "states": {str(state): int(n) for state, n in rows["state"].value_counts().items()},
        "problems": list(_by_reason(rows[~is_usable])),
        "marks": list(_by_reason(marked[marked["reason"].notna()].assign(state="marked"))),
        "without": {name: int(usable[name].isna().sum()) for name in _NEEDED},
        "counts": dict(_by_level(described, _COUNTED)),
        "exit_code": OK if is_usable.all() else FINISHED_WITH_PROBLEMS,
    }


def _by_reason(rows: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """Rows by state and reason, the commonest first."""
    known = reasons.load()
    groups = rows.groupby(["state", "reason"])
    for state, code in sorted(groups.groups, key=lambda key: (-len(groups.groups[key]), key)):
        lines = groups.get_group((state, code))["manifest_line"].astype(int)
        reason = known.get(code)
        yield {
            "state": state,
            "reason": code,
            "sentence": reason.sentence if reason else "",
            "what_to_do": reason.what_to_do if reason else "",
            "n": len(lines),
            "lines": lines.head(EXAMPLES).tolist(),
        }


def _by_level(rows: pd.DataFrame, columns: Iterable[str]) -> Iterator[tuple[str, dict[str, int]]]:
    for name in columns:
        if rows[name].isna().all():
            continue
        counts = rows[name].fillna("not known").value_counts().sort_index()
        counts = counts.sort_values(ascending=False, kind="stable")
        levels = {str(level): int(n) for level, n in counts.head(LISTED_LEVELS).items()}
        if rest := int(counts.iloc[LISTED_LEVELS:].sum()):
            levels[f"{len(counts) - LISTED_LEVELS} others"] = rest
        yield name, levels


def plane(rows: pd.DataFrame) -> pd.Series:
    """``axial``, ``coronal``, ``sagittal`` by the thickest axis; None where none is `THICK`."""
    found: list[str | None] = []
    for row in rows[["spacing_i_mm", "spacing_j_mm", "spacing_k_mm", "orientation"]].itertuples():
        edges_mm = row[1:4]
        if not isinstance(row.orientation, str):
            found.append(None)
            continue
        axis = max(range(3), key=lambda axis: edges_mm[axis])
        others = max(edges_mm[other] for other in range(3) if other != axis)
        name = _PLANE.get(row.orientation[axis], "sagittal")
        found.append(name if edges_mm[axis] >= THICK * others else "isotropic")
    return pd.Series(found, index=rows.index, dtype=object)

"""Values of companions, one row each, out of what measure has of them beside every volume."""

from __future__ import annotations

import pyarrow as pa

from cohortvol.store.companions import from_json
from cohortvol.store.schemas import COMPANIONS, VOLUMES
from cohortvol.store.tables import append_rows, to_arrow

_OF_ALL = ("scan_id", "model", "profile", "structure", "label", "qc")
FOLDED = {name: VOLUMES[name] for name in (*_OF_ALL, "companions")}
"""Columns of VOLUMES that the table COMPANIONS is made of."""


def unfolded(volumes: pa.Table) -> pa.Table:
    """Rows of COMPANIONS out of some with the columns `FOLDED`, in their order."""
    rows = [
        {**{name: row[name] for name in _OF_ALL}, "companion": companion, **values}
        for row in volumes.to_pylist()
        for companion, values in from_json(row["companions"]).items()
    ]
    found = append_rows(rows, COMPANIONS)
    counts = {name: found[name].astype("Int64") for name in ("label", "n_voxels")}
    return to_arrow(found.assign(**counts), COMPANIONS)

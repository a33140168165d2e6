"""Values of companions, one row each, out of what measure has of them beside every volume."""

from __future__ import annotations

import pandas as pd
import pyarrow as pa

from cohortvol.store.companions import from_json
from cohortvol.store.schemas import COMPANIONS
from cohortvol.store.tables import append_rows, to_arrow

_KEYS = ("scan_id", "model", "profile", "structure", "label")
_ROWS_AT_ONCE = 1 << 16


def companion_values(volumes: pa.Table, qc: pd.Series) -> pa.Table | None:
    """The table COMPANIONS; None where no scan has one.

    Parameters
    ----------
    volumes : pyarrow.Table
        The table VOLUMES of the cohort, in its order.
    qc : pandas.Series
        Verdict on each of its rows.
    """
    if volumes["companions"].null_count == len(volumes):
        return None
    table = volumes.select([*_KEYS, "companions"]).append_column("qc", to_arrow(
        qc.to_frame("qc"), {"qc": COMPANIONS["qc"]})["qc"])  # fmt: skip
    return pa.concat_tables(map(_unfolded, table.to_batches(max_chunksize=_ROWS_AT_ONCE)))


def _unfolded(batch: pa.RecordBatch) -> pa.Table:
    rows = [
        {**{name: row[name] for name in (*_KEYS, "qc")}, "companion": companion, **values}
        for row in batch.to_pylist()
        for companion, values in from_json(row["companions"]).items()
    ]
    found = append_rows(rows, COMPANIONS)
    counts = {name: found[name].astype("Int64") for name in ("label", "n_voxels")}
    return to_arrow(found.assign(**counts), COMPANIONS)

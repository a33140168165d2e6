"""Agreement with another model: the shards as one table, and the structures it casts doubt on."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from cohortvol.stages.assemble.outliers import with_code
from cohortvol.store.schemas import AGREEMENT
from cohortvol.store.tables import append_rows, read_arrow, to_arrow, to_pandas


def read_agreement(folder: Path, shards: Iterable[str], volumes: pa.Table) -> pd.DataFrame:
    """Agreement of the scans that have volumes, sorted by scan_id.

    Raises
    ------
    TableError
        If a shard was not compared.
    """
    empty = to_arrow(append_rows([], AGREEMENT), AGREEMENT)
    tables = [read_arrow(folder / f"{shard}.parquet", AGREEMENT) for shard in shards]
    agreement = to_pandas(pa.concat_tables([empty, *tables]))
    kept = agreement[agreement["scan_id"].isin(volumes["scan_id"].unique().to_pylist())]
    return kept.sort_values("scan_id", kind="stable", ignore_index=True)


def flagged(volumes: pa.Table, agreement: pd.DataFrame, min_dice: float) -> pa.Table:
    """Volumes with QC_DISAGREE where the overlap is below `min_dice`.

    A structure that the model itself did not find has QC_ABSENT already; the agreement table
    says whether the other did. Scans that could not be compared are QC_NOT_COMPARED, a note.
    """
    apart = agreement[agreement["dice"] < min_dice]
    rows = np.flatnonzero(_of_scans(volumes, apart["scan_id"]))
    in_doubt = volumes.select(["scan_id", "structure", "volume_ml"]).take(rows).to_pandas()
    keys = pd.MultiIndex.from_frame(in_doubt[["scan_id", "structure"]])
    disagree = keys.isin(pd.MultiIndex.from_frame(apart[["scan_id", "structure"]]))
    which = np.zeros(len(volumes), dtype=bool)
    which[rows[disagree & in_doubt["volume_ml"].notna().to_numpy()]] = True
    alone = _of_scans(volumes, agreement.loc[agreement["reason"].notna(), "scan_id"])
    return _with_note(with_code(volumes, which, "QC_DISAGREE"), alone)


def _of_scans(volumes: pa.Table, scan_ids: pd.Series) -> np.ndarray:
    """Which rows are of these scans."""
    wanted = pa.array(scan_ids.unique(), pa.string())
    return np.asarray(pc.is_in(volumes["scan_id"], wanted).to_numpy(), dtype=bool)


def _with_note(volumes: pa.Table, which: np.ndarray) -> pa.Table:
    """Volumes with QC_NOT_COMPARED in some rows, their ``qc`` being left as it is."""
    qc = volumes["qc"]
    noted = with_code(volumes, which, "QC_NOT_COMPARED")
    return noted.set_column(noted.column_names.index("qc"), noted.schema.field("qc"), qc)

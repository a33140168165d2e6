"""Agreement with another model: the structures it casts doubt on."""

from __future__ import annotations

import numpy as np
import pandas as pd

from cohortvol.stages.assemble.outliers import with_code


def flagged(volumes: pd.DataFrame, agreement: pd.DataFrame, min_dice: float) -> pd.DataFrame:
    """Volumes with QC_DISAGREE where the overlap is below `min_dice`.

    A structure that the model itself did not find has QC_ABSENT already; the agreement table
    says whether the other did. Scans that could not be compared are QC_NOT_COMPARED, a note.

    Parameters
    ----------
    volumes : pandas.DataFrame
        ``scan_id, structure, volume_ml, qc, qc_flags``, texts as categories.
    agreement : pandas.DataFrame
        ``scan_id, structure, dice, reason``, likewise, of the same scans.
    """
    apart = agreement[agreement["dice"] < min_dice]
    rows = np.flatnonzero(_of_scans(volumes, apart))
    in_doubt = volumes.iloc[rows]
    disagree = np.isin(_keys(in_doubt, volumes), _keys(apart, volumes))
    which = np.zeros(len(volumes), dtype=bool)
    which[rows[disagree & in_doubt["volume_ml"].notna().to_numpy()]] = True
    alone = _of_scans(volumes, agreement[agreement["reason"].notna()])
    in_doubt_too = with_code(volumes, which, "QC_DISAGREE")
    return with_code(in_doubt_too, alone, "QC_NOT_COMPARED").assign(qc=in_doubt_too["qc"])


def _of_scans(volumes: pd.DataFrame, some: pd.DataFrame) -> np.ndarray:
    """Which rows are of the scans of some others."""
    theirs = np.zeros(len(volumes["scan_id"].cat.categories), dtype=bool)
    theirs[some["scan_id"].cat.codes.unique()] = True
    which: np.ndarray = theirs[volumes["scan_id"].cat.codes]
    return which


def _keys(rows: pd.DataFrame, volumes: pd.DataFrame) -> np.ndarray:
    """A number for each scan and structure, as `volumes` knows them; negative for no such one."""
    structures = volumes["structure"].cat.categories
    place = np.append(structures.get_indexer(rows["structure"].cat.categories), -1)
    structure = place[rows["structure"].cat.codes]
    scan = rows["scan_id"].cat.codes.to_numpy(dtype=np.int64)
    return np.where(structure < 0, -1, scan * len(structures) + structure)

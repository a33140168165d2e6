"""Scans of which one axis has another scale than the cohort's: a voxel size that is wrong.

A body is large or small along all axes at once, nearly; a slice step that is not what the header
says stretches every organ along one axis and along that one alone.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from cohortvol.anatomy.geometry import FACES
from cohortvol.stages.assemble.following import mark
from cohortvol.stages.assemble.outliers import MAD_TO_SD

CODE = "QC_SCALE"
MIN_STRUCTURES = 2
"""Structures that must lie whole in a scan for it to be judged."""
MIN_SCANS = 30
"""Scans with such structures, from which on there is something usual."""
MAX_Z = 4.0
LEAST_LOG = np.log(1.12)
"""Factors nearer to 1 are not told from bodies, whatever their z."""

AXES = ("left to right", "back to front", "feet to head")
_AXIS_OF = {letter: axis for axis, ends in enumerate(FACES) for letter in ends}


def usual_factors(volumes: pa.Table, scans: pd.DataFrame) -> pd.DataFrame:
    """By what each axis of a scan would have to be multiplied for its organs to be as usual.

    Of every structure that lies whole in a scan, the extent along each axis is compared with the
    mean of the three, as logarithms, and that with the median of the cohort. A scan's factor along
    an axis is the mean of its structures, each by the inverse of its variance in the cohort.

    Parameters
    ----------
    volumes : pyarrow.Table
        Columns ``scan_id, structure, status, bbox`` of the table VOLUMES.
    scans : pandas.DataFrame
        ``scan_id``, ``orientation``, ``spacing_i_mm`` and so on, one row per scan.

    Returns
    -------
    pandas.DataFrame
        By scan_id, of those that can be judged: ``axis`` (0 to 2, the one that is furthest off),
        ``factor`` and ``z``, how far off it is in robust standard deviations of the cohort.
    """
    found = _shapes(volumes, scans)
    log_off = _log_off(found)
    if len(log_off) < MIN_SCANS:
        return pd.DataFrame({"axis": [], "factor": [], "z": []})
    spread = MAD_TO_SD * log_off.abs().median()
    z = log_off / spread.where(spread > 0)
    axis = z.abs().fillna(0.0).to_numpy().argmax(axis=1)
    rows = np.arange(len(log_off))
    return pd.DataFrame(
        {
            "axis": axis,
            "factor": np.exp(-log_off.to_numpy()[rows, axis]),
            "z": z.to_numpy()[rows, axis],
        },
        index=log_off.index,
    )


def off_scale(volumes: pa.Table, scans: pd.DataFrame) -> pd.Series:
    """What would make a scan usual, by scan_id, of those that are `MAX_Z` off and `LEAST_LOG`.

    Such as ``feet to head x 1.54``.
    """
    judged = usual_factors(volumes, scans)
    far = (judged["z"].abs() > MAX_Z) & (np.log(judged["factor"]).abs() > LEAST_LOG)
    judged = judged[far]
    words = [f"{AXES[int(row.axis)]} x {row.factor:.2f}" for row in judged.itertuples()]
    return pd.Series(words, index=judged.index, dtype=object)


def marked_off_scale(scans: pd.DataFrame, off: pd.Series) -> pd.DataFrame:
    """The scans with `CODE` among the warnings of those that are `off_scale`, and what is said."""
    said = scans["scan_id"].map(off)
    return mark(scans, said.notna(), CODE).assign(usual_scale=said)


def _shapes(volumes: pa.Table, scans: pd.DataFrame) -> pd.DataFrame:
    """Log extents along R, A and S, less their mean, of the structures that lie whole."""
    whole = volumes.filter(pc.and_(pc.equal(volumes["status"], "ok"), pc.is_valid(volumes["bbox"])))
    bounds = np.array(whole["bbox"].to_pylist(), dtype=float).reshape(-1, 6)
    n_voxels = bounds[:, 1::2] - bounds[:, ::2] + 1
    grids = scans.set_index("scan_id")
    place = grids.index.get_indexer(whole["scan_id"].to_pylist())
    edges_mm = grids[[f"spacing_{axis}_mm" for axis in "ijk"]].to_numpy(float)[place]
    codes = grids["orientation"].fillna("RAS").to_numpy()[place]
    order = np.array([[_AXIS_OF[letter] for letter in one] for one in codes], int).reshape(-1, 3)
    log_mm = np.zeros_like(edges_mm)
    np.put_along_axis(log_mm, order, np.log(n_voxels * edges_mm), axis=1)
    shapes = pd.DataFrame(log_mm - log_mm.mean(axis=1, keepdims=True))
    shapes["scan_id"], shapes["structure"] = (
        whole["scan_id"].to_pylist(),
        whole["structure"].to_pylist(),
    )
    return shapes


def _log_off(shapes: pd.DataFrame) -> pd.DataFrame:
    """Log factor that each axis of a scan is off, of scans with enough structures."""
    axes = [0, 1, 2]
    by_structure = shapes.groupby("structure")[axes]
    off = shapes[axes] - by_structure.transform("median")
    variance = (MAD_TO_SD * off.abs().groupby(shapes["structure"]).transform("median")) ** 2
    weight = (1 / variance.mean(axis=1)).where(variance.mean(axis=1) > 0)
    weighted = off.mul(weight, axis=0).assign(weight=weight, n=weight.notna())
    sums = weighted.groupby(shapes["scan_id"]).sum()
    sums = sums[sums["n"] >= MIN_STRUCTURES]
    # One axis stretched by f moves it by 2/3 log f from the mean of the three.
    return 1.5 * sums[axes].div(sums["weight"], axis=0)

"""Scans of which one axis has another scale than the cohort's: a voxel size that is wrong.

A body is large or small along all axes at once, nearly; a slice step that is not what the header
says stretches every organ along one axis and along that one alone. So the organs of a scan are
asked, and the other scans of the same site and sequence, of which most have one step.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from cohortvol.anatomy.geometry import FACES
from cohortvol.stages.assemble.following import mark
from cohortvol.stages.assemble.outliers import MAD_TO_SD
from cohortvol.stages.assemble.rows import BOX

CODE = "QC_SCALE"
MIN_STRUCTURES = 2
"""Structures that must lie whole in a scan for it to be judged by its organs alone."""
MIN_SCANS = 30
"""Scans with such structures, or of one site and sequence, from which on there is something
usual."""
MAX_Z = 4.0
LEAST_LOG = np.log(1.12)
"""Factors nearer to 1 are not told from bodies, whatever their z."""
OF_NEIGHBOURS = 0.9
"""Share of the scans of a site and sequence that must have one step for another to be odd."""
SAME_STEP = 0.01  # relative

AXES = ("left to right", "back to front", "feet to head")
_AXIS_OF = {letter: axis for axis, ends in enumerate(FACES) for letter in ends}
_EDGES = ["spacing_i_mm", "spacing_j_mm", "spacing_k_mm"]


def off_scale(volumes: pd.DataFrame, scans: pd.DataFrame) -> pd.Series:
    """What would make a scan usual, such as ``feet to head x 1.54``, by scan_id.

    Of those that are `MAX_Z` and `LEAST_LOG` off by their organs; and of those with another step
    than their neighbours, unless their organs speak for the step that they have.

    Parameters
    ----------
    volumes : pandas.DataFrame
        ``scan_id, structure, status``, as categories, and `BOX`.
    scans : pandas.DataFrame
        ``scan_id, site, sequence, orientation, spacing_i_mm`` and so on, one row per scan.
    """
    log_off = _log_off(volumes, scans)
    by_organs, by_step = _judged(log_off), steps_of_neighbours(scans)
    far = (by_organs["z"].abs() > MAX_Z) & (np.log(by_organs["factor"]).abs() > LEAST_LOG)
    odd = by_step[~_organs_speak_for(by_step, log_off)]
    found = pd.concat([by_organs[far], odd[~odd.index.isin(by_organs.index[far])]])
    words = [f"{AXES[int(row.axis)]} x {row.factor:.2f}" for row in found.itertuples()]
    return pd.Series(words, index=found.index, dtype=object)


def usual_factors(volumes: pd.DataFrame, scans: pd.DataFrame) -> pd.DataFrame:
    """By what each axis of a scan would have to be multiplied for its organs to be as usual.

    Of every structure that lies whole in a scan, the extent along each axis is compared with the
    mean of the three, as logarithms, and that with the median of the cohort. A scan's factor along
    an axis is the mean of its structures, each by the inverse of its variance in the cohort.

    Parameters
    ----------
    volumes, scans
        As in `off_scale`.

    Returns
    -------
    pandas.DataFrame
        By scan_id, of those that can be judged: ``axis`` (0 to 2, the one that is furthest off),
        ``factor`` and ``z``, how far off it is in robust standard deviations of the cohort.
    """
    return _judged(_log_off(volumes, scans))


def steps_of_neighbours(scans: pd.DataFrame) -> pd.DataFrame:
    """Scans whose step is another than nearly all of the same site and sequence have.

    The step is the longest edge of a voxel; scans that are sliced along another axis of the body
    are no neighbours.

    Returns
    -------
    pandas.DataFrame
        By scan_id: ``axis`` along which the slices follow one another, and ``factor`` by which the
        step would have to be multiplied to be that of the neighbours.
    """
    edges_mm = _along_body(scans[_EDGES].to_numpy(float), scans["orientation"])
    steps = scans[["scan_id", "site", "sequence"]].assign(
        axis=np.nan_to_num(edges_mm, nan=-1.0).argmax(axis=1), step_mm=edges_mm.max(axis=1)
    )
    group = steps.groupby(["site", "sequence", "axis"], dropna=False).ngroup()
    alike = steps["step_mm"].groupby(group)
    steps["factor"] = alike.transform("median") / steps["step_mm"]
    is_usual = (steps["factor"] - 1).abs() < SAME_STEP
    share = is_usual.groupby(group).transform("mean")
    is_odd = np.log(steps["factor"]).abs() > LEAST_LOG
    found = steps[is_odd & (alike.transform("size") >= MIN_SCANS) & (share >= OF_NEIGHBOURS)]
    return found.set_index("scan_id")[["axis", "factor"]]


def _organs_speak_for(by_step: pd.DataFrame, log_off: pd.DataFrame) -> pd.Series:
    """Whether the organs of a scan are nearer to the usual with its own step than with that of
    its neighbours; not where none lies whole."""
    off = log_off.reindex(by_step.index)[[0, 1, 2]].to_numpy(float)
    along = off[np.arange(len(off)), by_step["axis"].to_numpy(int)]
    return np.abs(along) < np.abs(along + np.log(by_step["factor"]))


def marked_off_scale(scans: pd.DataFrame, off: pd.Series) -> pd.DataFrame:
    """The scans with `CODE` among the warnings of those that are `off_scale`, and what is said."""
    said = scans["scan_id"].map(off)
    return mark(scans, said.notna(), CODE).assign(usual_scale=said)


def _judged(log_off: pd.DataFrame) -> pd.DataFrame:
    log_off = log_off.loc[log_off["n"] >= MIN_STRUCTURES, [0, 1, 2]]
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


def _along_body(along_array: np.ndarray, orientations: pd.Series) -> np.ndarray:
    """(n, 3) what is given along i, j and k, along R, A and S."""
    codes = orientations.fillna("RAS")
    order = np.array([[_AXIS_OF[letter] for letter in one] for one in codes], int).reshape(-1, 3)
    along = np.zeros_like(along_array)
    np.put_along_axis(along, order, along_array, axis=1)
    return along


def _log_off(volumes: pd.DataFrame, scans: pd.DataFrame) -> pd.DataFrame:
    """Log factor that each axis of a scan is off, and ``n`` structures that say so, by scan_id."""
    scan_ids = volumes["scan_id"].cat.categories
    grids = scans.set_index("scan_id").reindex(scan_ids)
    edges_mm = grids[_EDGES].to_numpy(float)
    scan, structure = (volumes[name].cat.codes.to_numpy() for name in ("scan_id", "structure"))
    box = [volumes[name].to_numpy() for name in BOX]
    whole = (volumes["status"] == "ok").to_numpy() & (box[0] > 0)
    sums, n = np.zeros((len(scan_ids), 4)), np.zeros(len(scan_ids), int)
    has_whole = np.zeros(len(scan_ids), dtype=bool)
    for code in range(len(volumes["structure"].cat.categories)):
        rows = np.flatnonzero(whole & (structure == code))
        of_scan = scan[rows]
        has_whole[of_scan] = True
        mm = np.column_stack([along[rows] for along in box]) * edges_mm[of_scan]
        log_mm = _along_body(np.log(mm), grids["orientation"].iloc[of_scan])
        shape = log_mm - log_mm.mean(axis=1, keepdims=True)
        off = shape - np.median(shape, axis=0) if len(rows) else shape
        variance = np.mean((MAD_TO_SD * np.median(np.abs(off), axis=0)) ** 2) if len(rows) else 0.0
        if variance > 0:
            np.add.at(sums, of_scan, np.column_stack([off, np.ones(len(rows))]) / variance)
            np.add.at(n, of_scan, 1)
    with np.errstate(invalid="ignore"):
        # One axis stretched by f moves it by 2/3 log f from the mean of the three.
        log_off = 1.5 * sums[:, :3] / sums[:, 3:]
    return pd.DataFrame(log_off, index=scan_ids).assign(n=n)[has_whole]

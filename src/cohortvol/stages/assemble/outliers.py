"""Volumes far from the rest of the cohort: a robust score beside age and sex, without a model.

The score is for people who look at label maps. It takes no volume out of the trends, which would
then be trimmed by residuals of their own fit.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

MAX_Z = 5.0
"""Beyond it a volume is flagged. Of 80 structures of 10,000 people, normal deviates pass it in 5
scans or so by chance, 4 in 500."""

MIN_SCANS = 30
"""Usable volumes of one sex from which on a structure is scored."""

MAD_TO_SD = 1.4826
"""Standard deviation of a normal distribution over its median absolute deviation."""

_DECIMALS = 3
_SEXES = ("F", "M")


def outlier_z(volumes: pa.Table, scans: pd.DataFrame, min_scans: int = MIN_SCANS) -> np.ndarray:
    """Robust z of every volume in its cohort.

    For each structure: the logarithm of the volume, minus a resistant line in age for each sex
    (`resistant_line`), over the median absolute deviation of these residuals in both sexes, as
    a standard deviation. Line and deviation come from volumes that are neither cut nor excluded;
    every volume is scored. Where the age is unknown that of the middle of the sex stands in, and
    scans of unknown sex are a group of their own. Nothing depends on the order of the rows.

    Parameters
    ----------
    volumes : pyarrow.Table
        Columns ``scan_id, structure, volume_ml, status, qc`` of the table VOLUMES.
    scans : pandas.DataFrame
        ``scan_id, age_years, sex``, one row per scan.
    min_scans : int
        Least volumes of a sex that a line and a deviation are taken from.

    Returns
    -------
    (rows,) float array
        NaN where there is no volume, or too few to compare it with.
    """
    place = np.asarray(pc.index_in(volumes["scan_id"], pa.array(scans["scan_id"], pa.string())))
    age_years = scans["age_years"].to_numpy(dtype=float, na_value=np.nan)[place]
    sex = scans["sex"].map({name: n for n, name in enumerate(_SEXES)}).fillna(len(_SEXES))
    sex_of_row = sex.to_numpy(dtype=np.int8)[place]
    with np.errstate(invalid="ignore", divide="ignore"):
        log_ml = np.log(volumes["volume_ml"].to_numpy())
    log_ml[~np.isfinite(log_ml)] = np.nan
    whole = pc.and_(pc.equal(volumes["status"], "ok"), pc.not_equal(volumes["qc"], "exclude"))
    usable = np.asarray(whole.to_numpy(), dtype=bool) & ~np.isnan(log_ml)
    codes = _codes(volumes["structure"])
    z = np.full(len(volumes), np.nan)
    order = np.argsort(codes, kind="stable")
    for rows in np.split(order, np.flatnonzero(np.diff(codes[order])) + 1):
        z[rows] = _of_structure(
            log_ml[rows], age_years[rows], sex_of_row[rows], usable[rows], min_scans
        )
    return np.round(z, _DECIMALS)


def _codes(names: pa.ChunkedArray) -> np.ndarray:
    return np.asarray(names.combine_chunks().dictionary_encode().indices)


def _of_structure(
    log_ml: np.ndarray, age_years: np.ndarray, sex: np.ndarray, usable: np.ndarray, min_scans: int
) -> np.ndarray:
    residual = np.full(len(log_ml), np.nan)
    for group in range(len(_SEXES) + 1):
        here = sex == group
        fitted = here & usable
        if fitted.sum() < max(min_scans, 1):
            continue
        known = fitted & ~np.isnan(age_years)
        middle = float(np.median(age_years[known])) if known.any() else 0.0
        years = np.where(np.isnan(age_years), middle, age_years) - middle
        slope = resistant_line(years[known], log_ml[known]) if known.any() else 0.0
        flat = log_ml - slope * years
        residual[here] = flat[here] - np.median(flat[fitted])
    spread = residual[usable & ~np.isnan(residual)]
    deviation = MAD_TO_SD * float(np.median(np.abs(spread))) if spread.size else 0.0
    return residual / deviation if deviation > 0 else np.full(len(log_ml), np.nan)


def resistant_line(x: np.ndarray, y: np.ndarray) -> float:
    """Slope of the line through the medians of the lowest and the highest third of x.

    Equal x are never parted, so the order of the points does not matter. One third of bad
    points, if not most of them at one end, leaves the slope sound. 0 where x does not vary.

    Notes
    -----
    The first step of Tukey's resistant line (Exploratory Data Analysis, 1977, chapter 10).
    """
    low, high = np.quantile(x, [1 / 3, 2 / 3], method="nearest")
    left, right = x <= low, x >= high
    run = float(np.median(x[right]) - np.median(x[left]))
    return float(np.median(y[right]) - np.median(y[left])) / run if run > 0 else 0.0


def with_outliers(volumes: pa.Table, z: np.ndarray, max_z: float = MAX_Z) -> pa.Table:
    """The table with the column ``outlier_z``, and QC_OUTLIER_COHORT where it is beyond `max_z`.

    A cut volume is a lower bound, so it can only be too large.
    """
    cut = pc.fill_null(volumes["cut_by_fov"], False).to_numpy()
    beyond = (z > max_z) | ((z < -max_z) & ~np.asarray(cut, dtype=bool))
    scored = volumes.set_column(
        volumes.column_names.index("outlier_z"),
        volumes.schema.field("outlier_z"),
        pa.array(z, pa.float64(), from_pandas=True),
    )
    return with_code(scored, beyond, "QC_OUTLIER_COHORT")


def with_code(volumes: pa.Table, which: np.ndarray, code: str) -> pa.Table:
    """The table with a QC code more in some rows, of which those that passed are then ``flag``."""
    mask = pa.array(which)
    old = volumes.select(["qc", "qc_flags"]).filter(mask).to_pylist()
    new = {
        "qc": ["flag" if row["qc"] == "pass" else row["qc"] for row in old],
        "qc_flags": [f"{row['qc_flags']};{code}" if row["qc_flags"] else code for row in old],
    }
    for name, values in new.items():
        column = volumes[name].combine_chunks()
        volumes = volumes.set_column(
            volumes.column_names.index(name),
            volumes.schema.field(name),
            pc.replace_with_mask(column, mask, pa.array(values, pa.string())),
        )
    return volumes

"""Volumes far from the rest of the cohort: a robust score beside age and sex, without a model.

The score is for people who look at label maps. It takes no volume out of the trends, which would
then be trimmed by residuals of their own fit.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

MAX_Z = 5.0
"""Beyond it a volume is flagged. Of 80 structures of 10,000 people, normal deviates pass it in 5
scans or so by chance, 4 in 500."""

MIN_SCANS = 30
"""Usable volumes of one sex from which on a structure is scored."""

MAD_TO_SD = 1.4826
"""Standard deviation of a normal distribution over its median absolute deviation."""

_DECIMALS = 3
_SEXES = ("F", "M")


def outlier_z(volumes: pd.DataFrame, scans: pd.DataFrame, min_scans: int = MIN_SCANS) -> np.ndarray:
    """Robust z of every volume in its cohort.

    For each structure: the logarithm of the volume, minus a resistant line in age for each sex
    (`resistant_line`), over the median absolute deviation of these residuals in both sexes, as
    a standard deviation. Line and deviation come from volumes that are neither cut nor excluded;
    every volume is scored. Where the age is unknown that of the middle of the sex stands in, and
    scans of unknown sex are a group of their own. Nothing depends on the order of the rows.

    Parameters
    ----------
    volumes : pandas.DataFrame
        ``scan_id, structure, volume_ml, status, qc``, texts as categories.
    scans : pandas.DataFrame
        ``scan_id, age_years, sex``, one row per scan.
    min_scans : int
        Least volumes of a sex that a line and a deviation are taken from.

    Returns
    -------
    (rows,) float array
        NaN where there is no volume, or too few to compare it with.
    """
    age_years = scans["age_years"].to_numpy(dtype=float, na_value=np.nan)
    sex = scans["sex"].map({name: n for n, name in enumerate(_SEXES)}).fillna(len(_SEXES))
    sex_of_scan = sex.to_numpy(dtype=np.int8)
    places = pd.Index(scans["scan_id"]).get_indexer(volumes["scan_id"].cat.categories)
    scan = volumes["scan_id"].cat.codes.to_numpy()
    volume_ml = volumes["volume_ml"].to_numpy()
    whole = ((volumes["status"] == "ok") & (volumes["qc"] != "exclude")).to_numpy()
    structure = volumes["structure"].cat.codes.to_numpy()
    z = np.full(len(volumes), np.nan)
    for code in range(len(volumes["structure"].cat.categories)):
        rows = np.flatnonzero(structure == code)
        of_scan = places[scan[rows]]
        with np.errstate(invalid="ignore", divide="ignore"):
            log_ml = np.log(volume_ml[rows])
        log_ml[~np.isfinite(log_ml)] = np.nan
        usable = whole[rows] & ~np.isnan(log_ml)
        z[rows] = _of_structure(
            log_ml, age_years[of_scan], sex_of_scan[of_scan], usable, min_scans
        ).round(_DECIMALS)
    return z


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


def with_outliers(volumes: pd.DataFrame, z: np.ndarray, max_z: float = MAX_Z) -> pd.DataFrame:
    """Volumes with the column ``outlier_z``, and QC_OUTLIER_COHORT where it is beyond `max_z`.

    A cut volume is a lower bound, so it can only be too large.
    """
    beyond = (z > max_z) | ((z < -max_z) & ~volumes["cut_by_fov"].to_numpy())
    return with_code(volumes.assign(outlier_z=z), beyond, "QC_OUTLIER_COHORT")


def with_code(volumes: pd.DataFrame, which: np.ndarray, code: str) -> pd.DataFrame:
    """Volumes with a QC code more in some rows, of which those that passed are then ``flag``."""
    qc = volumes["qc"].mask(which & (volumes["qc"] == "pass"), "flag")
    return volumes.assign(qc=qc, qc_flags=_with_more(volumes["qc_flags"], which, code))


def _with_more(flags: pd.Series, which: np.ndarray, code: str) -> pd.Categorical:
    """Lists of codes, joined by ``;``, of which some have a code more."""
    texts = [*flags.cat.categories, ""]  # the last for null, of which the place is -1
    codes = flags.cat.codes.to_numpy(dtype=np.int32)
    longer = {place: f"{texts[place]};{code}".strip(";") for place in np.unique(codes[which])}
    known = dict.fromkeys([*texts[:-1], *longer.values()])
    levels = {text: place for place, text in enumerate(known)}
    to = np.full(len(texts), -1)
    to[list(longer)] = [levels[text] for text in longer.values()]
    codes[which] = to[codes[which]]
    return pd.Categorical.from_codes(codes, pd.Index(list(levels), dtype=object))

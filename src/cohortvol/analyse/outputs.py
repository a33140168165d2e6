"""Schema of every table the analysis writes."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from cohortvol.files import commit_text
from cohortvol.tables import (
    Column,
    csv_text,
    flag,
    real,
    text,
    to_arrow,
    to_pandas,
    whole,
    write_table,
)

_STRUCTURE = Column(text, "anatomical structure, as in the volumes table")
_SEX = Column(text, "all, F or M")
_MODEL = Column(text, "M1: ln(volume) on age x sex; M2: with ln(height) and ln(BMI) besides")
_USED = Column(whole, "scans used")
_DROPPED = Column(whole, "scans of this sex in the scans table that are not used")
_P = "null where it cannot be estimated"

SCHEMAS: dict[str, dict[str, Column]] = {
    "analyse/slopes": {
        "structure": _STRUCTURE,
        "sex": _SEX,
        "model": _MODEL,
        "slope_pct_per_decade": Column(real, "100 (exp(b) - 1), % per decade of age"),
        "slope_pct_per_decade_ci_low": Column(real, "lower 95 % limit, % per decade"),
        "slope_pct_per_decade_ci_high": Column(real, "upper 95 % limit, % per decade"),
        "slope_ml_per_decade": Column(real, "same design, volume in mL: mL per decade of age"),
        "slope_ml_per_decade_ci_low": Column(real, "lower 95 % limit, mL per decade"),
        "slope_ml_per_decade_ci_high": Column(real, "upper 95 % limit, mL per decade"),
        "p_value": Column(real, f"two-sided p of the % slope; {_P}; 0 below about 1e-308"),
        "log10_p": Column(real, "base-10 logarithm of p_value, which does not underflow"),
        "q_value": Column(real, "Benjamini-Hochberg over all slopes of the model"),
        "n_used": _USED,
        "n_dropped": _DROPPED,
        "mean_volume_ml": Column(real, "arithmetic mean of the volumes used, mL"),
        "se_kind": Column(text, "HC3, or cluster where a subject has several scans"),
        "note": Column(text, "why there is no estimate, or how to read it; null if nothing"),
    },
    "analyse/interactions": {
        "structure": _STRUCTURE,
        "model": _MODEL,
        "difference_pct_per_decade": Column(
            real, "100 (exp(b_M - b_F) - 1): change per decade of M relative to F, %"
        ),
        "difference_pct_per_decade_ci_low": Column(real, "lower 95 % limit, %"),
        "difference_pct_per_decade_ci_high": Column(real, "upper 95 % limit, %"),
        "p_value": Column(real, f"two-sided p of age x sex; {_P}"),
        "log10_p": Column(real, "base-10 logarithm of p_value"),
        "q_value": Column(real, "Benjamini-Hochberg over all interactions of the model"),
        "n_used": Column(whole, "scans of both sexes used; 0 where one sex has no slope"),
        "note": Column(text, "why there is no estimate, or how to read it; null if nothing"),
    },
    "analyse/correlations": {
        "structure": _STRUCTURE,
        "sex": _SEX,
        "spearman_rho": Column(real, "Spearman correlation of volume with age"),
        "p_value": Column(real, f"two-sided p of spearman_rho; {_P}"),
        "p_bonferroni": Column(real, "p_value x number of structures in this stratum, at most 1"),
        "pearson_r": Column(real, "Pearson correlation of volume in mL with age"),
        "pearson_p_value": Column(real, "two-sided p of pearson_r"),
        "n_used": _USED,
        "n_dropped": _DROPPED,
        "note": Column(text, "why there is no estimate, or how to read it; null if nothing"),
    },
    "analyse/curves": {
        "structure": _STRUCTURE,
        "sex": Column(text, "F or M"),
        "model": Column(text, "M1, or spline: natural cubic, knots in analyse.json"),
        "age_years": Column(real, "age, years; 1st to 99th percentile of the ages used"),
        "volume_ml": Column(real, "exp(mean of ln(volume)) at that age, mL"),
        "volume_ml_ci_low": Column(real, "lower 95 % limit of that mean, mL"),
        "volume_ml_ci_high": Column(real, "upper 95 % limit of that mean, mL"),
    },
    "analyse/summary": {
        "structure": _STRUCTURE,
        "sex": _SEX,
        "n": Column(whole, "scans used"),
        "median_ml": Column(real, "median volume, mL; null with too few scans to print"),
        "q25_ml": Column(real, "25th percentile, mL"),
        "q75_ml": Column(real, "75th percentile, mL"),
        "p5_ml": Column(real, "5th percentile, mL"),
        "p95_ml": Column(real, "95th percentile, mL"),
    },
    "analyse/dropped": {
        "structure": _STRUCTURE,
        "reason": Column(text, "first reason that holds why a scan is not used"),
        "n": Column(whole, "scans"),
    },
    "analyse/table1": {
        "variable": Column(text, "scans, subjects, age_years, height_cm, bmi, site, ..."),
        "level": Column(text, "median (IQR), a level, other or missing"),
        "group": Column(text, "all, F or M"),
        "value": Column(text, "the cell as printed; <5 where a count is suppressed"),
        "n": Column(whole, "scans behind the cell; null where it is suppressed"),
    },
    "analyse/flow": {
        "step": Column(
            text,
            "manifest, quarantined, skipped, failed, done, unusable, kept (among the usable), "
            "usable for trends, with height and weight",
        ),
        "reason": Column(text, "reason code, or why unusable; null where the step is a total"),
        "n": Column(whole, "scans"),
    },
    "analyse/centiles": {
        "structure": _STRUCTURE,
        "sex": Column(text, "F or M"),
        "age_years": Column(
            real, "age, years; 1st to 99th percentile of the ages used; null without centiles"
        ),
        **{
            f"p{c}_ml": Column(real, f"centile {c} of the volume by LMS, mL")
            for c in (5, 25, 50, 75, 95)
        },
        **{
            f"quantile_p{c}_ml": Column(real, f"centile {c} by quantile regression, mL")
            for c in (5, 25, 50, 75, 95)
        },
        "sparse": Column(flag, "fewer than 50 subjects within 2.5 years to either side"),
        "n_used": Column(whole, "subjects, each with the usable scan at the lowest age"),
        "note": Column(text, "why there are no centiles; null if nothing"),
    },
    "analyse/calibration": {
        "structure": _STRUCTURE,
        "sex": Column(text, "F or M"),
        "method": Column(text, "lms or quantile"),
        "age_low_years": Column(real, "least age of the band, a quarter of the subjects, years"),
        "age_high_years": Column(real, "greatest age of the band, years"),
        "centile": Column(whole, "centile as claimed, %"),
        "observed_pct": Column(real, "subjects of the band below the centile, %"),
        "difference_points": Column(real, "observed minus claimed, percentage points"),
        "n_band": Column(whole, "subjects of the band"),
        "n_used": Column(whole, "subjects that the centiles are fitted to"),
    },
    "analyse/within_between": {
        "structure": _STRUCTURE,
        "sex": _SEX,
        "model": Column(text, "M1: age and sex; M2: with ln(height) and ln(BMI) of the person"),
        **{
            f"{name}_pct_per_decade{end}": Column(real, f"{what} {limit}, % per decade")
            for name, what in (
                ("between", "slope between people of different mean ages"),
                ("within", "slope within people as they age"),
            )
            for end, limit in (
                ("", "(null where not estimated)"),
                ("_ci_low", "at its lower 95 % limit"),
                ("_ci_high", "at its upper 95 % limit"),
            )
        },
        "difference_p_value": Column(real, "two-sided p of within against between"),
        "icc": Column(real, "share of the variance, given age, that lies between people"),
        "n_used": _USED,
        "n_subjects": Column(whole, "subjects of these scans"),
        "n_rescanned": Column(whole, "subjects scanned at two ages or more"),
        "years_between_median": Column(real, "median of their first to last age, years"),
        "note": Column(text, "why there is no estimate; null if nothing"),
    },
    "analyse/sensitivity": {
        "structure": _STRUCTURE,
        "sex": _SEX,
        "analysis": Column(
            text,
            "complete, ipw, tobit, huber, without_outliers, bsa_ratio, site_fixed or "
            "site_harmonised",
        ),
        "model": Column(text, "M1: age x sex; M2: with ln(height) and ln(BMI), without site"),
        "slope_pct_per_decade": Column(real, "% per decade of age; null where not estimated"),
        "slope_pct_per_decade_ci_low": Column(real, "lower 95 % limit, % per decade"),
        "slope_pct_per_decade_ci_high": Column(real, "upper 95 % limit, % per decade"),
        "n_used": Column(whole, "scans used, those that are lower bounds included"),
        "n_censored": Column(whole, "of these, cut volumes taken for lower bounds"),
        "note": Column(text, "why there is no estimate, or how to read it; null if nothing"),
    },
    "analyse/missingness": {
        "structure": _STRUCTURE,
        "variable": Column(text, "age_years, sex or height_cm"),
        "level": Column(text, "F or M, a third of the cohort, or not known"),
        "n_scans": Column(whole, "scans done, not excluded as a whole, with age and sex"),
        "n_unusable": Column(whole, "of these, without a usable volume; null where suppressed"),
        "unusable_pct": Column(real, "their share, %"),
        "note": Column(text, "that a small count is not shown; null if nothing"),
    },
    "analyse/literature": {
        "structure": _STRUCTURE,
        "sex": _SEX,
        "model": Column(text, "M1: ln(volume) on age x sex, over the ages of the reference"),
        "slope_pct_per_decade": Column(real, "slope here, % per decade"),
        "slope_pct_per_decade_ci_low": Column(real, "lower 95 % limit, % per decade"),
        "slope_pct_per_decade_ci_high": Column(real, "upper 95 % limit, % per decade"),
        "slope_ml_per_decade": Column(real, "slope here, mL per decade"),
        "slope_ml_per_decade_ci_low": Column(real, "lower 95 % limit, mL per decade"),
        "slope_ml_per_decade_ci_high": Column(real, "upper 95 % limit, mL per decade"),
        "n_used": Column(whole, "scans here, of the ages of the reference"),
        "reference_age_ref_years": Column(real, "age of the reference's level, years"),
        "reference_age_low_years": Column(real, "least age of its slope, years; null: not named"),
        "reference_age_high_years": Column(real, "greatest age of its slope, years"),
        "reference_mean_ml": Column(real, "mean or median published, mL"),
        "reference_sd_ml": Column(real, "standard deviation published, mL"),
        "reference_slope_ml_per_decade": Column(real, "slope published, mL per decade"),
        "reference_slope_pct_per_decade": Column(real, "slope published, % per decade"),
        "reference_direction": Column(text, "increase, decrease, none or peak, as published"),
        "reference_n": Column(whole, "people of the reference"),
        "modality": Column(text, "how the reference was measured"),
        "evidence": Column(
            text, "VERIFIED: its text was seen; DERIVED: computed from such; UNVERIFIED: recalled"
        ),
        "source": Column(text, "where the reference was published"),
        "plotted": Column(flag, "false where UNVERIFIED: such values are not drawn"),
        "verdict": Column(
            text,
            "sign agrees, CI overlaps reference, conflict or no reference; null without a slope",
        ),
        "note": Column(text, "why there is no slope, or how to read it; null if nothing"),
    },
    "analyse/tipping": {
        "structure": _STRUCTURE,
        "sex": _SEX,
        "model": _MODEL,
        "slope_pct_per_decade": Column(real, "slope as in slopes, % per decade"),
        "bias_pct_per_decade": Column(
            real,
            "drift of measured over true volume that cancels the slope, % per decade",
        ),
        "bias_ci_pct_per_decade": Column(
            real, "least such drift at which the interval holds 0, % per decade; 0 if it does now"
        ),
        "bias_over_ages_pct": Column(
            real, "bias_pct_per_decade added up from the 5th to the 95th percentile of age, %"
        ),
        "dice": Column(real, "lowest mean Dice that the model's publisher gives on MRI"),
        "test_set": Column(text, "on which images"),
        "ratio_low": Column(real, "least measured over true volume at that Dice, D / (2 - D)"),
        "ratio_high": Column(real, "greatest measured over true volume at that Dice"),
        "within_dice": Column(flag, "the drift over the ages lies between these two"),
        "note": Column(text, "why something is null; null if nothing"),
    },
    "analyse/asymmetry": {
        "pair": Column(text, "structure without _left or _right"),
        "sex": _SEX,
        "asymmetry_mean_pct": Column(real, "mean of 200 (L - R) / (L + R), %"),
        "slope_points_per_decade": Column(real, "its change per decade of age, points"),
        "slope_points_per_decade_ci_low": Column(real, "lower 95 % limit, points per decade"),
        "slope_points_per_decade_ci_high": Column(real, "upper 95 % limit, points per decade"),
        "p_value": Column(real, f"two-sided p of that slope; {_P}"),
        "q_value": Column(real, "Benjamini-Hochberg over all rows of this table"),
        "bias_ml": Column(real, "mean of left minus right, mL"),
        "bias_ml_ci_low": Column(real, "lower 95 % limit of that mean, mL"),
        "bias_ml_ci_high": Column(real, "upper 95 % limit of that mean, mL"),
        "limit_low_ml": Column(real, "lower limit of agreement, mean - 1.96 SD, mL"),
        "limit_high_ml": Column(real, "upper limit of agreement, mean + 1.96 SD, mL"),
        "n_used": Column(whole, "subjects of whom both sides are usable"),
        "note": Column(text, "why there is no slope; null if nothing"),
    },
    "analyse/two_models": {
        "structure": _STRUCTURE,
        "other_model": Column(text, "segmentation model that is compared with this one"),
        "variable": Column(text, "all, age_years, sex or height_cm"),
        "level": Column(text, "F or M, a third of the cohort, or not known; null of all"),
        "n_used": Column(whole, "scans whose volume is usable and which the other measured too"),
        "difference_mean_pct": Column(real, "mean of 100 (other - this) / mean of both, %"),
        "difference_mean_pct_ci_low": Column(real, "lower 95 % limit of that mean, %"),
        "difference_mean_pct_ci_high": Column(real, "upper 95 % limit of that mean, %"),
        "limit_low_pct": Column(real, "lower limit of agreement, mean - 1.96 SD, %"),
        "limit_high_pct": Column(real, "upper limit of agreement, mean + 1.96 SD, %"),
        "dice_median": Column(real, "median Dice of the two"),
        "note": Column(text, "why there is no estimate; null if nothing"),
    },
}
"""Every table of the analysis, by its place in a results folder."""


def write(out: Path, name: str, frame: pd.DataFrame) -> int:
    """Write ``analyse/<name>`` as Parquet and as CSV below `out`; how many rows it has."""
    columns = SCHEMAS[f"analyse/{name}"]
    frame = frame.reindex(columns=list(columns))
    write_table(out / f"{name}.parquet", frame, columns)
    printed = to_pandas(to_arrow(frame, columns))
    commit_text(out / f"{name}.csv", csv_text(printed))
    return len(frame)

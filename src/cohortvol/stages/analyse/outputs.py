"""Schema of every table the analysis writes."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from cohortvol.store.files import commit_text
from cohortvol.store.schemas import Column, flag, real, text, whole
from cohortvol.store.tables import csv_text, to_arrow, to_pandas, write_table

_STRUCTURE = Column(text, "anatomical structure, as in the volumes table")
_SEX = Column(text, "all, F or M")
_ONE_SEX = Column(text, "F or M")
_MODEL = Column(
    text,
    "M1: ln(volume) on age x sex; M2: with ln(height), ln(BMI), site, scanner, sequence and "
    "contrast besides, as far as they are known and differ",
)
_USED = Column(whole, "scans used")
_DROPPED = Column(whole, "scans of this sex in the scans table that are not used")
_P = "null where it cannot be estimated"
_ADJUSTED = Column(text, "covariates beside age and sex; null if none")
_NOTE = Column(text, "why there is no estimate, or how to read it; null if nothing")
_ENDS = {"": "", "_ci_low": ", lower 95 % limit", "_ci_high": ", upper 95 % limit"}

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
        "q_value_by": Column(real, "the same by Benjamini-Yekutieli, for any dependence"),
        "n_used": _USED,
        "n_dropped": _DROPPED,
        "mean_volume_ml": Column(real, "arithmetic mean of the volumes used, mL"),
        "se_kind": Column(text, "HC3, or cluster where a subject has several scans"),
        "adjusted_for": _ADJUSTED,
        "slope_without_sex_pct_per_decade": Column(
            real, "of sex all: the % slope of the same model without a term of sex, to compare"
        ),
        "note": _NOTE,
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
        "q_value_by": Column(real, "the same by Benjamini-Yekutieli, for any dependence"),
        "n_used": Column(whole, "scans of both sexes used; 0 where one sex has no slope"),
        "note": _NOTE,
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
        "n_implausible": Column(
            whole, "of the dropped, those usable but below the least plausible volume"
        ),
        "note": _NOTE,
    },
    "analyse/curves": {
        "structure": _STRUCTURE,
        "sex": _ONE_SEX,
        "model": Column(text, "M1, or spline: natural cubic, knots in analyse.json"),
        "age_years": Column(real, "age, years; 1st to 99th percentile of the ages used"),
        "volume_ml": Column(real, "exp(mean of ln(volume)) at that age, mL"),
        "volume_ml_ci_low": Column(real, "lower 95 % limit of that mean, mL"),
        "volume_ml_ci_high": Column(real, "upper 95 % limit of that mean, mL"),
    },
    "analyse/summary": {
        "structure": _STRUCTURE,
        "sex": _SEX,
        "n": Column(whole, "scans with a usable volume, whether or not age and sex are known"),
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
            "usable for trends, out of range (values that count as unknown), "
            "with height and weight",
        ),
        "reason": Column(
            text,
            "reason code, why unusable, or which values; null where the step is a total",
        ),
        "n": Column(whole, "scans"),
    },
    "analyse/nonlinearity": {
        "structure": _STRUCTURE,
        "sex": Column(text, "F, M, or all: both at once"),
        "wald_statistic": Column(
            real, "robust Wald statistic that the bends of the natural cubic spline (M3) are 0"
        ),
        "df": Column(whole, "bends tested"),
        "p_value": Column(real, f"from wald_statistic / df as F; {_P}"),
        "log10_p": Column(real, "base-10 logarithm of p_value, which does not underflow"),
        "q_value": Column(real, "Benjamini-Hochberg over all rows of this table"),
        "q_value_by": Column(real, "the same by Benjamini-Yekutieli, for any dependence"),
        "n_used": _USED,
        "adjusted_for": _ADJUSTED,
        "note": _NOTE,
    },
    "analyse/slopes_at_age": {
        "structure": _STRUCTURE,
        "sex": Column(text, "F or M whose trend bends; all where no sex is known"),
        "age_years": Column(real, "age, years"),
        "slope_pct_per_decade": Column(
            real, "slope of M3 at that age, % per decade; null outside the ages of the scans"
        ),
        "slope_pct_per_decade_ci_low": Column(real, "lower 95 % limit, % per decade"),
        "slope_pct_per_decade_ci_high": Column(real, "upper 95 % limit, % per decade"),
        "n_used": _USED,
        "note": _NOTE,
    },
    "analyse/peaks": {
        "structure": _STRUCTURE,
        "sex": Column(text, "F or M whose trend bends; all where no sex is known"),
        "peak_age_years": Column(
            real, "age at which M3 is highest, years; null if at an end of the ages"
        ),
        "peak_age_years_ci_low": Column(real, "2.5th percentile over draws of subjects, years"),
        "peak_age_years_ci_high": Column(real, "97.5th percentile over draws of subjects, years"),
        "draws": Column(whole, "bootstrap draws used"),
        "n_used": _USED,
        "note": _NOTE,
    },
    "analyse/body_size": {
        "structure": _STRUCTURE,
        "sex": _SEX,
        **{
            f"{name}{end}": Column(
                real, f"{meaning} in M2{', common to both sexes' if not end else words}"
            )
            for name, meaning in (
                ("height_exponent", "exponent of height"),
                ("bmi_exponent", "exponent of BMI"),
            )
            for end, words in _ENDS.items()
        },
        **{
            f"{way}_pct_per_decade{end}": Column(real, f"{meaning}, % per decade{words}")
            for way, meaning in (
                ("unadjusted", "slope without body size, same scans"),
                ("adjusted", "slope of M2"),
                ("ratio", "slope of volume / body surface (Mosteller)"),
            )
            for end, words in _ENDS.items()
        },
        "n_used": _USED,
        "note": _NOTE,
    },
    "analyse/diagnostics": {
        "structure": _STRUCTURE,
        "model": Column(text, "the most adjusted of M1 and M2, with age x sex; of ln(volume)"),
        "n_used": _USED,
        "max_leverage": Column(real, "largest leverage of a scan, 0 to 1"),
        "max_cooks_distance": Column(real, "largest Cook's distance of a scan"),
        "breusch_pagan_p": Column(real, "p that the spread is even (Breusch-Pagan, Koenker)"),
        "max_vif": Column(real, "largest variance inflation factor, interactions left out"),
        "max_vif_name": Column(text, "the term whose it is"),
        "condition_number": Column(real, "of the design, columns scaled to length 1"),
        "note": Column(text, "why there is nothing, or what to look at; null if nothing"),
    },
    "analyse/influence": {
        "structure": _STRUCTURE,
        "scan_id": Column(text, "scan; the ten of greatest Cook's distance per structure"),
        "cooks_distance": Column(real, "Cook's distance in the model of analyse/diagnostics"),
        "leverage": Column(real, "leverage, 0 to 1"),
        "residual_z": Column(real, "residual of ln(volume) over its standard deviation"),
    },
    "analyse/quartiles": {
        "structure": _STRUCTURE,
        "sex": _SEX,
        "quartile": Column(whole, "1 to 4: quartile of age, the same for all rows"),
        "age_above_years": Column(real, "ages above this, years; null in the first quartile"),
        "age_to_years": Column(real, "ages to this, itself included, years; null in the last"),
        "n": Column(whole, "scans; null where they are too few to tell"),
        "median_ml": Column(real, "median volume, mL"),
        "q25_ml": Column(real, "25th percentile, mL"),
        "q75_ml": Column(real, "75th percentile, mL"),
        "whisker_low_ml": Column(real, "least volume within 1.5 box lengths of the box, mL"),
        "whisker_high_ml": Column(real, "greatest volume within 1.5 box lengths of the box, mL"),
        "n_implausible": Column(
            whole, "scans left out as implausibly small; null where they are too few to tell"
        ),
        "note": Column(text, "why the cell is empty; null if it is not"),
    },
    "analyse/age_bands": {
        "structure": _STRUCTURE,
        "sex": _SEX,
        "age_from_years": Column(real, "youngest age of the band, years"),
        "age_below_years": Column(real, "ages below this, years; null in the last band"),
        "n": Column(whole, "scans; null where they are too few to tell"),
        "median_ml": Column(real, "median volume, mL"),
        "q25_ml": Column(real, "25th percentile, mL"),
        "q75_ml": Column(real, "75th percentile, mL"),
        "p5_ml": Column(real, "5th percentile, mL"),
        "p95_ml": Column(real, "95th percentile, mL"),
        "note": Column(text, "why the cell is empty; null if it is not"),
    },
    "analyse/centiles": {
        "structure": _STRUCTURE,
        "sex": _ONE_SEX,
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
        "sex": _ONE_SEX,
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
        "model": Column(
            text, "M1: age and sex; M1 + size: with ln(height) and ln(BMI) of the person"
        ),
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
            "complete, ipw, tobit, huber, without_outliers, bsa_ratio, size_only (no fixed effects "
            "of how the scan was made) or site_harmonised",
        ),
        "model": _MODEL,
        "slope_pct_per_decade": Column(real, "% per decade of age; null where not estimated"),
        "slope_pct_per_decade_ci_low": Column(real, "lower 95 % limit, % per decade"),
        "slope_pct_per_decade_ci_high": Column(real, "upper 95 % limit, % per decade"),
        "n_used": Column(whole, "scans used, those that are lower bounds included"),
        "n_censored": Column(whole, "of these, cut volumes taken for lower bounds"),
        "note": _NOTE,
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

"""Schema of every table the analysis writes."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from cohortvol.files import commit_text
from cohortvol.tables import Column, csv_text, real, text, to_arrow, to_pandas, whole, write_table

_STRUCTURE = Column(text, "anatomical structure, as in the volumes table")
_SEX = Column(text, "all, F or M")
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
        "q_value_by": Column(real, "the same by Benjamini-Yekutieli, for any dependence"),
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
        "n_implausible": Column(
            whole, "of the dropped, those usable but below the least plausible volume"
        ),
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

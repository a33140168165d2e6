"""What is found: the schema of these tables."""

from cohortvol.stages.analyse.columns import (
    ADJUSTED,
    DROPPED,
    MODEL,
    NOTE,
    ONE_SEX,
    SEX,
    STRUCTURE,
    USED,
    P,
)
from cohortvol.store.schemas import Column, flag, real, text, whole

SCHEMAS: dict[str, dict[str, Column]] = {
    "analyse/slopes": {
        "structure": STRUCTURE,
        "sex": SEX,
        "model": MODEL,
        "slope_pct_per_decade": Column(real, "100 (exp(b) - 1), % per decade of age"),
        "slope_pct_per_decade_ci_low": Column(real, "lower 95 % limit, % per decade"),
        "slope_pct_per_decade_ci_high": Column(real, "upper 95 % limit, % per decade"),
        "slope_ml_per_decade": Column(real, "same design, volume in mL: mL per decade of age"),
        "slope_ml_per_decade_ci_low": Column(real, "lower 95 % limit, mL per decade"),
        "slope_ml_per_decade_ci_high": Column(real, "upper 95 % limit, mL per decade"),
        "p_value": Column(real, f"two-sided p of the % slope; {P}; 0 below about 1e-308"),
        "log10_p": Column(real, "base-10 logarithm of p_value, which does not underflow"),
        "q_value": Column(real, "Benjamini-Hochberg over all slopes of the model"),
        "q_value_by": Column(real, "the same by Benjamini-Yekutieli, for any dependence"),
        "n_used": USED,
        "n_dropped": DROPPED,
        "mean_volume_ml": Column(real, "arithmetic mean of the volumes used, mL"),
        "se_kind": Column(
            text, "HC3; cluster where a subject has several scans, CR2 where clusters are few"
        ),
        "adjusted_for": ADJUSTED,
        "slope_without_sex_pct_per_decade": Column(
            real, "of sex all: the % slope of the same model without a term of sex, to compare"
        ),
        "note": NOTE,
    },
    "analyse/interactions": {
        "structure": STRUCTURE,
        "model": MODEL,
        "difference_pct_per_decade": Column(
            real, "100 (exp(b_M - b_F) - 1): change per decade of M relative to F, %"
        ),
        "difference_pct_per_decade_ci_low": Column(real, "lower 95 % limit, %"),
        "difference_pct_per_decade_ci_high": Column(real, "upper 95 % limit, %"),
        "p_value": Column(real, f"two-sided p of age x sex; {P}"),
        "log10_p": Column(real, "base-10 logarithm of p_value"),
        "q_value": Column(real, "Benjamini-Hochberg over all interactions of the model"),
        "q_value_by": Column(real, "the same by Benjamini-Yekutieli, for any dependence"),
        "n_used": Column(whole, "scans of both sexes used; 0 where one sex has no slope"),
        "note": NOTE,
    },
    "analyse/correlations": {
        "structure": STRUCTURE,
        "sex": SEX,
        "spearman_rho": Column(real, "Spearman correlation of volume with age"),
        "p_value": Column(real, f"two-sided p of spearman_rho; {P}"),
        "p_bonferroni": Column(real, "p_value x number of structures in this stratum, at most 1"),
        "pearson_r": Column(real, "Pearson correlation of volume in mL with age"),
        "pearson_p_value": Column(real, "two-sided p of pearson_r"),
        "n_used": USED,
        "n_dropped": DROPPED,
        "n_implausible": Column(
            whole, "of the dropped, those usable but below the least plausible volume"
        ),
        "note": NOTE,
    },
    "analyse/curves": {
        "structure": STRUCTURE,
        "sex": Column(text, "F or M; all where no sex is known"),
        "model": Column(text, "M1, or spline: natural cubic, knots in analyse.json"),
        "age_years": Column(real, "age, years; 1st to 99th percentile of the ages used"),
        "volume_ml": Column(real, "exp(mean of ln(volume)) at that age, mL"),
        "volume_ml_ci_low": Column(
            real, "lower 95 % limit of that mean, mL; null where the upper is"
        ),
        "volume_ml_ci_high": Column(
            real, "upper 95 % limit of that mean, mL; null from 1000 times it on"
        ),
    },
    "analyse/nonlinearity": {
        "structure": STRUCTURE,
        "sex": Column(text, "F, M, or all: both at once"),
        "wald_statistic": Column(
            real, "robust Wald statistic that the bends of the natural cubic spline (M3) are 0"
        ),
        "df": Column(whole, "bends tested"),
        "p_value": Column(real, f"from wald_statistic / df as F; {P}"),
        "log10_p": Column(real, "base-10 logarithm of p_value, which does not underflow"),
        "q_value": Column(real, "Benjamini-Hochberg over all rows of this table"),
        "q_value_by": Column(real, "the same by Benjamini-Yekutieli, for any dependence"),
        "n_used": USED,
        "adjusted_for": ADJUSTED,
        "note": NOTE,
    },
    "analyse/slopes_at_age": {
        "structure": STRUCTURE,
        "sex": Column(text, "F or M whose trend bends; all where no sex is known"),
        "age_years": Column(real, "age, years"),
        "slope_pct_per_decade": Column(
            real, "slope of M3 at that age, % per decade; null outside the ages of the scans"
        ),
        "slope_pct_per_decade_ci_low": Column(real, "lower 95 % limit, % per decade"),
        "slope_pct_per_decade_ci_high": Column(real, "upper 95 % limit, % per decade"),
        "n_used": USED,
        "note": NOTE,
    },
    "analyse/peaks": {
        "structure": STRUCTURE,
        "sex": Column(text, "F or M whose trend bends; all where no sex is known"),
        "peak_age_years": Column(
            real, "age at which M3 is highest, years; null if at an end of the ages"
        ),
        "peak_age_years_ci_low": Column(real, "2.5th percentile over draws of subjects, years"),
        "peak_age_years_ci_high": Column(real, "97.5th percentile over draws of subjects, years"),
        "draws": Column(whole, "bootstrap draws used"),
        "n_used": USED,
        "note": NOTE,
    },
    "analyse/centiles": {
        "structure": STRUCTURE,
        "sex": ONE_SEX,
        "age_years": Column(
            real, "age, years; 1st to 99th percentile of the ages used; null without centiles"
        ),
        **{
            f"p{c}_ml": Column(real, f"centile {c} of the volume by the family, mL")
            for c in (5, 25, 50, 75, 95)
        },
        **{
            f"quantile_p{c}_ml": Column(real, f"centile {c} by quantile regression, mL")
            for c in (5, 25, 50, 75, 95)
        },
        "family": Column(
            text,
            "BCCG (LMS), BCT or SHASH, as R's gamlss calls them; or BCCG_low, BCCG_high or "
            "BCCG_both: BCCG, and a share of people far out below, above or at both ends",
        ),
        "drawn_at": Column(
            text, "values of centile_covariates at which the curves are drawn; null without any"
        ),
        "sparse": Column(flag, "fewer than 50 subjects within 2.5 years to either side"),
        "n_used": Column(whole, "subjects, each with the usable scan at the lowest age"),
        "note": Column(text, "why there are no centiles; null if nothing"),
    },
    "analyse/calibration": {
        "structure": STRUCTURE,
        "sex": ONE_SEX,
        "method": Column(text, "model: the family of the curves; or quantile"),
        "age_low_years": Column(real, "least age of the band, a quarter of the subjects, years"),
        "age_high_years": Column(real, "greatest age of the band, years"),
        "centile": Column(whole, "centile as claimed, %"),
        "observed_pct": Column(real, "subjects of the band below the centile, %"),
        "difference_points": Column(real, "observed minus claimed, percentage points"),
        "n_band": Column(whole, "subjects of the band"),
        "n_used": Column(whole, "subjects that the centiles are fitted to"),
    },
    "analyse/worms": {
        "structure": STRUCTURE,
        "sex": ONE_SEX,
        "band": Column(whole, "0: all ages; 1 to 4: quarters of the subjects by age"),
        "age_low_years": Column(real, "least age of the band, years"),
        "age_high_years": Column(real, "greatest age of the band, years"),
        "score": Column(real, "standard normal score"),
        "deviation": Column(
            real, "quantile of the subjects' scores in the centiles, less this score"
        ),
        "limit": Column(
            real,
            "half the width of the pointwise 95 % band about 0, of people the centiles have not "
            "seen",
        ),
        "n_band": Column(whole, "subjects of the band"),
        "n_used": Column(whole, "subjects that the centiles are fitted to"),
    },
    "analyse/within_between": {
        "structure": STRUCTURE,
        "sex": SEX,
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
        "within_sd_pct_per_decade": Column(
            real,
            "SD between people of their slopes within, 100 x that of ln(volume) per decade; null "
            "where fewer than min_n_rescanned were scanned at three ages",
        ),
        "difference_p_value": Column(real, "two-sided p of within against between"),
        "icc": Column(real, "share of the variance, given age, that lies between people"),
        "n_used": USED,
        "n_subjects": Column(whole, "subjects of these scans"),
        "n_rescanned": Column(whole, "subjects scanned at two ages or more"),
        "years_between_median": Column(real, "median of their first to last age, years"),
        "note": Column(text, "why there is no estimate; null if nothing"),
    },
    "analyse/site_slopes": {
        "structure": STRUCTURE,
        "sex": SEX,
        "model": Column(text, "M1: age and sex; M1 + size: with ln(height) and ln(BMI)"),
        "by": Column(text, "site, or scanner where the site is not known or the same for all"),
        **{
            f"{name}_pct_per_decade{end}": Column(real, f"{what} {limit}, % per decade")
            for name, what in (
                ("between", "slope between sites of different mean ages"),
                ("within", "slope within sites, of a random intercept per site"),
                ("terms", "slope within sites, of a term per site"),
            )
            for end, limit in (
                ("", "(null where not estimated)"),
                ("_ci_low", "at its lower 95 % limit"),
                ("_ci_high", "at its upper 95 % limit"),
            )
        },
        "p_value": Column(real, f"two-sided p of within against between; {P}"),
        "q_value": Column(real, "Benjamini-Hochberg over all rows of the model"),
        "q_value_by": Column(real, "the same by Benjamini-Yekutieli, for any dependence"),
        "n_used": USED,
        "n_sites": Column(whole, "sites of these scans"),
        "note": Column(text, "why there is no estimate; null if nothing"),
    },
    "analyse/literature": {
        "structure": STRUCTURE,
        "sex": SEX,
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
        "ratio": Column(real, "slope here over the slope published; null without one"),
        "ratio_ci_low": Column(real, "lower 95 % limit, by the interval here alone"),
        "ratio_ci_high": Column(real, "upper 95 % limit, by the interval here alone"),
        "difference_ml_per_decade": Column(real, "slope here less that published, mL per decade"),
        "modality": Column(text, "how the reference was measured"),
        "evidence": Column(
            text, "VERIFIED: its text was seen; DERIVED: computed from such; UNVERIFIED: recalled"
        ),
        "source": Column(text, "where the reference was published"),
        "plotted": Column(flag, "false where UNVERIFIED: such values are not drawn"),
        "verdict": Column(
            text,
            "CI holds the reference; sign agrees, of a direction, beyond chance; sign agrees, size "
            "differs; cannot tell, where the CI holds 0; conflict; no reference; null without a "
            "slope",
        ),
        "note": Column(text, "why there is no slope, or how to read it; null if nothing"),
    },
    "analyse/published_centiles": {
        "structure": STRUCTURE,
        "sex": SEX,
        "reference_centile": Column(real, "centile as published, %"),
        "reference_ml": Column(real, "its volume as published, mL"),
        "age_from_years": Column(real, "least age of the people here, years; null: any"),
        "age_below_years": Column(real, "age that they have not reached, years; null: any"),
        "here_ml": Column(real, "the same centile of the people here, mL"),
        "ratio": Column(real, "here_ml over reference_ml"),
        "below_pct": Column(real, "people here below reference_ml, %"),
        "below_pct_ci_low": Column(real, "lower 95 % limit (Wilson), of the people here alone, %"),
        "below_pct_ci_high": Column(real, "upper 95 % limit (Wilson), of the people here alone, %"),
        "n_used": Column(whole, "subjects of these ages, each with one scan"),
        "modality": Column(text, "how the reference was measured"),
        "evidence": Column(
            text, "VERIFIED: its text was seen; DERIVED: computed from such; UNVERIFIED: recalled"
        ),
        "source": Column(text, "where the reference was published"),
        "note": Column(text, "why there is no comparison; null if nothing"),
    },
    "analyse/asymmetry": {
        "pair": Column(text, "structure without _left or _right"),
        "sex": SEX,
        "asymmetry_mean_pct": Column(real, "mean of 200 (L - R) / (L + R), %"),
        "slope_points_per_decade": Column(real, "its change per decade of age, points"),
        "slope_points_per_decade_ci_low": Column(real, "lower 95 % limit, points per decade"),
        "slope_points_per_decade_ci_high": Column(real, "upper 95 % limit, points per decade"),
        "p_value": Column(real, f"two-sided p of that slope; {P}"),
        "q_value": Column(real, "Benjamini-Hochberg over all rows of this table"),
        "bias_ml": Column(real, "mean of left minus right, mL"),
        "bias_ml_ci_low": Column(real, "lower 95 % limit of that mean, mL"),
        "bias_ml_ci_high": Column(real, "upper 95 % limit of that mean, mL"),
        "limit_low_ml": Column(real, "lower limit of agreement, mean - 1.96 SD, mL"),
        "limit_high_ml": Column(real, "upper limit of agreement, mean + 1.96 SD, mL"),
        "n_used": Column(whole, "subjects of whom both sides are usable"),
        "note": Column(text, "why there is no slope; null if nothing"),
    },
    "analyse/time_of_day": {
        "structure": STRUCTURE,
        "from_h": Column(real, "hour of the day that is compared with, hours since midnight"),
        "to_h": Column(real, "hour of the day that is compared, hours since midnight"),
        "difference_pct": Column(real, "volume at to_h against that at from_h, %"),
        "difference_pct_ci_low": Column(real, "lower 95 % limit, %"),
        "difference_pct_ci_high": Column(real, "upper 95 % limit, %"),
        "difference_ml": Column(real, "the same of a fit of the volume in mL, mL"),
        "difference_ml_ci_low": Column(real, "lower 95 % limit, mL"),
        "difference_ml_ci_high": Column(real, "upper 95 % limit, mL"),
        "amplitude_pct": Column(
            real,
            "the curve of a day at its highest over its mean, %; null unless scans span 12 hours",
        ),
        "peak_h": Column(real, "when it is highest, hours since midnight; null as the amplitude"),
        "p_value": Column(real, f"robust Wald test of the harmonic, two terms; {P}"),
        "log10_p": Column(real, "base-10 logarithm of p_value, which does not underflow"),
        "q_value": Column(real, "Benjamini-Hochberg over all rows of this table"),
        "q_value_by": Column(real, "the same by Benjamini-Yekutieli, for any dependence"),
        "n_used": USED,
        "adjusted_for": ADJUSTED,
        "note": NOTE,
    },
    "analyse/companion_slopes": {
        "structure": STRUCTURE,
        "companion": Column(text, "image that was measured in the structure, such as fat_fraction"),
        "unit": Column(text, "unit of mean and slopes; null of grey values, which have none"),
        "sex": SEX,
        "model": MODEL,
        "slope_per_decade": Column(
            real, "change of the median in the structure, in the unit, per decade of age"
        ),
        "slope_per_decade_ci_low": Column(real, "lower 95 % limit"),
        "slope_per_decade_ci_high": Column(real, "upper 95 % limit"),
        "p_value": Column(real, f"two-sided p of the slope; {P}"),
        "log10_p": Column(real, "base-10 logarithm of p_value, which does not underflow"),
        "q_value": Column(real, "Benjamini-Hochberg over all rows of the model"),
        "q_value_by": Column(real, "the same by Benjamini-Yekutieli, for any dependence"),
        "n_used": USED,
        "mean": Column(real, "arithmetic mean of the medians used, in the unit"),
        "se_kind": Column(
            text, "HC3; cluster where a subject has several scans, CR2 where clusters are few"
        ),
        "adjusted_for": ADJUSTED,
        "note": NOTE,
    },
    "analyse/two_models": {
        "structure": STRUCTURE,
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

"""Whether it holds: the schema of these tables."""

from cohortvol.stages.analyse.columns import ENDS, MODEL, NOTE, SEX, STRUCTURE, USED
from cohortvol.store.schemas import Column, flag, real, text, whole

SCHEMAS: dict[str, dict[str, Column]] = {
    "analyse/sensitivity": {
        "structure": STRUCTURE,
        "sex": SEX,
        "analysis": Column(
            text,
            "complete, one_scan_each (that at the lowest age), sampling_weights, ipw, tobit, "
            "huber, without_outliers, bsa_ratio, size_only (no fixed effects of how the scan was "
            "made) or site_harmonised",
        ),
        "model": MODEL,
        "slope_pct_per_decade": Column(real, "% per decade of age; null where not estimated"),
        "slope_pct_per_decade_ci_low": Column(real, "lower 95 % limit, % per decade"),
        "slope_pct_per_decade_ci_high": Column(real, "upper 95 % limit, % per decade"),
        "n_used": Column(whole, "scans used, those that are lower bounds included"),
        "n_censored": Column(whole, "of these, cut volumes taken for lower bounds"),
        "note": NOTE,
    },
    "analyse/missingness": {
        "structure": STRUCTURE,
        "variable": Column(text, "age_years, sex or height_cm"),
        "level": Column(text, "F or M, a third of the cohort, or not known"),
        "n_scans": Column(whole, "scans done, not excluded as a whole, with age and sex"),
        "n_unusable": Column(whole, "of these, without a usable volume; null where suppressed"),
        "unusable_pct": Column(real, "their share, %"),
        "note": Column(text, "that a small count is not shown; null if nothing"),
    },
    "analyse/body_size": {
        "structure": STRUCTURE,
        "sex": SEX,
        **{
            f"{name}{end}": Column(
                real, f"{meaning} in M2{', common to both sexes' if not end else words}"
            )
            for name, meaning in (
                ("height_exponent", "exponent of height"),
                ("bmi_exponent", "exponent of BMI"),
            )
            for end, words in ENDS.items()
        },
        **{
            f"{way}_pct_per_decade{end}": Column(real, f"{meaning}, % per decade{words}")
            for way, meaning in (
                ("unadjusted", "slope without body size, same scans"),
                ("adjusted", "slope of M2"),
                ("ratio", "slope of volume / body surface (Mosteller)"),
            )
            for end, words in ENDS.items()
        },
        "n_used": USED,
        "note": NOTE,
    },
    "analyse/diagnostics": {
        "structure": STRUCTURE,
        "model": Column(text, "the most adjusted of M1 and M2, with age x sex; of ln(volume)"),
        "n_used": USED,
        "max_leverage": Column(real, "largest leverage of a scan, 0 to 1"),
        "max_cooks_distance": Column(real, "largest Cook's distance of a scan"),
        "breusch_pagan_p": Column(real, "p that the spread is even (Breusch-Pagan, Koenker)"),
        "max_vif": Column(real, "largest variance inflation factor, interactions left out"),
        "max_vif_name": Column(text, "the term whose it is"),
        "condition_number": Column(real, "of the design, columns scaled to length 1"),
        "note": Column(text, "why there is nothing, or what to look at; null if nothing"),
    },
    "analyse/influence": {
        "structure": STRUCTURE,
        "scan_id": Column(text, "scan; the ten of greatest Cook's distance per structure"),
        "cooks_distance": Column(real, "Cook's distance in the model of analyse/diagnostics"),
        "leverage": Column(real, "leverage, 0 to 1"),
        "residual_z": Column(real, "residual of ln(volume) over its standard deviation"),
    },
    "analyse/suspected": {
        "structure": STRUCTURE,
        "kind": Column(
            text,
            "small, large, or not found (a side, where the other is above its 90th centile)",
        ),
        "n": Column(whole, "scans with such a volume"),
        "n_used": Column(whole, "of which the volume is used; QC left out the others"),
        "n_both_sides": Column(whole, "of which the other side is so too"),
        "n_other_large": Column(whole, "of which the other side is above its 90th centile"),
        "n_beside_other": Column(
            whole, "of small ones, those that are far outside only beside their other side"
        ),
        "limit_pct": Column(
            real, "beyond this share of what is usual at this age and sex it is far outside, %"
        ),
        "limit_ml": Column(real, "the same at the median of what is usual, mL"),
    },
    "analyse/suspected_scans": {
        "structure": STRUCTURE,
        "scan_id": Column(text, "scan; the same as the table of scans has it"),
        "kind": Column(text, "small, large or not found"),
        "pattern": Column(
            text, "of a pair: one side; one side, the other large; both sides; null of others"
        ),
        "volume_ml": Column(real, "volume, mL; null where it was not found"),
        "usual_ml": Column(real, "median at this age and sex, by a parabola of age, mL"),
        "of_usual_pct": Column(real, "volume_ml over usual_ml, %"),
        "used": Column(flag, "the volume is used in trends; QC left out the others"),
    },
    "analyse/tipping": {
        "structure": STRUCTURE,
        "sex": SEX,
        "model": MODEL,
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
}

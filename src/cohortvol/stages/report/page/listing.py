"""Tables of the page beside the slopes: ages, bends, published values, drift, the two modes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from cohortvol.drawing import style
from cohortvol.drawing.pages import Table
from cohortvol.stages.report.page.html import SEXES, estimate_cells, quantile_cells
from cohortvol.stages.report.page.sentences import notices
from cohortvol.stages.report.tables.inputs import SLOPE, Analysis


def age_bands_table(analysis: Analysis) -> Table:
    """Table 2: quantiles of the volumes by ten years of age and sex."""
    rows = []
    bands = analysis.table("age_bands")
    for row in bands[(bands["sex"] == "all") | bands["n"].fillna(1).ne(0)].to_dict("records"):
        low, below = row["age_from_years"], row["age_below_years"]
        ages = f"{low:g} and older" if pd.isna(below) else f"{low:g} to {below:g}"
        ages = f"below {below:g}" if low == 0 else ages
        rows.append(
            [
                style.display_name(row["structure"]),
                style.SEX_WORD.get(row["sex"], row["sex"]),
                ages,
                style.count(row["n"]),
                *quantile_cells(row),
            ]
        )
    header = ["Structure", "Sex", "Age, years", "n", "Median (IQR), mL", "5th to 95th centile, mL"]
    least = notices.least_shown(analysis)
    note = f"Quantiles of fewer than {least} scans are not given. " if least > 1 else ""
    note += "Bands hold their lower age."
    return Table("Table 2. Volumes by age and sex", header, rows, note, "age_bands")


def modes_table(analysis: Analysis) -> Table:
    """Replication beside inference: correlations, and the slopes of both sexes together."""
    models = [name for name in ("M1", "M2") if (analysis.slopes["model"] == name).any()]
    header = ["Structure"]
    for sex in SEXES:
        header += [f"{style.SEX_WORD[sex]}: Spearman ρ", "p (Bonferroni)"]
    header += ["n"]
    for model in models:
        header += [f"{model}, all: % per decade (95\u00a0%\u00a0CI)", "q"]
    pooled = analysis.slopes[analysis.slopes["sex"] == "all"]
    slopes = {(row["structure"], row["model"]): row for row in pooled.to_dict("records")}
    rows = []
    for structure, group in analysis.correlations.groupby("structure", sort=False):
        by_sex = {row["sex"]: row for row in group.to_dict("records")}
        row = [style.display_name(str(structure))]
        for sex in SEXES:
            here = by_sex.get(sex, {})
            row.append(style.number(here.get("spearman_rho"), 2))
            row.append(style.probability(here.get("p_bonferroni")))
        row.append(style.number(by_sex.get("all", {}).get("n_used"), 0))
        for model in models:
            row += estimate_cells(slopes.get((structure, model)), SLOPE)
        rows.append(row)
    note = (
        "Left, replication: correlations as in the TotalSegmentator MRI study, without "
        "adjustment, p by Bonferroni. Right, inference: slopes with intervals, q by false "
        "discovery rate. Where the two disagree in sign, sex or body size may explain it, or "
        "chance."
    )
    return Table("Replication beside inference", header, rows, note, "correlations")


def bends_table(analysis: Analysis) -> Table:
    """Where the trend bends: slopes at some ages, and the age of the peak."""
    slopes, peaks = analysis.table("slopes_at_age"), analysis.table("peaks")
    ages = sorted(slopes["age_years"].dropna().unique())
    header = ["Structure", "Sex", "q of the bend"]
    header += [f"Slope at {age:g} years, % per decade" for age in ages]
    header += ["Age of the peak, years (95\u00a0%\u00a0CI)"]
    tested = {
        (row["structure"], row["sex"]): row["q_value"]
        for row in analysis.table("nonlinearity").to_dict("records")
    }
    peak = {(row["structure"], row["sex"]): row for row in peaks.to_dict("records")}
    rows = []
    for key, group in slopes.groupby(["structure", "sex"], sort=False):
        at = {row["age_years"]: row for row in group.to_dict("records")}
        row = [style.display_name(key[0]), style.SEX_WORD.get(key[1], key[1])]
        row.append(style.probability(tested.get(key)))
        row += [estimate_cells(at.get(age), SLOPE, q=False)[0] for age in ages]
        row.append(_peak(peak.get(key)))
        rows.append(row)
    note = (
        "Only trends that bend (M3 against M2, false discovery rate); elsewhere one slope tells "
        "the trend. A peak at an end of the ages is none."
    )
    return Table("Trends that bend", header, rows, note, "slopes_at_age")


def _peak(row: Mapping[str, Any] | None) -> str:
    """Where the trend is highest, or why that is not told."""
    if row is not None and pd.notna(row["peak_age_years"]):
        return style.interval_of(row, "peak_age_years", 0)
    note = row.get("note") if row is not None else None
    return "at an end" if isinstance(note, str) and note.startswith("no peak") else "–"


def published_table(analysis: Analysis) -> Table:
    """Slopes beside published values, with a verdict on each."""
    rows = []
    table = analysis.table("literature")
    for row in table[table["source"].notna()].to_dict("records"):
        slope = estimate_cells(row, SLOPE, q=False)[0]
        reference = style.number(row["reference_slope_pct_per_decade"])
        if reference != "–":
            reference += " %"
        elif pd.notna(row["reference_slope_ml_per_decade"]):
            reference = f"{style.number(row['reference_slope_ml_per_decade'])} mL"
        elif isinstance(row["reference_direction"], str):
            reference = row["reference_direction"]
        level = style.significant(row["reference_mean_ml"])
        if pd.notna(row["reference_sd_ml"]):
            level += f" (SD {style.significant(row['reference_sd_ml'])})"
        rows.append(
            [
                style.display_name(row["structure"]),
                style.SEX_WORD.get(row["sex"], row["sex"]),
                slope,
                reference,
                level,
                "–" if pd.isna(row["ratio"]) else style.interval_of(row, "ratio", 2),
                row["verdict"] if isinstance(row["verdict"], str) else "–",
                row["modality"],
                row["evidence"],
                row["source"],
            ]
        )
    header = ["Structure", "Sex", "Here, M1: % per decade (95\u00a0%\u00a0CI)"]
    header += [
        "Published, per decade",
        "Mean, mL",
        "Here / published",
        "Verdict",
        "Modality",
        "Evidence",
        "Source",
    ]
    note = (
        "The slope here is that of M1 over the ages of the reference where it names them. "
        "VERIFIED: the text of the source was seen; DERIVED: computed from such; UNVERIFIED: "
        "recalled, and never drawn. Of the TotalSegmentator MRI study (doi 10.1148/radiol.241613) "
        "only directions are in the table."
    )
    return Table("Published values", header, rows, note, "literature")


def published_centiles_table(analysis: Analysis) -> Table:
    """Published centiles beside the share of the people here who lie below."""
    rows = []
    table = analysis.table("published_centiles")
    for row in table[table["below_pct"].notna()].to_dict("records"):
        low, below = row["age_from_years"], row["age_below_years"]
        rows.append(
            [
                style.display_name(row["structure"]),
                style.SEX_WORD.get(row["sex"], row["sex"]),
                "all" if pd.isna(low) and pd.isna(below) else f"{low:g} to {below:g}",
                f"{row['reference_centile']:g}",
                style.significant(row["reference_ml"]),
                style.significant(row["here_ml"]),
                style.interval_of(row, "below_pct"),
                style.count(row["n_used"]),
                row["modality"],
                row["evidence"],
                row["source"],
            ]
        )
    header = ["Structure", "Sex", "Ages, years", "Centile", "Published, mL", "Here, mL"]
    header += ["Here below, % (95\u00a0%\u00a0CI)", "n", "Modality", "Evidence", "Source"]
    note = (
        "Of people of the ages of the reference, one scan each, how many lie below a published "
        "centile: where the two cohorts and ways of measuring agree, as many as its name says. The "
        "interval is of the people here alone; that of the reference is not printed. Ages are as "
        "printed, or ten years to either side of the age printed."
    )
    return Table("Published centiles", header, rows, note, "published_centiles")


def tipping_table(analysis: Analysis) -> Table:
    """The drift of the measurement with age that would cancel each slope."""
    rows = []
    table = analysis.table("tipping")
    for row in table[table["sex"] == "all"].to_dict("records"):
        if pd.isna(row["bias_pct_per_decade"]):
            continue
        low, high = (style.number(row[f"ratio_{end}"], 2) for end in ("low", "high"))
        inside = row["within_dice"]
        rows.append(
            [
                style.display_name(row["structure"]),
                row["model"],
                style.number(row[SLOPE]),
                style.number(row["bias_pct_per_decade"]),
                style.number(row["bias_ci_pct_per_decade"]),
                style.number(row["bias_over_ages_pct"]),
                style.number(row["dice"], 2),
                "–" if low == "–" else f"{low} to {high}",
                "–" if pd.isna(inside) else "yes" if inside else "no",
            ]
        )
    header = ["Structure", "Model", "Slope, % per decade", "Drift that makes it, % per decade"]
    header += ["… that brings 0 into its interval", "… over the ages, %", "Published Dice"]
    header += ["Volume ratio it allows", "Could segmentation alone do it?"]
    note = (
        "If the segmentation over- or underestimated by so much more per decade of age, there "
        "would be no trend. The Dice is that of the model's publisher; a drift was not measured."
    )
    return Table("Bias needed to cancel a slope", header, rows, note, "tipping")


def suspected_table(analysis: Analysis) -> Table:
    """How many volumes are far outside the rest."""
    table = analysis.table("suspected")
    rows = [
        [
            style.display_name(row["structure"]),
            row["kind"],
            style.count(row["n"]),
            style.count(row["n_used"]),
            *(style.number(row[name], 0) for name in ("n_other_large", "n_both_sides")),
            "–" if pd.isna(row["limit_pct"]) else f"{row['limit_pct']:.0f}",
        ]
        for row in table[table["n"].astype("Float64").fillna(1) > 0].to_dict("records")
    ]
    header = ["Structure", "Kind", "n", "Used", "Other side large", "Both sides"]
    header += ["Limit, % of what is usual"]
    note = (
        "Volumes that may be remnants, what surgery left, organs of a disease, or failed: further "
        "from the median at this age and sex than five times the 10th or 90th centile, or as far "
        "smaller than the other side. None is left out for it. Other side large: above its 90th "
        "centile."
    )
    return Table("Far outside the rest", header, rows, note, "suspected")


def time_of_day_table(analysis: Analysis) -> Table:
    """How volumes go with the time of day."""
    table = analysis.table("time_of_day")
    rows = [
        [
            style.display_name(row["structure"]),
            f"{row['from_h']:g} to {row['to_h']:g}",
            *estimate_cells(row, "difference_pct"),
            style.interval_of(row, "difference_ml", 1),
            "–" if pd.isna(row["amplitude_pct"]) else f"{row['amplitude_pct']:.1f}",
            "–" if pd.isna(row["peak_h"]) else f"{row['peak_h']:.1f}",
            style.number(row["n_used"], 0),
        ]
        for row in table.dropna(subset=["difference_pct"]).to_dict("records")
    ]
    header = ["Structure", "Hours", "Difference, % (95\u00a0%\u00a0CI)", "q"]
    header += ["Difference, mL (95\u00a0%\u00a0CI)", "Amplitude, %", "Highest at, h", "Used"]
    note = (
        "Volume at the later hour against that at the earlier, from the harmonic of M2, "
        "women and men together. q: of the harmonic, false discovery rate over all structures. "
        "Amplitude: the curve of a day at its highest over its mean, where scans span 12 hours. "
        "Nobody is drawn for an hour: who is scanned early may differ from who is scanned late."
    )
    return Table("Time of day", header, rows, note, "time_of_day")


def site_slopes_table(analysis: Analysis, *, level: float) -> Table:
    """Slopes within sites beside those between them, where the two differ: q below `level`."""
    rows = []
    table = analysis.table("site_slopes")
    for row in table[table["q_value"].astype(float) < level].to_dict("records"):
        rows.append(
            [
                style.display_name(row["structure"]),
                style.SEX_WORD.get(row["sex"], row["sex"]),
                row["model"],
                *(
                    estimate_cells(row, f"{kind}_pct_per_decade", q=False)[0]
                    for kind in ("within", "terms", "between")
                ),
                style.probability(row["q_value"]),
                style.number(row["n_sites"], 0),
                style.number(row["n_used"], 0),
            ]
        )
    by = "scanner" if (table["by"] == "scanner").any() else "site"
    ci = "% per decade (95\u00a0%\u00a0CI)"
    header = ["Structure", "Sex", "Model", f"Within {by}s: {ci}", f"With a term per {by}: {ci}"]
    header += [f"Between {by}s: {ci}", "q of the difference", f"{by.capitalize()}s", "n"]
    note = (
        "Only slopes that differ (false discovery rate). Between: how volumes go with the mean age "
        f"of the people of a {by}. Within: by a random intercept per {by}, with age split into "
        f"that mean and the distance from it; beside it by a term per {by}. Errors are "
        f"cluster-robust by {by}. {by.capitalize()}s differ in more than age, so the slope between "
        "them need not be one of ageing; M1 mixes both."
    )
    return Table(f"Slopes within and between {by}s", header, rows, note, "site_slopes")


def two_models_table(analysis: Analysis) -> Table:
    """How another segmentation model differs, in all scans and by age, sex and height."""
    rows = []
    name = "difference_mean_pct"
    words = {"age_years": "age", "height_cm": "height", "sex": "sex", "all": "all"}
    for row in analysis.table("two_models").dropna(subset=[name]).to_dict("records"):
        level = row["level"] if isinstance(row["level"], str) else ""
        level = style.SEX_WORD.get(level, level)
        low, high = (style.number(row[f"limit_{end}_pct"]) for end in ("low", "high"))
        rows.append(
            [
                style.display_name(row["structure"]),
                f"{words.get(row['variable'], row['variable'])} {level}".strip(),
                row["other_model"],
                estimate_cells(row, name, q=False)[0],
                f"{low} to {high}",
                style.number(row["dice_median"], 2),
                style.number(row["n_used"], 0),
            ]
        )
    header = ["Structure", "Scans", "Other model", "Difference, % (95\u00a0%\u00a0CI)"]
    header += ["Limits of agreement, %", "Median Dice", "n"]
    note = (
        "100 (other − this) / mean of both. A difference that changes with age is a trend that one "
        "of the two models makes."
    )
    return Table("Another segmentation model", header, rows, note, "two_models")

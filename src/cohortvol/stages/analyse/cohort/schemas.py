"""Who is analysed and what was measured: the schema of these tables."""

from cohortvol.stages.analyse.columns import SEX, STRUCTURE
from cohortvol.store.schemas import Column, real, text, whole

SCHEMAS: dict[str, dict[str, Column]] = {
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
            "with height and weight, suspected (among the usable: volumes far outside the rest)",
        ),
        "reason": Column(
            text,
            "reason code, why unusable, or which values; null where the step is a total",
        ),
        "n": Column(whole, "scans"),
    },
    "analyse/summary": {
        "structure": STRUCTURE,
        "sex": SEX,
        "n": Column(whole, "scans with a usable volume, whether or not age and sex are known"),
        "median_ml": Column(real, "median volume, mL; null with too few scans to print"),
        "q25_ml": Column(real, "25th percentile, mL"),
        "q75_ml": Column(real, "75th percentile, mL"),
        "p5_ml": Column(real, "5th percentile, mL"),
        "p95_ml": Column(real, "95th percentile, mL"),
    },
    "analyse/dropped": {
        "structure": STRUCTURE,
        "reason": Column(text, "first reason that holds why a scan is not used"),
        "n": Column(whole, "scans"),
    },
    "analyse/quartiles": {
        "structure": STRUCTURE,
        "sex": SEX,
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
        "structure": STRUCTURE,
        "sex": SEX,
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

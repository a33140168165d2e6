"""Schema of every table that `evaluate` writes."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from cohortvol.store.files import commit_text
from cohortvol.store.schemas import Column, real, text, whole
from cohortvol.store.tables import csv_text, to_arrow, to_pandas, write_table

_MODEL = Column(text, "name of the model, as given with --model")
_METRIC = Column(text, "column of evaluate/pairs that it is about")

PAIRS = {
    "model": _MODEL,
    "scan_id": Column(text, "scan, as the expert's label map is named"),
    "subject_id": Column(text, "person; scans of one person are drawn together in the bootstrap"),
    "structure": Column(text, "structure that both vocabularies name; null where nothing is read"),
    "dice": Column(real, "2 |A and B| / (|A| + |B|) of the voxels; 0 where the model missed it"),
    "nsd": Column(
        real, "share of both surfaces, by area, within the tolerance of the other; 0 where missed"
    ),
    "hd95_mm": Column(
        real, "95th percentile of the distances of surface elements, by area, larger side, mm"
    ),
    "assd_mm": Column(real, "mean distance of border voxels, both sides, mm"),
    "mssd_mm": Column(real, "largest distance of border voxels, mm"),
    "expert_n_voxels": Column(whole, "voxels of the expert; null where there are none"),
    "model_n_voxels": Column(whole, "voxels of the model; null where there are none"),
    "expert_ml": Column(real, "volume by the expert, mL; null where not drawn"),
    "model_ml": Column(real, "volume by the model, mL; null where not found"),
    "volume_error_ml": Column(real, "model - expert, mL; a missed structure counts as 0 mL here"),
    "volume_error_pct": Column(real, "100 (model - expert) / expert; -100 where missed"),
    "absolute_volume_error_ml": Column(real, "size of volume_error_ml, mL"),
    "absolute_volume_error_pct": Column(real, "size of volume_error_pct"),
    "reason": Column(text, "reason code where something is null, or 0 as the model missed it"),
    "warning": Column(text, "reason code of what a person should look at; null if nothing"),
    "detail": Column(text, "numbers behind the reason"),
}

SUMMARY = {
    "model": _MODEL,
    "group_by": Column(text, "all, sequence, scanner or age_tertile"),
    "group": Column(text, "the sequence, the scanner, or the ages in years; null for all"),
    "average": Column(
        text,
        "structure; class_mean (mean of the means of the structures) or pair_mean (mean over all "
        "pairs of scan and structure)",
    ),
    "structure": Column(text, "structure; null for an average over them"),
    "metric": _METRIC,
    "n_subjects": Column(whole, "people with a value; null where too few to print"),
    "n_pairs": Column(whole, "values; null where too few people to print"),
    "n_missed": Column(whole, "of the pairs, those that the model missed"),
    "mean": Column(real, "mean of the values, in the unit of the metric"),
    "ci_low": Column(real, "lower 95 % limit of the mean, bootstrap over people"),
    "ci_high": Column(real, "upper 95 % limit of the mean, bootstrap over people"),
    "sd": Column(real, "standard deviation of the values"),
    "median": Column(real, "median of the values"),
    "least": Column(real, "least value"),
    "greatest": Column(real, "greatest value"),
    "reason": Column(text, "reason code where there are no numbers"),
}

COMPARISONS = {
    "model": _MODEL,
    "other_model": Column(text, "model it is compared with, on the same people"),
    "structure": Column(text, "structure; null for the mean over what both have of a person"),
    "metric": _METRIC,
    "n_subjects": Column(whole, "people of whom both models have a value"),
    "mean_difference": Column(real, "other - model, mean over people"),
    "ci_low": Column(real, "lower 95 % limit of that mean, bootstrap over people"),
    "ci_high": Column(real, "upper 95 % limit of that mean, bootstrap over people"),
    "median_difference": Column(real, "other - model, median over people"),
    "p_value": Column(real, "Wilcoxon signed-rank test, two-sided; 1 where no person differs"),
    "p_corrected": Column(
        real, "corrected over structures and pairs of models; means over structures on their own"
    ),
    "correction": Column(text, "holm or bh (Benjamini-Hochberg)"),
    "reason": Column(text, "reason code where there is no test"),
}

READER_PAIRS = {
    "reference": Column(
        text, "expert or second reader: against whom; the columns of the expert are of this one"
    ),
    **PAIRS,
    "model": Column(text, "name of the model; second reader where the two readers are compared"),
}


def _agreement(of: str) -> dict[str, str]:
    return {"": f"mean {of}", "_ci_low": "its lower 95 % limit", "_ci_high": "its upper 95 % limit"}


READERS = {
    "model": _MODEL,
    "structure": Column(text, "structure; null for the mean of the means of the structures"),
    "metric": _METRIC,
    "n_subjects": Column(whole, "people compared"),
    "n_pairs": Column(whole, "scans in which both readers drew it and all three have a value"),
    "n_one_reader": Column(whole, "scans in which one reader alone drew it; not compared"),
    **{
        f"{name}{suffix}": Column(
            real, f"{words}, bootstrap over people" if suffix else f"{words}, unit of the metric"
        )
        for name, of in (
            ("expert", "of model against expert"),
            ("second", "of model against second reader"),
            ("readers", "of second reader against expert"),
            ("difference", "of (expert + second) / 2 - readers, scan by scan"),
        )
        for suffix, words in _agreement(of).items()
    },
}

PUBLISHED = {
    "model": _MODEL,
    "structure": Column(text, "structure"),
    "n_subjects": Column(whole, "people with a Dice here"),
    "dice": Column(real, "mean Dice here"),
    "dice_ci_low": Column(real, "lower 95 % limit of it, bootstrap over people"),
    "dice_ci_high": Column(real, "upper 95 % limit of it, bootstrap over people"),
    "published_model": Column(text, "known model that the published Dice is of"),
    "published_dice": Column(real, "mean Dice by the publisher, on the test set named"),
    "test_set": Column(text, "whose scans the published Dice is of"),
    "source": Column(text, "where it is published"),
}

SCHEMAS: dict[str, dict[str, Column]] = {
    "evaluate/pairs": PAIRS,
    "evaluate/summary": SUMMARY,
    "evaluate/comparisons": COMPARISONS,
    "evaluate/published": PUBLISHED,
    "evaluate/reader_pairs": READER_PAIRS,
    "evaluate/readers": READERS,
}
"""Every table of an evaluation. docs/tables.md lists the same."""


def write(out: Path, name: str, frame: pd.DataFrame) -> None:
    """Write ``<name>.parquet`` and ``<name>.csv`` below `out`."""
    columns = SCHEMAS[f"evaluate/{name}"]
    frame = frame.reindex(columns=list(columns))
    write_table(out / f"{name}.parquet", frame, columns)
    commit_text(out / f"{name}.csv", csv_text(to_pandas(to_arrow(frame, columns))))

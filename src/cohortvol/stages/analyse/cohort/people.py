"""The scans of an analysis: columns that may be lacking, values out of range, who is one person."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
import pandas as pd

from cohortvol import ranges

log = logging.getLogger(__name__)


def with_defaults(
    scans: pd.DataFrame, age_range_years: Sequence[float]
) -> tuple[pd.DataFrame, dict[str, pd.Series]]:
    """Columns that may be lacking, BMI, and a number per person; and which values were taken out.

    An age that `assemble` took out counts as taken out.
    """
    scans = scans.reset_index(drop=True).copy()
    if "state" not in scans:
        scans["state"] = "done"
    for name in ("sex", "reason", "qc", "qc_auto", "subject_id", "cluster_id", "stratum", "absent"):
        if name not in scans:
            scans[name] = None
    for name in ("height_cm", "weight_kg", "sampling_weight", "time_of_day_h"):
        if name not in scans:
            scans[name] = np.nan
    outside = ranges.outside(scans, age_range_years)
    scans = ranges.without(scans, outside)
    scans["bmi"] = scans["weight_kg"] / (scans["height_cm"] / 100) ** 2
    outside |= ranges.outside(scans[["bmi"]])
    scans = ranges.without(scans, {"bmi": outside["bmi"]})
    for said in ranges.said(outside, age_range_years):
        log.warning("the scans table has %s: unknown", said)
    if "qc_flags" in scans:
        marked = scans["qc_flags"].fillna("").str.contains("CLN_HEADER_AGE")
        outside["age_years"] |= marked & scans["age_years"].isna()
    person = [
        ("subject", subject) if isinstance(subject, str) else ("row", row)
        for row, subject in enumerate(scans["subject_id"])
    ]
    scans["subject"] = pd.factorize(pd.Series(person, dtype=object))[0]
    scans["cluster"] = scans["subject"]
    if scans["cluster_id"].isna().all():
        return scans, outside
    of_person = scans.groupby("subject")["cluster_id"].transform("first")  # None is passed over
    group = [
        ("cluster", cluster) if isinstance(cluster, str) else ("subject", subject)
        for cluster, subject in zip(of_person, scans["subject"], strict=True)
    ]
    scans["cluster"] = pd.factorize(pd.Series(group, dtype=object))[0]
    return scans, outside

"""What wants a look, and what decisions change: for `cohortvol review`."""

from __future__ import annotations

import hashlib
from typing import Any

import pandas as pd

from cohortvol.errors import FINISHED_WITH_PROBLEMS, OK
from cohortvol.stages.assemble.decisions import MEASURED, QC, WHOLE_SCAN, are_sums
from cohortvol.store.schemas import DECISION_COLUMNS

CONTEXT = ("why", "qc_auto", "qc_flags", "volume_ml")
"""Columns of a list to fill in that are there to read only."""


def changes(scans: pd.DataFrame, volumes: pd.DataFrame, idle: list[str]) -> dict[str, Any]:
    """Counts before and after review.

    Parameters
    ----------
    scans, volumes : pandas.DataFrame
        Tables SCANS and COHORT_VOLUMES, texts of the latter as categories.
    idle : list of str
        Decisions without effect.

    Returns
    -------
    dict
        ``scans`` and ``volumes``: counts of ``qc`` and of ``qc_auto``; ``structures``: for each
        one that changes, how many volumes are ``excluded`` and ``accepted`` against automatic QC,
        and how many are ``usable_before`` and ``usable_after``; ``idle``; ``exit_code``.
    """
    measured = volumes[volumes["status"].isin(MEASURED)]
    done = scans[scans["state"] == "done"]
    rows = []
    for structure, group in measured.groupby("structure", sort=False, observed=True):
        before, after = (group[name] != "exclude" for name in ("qc_auto", "qc"))
        row = {
            "structure": str(structure),
            "excluded": int((before & ~after).sum()),
            "accepted": int((~before & after).sum()),
            "usable_before": int(before.sum()),
            "usable_after": int(after.sum()),
        }
        if row["excluded"] or row["accepted"]:
            rows.append(row)
    return {
        "scans": _counts(done),
        "volumes": _counts(measured),
        "structures": rows,
        "idle": idle,
        "exit_code": FINISHED_WITH_PROBLEMS if idle else OK,
    }


def _counts(rows: pd.DataFrame) -> dict[str, dict[str, int]]:
    return {
        name: {level: int((rows[name] == level).sum()) for level in QC}
        for name in ("qc_auto", "qc")
    }


def to_look_at(scans: pd.DataFrame, volumes: pd.DataFrame, sample: int, seed: int) -> pd.DataFrame:
    """Rows of a decision table to fill in: what QC flagged or excluded, and a random sample.

    A scan whose image is in doubt, or that is excluded as a whole, is one row with structure
    `WHOLE_SCAN`; otherwise each measured structure that is flagged or excluded is one. The sample
    is of scans that passed, so that what QC misses can be found. What is decided already, and sums
    of pairs, are left out.

    Parameters
    ----------
    scans, volumes : pandas.DataFrame
        Tables SCANS and COHORT_VOLUMES.
    sample : int
        Scans of the sample.
    seed : int
        The same seed draws the same scans, whatever scans are added.
    """
    undecided = scans[(scans["state"] == "done") & scans["review"].isna()]
    single = volumes[
        volumes["status"].isin(MEASURED)
        & ~are_sums(volumes)
        & volumes["review"].isna()
        & volumes["scan_id"].isin(undecided["scan_id"])
    ]
    doubtful = single[single["qc_auto"].isin(["flag", "exclude"])]
    as_a_whole = (undecided["qc_auto"] == "exclude") | _image_in_doubt(undecided, volumes)
    whole = undecided[as_a_whole].assign(why=lambda rows: rows["qc_auto"])
    passed = undecided[undecided["qc_auto"] == "pass"]
    order = passed["scan_id"].map(lambda name: hashlib.sha256(f"{seed} {name}".encode()).digest())
    drawn = passed.loc[order.sort_values().index[:sample]].assign(why="sample")
    whole = pd.concat([whole, drawn]).assign(structure=WHOLE_SCAN)
    doubtful = doubtful[~doubtful["scan_id"].isin(whole["scan_id"])]
    doubtful = doubtful.assign(why=doubtful["qc_auto"])
    rows = pd.concat([whole, doubtful], ignore_index=True)
    rows = rows.assign(decision=None, reviewer=None, date=None, note=None)
    return rows.sort_values("scan_id", kind="stable", ignore_index=True).reindex(
        columns=[*DECISION_COLUMNS, *CONTEXT]
    )


def _image_in_doubt(scans: pd.DataFrame, volumes: pd.DataFrame) -> pd.Series:
    """Whether a flagged scan has a QC code that none of its structures has."""
    flagged = scans[scans["qc_auto"] == "flag"]
    given = volumes.loc[volumes["scan_id"].isin(flagged["scan_id"]), ["scan_id", "qc_flags"]]
    of_structures = given.dropna().astype(object).groupby("scan_id")["qc_flags"].agg(";".join)
    doubt = [
        any(code.startswith("QC_") and code not in known.split(";") for code in codes.split(";"))
        for codes, known in zip(
            flagged["qc_flags"], of_structures.reindex(flagged["scan_id"]).fillna(""), strict=True
        )
    ]
    return pd.Series(doubt, index=flagged.index, dtype=bool).reindex(scans.index, fill_value=False)

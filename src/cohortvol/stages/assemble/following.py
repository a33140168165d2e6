"""Each row of the manifest followed through the stages, table by table."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from cohortvol import ranges
from cohortvol.errors import TemporaryError
from cohortvol.store.schemas import COVARIATES, SCANS


def follow(
    manifest: pd.DataFrame,
    ingested: pd.DataFrame,
    segmented: pd.DataFrame,
    age_range_years: Sequence[float] = ranges.AGE_RANGE_YEARS,
) -> pd.DataFrame:
    """Each row of the manifest with what became of it up to segment, in manifest order.

    Only rows that the manifest stage left without a state are joined, by scan_id and shard:
    a duplicated scan_id has a state already, so no join can multiply rows.

    Parameters
    ----------
    manifest, ingested, segmented : pandas.DataFrame
        The tables MANIFEST, INGEST and SEGMENT, the last two of all shards with a column
        ``shard``.
    age_range_years : (low, high)
        As in `intake`.

    Returns
    -------
    pandas.DataFrame
        The columns of SCANS known so far and ``warnings``; ``state`` is ``segmented`` or final.

    Raises
    ------
    TemporaryError
        If a scan is missing from a table, or was segmented from other bytes than ingested.
    """
    rows = intake(manifest, ingested, age_range_years)
    ready = rows["state"] == "ready"
    onward = rows[ready].drop(columns=["state", "reason", "detail"])
    onward = onward.rename(columns={"image_sha256": "ingested_sha256"})
    onward = _joined(onward, segmented, "segment")
    # Null on both sides is a cohort drawn as tables: there were no bytes.
    changed = onward["image_sha256"].fillna("") != onward["ingested_sha256"].fillna("")
    if changed.any():
        raise stale("segment", onward[changed], "were segmented from other bytes than ingested")
    parts = [part for part in (rows[~ready], onward) if len(part)]
    known = [*SCANS, "warnings"]
    if not parts:
        return pd.DataFrame(columns=known)
    return (
        pd.concat(parts, ignore_index=True)
        .sort_values("manifest_line", kind="stable", ignore_index=True)
        .reindex(columns=known)
    )


def intake(
    manifest: pd.DataFrame,
    ingested: pd.DataFrame,
    age_range_years: Sequence[float] = ranges.AGE_RANGE_YEARS,
) -> pd.DataFrame:
    """Each row of the manifest with what ingest found, before anything is segmented.

    Scans with the same voxels as another are marked ``ID_SAME_CONTENT`` in ``warnings``.

    Parameters
    ----------
    manifest : pandas.DataFrame
        Table MANIFEST.
    ingested : pandas.DataFrame
        Table INGEST of all shards, with a column ``shard``.
    age_range_years : (low, high)
        Ages of a header outside are unknown.

    Returns
    -------
    pandas.DataFrame
        Columns of both; ``state`` is ready, or final.

    Raises
    ------
    TemporaryError
        If a scan is missing from `ingested`.
    """
    waiting = manifest["state"].isna()
    rows = manifest[waiting].drop(columns=["state", "reason", "detail", "image"])
    joined = _joined(rows, ingested.drop(columns="image"), "ingest")
    rows = _with_headers(joined, age_range_years)
    ready = rows["state"] == "ready"
    rows = mark(rows, ready & _is_double(rows["voxels_sha256"], ready), SAME_CONTENT)
    parts = [part for part in (manifest[~waiting], rows) if len(part)]
    if not parts:
        return rows
    columns = list(dict.fromkeys([*manifest.columns, *rows.columns]))
    found = pd.concat(parts, ignore_index=True).reindex(columns=columns)
    nowhere = [name for name in rows if found[name].isna().all()]  # keep their types all the same
    return found.astype({name: rows[name].dtype for name in nowhere})


MAX_AGE_CONFLICT_YEARS = 1.0

SAME_CONTENT = "ID_SAME_CONTENT"
AGE_CONFLICT = "CLN_AGE_CONFLICT"
OUT_OF_RANGE = {
    "age_years": "CLN_HEADER_AGE",
    "field_strength_t": "CLN_HEADER_VALUE",
    "time_of_day_h": "CLN_HEADER_TIME",
    ranges.DATE: "CLN_HEADER_DATE",
}
"""Marks of scans of which a value is unknown as that of the header cannot be true."""


def _with_headers(scans: pd.DataFrame, age_range_years: Sequence[float]) -> pd.DataFrame:
    """Covariates of the DICOM headers where the manifest has none, and ``CLN_...`` codes.

    A value of a header that cannot be true (`cohortvol.ranges`) is not taken, and marked by
    `OUT_OF_RANGE` where one was wanted. An age that differs by more than
    `MAX_AGE_CONFLICT_YEARS` from the header's is marked ``CLN_AGE_CONFLICT``, one that neither
    gives ``CLN_AGE_MISSING``, a date before `ranges.FIRST_YEAR` ``CLN_DATE_SHIFTED``.
    """
    codes_aside = ranges.without(scans, ranges.outside(scans, prefix="header_"), "header_")
    apart = scans["age_years"] - codes_aside["header_age_years"]
    apart = apart.abs() > MAX_AGE_CONFLICT_YEARS
    out = ranges.outside(scans, age_range_years, "header_")
    wanted = {OUT_OF_RANGE[name]: rows & scans[name].isna() for name, rows in out.items()}
    scans = ranges.without(scans, out, "header_")
    in_headers = {name for name in COVARIATES if f"header_{name}" in scans}
    filled = {name: scans[name].fillna(scans[f"header_{name}"]) for name in in_headers}
    scans = mark(scans.assign(**filled), apart, AGE_CONFLICT)
    for code, rows in wanted.items():
        scans = mark(scans, rows, code)
    scans = mark(scans, scans["age_years"].isna(), "CLN_AGE_MISSING")
    moved = scans["acquisition_date"].fillna("9999") < str(ranges.FIRST_YEAR)
    return mark(scans, moved, "CLN_DATE_SHIFTED")


def _is_double(voxels_sha256: pd.Series, ready: pd.Series) -> pd.Series:
    """Whether another usable scan has the same voxels."""
    return voxels_sha256.where(ready).duplicated(keep=False) & voxels_sha256.notna()


def mark(scans: pd.DataFrame, which: pd.Series, code: str) -> pd.DataFrame:
    """The scans with a code among the warnings of some."""
    marked = scans["warnings"].fillna("") + which.map({True: f";{code}", False: ""})
    return scans.assign(warnings=marked.str.strip(";").replace("", None))


def _joined(scans: pd.DataFrame, table: pd.DataFrame, stage: str) -> pd.DataFrame:
    joined = scans.merge(table, on=["scan_id", "shard"], how="left", validate="1:1")
    lost = joined["state"].isna()
    if lost.any():
        raise stale(stage, joined[lost], f"are not in the table of {stage}")
    return joined


def stale(stage: str, scans: pd.DataFrame, what: str) -> TemporaryError:
    shards = sorted(scans["shard"].unique())
    return TemporaryError(
        f"{len(scans)} scans {what}, such as {scans['scan_id'].iloc[0]}\n"
        f"  shards  {', '.join(shards)}\n"
        f"  The tables of {stage} are older than what they were made from. Delete "
        f"{stage}/.../<shard>.parquet of these shards and run the workflow again; finished "
        "scans are not segmented twice."
    )

"""Each row of the manifest followed through the stages, table by table."""

from __future__ import annotations

import pandas as pd

from cohortvol.errors import TemporaryError
from cohortvol.tables import COVARIATES, SCANS


def follow(manifest: pd.DataFrame, ingested: pd.DataFrame, segmented: pd.DataFrame) -> pd.DataFrame:
    """Each row of the manifest with what became of it up to segment, in manifest order.

    Only rows that the manifest stage left without a state are joined, by scan_id and shard:
    a duplicated scan_id has a state already, so no join can multiply rows.

    Parameters
    ----------
    manifest, ingested, segmented : pandas.DataFrame
        The tables MANIFEST, INGEST and SEGMENT, the last two of all shards with a column
        ``shard``.

    Returns
    -------
    pandas.DataFrame
        The columns of SCANS known so far and ``warnings``; ``state`` is ``segmented`` or final.

    Raises
    ------
    TemporaryError
        If a scan is missing from a table, or was segmented from other bytes than ingested.
    """
    rows = intake(manifest, ingested)
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


def intake(manifest: pd.DataFrame, ingested: pd.DataFrame) -> pd.DataFrame:
    """Each row of the manifest with what ingest found, before anything is segmented.

    Scans with the same voxels as another are marked ``ID_SAME_CONTENT`` in ``warnings``.

    Parameters
    ----------
    manifest : pandas.DataFrame
        Table MANIFEST.
    ingested : pandas.DataFrame
        Table INGEST of all shards, with a column ``shard``.

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
    rows = _with_headers(_joined(rows, ingested.drop(columns="image"), "ingest"))
    ready = rows["state"] == "ready"
    rows = _mark(rows, ready & _is_double(rows["voxels_sha256"], ready), SAME_CONTENT)
    parts = [part for part in (manifest[~waiting], rows) if len(part)]
    columns = list(dict.fromkeys([*manifest.columns, *rows.columns]))
    return pd.concat(parts, ignore_index=True).reindex(columns=columns) if parts else rows


MAX_AGE_CONFLICT_YEARS = 1.0
FIRST_YEAR = 1977
"""No person was imaged by magnetic resonance before: an earlier date was moved for privacy."""

SAME_CONTENT = "ID_SAME_CONTENT"
AGE_CONFLICT = "CLN_AGE_CONFLICT"


def _with_headers(scans: pd.DataFrame) -> pd.DataFrame:
    """Covariates of the DICOM headers where the manifest has none, and ``CLN_...`` codes.

    An age that differs by more than `MAX_AGE_CONFLICT_YEARS` from the header's is marked
    ``CLN_AGE_CONFLICT``, one that neither gives ``CLN_AGE_MISSING``, a date before `FIRST_YEAR`
    ``CLN_DATE_SHIFTED``.
    """
    in_headers = {name for name in COVARIATES if f"header_{name}" in scans}
    filled = {name: scans[name].fillna(scans[f"header_{name}"]) for name in in_headers}
    apart = (scans["age_years"] - scans["header_age_years"]).abs() > MAX_AGE_CONFLICT_YEARS
    scans = _mark(scans.assign(**filled), apart, AGE_CONFLICT)
    scans = _mark(scans, scans["age_years"].isna(), "CLN_AGE_MISSING")
    moved = scans["acquisition_date"].fillna("9999") < str(FIRST_YEAR)
    return _mark(scans, moved, "CLN_DATE_SHIFTED")


def _is_double(voxels_sha256: pd.Series, ready: pd.Series) -> pd.Series:
    """Whether another usable scan has the same voxels."""
    return voxels_sha256.where(ready).duplicated(keep=False) & voxels_sha256.notna()


def _mark(scans: pd.DataFrame, which: pd.Series, code: str) -> pd.DataFrame:
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

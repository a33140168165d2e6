"""Shards to one cohort table, in which every row of the manifest has one state."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from cohortvol import reasons
from cohortvol.errors import AccountingError, CohortvolError, TableError, TemporaryError
from cohortvol.tables import (
    COVARIATES,
    INGEST,
    MANIFEST,
    SCANS,
    SEGMENT,
    VOLUMES,
    Column,
    append_rows,
    read_arrow,
    read_table,
    to_arrow,
    to_pandas,
    write_arrow,
    write_table,
)

STATES = ("done", "skipped", "quarantined", "failed")
QC = ("pass", "flag", "exclude")


def run(results: Path, model: str) -> None:
    """Write ``volumes.parquet`` and ``scans.parquet`` of a results folder; print the accounts.

    Parameters
    ----------
    results : Path
        Results folder, of which every shard has been measured with `model`.
    model : str
        Model id.

    Raises
    ------
    TableError
        If a shard has not been through a stage yet.
    TemporaryError
        If the table of a shard is older than the one of the stage before it.
    CohortvolError
        If the scans were segmented in more than one way.
    AccountingError
        If a row of the manifest would come out not at all, or twice.
    """
    results = Path(results)
    manifest = read_table(results / "manifest" / "scans.parquet", MANIFEST)
    shards = _listed_shards(results / "manifest" / "index.tsv")
    scans = follow(
        manifest,
        _of_shards(results / "ingest", shards, INGEST),
        _of_shards(results / "segment" / model, shards, SEGMENT),
    )
    check_one_segmentation(scans, results, model)
    volumes = in_cohort_order(
        [read_arrow(results / "measure" / model / f"{shard}.parquet", VOLUMES) for shard in shards],
        scans.loc[scans["state"] == "segmented", "scan_id"],
    )
    scans = final_states(
        scans,
        scan_verdicts(to_pandas(volumes.select(["scan_id", "status", "reason", "qc_flags", "qc"]))),
    )
    accounts = accounting(scans, n_manifest=len(manifest))
    write_arrow(results / "volumes.parquet", volumes)
    write_table(results / "scans.parquet", scans, SCANS)
    print(accounts)


def _listed_shards(index: Path) -> list[str]:
    if not index.exists():
        raise TableError(f"{index}: no such table; run `cohortvol manifest` first")
    with open(index, encoding="utf-8", newline="") as stream:
        return [row["shard"] for row in csv.DictReader(stream, delimiter="\t")]


def _of_shards(folder: Path, shards: Iterable[str], columns: dict[str, Column]) -> pd.DataFrame:
    tables = [read_arrow(folder / f"{shard}.parquet", columns) for shard in shards]
    named = [
        table.append_column("shard", pa.array([shard] * len(table), pa.string()))
        for shard, table in zip(shards, tables, strict=True)
    ]
    empty = to_arrow(append_rows([], columns), columns).append_column(
        "shard", pa.array([], pa.string())
    )
    return to_pandas(pa.concat_tables([empty, *named]))


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
        raise _stale("segment", onward[changed], "were segmented from other bytes than ingested")
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
SAME_CONTENT = "ID_SAME_CONTENT"


def _with_headers(scans: pd.DataFrame) -> pd.DataFrame:
    """Covariates of the DICOM headers where the manifest has none; the manifest is believed.

    An age that differs by more than `MAX_AGE_CONFLICT_YEARS` from the header's is marked
    ``CLN_AGE_CONFLICT``.
    """
    in_headers = {name for name in COVARIATES if f"header_{name}" in scans}
    filled = {name: scans[name].fillna(scans[f"header_{name}"]) for name in in_headers}
    apart = (scans["age_years"] - scans["header_age_years"]).abs() > MAX_AGE_CONFLICT_YEARS
    return _mark(scans.assign(**filled), apart, "CLN_AGE_CONFLICT")


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
        raise _stale(stage, joined[lost], f"are not in the table of {stage}")
    return joined


def _stale(stage: str, scans: pd.DataFrame, what: str) -> TemporaryError:
    shards = sorted(scans["shard"].unique())
    return TemporaryError(
        f"{len(scans)} scans {what}, such as {scans['scan_id'].iloc[0]}\n"
        f"  shards  {', '.join(shards)}\n"
        f"  The tables of {stage} are older than what they were made from. Delete "
        f"{stage}/.../<shard>.parquet of these shards and run the workflow again; finished "
        "scans are not segmented twice."
    )


def check_one_segmentation(scans: pd.DataFrame, results: Path, model: str) -> None:
    """Raise if scans of one cohort were segmented with different weights, profile or code.

    Raises
    ------
    CohortvolError
        With the shards of each way, and the command that segments the fewer ones again.
    """
    segmented = scans[scans["state"] == "segmented"]
    ways = segmented.groupby("segmentation_key")
    if len(ways) <= 1:
        return
    sizes = ways.size().sort_values(ascending=False, kind="stable")
    lines = [f"{results}: the scans were segmented in {len(sizes)} ways (PROV_MIXED)"]
    for key in sizes.index:
        of_way = ways.get_group(key)
        made_by = of_way[["profile", "cohortvol_version"]].iloc[0]
        lines.append(
            f"  {key}  profile {made_by['profile']}, cohortvol {made_by['cohortvol_version']}: "
            f"{len(of_way)} scans in shards {', '.join(sorted(of_way['shard'].unique()))}"
        )
    again = sorted(segmented.loc[segmented["segmentation_key"] != sizes.index[0], "shard"].unique())
    folder = results / "segment" / model
    lines.append("  Volumes of two ways must not stand in one table. Segment again:")
    lines += [
        f"    cohortvol segment --ingest {results}/ingest/{shard}.parquet --model models/{model} "
        f"--folder {folder}/{shard} --out {folder}/{shard}.parquet"
        for shard in again
    ]
    raise CohortvolError("\n".join(lines))


def in_cohort_order(tables: list[pa.Table], scan_ids: pd.Series) -> pa.Table:
    """Rows of these scans from the tables of all shards, sorted by scan_id.

    Within a scan the rows keep their order: labels of the model, then sums.
    """
    empty = to_arrow(append_rows([], VOLUMES), VOLUMES)
    volumes = pa.concat_tables([empty, *tables])
    kept = volumes.filter(pc.is_in(volumes["scan_id"], pa.array(scan_ids, pa.string())))
    return kept.take(pc.sort_indices(kept, sort_keys=[("scan_id", "ascending")]))


def scan_verdicts(volumes: pd.DataFrame) -> pd.DataFrame:
    """What the structures of a scan say of the scan.

    A scan is ``exclude`` when every structure of it is (so also when its left and right are
    wrong, which `measure` says of every structure); ``flag`` when any structure is not
    ``pass``; otherwise ``pass``. Whether one structure is used is for its own ``qc`` to say.

    Parameters
    ----------
    volumes : pandas.DataFrame
        Columns ``scan_id, status, reason, qc, qc_flags``.

    Returns
    -------
    pandas.DataFrame
        One row per scan, indexed by scan_id: ``qc``, ``qc_flags``, and ``failure``, the
        reason code where the scan could not be measured.
    """
    by_scan = volumes["scan_id"]
    excluded = (volumes["qc"] == "exclude").groupby(by_scan).all()
    passed = (volumes["qc"] == "pass").groupby(by_scan).all()
    qc = pd.Series("flag", index=passed.index).mask(passed, "pass").mask(excluded, "exclude")
    flags = volumes[["scan_id", "qc_flags"]].drop_duplicates().groupby("scan_id")["qc_flags"]
    failed = volumes[volumes["status"] == "failed"].drop_duplicates("scan_id")
    return pd.DataFrame(
        {
            "qc": qc,
            "qc_flags": flags.agg(_all_codes),
            "failure": failed.set_index("scan_id")["reason"].reindex(qc.index),
        }
    )


def _all_codes(joined: Iterable[str | None]) -> str:
    """Codes of several ``;``-joined lists as one sorted list."""
    return ";".join(
        sorted(
            {code for codes in joined if isinstance(codes, str) for code in codes.split(";")} - {""}
        )
    )


def final_states(scans: pd.DataFrame, verdicts: pd.DataFrame) -> pd.DataFrame:
    """The table SCANS: segmented scans become done, or what measure says of them.

    Parameters
    ----------
    scans : pandas.DataFrame
        What `follow` returned.
    verdicts : pandas.DataFrame
        What `scan_verdicts` returned.

    Raises
    ------
    TemporaryError
        If a segmented scan has not been measured.
    """
    segmented = scans["state"] == "segmented"
    unmeasured = segmented & ~scans["scan_id"].isin(verdicts.index)
    if unmeasured.any():
        raise _stale("measure", scans[unmeasured], "were segmented but not measured")
    of_scan = verdicts.reindex(scans["scan_id"]).set_axis(scans.index)
    failure = of_scan["failure"].where(segmented)
    at_fault = {code for code, known in reasons.load().items() if known.class_ == "quarantine"}
    done = segmented & failure.isna()
    state = scans["state"].mask(segmented, "failed")
    state = state.mask(failure.isin(at_fault), "quarantined").mask(done, "done")
    warnings = scans["warnings"].map(lambda codes: "" if pd.isna(codes) else codes)
    qc = of_scan["qc"].where(done)
    doubtful_image = warnings.str.contains("QC_")
    qc = qc.mask((qc == "pass") & doubtful_image, "flag")
    qc = qc.mask(done & warnings.str.contains(SAME_CONTENT), "exclude")
    codes = of_scan["qc_flags"].where(done).fillna("")
    final = scans.assign(
        state=state,
        reason=scans["reason"].mask(failure.notna(), failure).mask(done, None),
        detail=scans["detail"].mask(done, None),
        qc=qc,
        qc_flags=[_all_codes(pair) for pair in zip(warnings, codes, strict=True)],
    )
    return final[list(SCANS)]


def accounting(scans: pd.DataFrame, n_manifest: int) -> str:
    """``48 scans = 41 done + 0 skipped + 6 quarantined + 1 failed``, and a line per reason.

    Raises
    ------
    AccountingError
        Unless every row of the manifest is there once, with one of the four states.
    """
    counts = scans["state"].value_counts().reindex(STATES, fill_value=0)
    line = f"{n_manifest} scans = " + " + ".join(f"{counts[state]} {state}" for state in STATES)
    if counts.sum() != n_manifest or scans["manifest_line"].nunique() != n_manifest:
        raise AccountingError(
            f"the accounts do not add up: {line}\n"
            f"  {len(scans)} rows of {scans['manifest_line'].nunique()} manifest lines\n"
            "  Please report this with the manifest folder of the results."
        )
    lines = [line]
    done = scans[scans["state"] == "done"]
    if len(done):
        qc = done["qc"].value_counts().reindex(QC, fill_value=0)
        lines.append("  done: qc " + ", ".join(f"{qc[name]} {name}" for name in QC))
    problems = scans[scans["reason"].notna()]
    by_reason = problems.groupby(["state", "reason"]).size()
    for (state, code), n_scans in by_reason.items():
        known = reasons.load().get(code)
        lines.append(f"  {state}: {n_scans} {code}  {known.sentence if known else ''}".rstrip())
    return "\n".join(lines)

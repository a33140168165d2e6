"""Shards to one cohort table, in which every row of the manifest has one state."""

from __future__ import annotations

import csv
import json
import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from cohortvol import reasons
from cohortvol.errors import AccountingError, CohortvolError, TableError
from cohortvol.ranges import AGE_RANGE_YEARS
from cohortvol.stages.assemble.agreement import flagged
from cohortvol.stages.assemble.companions import FOLDED, unfolded
from cohortvol.stages.assemble.decisions import QC, Decided, decide, read_decisions
from cohortvol.stages.assemble.following import OUT_OF_RANGE, follow, intake
from cohortvol.stages.assemble.outliers import MAX_Z, MIN_SCANS, outlier_z, with_outliers
from cohortvol.stages.assemble.rows import BOX, Rows, read_rows
from cohortvol.stages.assemble.scale import marked_off_scale, off_scale
from cohortvol.stages.assemble.verdicts import final_states, reviewed, scan_verdicts
from cohortvol.store.files import commit_digests, commit_json
from cohortvol.store.schemas import (
    AGREEMENT,
    COHORT_VOLUMES,
    COMPANIONS,
    INGEST,
    MANIFEST,
    SCANS,
    SEGMENT,
    VOLUMES,
    Column,
)
from cohortvol.store.tables import (
    append_rows,
    read_arrow,
    read_table,
    to_arrow,
    to_pandas,
    write_groups,
    write_table,
)

__all__ = ["Cohort", "Settings", "cohort", "follow", "intake", "run", "settings_of"]

log = logging.getLogger(__name__)

SETTINGS = "assemble.json"
"""File in a results folder with the `Settings` that its cohort tables were made with."""

STATES = ("done", "skipped", "quarantined", "failed")


@dataclass(frozen=True)
class Settings:
    """How the cohort as a whole is judged.

    Attributes
    ----------
    outlier_max_z, outlier_min_scans
        See `outliers`.
    min_dice : float, optional
        Least overlap of two models; below, a structure is QC_DISAGREE. None compares nothing.
    skip_unknown : bool
        Pass over decisions on scans that the manifest does not have, in place of an error.
    age_range_years : (low, high)
        An age of a DICOM header outside is unknown, and its scan marked.
    """

    outlier_max_z: float = MAX_Z
    outlier_min_scans: int = MIN_SCANS
    min_dice: float | None = None
    skip_unknown: bool = False
    age_range_years: Sequence[float] = AGE_RANGE_YEARS


def settings_of(results: Path) -> Settings:
    """The settings that a results folder was last assembled with, or the default ones."""
    path = Path(results) / SETTINGS
    return Settings(**json.loads(path.read_text())) if path.exists() else Settings()


def run(
    results: Path,
    model: str,
    decisions: Path | None = None,
    settings: Settings = Settings(),
) -> None:
    """Write ``volumes.parquet`` and ``scans.parquet`` of a results folder; print the accounts.

    With `settings.min_dice` also ``agreement.parquet``, of the shards that were compared with the
    label maps of another model; and ``companions.parquet`` where scans have companions.
    ``assemble.json`` keeps the settings, for `settings_of`, and
    ``files.sha256``, written last, the digests of all these.

    Parameters
    ----------
    results, model, decisions, settings
        As in `cohort`.

    Raises
    ------
    AccountingError
        If a row of the manifest would come out not at all, or twice.
    """
    results = Path(results)
    found = cohort(results, model, decisions, settings)
    found = replace(found, volumes=found.volumes[list(_REVIEWED)])  # the others are in the files
    accounts = accounting(found.scans, n_manifest=found.n_manifest)
    for line in found.idle:
        log.warning("%s: %s", decisions, line)
    further: dict[str, Any] = {}
    if found.agreement is not None:
        compared = partial(found.agreement.groups, AGREEMENT, pd.DataFrame())
        further["agreement.parquet"] = AGREEMENT, compared
    if found.rows.have("companions"):
        further["companions.parquet"] = COMPANIONS, found.companions
    for name in ("agreement.parquet", "companions.parquet"):
        if name in further:
            write_groups(results / name, *further[name])
        else:
            (results / name).unlink(missing_ok=True)
    write_groups(results / "volumes.parquet", COHORT_VOLUMES, found.groups)
    write_table(results / "scans.parquet", found.scans, SCANS)
    commit_json(results / SETTINGS, asdict(settings))
    written = ["volumes.parquet", SETTINGS]
    written += list(further)
    commit_digests(results, [results / name for name in written], last="scans.parquet")
    print(accounts)


@dataclass(frozen=True)
class Cohort:
    """What the final tables are made of.

    Attributes
    ----------
    volumes : pandas.DataFrame
        Of COHORT_VOLUMES what is judged, and how, texts as categories.
    rows : Rows
        Where everything else in COHORT_VOLUMES is.
    scans : pandas.DataFrame
        The table SCANS.
    n_manifest : int
        Rows of the manifest.
    idle : list of str
        Decisions that change nothing.
    agreement : Rows, optional
        Where the table AGREEMENT is, if two models were compared.
    """

    volumes: pd.DataFrame
    rows: Rows
    scans: pd.DataFrame
    n_manifest: int
    idle: list[str]
    agreement: Rows | None

    def groups(self) -> Iterator[pa.Table]:
        """The table COHORT_VOLUMES, for `write_groups`."""
        return self.rows.groups(COHORT_VOLUMES, self.volumes[list(_REVIEWED)])

    def companions(self) -> Iterator[pa.Table]:
        """The table COMPANIONS, likewise."""
        return map(unfolded, self.rows.groups(FOLDED, self.volumes[["qc"]]))


def cohort(
    results: Path,
    model: str,
    decisions: Path | None = None,
    settings: Settings = Settings(),
) -> Cohort:
    """The cohort of a results folder, with what people decided.

    Parameters
    ----------
    results : Path
        Results folder, of which every shard has been measured with `model`.
    model : str
        Model id.
    decisions : Path, optional
        Table of decisions, see `read_decisions`.
    settings : Settings
        Of `outliers` and agreement.

    Raises
    ------
    TableError
        If a shard has not been through a stage yet, or a decision cannot be used.
    TemporaryError
        If the table of a shard is older than the one of the stage before it.
    CohortvolError
        If the scans were segmented in more than one way.
    """
    results = Path(results)
    shards = _listed_shards(results / "manifest" / "index.tsv")
    scans, n_manifest = _followed(results, model, shards, settings)
    segmented = scans[scans["state"] == "segmented"]
    rows, volumes = read_rows(
        [results / "measure" / model / f"{shard}.parquet" for shard in shards],
        {name: VOLUMES[name] for name in _JUDGED},
        segmented["scan_id"],
    )
    volumes["qc"] = volumes["qc"].cat.set_categories(list(QC))
    scans = marked_off_scale(scans, off_scale(volumes, segmented))
    volumes = volumes.drop(columns=list(BOX))
    score = outlier_z(volumes, segmented, settings.outlier_min_scans)
    volumes = with_outliers(volumes, score, settings.outlier_max_z)
    agreement = None
    if settings.min_dice is not None:
        agreement, compared = read_rows(
            [results / "agreement" / model / f"{shard}.parquet" for shard in shards],
            {name: AGREEMENT[name] for name in _COMPARED},
            segmented["scan_id"],
        )
        volumes = flagged(volumes, compared, settings.min_dice)
    verdicts = scan_verdicts(volumes)
    scans = final_states(scans, verdicts)
    decided = _decided(decisions, volumes, scans, skip_unknown=settings.skip_unknown)
    if decisions is not None:
        verdicts = scan_verdicts(_looked_at(decided.volumes))
    scans = reviewed(scans, verdicts, decided.of_scans)
    volumes = decided.volumes.assign(qc_auto=volumes["qc"])
    return Cohort(volumes, rows, scans, n_manifest, decided.idle, agreement)


_JUDGED = ("scan_id", "structure", "label", "volume_ml", "status", "reason", "cut_by_fov", "bbox",
           "qc", "qc_flags")  # fmt: skip
_COMPARED = ("scan_id", "structure", "dice", "reason")
_REVIEWED = ("outlier_z", "qc", "qc_flags", "qc_auto", "review", "review_line")
"""Columns of COHORT_VOLUMES that are not as measure wrote them."""


def _followed(
    results: Path, model: str, shards: Sequence[str], settings: Settings
) -> tuple[pd.DataFrame, int]:
    """The scans up to segment, and how many rows the manifest has."""
    manifest = read_table(results / "manifest" / "scans.parquet", MANIFEST)
    scans = follow(
        manifest,
        _of_shards(results / "ingest", shards, INGEST),
        _of_shards(results / "segment" / model, shards, SEGMENT),
        settings.age_range_years,
    )
    check_one_segmentation(scans, results, model)
    pa.default_memory_pool().release_unused()
    return scans, len(manifest)


def _decided(
    path: Path | None, volumes: pd.DataFrame, scans: pd.DataFrame, *, skip_unknown: bool
) -> Decided:
    if path is None:
        nothing = pd.DataFrame({"review": [], "review_line": []}, dtype=object)
        undecided = pd.Categorical.from_codes(np.full(len(volumes), -1, dtype=np.int8), [])
        return Decided(volumes.assign(review=undecided, review_line=undecided), nothing, [])
    done = (scans["state"] == "done").groupby(scans["scan_id"]).any()
    decisions = read_decisions(path)
    unknown = ~decisions["scan_id"].isin(done.index)
    if skip_unknown and unknown.any():
        log.warning("%d decisions are on scans that the manifest does not have", unknown.sum())
        decisions = decisions[~unknown]
    return decide(path, decisions, volumes, done)


def _looked_at(volumes: pd.DataFrame) -> pd.DataFrame:
    """The structures without the codes of those that people have decided on."""
    return volumes.assign(qc_flags=volumes["qc_flags"].where(volumes["review"].isna()))


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
    if scans["review"].notna().any() or (done["qc"] != done["qc_auto"]).any():
        out = (done["qc"] == "exclude") & (done["qc_auto"] != "exclude")
        kept = (done["qc"] != "exclude") & (done["qc_auto"] == "exclude")
        lines.append(
            f"  review: {out.sum()} excluded, {kept.sum()} accepted against automatic QC, "
            f"{scans['review'].notna().sum()} decided as a whole"
        )
    problems = scans[scans["reason"].notna()]
    by_reason = problems.groupby(["state", "reason"]).size()
    for (state, code), n_scans in by_reason.items():
        known = reasons.load().get(code)
        lines.append(f"  {state}: {n_scans} {code}  {known.sentence if known else ''}".rstrip())
    codes = scans["qc_flags"].fillna("").str.split(";").explode()
    for code, n_scans in codes[codes.isin(OUT_OF_RANGE.values())].value_counts().items():
        lines.append(f"  unknown: {n_scans} {code}  {reasons.load()[str(code)].sentence}")
    return "\n".join(lines)

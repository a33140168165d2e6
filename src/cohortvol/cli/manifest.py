"""`cohortvol manifest`: scans of a table or BIDS dataset checked, and put into shards."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from cohortvol.cli.options import (
    AsNoted,
    Results,
    from_json,
    setting_from_json,
)
from cohortvol.errors import FINISHED_WITH_PROBLEMS


class BadRows(StrEnum):
    """What becomes of manifest rows that cannot be used."""

    refuse = "refuse"
    quarantine = "quarantine"


def manifest(
    manifest: Annotated[
        Path, typer.Option(help="CSV, TSV or Parquet, one row per scan; or a BIDS dataset.")
    ],
    results: Results,
    shard_size: Annotated[
        int, typer.Option(min=1, help="Scans per cluster job, for scans that are new.")
    ] = 64,
    bad_rows: Annotated[
        BadRows, typer.Option(help="Stop at unusable rows and list them, or set them apart.")
    ] = BadRows.refuse,
    sex_codes: Annotated[
        str, typer.Option(help="JSON: the manifest's codes of sex to F, M or null, besides words.")
    ] = "{}",
    age_range_years: Annotated[
        tuple[float, float], typer.Option(help="Ages outside are unusable, years.")
    ] = (0.0, 120.0),
    covariates: Annotated[
        str,
        typer.Option(help="JSON: further columns to keep, each continuous or factor."),
    ] = "{}",
    bids: Annotated[
        str,
        typer.Option(
            help="JSON: which images of a BIDS dataset are scans, as `bids` in the config."
        ),
    ] = "{}",
    hash_ids: Annotated[
        bool,
        typer.Option(
            "--hash-ids/--plain-ids", help="Put keys in place of ids and of paths of images."
        ),
    ] = False,
    salt_file: Annotated[
        Path | None,
        typer.Option(help="Salt of the keys; <results>/private/salt if not given, made once."),
    ] = None,
    withdrawals: Annotated[
        Path | None,
        typer.Option(
            help="List of subjects who withdrew: a table with subject_id, or an id per line. Their "
            "rows and everything made of their scans is removed."
        ),
    ] = None,
    as_job: Annotated[
        bool,
        typer.Option(
            "--as-job",
            help="As the workflow runs it, which says itself whom of the list nobody knows: name "
            "lines of the list and no ids, and end with 0 where some are known.",
        ),
    ] = False,
    record: AsNoted = None,
) -> None:
    r"""Check the scans of a table or BIDS dataset, and put each into a shard for good.

    Every unusable row is named with its line, its column and what is allowed there. Of a list of
    people who withdrew, ids that were never known here are named, each with what it is nearly.

    Ends with 0; with 3 where the list holds ids that were never known here, after the others were
    removed, or before anything is written if nobody in it was; with 64 where a table cannot be
    used.

    Example:
    [dim]cohortvol manifest --manifest scans.csv --results results/mine
    cohortvol manifest --manifest data/bids --bids '{"suffix": ["T2w"]}' \
    --results results/mine --hash-ids[/]
    """
    codes = from_json("--sex-codes", sex_codes)
    from cohortvol.stages.manifest import Choice, run, sources
    from cohortvol.store.records import noted

    further = setting_from_json("covariates", covariates)
    choice = Choice(**setting_from_json("bids", bids))

    unknown: list[Any] = []
    with noted(record, lambda: sources(manifest, withdrawals, choice)):
        run(
            manifest,
            results,
            shard_size=shard_size,
            bad_rows=bad_rows.value,
            sex_codes=codes,
            age_range_years=age_range_years,
            choice=choice,
            covariates=further,
            hash_ids=hash_ids,
            salt_file=salt_file,
            withdrawals=withdrawals,
            named=not as_job,
            tell=unknown.append,
        )
    for one in unknown:
        typer.echo(one.text(named=not as_job), err=True)
    if unknown and not as_job:
        raise typer.Exit(FINISHED_WITH_PROBLEMS)

"""`cohortvol check`: the whole intake of a cohort before any of it is segmented."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any, Protocol

import typer

from cohortvol.cli.options import AsJson
from cohortvol.cli.output import line_a_minute, show, width
from cohortvol.errors import FINISHED_WITH_PROBLEMS, ModelError


def check(
    manifest: Annotated[Path, typer.Argument(help="CSV, TSV or Parquet, one row per scan.")],
    settings: Annotated[
        Path | None,
        typer.Option("--config", help="Settings of the run; the defaults if not given."),
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Model to estimate for; that of the settings if not given.")
    ] = None,
    threads: Annotated[int, typer.Option(min=1, help="Scans read at a time.")] = 2,
    seconds_per_scan: Annotated[
        float | None,
        typer.Option(min=0, help="Seconds a scan takes on your machine, if you know them."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="CSV to write: every row with its state and reason.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    r"""Read every row and every image as a run will, and say what can be used and what cannot.

    Nothing is segmented and no GPU is needed; DICOM is converted into a temporary folder. Label
    maps that were made elsewhere are read as well, where the model is a table of their labels. Then
    the time, memory and disk that segmenting takes are estimated from the grids of the scans and
    the plans of the model.

    Ends with 0 when every row can be used, 3 when some cannot or the list of withdrawals holds ids
    that nobody has, 64 when a table itself cannot.

    Example:
    [dim]cohortvol check scans.csv --config config/config.yaml --out checked.csv[/]
    """
    from cohortvol import config
    from cohortvol.store.files import commit_text
    from cohortvol.store.tables import csv_text
    from cohortvol.tools import check as intake
    from cohortvol.workflow.flow import ingest_settings

    chosen = config.load(settings) if settings else config.defaults()
    card, no_card = _card(chosen, model)
    if card is not None:
        chosen["ingest"] = ingest_settings(chosen, card)
    rows, unknown, converted_bytes = _rows(manifest, chosen, card, threads)
    if out is not None:
        codes = ["state", "reason", "detail", "warnings", "body_orientation"]
        listed = ["manifest_line", "scan_id", *codes]
        commit_text(out, csv_text(rows[listed]))
    found = intake.findings(rows)
    need, why = None, "No scan to segment."
    if found["usable"]:
        usable = rows[rows["state"] == "ready"]
        try:
            need, why = _needs(usable, chosen, card, seconds_per_scan, converted_bytes), no_card
            if card is not None and card.elsewhere:
                why = f"No network is run, and no GPU needed: {card.title}."
        except ModelError as error:
            if model is not None:
                raise
            why = _without_estimate(error)
    estimate = {"estimate": None if need is None else asdict(need)}
    show(found | estimate, None if as_json else intake.render(found, need, why, width=width()))
    raise typer.Exit(found["exit_code"] or (FINISHED_WITH_PROBLEMS if unknown else 0))


def _rows(
    manifest: Path, settings: dict[str, Any], card: Any, threads: int
) -> tuple[Any, bool, int]:
    """Rows of the manifest with what ingest found; whether somebody in the list of withdrawals was
    never known; and bytes of the images made from DICOM.
    """
    import pandas as pd

    from cohortvol.stages import assemble, ingest
    from cohortvol.stages.ingest.trial import trial
    from cohortvol.stages.manifest import (
        Choice,
        check_label_maps,
        read_manifest,
        unknown_withdrawn,
        who_withdrew,
    )
    from cohortvol.stages.segment.elsewhere import tried
    from cohortvol.store.companions import from_config
    from cohortvol.store.schemas import INGEST
    from cohortvol.store.tables import append_rows, to_arrow, to_pandas
    from cohortvol.store.withdrawals import refuse_if_all

    withdrawals = settings["withdrawals"]
    withdrawn = who_withdrew(withdrawals and Path(withdrawals), manifest)
    rows = read_manifest(
        manifest,
        bad_rows="quarantine",
        sex_codes=settings["sex_codes"],
        age_range_years=settings["age_range_years"],
        choice=Choice(**settings["bids"]),
        covariates=settings["covariates"],
        withdrawn=withdrawn,
    )
    unknown = unknown_withdrawn(withdrawn, None, Path(settings["results"]))
    refuse_if_all(unknown)
    if unknown is not None:
        typer.echo(unknown.text(), err=True)
    if card is not None:
        check_label_maps(card, rows, str(manifest))
    scans = rows.loc[
        rows["state"].isna(), ["scan_id", "image", "more_images", "companions", "dseg"]
    ]
    rules = replace(
        ingest.Rules.from_config(settings["ingest"]),
        companions=from_config(settings["companions"]),
    )
    found = [append_rows([], INGEST)]
    with _silent("cohortvol.stages.ingest"), _progress(len(scans)) as read:
        for some in trial(scans, rules, threads):
            found.append(some if card is None else tried(some, card))
            read(len(some))
    ingested = to_pandas(to_arrow(pd.concat(found[1:] or found, ignore_index=True), INGEST))
    images = ingested[["scan_id", "image", "n_bytes"]].merge(scans, on="scan_id", validate="1:1")
    converted = images.loc[images["image_x"] != images["image_y"], "n_bytes"].sum()
    nowhere = {"shard": ""}  # there are no shards yet
    joined = assemble.intake(
        rows.assign(**nowhere), ingested.assign(**nowhere), settings["age_range_years"]
    )
    rows = joined.sort_values("manifest_line", ignore_index=True)
    return rows, unknown is not None, int(converted)


def _card(settings: dict[str, Any], model: str | None) -> tuple[Any, str]:
    """Card of the model, or None and why there is none; one asked for by name must be there."""
    from cohortvol.models.card import load_card, restrict
    from cohortvol.models.folders import find_model

    try:
        folder = find_model(model or settings["model"], Path(settings["models_dir"]))
        return restrict(load_card(folder), settings["roi"]), ""
    except ModelError as error:
        if model is not None:
            raise
        return None, _without_estimate(error)


def _without_estimate(error: ModelError) -> str:
    return f"No estimate of time and memory: {str(error).splitlines()[0]}"


def _needs(
    usable: Any,
    settings: dict[str, Any],
    card: Any,
    seconds_per_scan: float | None,
    converted_bytes: int,
) -> Any:
    """The estimate, or None without a card or a network."""
    from cohortvol.models.card import choose_profile
    from cohortvol.tools import check as intake

    if card is None or card.elsewhere:
        return None
    profile = choose_profile(card, settings["segment"]["profile"])
    kept_for = None if settings["keep_label_maps"] else settings["shard_size"]
    return intake.needs(usable, card, profile, seconds_per_scan, converted_bytes, kept_for)


class _Read(Protocol):
    def __call__(self, n: int) -> None: ...


@contextmanager
def _progress(total: int) -> Iterator[_Read]:
    """A bar on a terminal; elsewhere a line a minute."""
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

        columns = ("reading", BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task("", total=total)
            yield lambda n: bar.advance(task, n)
        return
    done, told = 0, line_a_minute("scans read")

    def read(n: int) -> None:
        nonlocal done
        done += n
        told(done, total)

    yield read


@contextmanager
def _silent(name: str) -> Iterator[None]:
    """No line of a logger for every scan: the table says it all."""
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)

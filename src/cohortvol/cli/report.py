"""`cohortvol report`: figures and one page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cohortvol.cli.options import (
    AsNoted,
    OutFolder,
    Roi,
    Scans,
    Volumes,
)


def report(
    analyse: Annotated[Path, typer.Option(help="Folder that analyse wrote.")],
    volumes: Volumes,
    scans: Scans,
    out: OutFolder,
    title: Annotated[str | None, typer.Option(help="Heading of the page.")] = None,
    planted: Annotated[
        Path | None, typer.Option(help="CSV of planted slopes, to stand beside the found ones.")
    ] = None,
    templates: Annotated[
        Path | None, typer.Option(help="Folder of page and captions, in place of ours.")
    ] = None,
    show_scan_ids: Annotated[
        bool, typer.Option("--show-scan-ids", help="Name scans on the page; they may be personal.")
    ] = False,
    previews: Annotated[
        Path | None,
        typer.Option(
            help="Folder of pictures that measure wrote, for contact sheets; none if not given. "
            "The page then shows the inside of people's bodies."
        ),
    ] = None,
    contact_sheet: Annotated[
        Path | None,
        typer.Option(help="CSV to write that says which scan each picture is; keep it private."),
    ] = None,
    sheet_flagged: Annotated[
        int, typer.Option(min=0, help="Most pictures of flagged or excluded scans, worst first.")
    ] = 24,
    sheet_random: Annotated[
        int, typer.Option(min=0, help="Most pictures of scans that passed, drawn at random.")
    ] = 24,
    sheet_seed: Annotated[int, typer.Option(help="Another one draws other scans.")] = 1,
    public: Annotated[
        bool,
        typer.Option(
            "--public",
            help="A page that may leave the house: numbers rounded to what their people support, "
            "no scan drawn, ages to 90. Refused where fewer than 10 people differ from an earlier "
            "one, of which counts are kept in private/published.json beside OUT.",
        ),
    ] = False,
    model: Annotated[
        Path | None,
        typer.Option(
            help="Model folder that the scans were segmented with; Methods then say how it is run: "
            "mirrored passes, cascades, ensembles."
        ),
    ] = None,
    roi: Roi = None,
    record: AsNoted = None,
) -> None:
    r"""Draw the figures and write one page that opens offline.

    Example:
    [dim]cohortvol report --analyse results/mine/analyse \
    --volumes results/mine/volumes.parquet --scans results/mine/scans.parquet \
    --out results/mine/report[/]
    """
    from cohortvol.stages.report import SheetSettings, run
    from cohortvol.store.records import noted

    with noted(record):
        run(
            analyse,
            volumes,
            scans,
            out,
            title=title,
            planted=planted,
            templates=templates,
            show_scan_ids=show_scan_ids,
            previews=previews,
            contact_sheet=contact_sheet,
            sheet=SheetSettings(flagged=sheet_flagged, random=sheet_random, seed=sheet_seed),
            public=public,
            model=model,
            roi=roi or (),
        )

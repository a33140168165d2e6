"""`cohortvol status`: how far a cohort is."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from cohortvol.cli.options import AsJson, ModelId, Results
from cohortvol.cli.output import show, width
from cohortvol.errors import ConfigError


def status(
    results: Results,
    model: ModelId = None,
    as_json: AsJson = False,
    as_digest: Annotated[
        bool, typer.Option("--digest", help="Print one line, fit for a mail or a chat.")
    ] = False,
    keep_watching: Annotated[
        bool,
        typer.Option(
            "--watch",
            help="Look again and again until nothing is left to do, or until Ctrl-C: in place on "
            "a terminal, elsewhere a line each time.",
        ),
    ] = False,
    interval: Annotated[
        float, typer.Option(min=1, help="With --watch: time between two looks, seconds.")
    ] = 10.0,
) -> None:
    """How far a cohort is: counts by state and reason, rate, time left, shards to look at.

    Rate and time left come from what this cohort has done since its last pause. Ends with 0 when
    every scan is done, 3 when all are accounted for but some are quarantined or failed, 75 while
    there is work to do.

    Example:
    [dim]cohortvol status --results results/mine
    cohortvol status --results results/mine --watch --interval 30
    cohortvol status --results results/mine --digest[/]
    """
    from cohortvol.tools.status import digest, render_summary, summary, watch

    if as_json and as_digest:
        raise ConfigError("--json and --digest: choose one of them")
    form = "json" if as_json else "digest" if as_digest else "text"
    if keep_watching:
        found = watch(results, model, interval, form)
    else:
        found = summary(results, model)
    in_place = keep_watching and sys.stdout.isatty()
    if form == "text" and (in_place or not keep_watching):
        show(found, render_summary(found, width=width()))
    elif not keep_watching:
        show(found, None if as_json else digest(found))
    raise typer.Exit(found["exit_code"])

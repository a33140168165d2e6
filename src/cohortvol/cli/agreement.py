"""`cohortvol agreement`: label maps of two models compared."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cohortvol.cli.options import AsNoted, Results
from cohortvol.cli.output import as_table, width


def agreement(
    results: Results,
    model: Annotated[str, typer.Option(help="Model id whose volumes are used.")],
    other_model: Annotated[str, typer.Option(help="Model id to compare with.")],
    other_results: Annotated[
        Path | None,
        typer.Option(
            help="Results folder of the other model's run; the same folder if not given. Two "
            "profiles of one model need two folders."
        ),
    ] = None,
    shard: Annotated[
        list[str] | None, typer.Option(help="Shard to compare; repeat for several, all if none.")
    ] = None,
    record: AsNoted = None,
) -> None:
    r"""Compare the label maps of two models, or of two profiles, scan by scan.

    Dice and difference of volume of every structure that both know, in agreement/<model>/.
    `cohortvol assemble --min-dice 0.7` makes one table of them and flags what disagrees.

    Example:
    [dim]cohortvol agreement --results results/mine --model total_mr --other-model mrsegmentator
    cohortvol agreement --results results/paper --model total_mr --other-model total_mr \
    --other-results results/fast[/]
    """
    from rich.console import Console

    from cohortvol.store.records import noted
    from cohortvol.tools.agreement import run, summary

    with noted(record):
        found = run(results, model, other_model, other_results, shard or ())
    title = f"{model} and {other_model}, {found['scan_id'].nunique()} scans"
    Console(width=width()).print(as_table(summary(found), title))

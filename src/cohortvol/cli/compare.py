"""`cohortvol compare`: what was found, beside what was planted."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cohortvol.cli.options import Results
from cohortvol.cli.output import as_table, width


def compare(
    results: Results,
    planted: Annotated[Path, typer.Option(help="planted.csv of the simulation.")],
    source: Annotated[
        Path | None, typer.Option(help="Folder that `cohortvol simulate --out` made.")
    ] = None,
) -> None:
    r"""A simulated cohort's volumes and slopes, beside the truth it was drawn from.

    Example:
    [dim]cohortvol compare --results results/demo --source results/demo/source \
    --planted results/demo/source/planted.csv[/]
    """
    from rich.console import Console

    from cohortvol.tools.simulate import compare as truth

    console = Console(width=width())
    if source is not None:
        accuracy = truth.volumes_against_truth(source, results)
        console.print(as_table(accuracy, "Measured against drawn volumes"))
    slopes = truth.slopes_against_planted(planted, results / "analyse" / "slopes.parquet")
    console.print(as_table(slopes, "Planted and recovered slopes, % per decade"))

"""`cohortvol assemble`: tables of all shards made one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cohortvol.cli.options import (
    AgeRange,
    AsNoted,
    Results,
)


def assemble(
    results: Results,
    model: Annotated[str, typer.Option(help="Model id, such as embedded-v2.")],
    decisions: Annotated[
        Path | None,
        typer.Option(help="Table of human decisions that overrule QC; see `cohortvol review`."),
    ] = None,
    outlier_max_z: Annotated[
        float,
        typer.Option(
            min=0,
            help="Robust z of log volume at the scan's age and sex, beyond which it is flagged.",
        ),
    ] = 5.0,
    outlier_min_scans: Annotated[
        int, typer.Option(min=1, help="Volumes of one sex below which no z is given.")
    ] = 30,
    min_dice: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            help="Least overlap with the model that `cohortvol agreement` compared with; the "
            "comparison is left out if not given.",
        ),
    ] = None,
    skip_unknown: Annotated[
        bool,
        typer.Option(
            "--skip-unknown/--refuse-unknown",
            help="Pass over decisions on scans that the manifest does not have, as after a "
            "withdrawal, and say only how many.",
        ),
    ] = False,
    age_range_years: AgeRange = (0.0, 120.0),
    record: AsNoted = None,
) -> None:
    """Make one cohort table of all shards, and account for every row of the manifest.

    Example:
    [dim]cohortvol assemble --results results/mine --model embedded-v2[/]
    """
    from cohortvol.stages.assemble import Settings, run
    from cohortvol.store.records import noted

    settings = Settings(outlier_max_z, outlier_min_scans, min_dice, skip_unknown, age_range_years)
    with noted(record):
        run(results, model, decisions, settings)

"""`cohortvol simulate`: a synthetic cohort."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cohortvol.errors import ConfigError


def simulate(
    out: Annotated[Path | None, typer.Option(help="Folder for manifest, images and truth.")] = None,
    results: Annotated[
        Path | None, typer.Option(help="With --tables-only: results folder to write tables to.")
    ] = None,
    n: Annotated[int, typer.Option(min=1, help="Number of scans.")] = 48,
    seed: Annotated[int, typer.Option(help="The same seed gives the same cohort.")] = 1,
    broken: Annotated[
        bool, typer.Option("--broken", help="Break some scans, each in another way.")
    ] = False,
    dixon: Annotated[
        bool,
        typer.Option(
            "--dixon",
            help="Four images of each scan, for models of several channels: water in the column "
            "image, then fat, in phase and opposed phase in image_2 to image_4.",
        ),
    ] = False,
    tables_only: Annotated[
        bool, typer.Option("--tables-only", help="Draw the tables of a cohort, without images.")
    ] = False,
    processes: Annotated[int, typer.Option(min=1, help="Scans built at a time.")] = 1,
) -> None:
    """Make a synthetic cohort whose true volumes and age trends are known.

    Example:
    [dim]cohortvol simulate --out results/demo/source --n 48 --seed 1 --broken
    cohortvol simulate --tables-only --n 8672 --results results/demo-population[/]
    """
    if tables_only:
        if results is None or out is not None or broken or dixon:
            raise ConfigError(
                "--tables-only needs --results, and takes neither --out nor --broken nor --dixon"
            )
        from cohortvol.tools.simulate import population

        population.run(results, n=n, seed=seed)
        return
    if out is None or results is not None:
        raise ConfigError("images need --out; --results goes with --tables-only")
    from cohortvol.tools.simulate.run import run

    run(out, n=n, seed=seed, broken=broken, processes=processes, dixon=dixon)

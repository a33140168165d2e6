"""`cohortvol run`: Snakemake on a table of scans, in one line."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from cohortvol.errors import ConfigError

TABLES = (".csv", ".tsv", ".parquet")


def run(
    context: typer.Context,
    manifest: Annotated[
        Path | None,
        typer.Argument(
            help="Table of scans or BIDS dataset; that of the settings if not given.",
            show_default=False,
        ),
    ] = None,
    results: Annotated[
        Path | None, typer.Option(help="Results folder, if not as in the settings.")
    ] = None,
) -> None:
    """Run a cohort here: Snakemake on the Snakefile of this folder, else on that of the package.

    Every further option is one of Snakemake (`snakemake --help`) and is passed on to it, behind the
    table: `cohortvol run scans.csv -n`, `--cores 4`, `--profile slurm`, `--config model=total_mr`.
    All cores of this machine are taken if nothing is said of cores, jobs or a profile.

    Example:
    [dim]cohortvol run scans.csv
    cohortvol run scans.csv --results results/mine[/]
    """
    from cohortvol.tools.study import snakemake_words

    options = context.args
    if manifest is not None and str(manifest).startswith("-"):
        manifest, options = None, [str(manifest), *options]
        if options[-1].endswith(TABLES):
            raise ConfigError(
                f"the table of scans comes before the options of Snakemake\n"
                f"  cohortvol run {options[-1]} {' '.join(options[:-1])}"
            )
    words = snakemake_words({"manifest": manifest, "results": results}, options)
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(sys.executable, [sys.executable, "-m", "snakemake", *words])  # noqa: S606

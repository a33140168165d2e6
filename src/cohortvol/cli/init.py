"""`cohortvol init`: the folder of a study."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cohortvol.errors import ConfigError, did_you_mean


def init(
    folder: Annotated[Path, typer.Argument(help="Folder to make, or one without a study.")],
    scheduler: Annotated[
        list[str] | None,
        typer.Option(help="Profile for a scheduler that is not on this machine; may be repeated."),
    ] = None,
) -> None:
    """Make the folder of a study: settings, Snakefile, profiles, README.

    A profile lies there for each scheduler that is found on this machine. The workflow itself stays
    in the package, so several studies share one installation and each has its own settings. A file
    that is there is never written over.

    Example:
    [dim]cohortvol init my-study
    cohortvol init my-study --scheduler slurm[/]
    """
    from cohortvol.tools import study

    wanted = list(dict.fromkeys([*study.schedulers_here(), *(scheduler or ())]))
    for name in wanted:
        if name not in study.SCHEDULERS:
            raise ConfigError(f"no profile {name!r}{did_you_mean(name, list(study.SCHEDULERS))}")
    study.write(folder, wanted)
    with_cluster = "".join(f", or snakemake --profile {name}" for name in wanted)
    typer.echo(
        f"{folder} is ready. Next:\n"
        f"  cd {folder}\n"
        "  write scans.csv (README.md there says what is in it)\n"
        f"  snakemake --cores 8{with_cluster}"
    )

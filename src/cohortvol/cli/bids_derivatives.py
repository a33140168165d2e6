"""`cohortvol bids-derivatives`: label maps and volumes as a BIDS derivatives dataset."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cohortvol.cli.options import Results
from cohortvol.errors import FINISHED_WITH_PROBLEMS


def bids_derivatives(
    results: Results,
    out: Annotated[Path, typer.Option(help="Dataset to write, one per model.")],
    copy: Annotated[
        bool,
        typer.Option(
            "--copy/--link",
            help="Copy label maps, or link them: a hard link takes no space, and who writes into "
            "the one changes the other.",
        ),
    ] = False,
    source: Annotated[
        str | None,
        typer.Option(help="URL, DOI or path of the dataset that was segmented, to refer to it."),
    ] = None,
) -> None:
    r"""Write label maps and volumes of the scans that are done as BIDS derivatives.

    Run again, it writes what is new or changed, and takes away what is not done any more. Ends
    with 3 where a label map is gone or changed.

    Example:
    [dim]cohortvol bids-derivatives --results results/mine --out data/bids/derivatives/cohortvol \
    --source doi:10.18112/openneuro.ds000000.v1.0.0[/]
    """
    from cohortvol.tools.derivatives import run

    if run(results, out, copy=copy, source=source):
        raise typer.Exit(FINISHED_WITH_PROBLEMS)

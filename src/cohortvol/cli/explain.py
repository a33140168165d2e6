"""`cohortvol explain`: what became of one scan."""

from __future__ import annotations

from typing import Annotated

import typer

from cohortvol.cli.options import AsJson, ModelId, Results
from cohortvol.cli.output import show, width


def explain(
    scan_id: Annotated[str, typer.Argument(help="Scan as the manifest names it, or its key.")],
    results: Results,
    model: ModelId = None,
    as_json: AsJson = False,
) -> None:
    """Everything that happened to one scan, and what to do about it.

    Example:
    [dim]cohortvol explain sub-0007 --results results/mine[/]
    """
    from cohortvol.tools.status import explain as follow
    from cohortvol.tools.status import render_explanation

    found = follow(results, scan_id, model)
    show(found, None if as_json else render_explanation(found, width=width()))

"""`cohortvol models verify`: files of models held against their cards."""

from __future__ import annotations

import io
from contextlib import redirect_stdout
from pathlib import Path
from typing import Annotated

import typer

from cohortvol.cli.options import ModelsDir


def verify_models(
    names: Annotated[
        list[str] | None, typer.Argument(help="Models to check; all if none is named.")
    ] = None,
    models_dir: ModelsDir = Path("models"),
) -> None:
    """Compare the files of models with the checksums on their cards, and arrays with plans.

    Example:
    [dim]cohortvol models verify embedded-v2[/]
    """
    from cohortvol.compute.installation import loading
    from cohortvol.models import card as cards
    from cohortvol.models import folders

    for name in names or folders.ids(models_dir):
        card = cards.load_card(folders.find_model(name, models_dir))
        folders.verify(card)
        if card.elsewhere:
            typer.echo(f"{card.id}: a table of {len(card.elsewhere)} labels, no network")
            continue
        with loading("torch and nnU-Net"):
            from cohortvol.models.networks import check
        with redirect_stdout(io.StringIO()):  # nnU-Net prints
            check(card)
        n_files = sum(len(part.files) for part in card.parts)
        typer.echo(f"{card.id}: {n_files} files are what its card says")

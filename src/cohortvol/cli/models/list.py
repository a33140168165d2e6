"""`cohortvol models list`: the models there are, and those known by name."""

from __future__ import annotations

from pathlib import Path

import typer

from cohortvol.cli.options import ModelsDir
from cohortvol.errors import ModelError


def list_models(models_dir: ModelsDir = Path("models")) -> None:
    """The models there are, and those that could be fetched or imported.

    Example:
    [dim]cohortvol models list[/]
    """
    from cohortvol.models import catalogue, folders

    names, embedded = folders.list_models(models_dir), folders.embedded()
    typer.echo(f"In {models_dir}:" if names else f"{models_dir} holds no model.")
    for name in names:
        _echo(models_dir / name)
    if embedded.name not in names:
        typer.echo("\nComes with cohortvol:")
        _echo(embedded)
    typer.echo("\nKnown, not here:")
    for known in catalogue.load().values():
        if known.id not in names:
            verb = "fetch" if known.fetchable else "import --known"
            typer.echo(f"{known.id}\n  {known.title}")
            if known.release:
                typer.echo(f"  release: {known.release}, {known.released}")
            typer.echo(f"  licence: {known.licence}\n  weights: {known.access}")
            typer.echo(f"  cohortvol models {verb} {known.id}")


def _echo(folder: Path) -> None:
    """What the card of a model says."""
    from cohortvol.models import card as cards
    from cohortvol.models.files import shown
    from cohortvol.models.told import told_together

    try:
        card = cards.load_card(folder)
    except ModelError as error:
        typer.echo(f"{shown(folder.name)}\n  cannot be used: {error}")
        return
    files = [card.folder / file for part in card.parts for file in part.files]
    complete = all(file.is_file() for file in files)
    n_bytes = sum(file.stat().st_size for file in files if file.is_file())
    typer.echo(f"{folder.name}\n  {card.title}")
    if card.elsewhere:
        typer.echo("  no network: label maps that the column dseg of the manifest names")
    else:
        typer.echo(f"  {n_bytes / 1e6:.0f} MB, {'complete' if complete else 'files missing'}")
    typer.echo(f"  licence: {card.licence}\n  source: {card.source}")
    typer.echo(f"  profiles: {', '.join(card.profiles)}")
    for line in told_together(card.parts):
        typer.echo(f"  {line}")
    typer.echo(f"  {len(card.labels)} structures: {', '.join(card.labels.values())}")

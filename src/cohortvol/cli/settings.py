"""`cohortvol settings`: every setting with its default and reason."""

from __future__ import annotations

import typer


def settings() -> None:
    """Print every setting with its default, unit and reason, as a file of settings.

    Example:
    [dim]cohortvol settings[/]
    """
    from cohortvol.shipped import path_of

    typer.echo(path_of("config/config.yaml").read_text(encoding="utf-8"), nl=False)

"""`cohortvol bundle`: all that a machine without internet needs, in one folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cohortvol.cli.options import ModelsDir
from cohortvol.errors import ConfigError


def bundle(
    out: Annotated[
        Path | None, typer.Option(help="Folder to make; one that is not complete is gone on with.")
    ] = None,
    check: Annotated[
        Path | None, typer.Option(help="Make nothing: verify the bundle in this folder.")
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(help="Model to bring, id or folder; repeat for several, embedded-v2 if none."),
    ] = None,
    models_dir: ModelsDir = Path("models"),
    repository: Annotated[
        Path, typer.Option(help="Checkout of cohortvol whose workflow is brought.")
    ] = Path(),
) -> None:
    r"""Gather wheels with hashes, models, licences and the workflow for a machine without internet.

    Run it on a machine with internet that has the Python and the kind of processor of the other
    one, then copy the folder there; its README.md has the commands. Wheels are fetched with pip,
    in the versions of constraints.txt; pip's own settings say from where, and so which build of
    torch comes. Run again after an interruption, it goes on where it stopped.

    Example:
    [dim]cohortvol bundle --out bundle --model embedded-v2 --model total_mr
    cohortvol bundle --check bundle[/]
    """
    from cohortvol.config import defaults
    from cohortvol.models.folders import find_model
    from cohortvol.tools import bundle as folder

    if (out is None) == (check is None):
        raise ConfigError("bundle needs either --out, to make one, or --check, to verify one")
    if check is not None:
        place, found = check, folder.check(check)
    else:
        place = Path(str(out))
        models = [find_model(name, models_dir) for name in model or [defaults()["model"]]]
        found = folder.make(repository, place, models)
    typer.echo(
        f"{place}: whole. {found.n_files} files, {found.n_wheels} wheels, "
        f"models {', '.join(found.models) or 'none'}"
    )

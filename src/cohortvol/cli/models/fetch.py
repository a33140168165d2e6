"""`cohortvol models fetch`: weights of a known model, downloaded and imported."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)

from cohortvol.cli.options import ModelsDir
from cohortvol.cli.output import echo_model
from cohortvol.errors import ConfigError, TemporaryError


def fetch_model(
    model_id: Annotated[str, typer.Argument(help="Known model; `models list` shows them.")],
    downloads: Annotated[Path, typer.Option(help="Folder the zips are kept in.")] = Path(
        "models/downloads"
    ),
    sha256: Annotated[
        list[str] | None,
        typer.Option(help="Checksum a zip must have; one per zip, in their order."),
    ] = None,
    models_dir: ModelsDir = Path("models"),
) -> None:
    """Download the published weights of a known model and import them.

    A download that was cut goes on where it stopped. A zip must have the checksum that its
    publisher says; where none does, it is recorded, and a zip that changes later is refused.

    Example:
    [dim]cohortvol models fetch total_mr[/]
    """
    from cohortvol.models import catalogue, weights
    from cohortvol.models.networks import import_known

    known = catalogue.find(model_id)
    if (models_dir / known.id).exists():
        raise ConfigError(f"{models_dir / known.id} is there already; delete it to fetch it again")
    urls = [part.url for part in known.parts if part.url is not None]
    if len(urls) < len(known.parts):
        others = ", ".join(part.name for part in known.parts if part.url is None)
        raise ConfigError(
            f"{model_id}: its weights {others} cannot be fetched: {known.access} ({known.source})\n"
            f"  With your own copy: cohortvol models import FOLDER --known {model_id}"
        )
    if sha256 and len(sha256) != len(urls):
        raise ConfigError(f"--sha256 is given {len(sha256)} times; {model_id} has {len(urls)} zips")
    published = [part.sha256 for part in known.parts]
    checksums = [*sha256] if sha256 else published
    for ours, theirs in zip(checksums, published, strict=True):
        if ours is not None and theirs is not None and ours.lower() != theirs:
            raise ConfigError(f"--sha256 {ours}: the publisher says {theirs}")
    zips = []
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
    with Progress(
        *columns,
        TimeRemainingColumn(),
        console=Console(stderr=True),
        disable=not sys.stderr.isatty(),
    ) as progress:
        for url, checksum in zip(urls, checksums, strict=True):
            bar = progress.add_task(url.rsplit("/", 1)[-1], total=None)
            tell = partial(_tell, progress, bar)
            try:
                zips.append(weights.fetch(url, downloads, checksum, tell))
            except TemporaryError as error:
                error.add_note(f"There: cohortvol models fetch {known.id}")
                error.add_note(f"Then copy its folder models/{known.id} to {models_dir / known.id}")
                raise
    echo_model(import_known(known, zips, models_dir / known.id))


def _tell(progress: Progress, bar: TaskID, done: int, total: int | None) -> None:
    progress.update(bar, completed=done, total=total)

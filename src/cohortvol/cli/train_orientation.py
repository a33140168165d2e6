"""`cohortvol train-orientation`: the network that sees which way round a body lies."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def train_orientation(
    out: Annotated[Path, typer.Option(help="Folder to write to.")],
    real: Annotated[
        Path | None,
        typer.Option(help="Folder of NIfTI images whose headers are right, one a person."),
    ] = None,
    simulated: Annotated[
        Path | None, typer.Option(help="Folder of images that `cohortvol simulate` made.")
    ] = None,
    steps: Annotated[int, typer.Option(min=1, help="Steps of gradient descent.")] = 2000,
    folds: Annotated[
        int, typer.Option(min=0, help="Groups of real images, each judged without it; 0 for none.")
    ] = 4,
    seed: Annotated[int, typer.Option(help="The same seed gives the same weights.")] = 1,
    processes: Annotated[int, typer.Option(min=1, help="Trainings at a time.")] = 1,
) -> None:
    """Train the network with which ingest sees mirrored and turned images.

    Minutes to an hour on a processor; `orientation.safetensors` in the folder is what comes with
    cohortvol as `src/cohortvol/models/orientation.safetensors`.

    Example:
    [dim]cohortvol train-orientation --real chaos/images --simulated cohort/images \\
    --out training/orientation --processes 2[/]
    """
    from cohortvol.tools.train import orientation

    orientation.run(real, simulated, out, steps, folds, seed, processes)

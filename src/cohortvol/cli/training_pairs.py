"""`cohortvol training-pairs`: images and labels to train on, coloured anew."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def training_pairs(
    out: Annotated[Path, typer.Option(help="Folder for images/, labels/ and cases.csv.")],
    labelled: Annotated[
        Path | None,
        typer.Option(help="Folder with images/image_<id>.nii.gz and labels/label_<id>.nii.gz."),
    ] = None,
    per_scan: Annotated[
        int, typer.Option(min=0, help="Synthetic images made of each labelled scan.")
    ] = 10,
    simulated: Annotated[int, typer.Option(min=0, help="Images of simulated anatomies.")] = 200,
    seed: Annotated[int, typer.Option(help="The same seed gives the same pairs.")] = 1,
    processes: Annotated[int, typer.Option(min=1, help="Cases made at a time.")] = 1,
) -> None:
    """Make training images of random contrast from label maps, for `cohortvol train`.

    Labels are 1 liver, 2 right kidney, 3 left kidney, 4 spleen. The labelled scans themselves
    are among the pairs.

    Example:
    [dim]cohortvol training-pairs --labelled data/chaos --out training/pairs[/]
    """
    from cohortvol.tools.simulate import training

    training.run(
        out,
        labelled,
        per_scan=per_scan,
        n_simulated=simulated,
        seed=seed,
        processes=processes,
    )

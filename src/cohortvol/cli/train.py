"""`cohortvol train`: a model trained on labelled scans."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def train(
    recipe: Annotated[Path, typer.Option(help="Recipe of the model, YAML.")],
    work: Annotated[Path, typer.Option(help="Folder for what training needs and can resume.")],
    out: Annotated[Path, typer.Option(help="Model folder to make.")],
    pairs: Annotated[
        Path | None,
        typer.Option(
            help="Folder with images/, labels/ and cases.csv, where the recipe names no datasets."
        ),
    ] = None,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    processes: Annotated[
        int, typer.Option(min=1, help="Processes that prepare data, and that feed a GPU.")
    ] = 1,
    only: Annotated[
        str | None,
        typer.Option(
            help="One step of the training: prepare, pretrain, a fold (0, 1, ...), all (the final "
            "training on all cases), or import (the model folder)."
        ),
    ] = None,
    part: Annotated[
        str | None, typer.Option(help="With --only: one part (sub-model) of the recipe.")
    ] = None,
    variant: Annotated[
        str | None, typer.Option(help="One variant of the recipe, where it has some.")
    ] = None,
) -> None:
    r"""Train a model on images with label maps, and measure it on subjects it has not seen.

    A dataset is a folder with images/CASE.nii.gz, labels/CASE.nii.gz and, where several images are
    of one person, cases.csv with the columns case, subject and source (real, or simulated); further
    channels are in images_2/ and so on. The recipe names datasets, their label indices, the parts
    the structures are split into, spacing, folds and iterations; docs/training.md explains it.

    With layout: totalsegmentator a dataset is a folder of subjects with one file per structure
    (s0001/mri.nii.gz or ct.nii.gz, s0001/segmentations/liver.nii.gz, meta.csv), as the public
    TotalSegmentator datasets are given out; whom meta.csv keeps for testing is not trained on.

    Killed, the same command goes on from the last checkpoint. On a cluster each part and fold is a
    GPU job of its own: snakemake --snakefile workflow/training.smk.

    Example:
    [dim]cohortvol train --recipe my/recipe.yaml --work training/mine --out models/mine \
    --device cuda --processes 8
    cohortvol train --recipe models/total-mr-3mm.yaml --variant mri --work training/total \
    --out models/total-mr-3mm-mri --device cuda --processes 8
    cohortvol train --recipe models/embedded-v2.yaml --pairs training/pairs \
    --work training/work --out models/mine[/]
    """
    from cohortvol.tools.train.run import run

    run(
        recipe,
        pairs,
        work,
        out,
        device=device,
        processes=processes,
        only=only,
        part=part,
        variant=variant,
    )

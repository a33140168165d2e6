"""`cohortvol plan`: what the next run will do, before it does it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cohortvol.cli.options import AsJson
from cohortvol.cli.output import show


def plan(
    settings: Annotated[
        Path | None,
        typer.Option(
            "--config",
            help="Settings of the run; config.yaml or config/config.yaml here if not given.",
        ),
    ] = None,
    manifest: Annotated[
        Path | None, typer.Option(help="Table of scans or BIDS dataset, if not as in the settings.")
    ] = None,
    results: Annotated[
        Path | None, typer.Option(help="Results folder, if not as in the settings.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="Model, if not as in the settings.")] = None,
    as_json: AsJson = False,
) -> None:
    r"""Say which jobs the next run has, which scans it keeps, reads and segments again, and why.

    Looks at the manifest, at size and time of every image, and at the results folder alone, as the
    run itself does. No image is read and nothing is computed. What is given to Snakemake with
    `--config` beside these three settings is told by `snakemake -n`, from the same judgement.

    Example:
    [dim]cohortvol plan --config config/config.yaml
    cohortvol plan --manifest scans.csv --results results/mine --model total_mr[/]
    """
    from cohortvol import config
    from cohortvol.models.card import load_card, restrict, segmentation_key
    from cohortvol.models.folders import find_model
    from cohortvol.workflow import plan as plans

    chosen = config.load(settings or config.here())
    given = {"manifest": manifest, "results": results, "model": model}
    chosen |= {name: str(value) for name, value in given.items() if value is not None}
    card = load_card(find_model(chosen["model"], Path(chosen["models_dir"])))
    card = restrict(card, chosen["roi"])
    run = plans.next_run(chosen, card)
    key = segmentation_key(card, chosen["segment"]["profile"])
    found = plans.plan(run, Path(chosen["results"]), card.id, key)
    show(found, None if as_json else plans.render(found, chosen["manifest"], card.id))

"""`cohortvol plan`: what the next run will do, before it does it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cohortvol.cli.options import AsJson
from cohortvol.cli.output import show


def plan(
    settings: Annotated[Path, typer.Option("--config", help="Settings of the run.")] = Path(
        "config/config.yaml"
    ),
    manifest: Annotated[
        Path | None, typer.Option(help="Table of scans or BIDS dataset, if not as in the settings.")
    ] = None,
    results: Annotated[
        Path | None, typer.Option(help="Results folder, if not as in the settings.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="Model, if not as in the settings.")] = None,
    as_json: AsJson = False,
) -> None:
    r"""Say in numbers which scans the next run keeps, reads, and segments again, and why.

    Looks at the manifest, at size and time of every image, and at the tables of the results
    folder. No image is read and nothing is computed; `snakemake -n` then lists the jobs.

    Example:
    [dim]cohortvol plan --config config/config.yaml
    cohortvol plan --manifest scans.csv --results results/mine --model total_mr[/]
    """
    from cohortvol import config
    from cohortvol import plan as plans
    from cohortvol.manifest import check, file_facts, from_config
    from cohortvol.models import find_model, load_card, restrict, segmentation_key

    chosen = config.load(settings)
    scans = manifest or Path(chosen["manifest"])
    folder = results or Path(chosen["results"])
    card = load_card(find_model(model or chosen["model"], Path(chosen["models_dir"])))
    card = restrict(card, chosen["roi"])
    rows = check(scans, folder, **from_config({**chosen, "bad_rows": "quarantine"}))
    usable = rows[rows["state"].isna()]
    facts = {
        scan_id: file_facts(image)
        for scan_id, image in zip(usable["scan_id"], usable["image"], strict=True)
    }
    key = segmentation_key(card, chosen["segment"]["profile"])
    found = plans.plan(rows, facts, folder, card.id, key)
    show(found, None if as_json else plans.render(found, str(scans), card.id))

"""`cohortvol measure`: volumes, quality and previews of a shard."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cohortvol.cli.options import (
    AsNoted,
    KeptTable,
    Measuring,
    ModelFolder,
    Out,
    Results,
    Roi,
    stand_in,
)


def measure(
    segment: Annotated[Path, typer.Option(help="Segment table of the shard.")],
    ingest: Annotated[Path, typer.Option(help="Ingest table of the shard.")],
    model: ModelFolder,
    results: Results,
    out: Out,
    roi: Roi = None,
    plausible_ml: Annotated[
        Path | None,
        typer.Option(
            help="TSV of plausible volumes (structure, min_ml, max_ml, source), whose rows "
            "replace ours."
        ),
    ] = None,
    min_largest_fraction: Annotated[
        float,
        typer.Option(
            min=0, max=1, help="Least part of a structure in its largest piece, as a fraction."
        ),
    ] = 0.9,
    expected: Annotated[
        list[str] | None,
        typer.Option(
            help="Structure that every scan shows; repeat for several, or none. Liver, spleen "
            "and both kidneys if not given."
        ),
    ] = None,
    swap_ratio: Annotated[
        float,
        typer.Option(min=0, help="Organ over bright tissue, under which a Dixon image shows fat."),
    ] = 0.35,
    previews: Annotated[
        Path | None,
        typer.Option(help="Table of small pictures to write, one of each scan; none if not given."),
    ] = None,
    kept: KeptTable = None,
    measuring: Measuring = "",
    record: AsNoted = None,
) -> None:
    r"""Measure the volume of every structure on the grid of its scan, and draw the scan.

    Each structure gets a verdict (pass, flag or exclude) with the QC codes behind it: absent,
    cut, in pieces, implausible, on the wrong side, no abdomen, fat and water swapped.

    Example:
    [dim]cohortvol measure --segment results/mine/segment/embedded-v2/0000.parquet \
    --ingest results/mine/ingest/0000.parquet --model models/embedded-v2 \
    --results results/mine --out results/mine/measure/embedded-v2/0000.parquet \
    --previews results/mine/measure/embedded-v2/previews/0000.parquet[/]
    """
    from cohortvol.compute.resources import recorded
    from cohortvol.stages.measure import run_shard
    from cohortvol.store.records import noted

    given = {"expected": [name for name in expected if name != "none"]} if expected else {}
    with recorded(out) as job, noted(record):
        job.ready()
        job.n_scans = run_shard(
            segment,
            ingest,
            model,
            results,
            out,
            roi=roi or (),
            plausible_ml=plausible_ml,
            min_largest_fraction=min_largest_fraction,
            swap_ratio=swap_ratio,
            previews=previews,
            kept=stand_in(kept, measuring),
            **given,
        )

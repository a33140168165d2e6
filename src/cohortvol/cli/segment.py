"""`cohortvol segment`: label maps of a shard."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from cohortvol.cli.options import (
    AsNoted,
    Device,
    InferenceProfile,
    KeptTable,
    Measuring,
    ModelFolder,
    Out,
    Roi,
    Threads,
    stand_in,
)


def segment(
    ingest: Annotated[Path, typer.Option(help="Ingest table of the shard.")],
    model: ModelFolder,
    folder: Annotated[Path, typer.Option(help="Folder for label maps and receipts.")],
    out: Out,
    profile: InferenceProfile = None,
    threads: Threads = 0,
    device: Device = "auto",
    roi: Roi = None,
    attempts_left: Annotated[
        int,
        typer.Option(
            min=0,
            help="Times the shard may still be run with more memory; until then a scan that does "
            "not fit is left for the next (exit 75).",
        ),
    ] = 0,
    workers: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Threads that read and prepare scans ahead of the network; 0 does one scan after "
            "the other in a single thread. 1 on a CPU and 4 on a GPU if not given.",
        ),
    ] = None,
    kept: KeptTable = None,
    measuring: Measuring = "",
    store: Annotated[
        Literal["files", "packed"],
        typer.Option(
            help="How label maps and receipts are written: files, each by itself; packed, all of a "
            "shard in packed.tar. What is there already is taken over."
        ),
    ] = "files",
    record: AsNoted = None,
) -> None:
    r"""Turn every usable scan of a shard into a label map; what is done is not done again.

    Example:
    [dim]cohortvol segment --ingest results/mine/ingest/0000.parquet \
    --model models/embedded-v2 --folder results/mine/segment/embedded-v2/0000 \
    --out results/mine/segment/embedded-v2/0000.parquet[/]
    """
    from cohortvol.compute.resources import recorded
    from cohortvol.stages.segment import run_shard
    from cohortvol.store.records import noted

    with recorded(out) as job, noted(record):
        run_shard(
            ingest,
            model,
            folder,
            out,
            profile=profile,
            threads=threads,
            device=device,
            roi=roi or (),
            attempts_left=attempts_left,
            workers=workers,
            job=job,
            kept=stand_in(kept, measuring),
            store=store,
        )

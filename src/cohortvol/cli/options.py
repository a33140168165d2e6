"""Options that several commands have, each said once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Results = Annotated[Path, typer.Option(help="Results folder of the cohort.")]
Volumes = Annotated[Path, typer.Option(help="Table of volumes, Parquet or CSV.")]
Scans = Annotated[Path, typer.Option(help="Table of scans, Parquet or CSV.")]
ModelId = Annotated[
    str | None, typer.Option(help="Model id, where the folder holds results of several.")
]
ModelsDir = Annotated[Path, typer.Option(help="Folder of models.")]
InferenceProfile = Annotated[
    str | None, typer.Option(help="Inference profile; the model's own if not given.")
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
Threads = Annotated[int, typer.Option(min=0, help="CPU threads; 0 takes all.")]
AgeRange = Annotated[
    tuple[float, float], typer.Option(help="Ages outside count as unknown, years.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print it as JSON.")]
Profiles = Annotated[
    list[str] | None,
    typer.Option(
        "--profile",
        help="Profile of Snakemake, by name or path; repeat it as for snakemake, in that order. "
        "The one for Slurm of the repository if none is named.",
    ),
]
AsNoted = Annotated[
    str | None,
    typer.Option(
        "--record",
        help="Description of the job, as the workflow gives it: noted beside the results, so that "
        "the next run knows what they were made of. Without it, it makes them again.",
    ),
]

"""Options that several commands have, each said once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from cohortvol.errors import ConfigError

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
        "slurm if none is named.",
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


Out = Annotated[Path, typer.Option(help="Table to write.")]
OutFolder = Annotated[Path, typer.Option(help="Folder to write to.")]
ModelFolder = Annotated[Path, typer.Option(help="Model folder, such as models/embedded-v2.")]
Roi = Annotated[
    list[str] | None,
    typer.Option(help="Structure wanted; repeat for several, all of the model's if none."),
]
KeptTable = Annotated[
    Path | None,
    typer.Option(
        help="Table that stands in for label maps: measure writes it and removes the label maps "
        "of which it has the volumes, segment does not make those again."
    ),
]
Measuring = Annotated[
    str, typer.Option(help="Stands for the settings of measure: other rows of --kept do not count.")
]


def stand_in(table: Path | None, measuring: str) -> Any:
    """What stands in for label maps, or None."""
    from cohortvol.store.kept import Kept

    return None if table is None else Kept(table, measuring)


def number_or_word(text: str | None) -> int | str | None:
    """The value of an option that takes a number or a word, as YAML would have it."""
    return int(text) if text is not None and text.isdecimal() else text


def from_json(option: str, text: str) -> Any:
    """The value of an option that is JSON; ConfigError where it is none."""
    try:
        return json.loads(text)
    except ValueError as error:
        raise ConfigError(f"{option} is not JSON ({error}): {text}") from error


def setting_from_json(name: str, text: str) -> Any:
    """A setting of the config that an option of its name gives as JSON, checked as there."""
    from cohortvol import config

    return config.check({name: from_json(f"--{name}", text)}, source=f"--{name}")[name]

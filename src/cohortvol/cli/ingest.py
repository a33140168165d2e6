"""`cohortvol ingest`: images of a shard read and checked."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from cohortvol.cli.options import (
    AsNoted,
    Out,
    number_or_word,
    setting_from_json,
)


def ingest(
    shard: Annotated[Path, typer.Option(help="Scans of one shard, from manifest.")],
    out: Out,
    min_slices: Annotated[
        int, typer.Option(min=1, help="Least slices along the shortest axis.")
    ] = 8,
    max_voxels: Annotated[int, typer.Option(min=1, help="Most voxels in one image.")] = 250_000_000,
    spacing_range_mm: Annotated[
        tuple[float, float], typer.Option(help="Plausible voxel edges, mm.")
    ] = (0.2, 20.0),
    fov_range_mm: Annotated[
        tuple[float, float], typer.Option(help="Plausible image edges, mm.")
    ] = (40.0, 2500.0),
    max_anisotropy: Annotated[
        float, typer.Option(help="Longest voxel edge over shortest; beyond, a warning.")
    ] = 8.0,
    max_zero_fraction: Annotated[
        float, typer.Option(help="Most voxels that may be 0, as a fraction.")
    ] = 0.99,
    min_entropy_bits: Annotated[
        float, typer.Option(help="Least information per voxel, bits.")
    ] = 4.0,
    max_zero_slices_fraction: Annotated[
        float, typer.Option(help="Most slices that may be empty at either end, as a fraction.")
    ] = 0.2,
    max_saturated_fraction: Annotated[
        float, typer.Option(help="Voxels at the largest value, as a fraction; beyond, a warning.")
    ] = 0.02,
    max_archive_bytes: Annotated[
        int, typer.Option(min=1, help="Most bytes of all members of an archive, unpacked.")
    ] = 16 * 2**30,
    max_archive_ratio: Annotated[
        float, typer.Option(min=1, help="Most unpacked bytes per byte of an archive.")
    ] = 100.0,
    max_archive_members: Annotated[
        int, typer.Option(min=1, help="Most members of an archive.")
    ] = 100_000,
    allow_roots: Annotated[
        list[str] | None, typer.Option(help="Folder in which images may lie; repeat for several.")
    ] = None,
    modality: Annotated[
        list[str], typer.Option(help="DICOM modality that may be the scan; repeat for several.")
    ] = ["MR"],  # noqa: B006 - typer shows it as the default and never changes it
    plane: Annotated[
        list[str] | None,
        typer.Option(help="axial, coronal or sagittal, in order of preference; any if not given."),
    ] = None,
    dixon: Annotated[
        list[str] | None,
        typer.Option(
            help="in_phase, opposed_phase, water or fat, in order of preference; any if not given."
        ),
    ] = None,
    sequence: Annotated[
        str | None,
        typer.Option(help="Regular expression for the series description or sequence name."),
    ] = None,
    contrast: Annotated[
        str, typer.Option(help="Contrast agent in the DICOM header: any, with or without.")
    ] = "any",
    echo: Annotated[
        int | None, typer.Option(min=1, help="Which echo of a series of several; 1 is the first.")
    ] = None,
    phase: Annotated[
        str | None,
        typer.Option(help="Which phase of a dynamic series: a number, 1 is the first, or last."),
    ] = None,
    derived: Annotated[
        str, typer.Option(help="Series computed from others (not Dixon parts): skip or allow.")
    ] = "skip",
    volume: Annotated[
        int | None,
        typer.Option(min=1, help="Which volume of a 4D image is the scan; 1 is the first."),
    ] = None,
    stations: Annotated[
        str,
        typer.Option(
            help="DICOM of one body in several table positions: compose, refuse, or how many every "
            "scan has."
        ),
    ] = "compose",
    orientation: Annotated[
        str,
        typer.Option(
            help="Look whether an abdomen lies as the header says: check, or off; auto, which asks "
            "the model in the workflow, is check here."
        ),
    ] = "auto",
    channels: Annotated[
        list[str] | None,
        typer.Option(
            help="Channel of the model; repeat for each, in the order of the columns image, "
            "image_2, ... The workflow asks the model; without it image alone is the scan."
        ),
    ] = None,
    companions: Annotated[
        str,
        typer.Option(
            help="JSON: further images on the grid of the scan, as `companions` in the config."
        ),
    ] = "{}",
    threads: Annotated[int, typer.Option(min=1, help="Scans read at a time.")] = 1,
    record: AsNoted = None,
) -> None:
    r"""Read every byte of each scan once, and say which can be used and why the others cannot.

    Example:
    [dim]cohortvol ingest --shard results/mine/manifest/shards/0000.parquet \
    --out results/mine/ingest/0000.parquet[/]
    """
    from cohortvol import config
    from cohortvol.compute.resources import recorded
    from cohortvol.stages.ingest import Rules, run
    from cohortvol.store.companions import from_config
    from cohortvol.store.records import noted

    given = {
        "min_slices": min_slices,
        "max_voxels": max_voxels,
        "spacing_range_mm": spacing_range_mm,
        "fov_range_mm": fov_range_mm,
        "max_anisotropy": max_anisotropy,
        "max_zero_fraction": max_zero_fraction,
        "min_entropy_bits": min_entropy_bits,
        "max_zero_slices_fraction": max_zero_slices_fraction,
        "max_saturated_fraction": max_saturated_fraction,
        "max_archive_bytes": max_archive_bytes,
        "max_archive_ratio": max_archive_ratio,
        "max_archive_members": max_archive_members,
        "allow_roots": allow_roots or [],
        "modality": modality,
        "plane": plane or [],
        "dixon": dixon or [],
        "sequence": sequence,
        "contrast": contrast,
        "echo": echo,
        "phase": number_or_word(phase),
        "derived": derived,
        "volume": volume,
        "stations": number_or_word(stations),
        "orientation": orientation,
    }
    section = config.check({"ingest": given}, source="options")["ingest"]
    rules = replace(
        Rules.from_config(section),
        channels=tuple(channels or ()),
        companions=from_config(setting_from_json("companions", companions)),
    )
    with recorded(out) as job, noted(record):
        job.ready()
        job.n_scans = len(run(shard, out, rules, threads))

"""Subcommands of the flow, manifest to report. Each is what its Snakemake rule runs."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from cohortvol.cli.options import (
    AgeRange,
    AsNoted,
    Device,
    InferenceProfile,
    Results,
    Scans,
    Threads,
    Volumes,
)
from cohortvol.errors import FINISHED_WITH_PROBLEMS, ConfigError

PANEL = "The flow, in order"

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


class BadRows(StrEnum):
    """What becomes of manifest rows that cannot be used."""

    refuse = "refuse"
    quarantine = "quarantine"


def register(app: typer.Typer) -> None:
    """Add the stages to the command line, in the order of the flow."""
    for stage in (manifest, ingest, segment, measure, assemble, analyse, report):
        app.command(rich_help_panel=PANEL)(stage)


def manifest(
    manifest: Annotated[
        Path, typer.Option(help="CSV, TSV or Parquet, one row per scan; or a BIDS dataset.")
    ],
    results: Results,
    shard_size: Annotated[
        int, typer.Option(min=1, help="Scans per cluster job, for scans that are new.")
    ] = 64,
    bad_rows: Annotated[
        BadRows, typer.Option(help="Stop at unusable rows and list them, or set them apart.")
    ] = BadRows.refuse,
    sex_codes: Annotated[
        str, typer.Option(help="JSON: the manifest's codes of sex to F, M or null.")
    ] = '{"F": "F", "M": "M"}',
    age_range_years: Annotated[
        tuple[float, float], typer.Option(help="Ages outside are unusable, years.")
    ] = (0.0, 120.0),
    bids: Annotated[
        str,
        typer.Option(
            help="JSON: which images of a BIDS dataset are scans, as `bids` in the config."
        ),
    ] = "{}",
    hash_ids: Annotated[
        bool,
        typer.Option(
            "--hash-ids/--plain-ids", help="Put keys in place of ids and of paths of images."
        ),
    ] = False,
    salt_file: Annotated[
        Path | None,
        typer.Option(help="Salt of the keys; <results>/private/salt if not given, made once."),
    ] = None,
    withdrawals: Annotated[
        Path | None,
        typer.Option(
            help="List of subjects who withdrew: a table with subject_id, or an id per line. Their "
            "rows and everything made of their scans is removed."
        ),
    ] = None,
    as_job: Annotated[
        bool,
        typer.Option(
            "--as-job",
            help="As the workflow runs it, which says itself whom of the list nobody knows: name "
            "lines of the list and no ids, and end with 0 where some are known.",
        ),
    ] = False,
    record: AsNoted = None,
) -> None:
    r"""Check the scans of a table or BIDS dataset, and put each into a shard for good.

    Every unusable row is named with its line, its column and what is allowed there. Of a list of
    people who withdrew, ids that were never known here are named, each with what it is nearly.

    Ends with 0; with 3 where the list holds ids that were never known here, after the others were
    removed, or before anything is written if nobody in it was; with 64 where a table cannot be
    used.

    Example:
    [dim]cohortvol manifest --manifest scans.csv --results results/mine
    cohortvol manifest --manifest data/bids --bids '{"suffix": ["T2w"]}' \
    --results results/mine --hash-ids[/]
    """
    codes = _from_json("--sex-codes", sex_codes)
    from cohortvol import config
    from cohortvol.stages.manifest import Choice, run, sources
    from cohortvol.store.records import noted

    checked = config.check({"bids": _from_json("--bids", bids)}, source="--bids")
    choice = Choice(**checked["bids"])

    unknown: list[Any] = []
    with noted(record, lambda: sources(manifest, withdrawals, choice)):
        run(
            manifest,
            results,
            shard_size=shard_size,
            bad_rows=bad_rows.value,
            sex_codes=codes,
            age_range_years=age_range_years,
            choice=choice,
            hash_ids=hash_ids,
            salt_file=salt_file,
            withdrawals=withdrawals,
            named=not as_job,
            tell=unknown.append,
        )
    for one in unknown:
        typer.echo(one.text(named=not as_job), err=True)
    if unknown and not as_job:
        raise typer.Exit(FINISHED_WITH_PROBLEMS)


def _kept(table: Path | None, measuring: str) -> Any:
    from cohortvol.store.kept import Kept

    return None if table is None else Kept(table, measuring)


def _from_json(option: str, text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise ConfigError(f"{option} is not JSON ({error}): {text}") from error


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
    derived: Annotated[
        str, typer.Option(help="Series computed from others (not Dixon parts): skip or allow.")
    ] = "skip",
    volume: Annotated[
        int | None,
        typer.Option(min=1, help="Which volume of a 4D image is the scan; 1 is the first."),
    ] = None,
    threads: Annotated[int, typer.Option(min=1, help="Scans read at a time.")] = 1,
    record: AsNoted = None,
) -> None:
    r"""Read every byte of each scan once, and say which can be used and why the others cannot.

    Example:
    [dim]cohortvol ingest --shard results/mine/manifest/shards/0000.parquet \
    --out results/mine/ingest/0000.parquet[/]
    """
    from cohortvol.compute.resources import recorded
    from cohortvol.stages.ingest import Rules, run
    from cohortvol.store.records import noted

    rules = Rules(
        min_slices=min_slices,
        max_voxels=max_voxels,
        spacing_range_mm=spacing_range_mm,
        fov_range_mm=fov_range_mm,
        max_anisotropy=max_anisotropy,
        max_zero_fraction=max_zero_fraction,
        min_entropy_bits=min_entropy_bits,
        max_zero_slices_fraction=max_zero_slices_fraction,
        max_saturated_fraction=max_saturated_fraction,
        allow_roots=tuple(allow_roots or ()),
        modality=tuple(modality),
        plane=tuple(plane or ()),
        dixon=tuple(dixon or ()),
        sequence=sequence,
        contrast=contrast,
        echo=echo,
        derived=derived,
        volume=volume,
    )
    with recorded(out) as job, noted(record):
        job.ready()
        job.n_scans = len(run(shard, out, rules, threads))


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
            kept=_kept(kept, measuring),
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
            kept=_kept(kept, measuring),
            **given,
        )


def assemble(
    results: Results,
    model: Annotated[str, typer.Option(help="Model id, such as embedded-v2.")],
    decisions: Annotated[
        Path | None,
        typer.Option(help="Table of human decisions that overrule QC; see `cohortvol review`."),
    ] = None,
    outlier_max_z: Annotated[
        float,
        typer.Option(
            min=0,
            help="Robust z of log volume at the scan's age and sex, beyond which it is flagged.",
        ),
    ] = 5.0,
    outlier_min_scans: Annotated[
        int, typer.Option(min=1, help="Volumes of one sex below which no z is given.")
    ] = 30,
    min_dice: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            help="Least overlap with the model that `cohortvol agreement` compared with; the "
            "comparison is left out if not given.",
        ),
    ] = None,
    skip_unknown: Annotated[
        bool,
        typer.Option(
            "--skip-unknown/--refuse-unknown",
            help="Pass over decisions on scans that the manifest does not have, as after a "
            "withdrawal, and say only how many.",
        ),
    ] = False,
    age_range_years: AgeRange = (0.0, 120.0),
    record: AsNoted = None,
) -> None:
    """Make one cohort table of all shards, and account for every row of the manifest.

    Example:
    [dim]cohortvol assemble --results results/mine --model embedded-v2[/]
    """
    from cohortvol.stages.assemble import Settings, run
    from cohortvol.store.records import noted

    settings = Settings(outlier_max_z, outlier_min_scans, min_dice, skip_unknown, age_range_years)
    with noted(record):
        run(results, model, decisions, settings)


def analyse(
    volumes: Volumes,
    scans: Scans,
    out: OutFolder,
    exclude_cut: Annotated[
        bool,
        typer.Option(
            "--exclude-cut/--keep-cut", help="Leave out structures at the edge of the image."
        ),
    ] = True,
    min_n_per_sex: Annotated[
        int, typer.Option(min=1, help="Scans per sex below which trends are descriptive only.")
    ] = 100,
    age_center: Annotated[
        float, typer.Option(help="Age at which the models' intercept is given, years.")
    ] = 50.0,
    fdr: Annotated[float, typer.Option(help="False discovery rate.")] = 0.05,
    min_n_per_level: Annotated[
        int, typer.Option(min=2, help="Scans a site, scanner or sequence needs for its own term.")
    ] = 20,
    bootstrap_draws: Annotated[
        int, typer.Option(min=100, help="Draws behind the interval of the age of a peak.")
    ] = 500,
    seed: Annotated[int, typer.Option(min=0, help="Seed of these draws.")] = 1,
    segmentation_model: Annotated[
        str | None, typer.Option(help="Model to analyse, where the table holds several.")
    ] = None,
    min_n_centiles: Annotated[
        int, typer.Option(min=50, help="Subjects per sex below which there are no centiles.")
    ] = 300,
    min_n_rescanned: Annotated[
        int, typer.Option(min=20, help="Subjects scanned twice that slopes within people need.")
    ] = 200,
    quantile_check: Annotated[
        bool, typer.Option(help="Fit centiles by quantile regression too, as a check.")
    ] = True,
    literature: Annotated[
        Path | None, typer.Option(help="CSV of published volumes to compare with, besides ours.")
    ] = None,
    agreement: Annotated[
        Path | None,
        typer.Option(help="agreement.parquet, where another model's volumes were compared."),
    ] = None,
    age_range_years: AgeRange = (0.0, 120.0),
    record: AsNoted = None,
) -> None:
    r"""Volumes against age: slopes with intervals, bends, correlations, and who is in each.

    Any two tables with the columns scan_id, structure, volume_ml and scan_id, age_years do; sex,
    height_cm, weight_kg, site, scanner, sequence and contrast are used where there.

    Example:
    [dim]cohortvol analyse --volumes results/mine/volumes.parquet \
    --scans results/mine/scans.parquet --out results/mine/analyse[/]
    """
    from cohortvol.stages.analyse import run
    from cohortvol.store.records import noted

    with noted(record):
        run(
            volumes,
            scans,
            out,
            exclude_cut=exclude_cut,
            min_n_per_sex=min_n_per_sex,
            age_center=age_center,
            fdr=fdr,
            min_n_per_level=min_n_per_level,
            bootstrap_draws=bootstrap_draws,
            seed=seed,
            segmentation_model=segmentation_model,
            min_n_centiles=min_n_centiles,
            min_n_rescanned=min_n_rescanned,
            quantile_check=quantile_check,
            literature=None if literature is None else str(literature),
            agreement=None if agreement is None else str(agreement),
            age_range_years=age_range_years,
        )


def report(
    analyse: Annotated[Path, typer.Option(help="Folder that analyse wrote.")],
    volumes: Volumes,
    scans: Scans,
    out: OutFolder,
    title: Annotated[str | None, typer.Option(help="Heading of the page.")] = None,
    planted: Annotated[
        Path | None, typer.Option(help="CSV of planted slopes, to stand beside the found ones.")
    ] = None,
    templates: Annotated[
        Path | None, typer.Option(help="Folder of page and captions, in place of ours.")
    ] = None,
    show_scan_ids: Annotated[
        bool, typer.Option("--show-scan-ids", help="Name scans on the page; they may be personal.")
    ] = False,
    previews: Annotated[
        Path | None,
        typer.Option(
            help="Folder of pictures that measure wrote, for contact sheets; none if not given. "
            "The page then shows the inside of people's bodies."
        ),
    ] = None,
    contact_sheet: Annotated[
        Path | None,
        typer.Option(help="CSV to write that says which scan each picture is; keep it private."),
    ] = None,
    sheet_flagged: Annotated[
        int, typer.Option(min=0, help="Most pictures of flagged or excluded scans, worst first.")
    ] = 24,
    sheet_random: Annotated[
        int, typer.Option(min=0, help="Most pictures of scans that passed, drawn at random.")
    ] = 24,
    sheet_seed: Annotated[int, typer.Option(help="Another one draws other scans.")] = 1,
    public: Annotated[
        bool,
        typer.Option(
            "--public",
            help="A page that may leave the house: numbers rounded to what their people support, "
            "no scan drawn, ages to 90. Refused where fewer than 10 people differ from an earlier "
            "one, of which counts are kept in private/published.json beside OUT.",
        ),
    ] = False,
    record: AsNoted = None,
) -> None:
    r"""Draw the figures and write one page that opens offline.

    Example:
    [dim]cohortvol report --analyse results/mine/analyse \
    --volumes results/mine/volumes.parquet --scans results/mine/scans.parquet \
    --out results/mine/report[/]
    """
    from cohortvol.stages.report import SheetSettings, run
    from cohortvol.store.records import noted

    with noted(record):
        run(
            analyse,
            volumes,
            scans,
            out,
            title=title,
            planted=planted,
            templates=templates,
            show_scan_ids=show_scan_ids,
            previews=previews,
            contact_sheet=contact_sheet,
            sheet=SheetSettings(flagged=sheet_flagged, random=sheet_random, seed=sheet_seed),
            public=public,
        )

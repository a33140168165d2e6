"""Subcommands beside the flow: what happened, training, synthetic cohorts."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from cohortvol.cli import models, reference
from cohortvol.cli.bundle import bundle
from cohortvol.cli.check import check
from cohortvol.cli.doctor import doctor
from cohortvol.cli.evaluate import evaluate
from cohortvol.cli.options import AsJson, AsNoted, ModelId, Profiles, Results
from cohortvol.cli.output import as_table, show, width
from cohortvol.cli.plan import plan
from cohortvol.cli.review import review
from cohortvol.cli.verify import verify
from cohortvol.errors import FINISHED_WITH_PROBLEMS, ConfigError

LOOK = "What happened"
MAKE = "Cohorts and models"


def register(app: typer.Typer) -> None:
    """Add these commands to the command line."""
    app.command(rich_help_panel=LOOK)(plan)
    app.command(rich_help_panel=LOOK)(status)
    app.command(rich_help_panel=LOOK)(explain)
    app.command(rich_help_panel=LOOK)(verify)
    app.command(rich_help_panel=LOOK)(resources)
    app.command(rich_help_panel=LOOK)(agreement)
    app.command(rich_help_panel=LOOK)(bids_derivatives)
    app.command(rich_help_panel=LOOK)(review)
    app.command(rich_help_panel=MAKE)(doctor)
    app.command(rich_help_panel=MAKE)(bundle)
    app.command(rich_help_panel=MAKE)(check)
    app.command(rich_help_panel=MAKE)(manifest_from_folder)
    app.add_typer(models.app, name="models", rich_help_panel=MAKE)
    app.add_typer(reference.app, name="reference", rich_help_panel=MAKE)
    app.command(rich_help_panel=MAKE)(train)
    app.command(rich_help_panel=MAKE)(evaluate)
    app.command(rich_help_panel=MAKE)(training_pairs)
    app.command(rich_help_panel=MAKE)(simulate)
    app.command(rich_help_panel=MAKE)(compare)


def status(
    results: Results,
    model: ModelId = None,
    as_json: AsJson = False,
    as_digest: Annotated[
        bool, typer.Option("--digest", help="Print one line, fit for a mail or a chat.")
    ] = False,
    keep_watching: Annotated[
        bool,
        typer.Option(
            "--watch",
            help="Look again and again until nothing is left to do, or until Ctrl-C: in place on "
            "a terminal, elsewhere a line each time.",
        ),
    ] = False,
    interval: Annotated[
        float, typer.Option(min=1, help="With --watch: time between two looks, seconds.")
    ] = 10.0,
) -> None:
    """How far a cohort is: counts by state and reason, rate, time left, shards to look at.

    Rate and time left come from what this cohort has done since its last pause. Ends with 0 when
    every scan is done, 3 when all are accounted for but some are quarantined or failed, 75 while
    there is work to do.

    Example:
    [dim]cohortvol status --results results/mine
    cohortvol status --results results/mine --watch --interval 30
    cohortvol status --results results/mine --digest[/]
    """
    from cohortvol.tools.status import digest, render_summary, summary, watch

    if as_json and as_digest:
        raise ConfigError("--json and --digest: choose one of them")
    form = "json" if as_json else "digest" if as_digest else "text"
    if keep_watching:
        found = watch(results, model, interval, form)
    else:
        found = summary(results, model)
    in_place = keep_watching and sys.stdout.isatty()
    if form == "text" and (in_place or not keep_watching):
        show(found, render_summary(found, width=width()))
    elif not keep_watching:
        show(found, None if as_json else digest(found))
    raise typer.Exit(found["exit_code"])


def explain(
    scan_id: Annotated[str, typer.Argument(help="Scan as the manifest names it, or its key.")],
    results: Results,
    model: ModelId = None,
    as_json: AsJson = False,
) -> None:
    """Everything that happened to one scan, and what to do about it.

    Example:
    [dim]cohortvol explain sub-0007 --results results/mine[/]
    """
    from cohortvol.tools.status import explain as follow
    from cohortvol.tools.status import render_explanation

    found = follow(results, scan_id, model)
    show(found, None if as_json else render_explanation(found, width=width()))


def resources(
    results: Results,
    model: ModelId = None,
    profile: Profiles = None,
    as_json: AsJson = False,
) -> None:
    """What jobs took (time, memory, GPU), and what to ask for in the next cohort like this one.

    Counts the jobs of ingest, segment and measure that are on record, ended or not. Suggests a
    shard_size with which a job takes 30 to 60 minutes, memory with half as much again as was used,
    and twice the time of the longest job, as lines for the config and the profile; with them
    stands what else the profiles in use set, such as the GPU of segment, as a profile replaces
    set-resources as a whole.

    Example:
    [dim]cohortvol resources --results results/mine
    cohortvol resources --results results/mine --profile slurm --profile mysite[/]
    """
    from cohortvol.compute import profiles
    from cohortvol.tools.status import render_report, report

    found = report(results, model)
    own = profiles.by_rule(profiles.together(profile or profiles.shipped()))
    show(found, None if as_json else render_report(found, width=width(), profile=own))


def agreement(
    results: Results,
    model: Annotated[str, typer.Option(help="Model id whose volumes are used.")],
    other_model: Annotated[str, typer.Option(help="Model id to compare with.")],
    other_results: Annotated[
        Path | None,
        typer.Option(
            help="Results folder of the other model's run; the same folder if not given. Two "
            "profiles of one model need two folders."
        ),
    ] = None,
    shard: Annotated[
        list[str] | None, typer.Option(help="Shard to compare; repeat for several, all if none.")
    ] = None,
    record: AsNoted = None,
) -> None:
    r"""Compare the label maps of two models, or of two profiles, scan by scan.

    Dice and difference of volume of every structure that both know, in agreement/<model>/.
    `cohortvol assemble --min-dice 0.7` makes one table of them and flags what disagrees.

    Example:
    [dim]cohortvol agreement --results results/mine --model total_mr --other-model mrsegmentator
    cohortvol agreement --results results/paper --model total_mr --other-model total_mr \
    --other-results results/fast[/]
    """
    from rich.console import Console

    from cohortvol.store.records import noted
    from cohortvol.tools.agreement import run, summary

    with noted(record):
        found = run(results, model, other_model, other_results, shard or ())
    title = f"{model} and {other_model}, {found['scan_id'].nunique()} scans"
    Console(width=width()).print(as_table(summary(found), title))


def bids_derivatives(
    results: Results,
    out: Annotated[Path, typer.Option(help="Dataset to write, one per model.")],
    copy: Annotated[
        bool,
        typer.Option(
            "--copy/--link",
            help="Copy label maps, or link them: a hard link takes no space, and who writes into "
            "the one changes the other.",
        ),
    ] = False,
    source: Annotated[
        str | None,
        typer.Option(help="URL, DOI or path of the dataset that was segmented, to refer to it."),
    ] = None,
) -> None:
    r"""Write label maps and volumes of the scans that are done as BIDS derivatives.

    Run again, it writes what is new or changed, and takes away what is not done any more. Ends
    with 3 where a label map is gone or changed.

    Example:
    [dim]cohortvol bids-derivatives --results results/mine --out data/bids/derivatives/cohortvol \
    --source doi:10.18112/openneuro.ds000000.v1.0.0[/]
    """
    from cohortvol.tools.derivatives import run

    if run(results, out, copy=copy, source=source):
        raise typer.Exit(FINISHED_WITH_PROBLEMS)


def manifest_from_folder(
    folder: Annotated[Path, typer.Argument(help="Folder of .nii and .nii.gz images.")],
    out: Annotated[Path, typer.Option(help="Manifest to write, CSV.")],
    covariates: Annotated[
        Path | None, typer.Option(help="Table with scan_id, age_years, sex, ... to join.")
    ] = None,
) -> None:
    """Make a manifest out of a folder of images.

    Example:
    [dim]cohortvol manifest-from-folder data/images --out scans.csv[/]
    """
    from cohortvol.stages.manifest import write_from_folder

    write_from_folder(folder, out, covariates)


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
    of one person, cases.csv with the columns case, subject and source (real, or simulated). The
    recipe names datasets, their label indices, the parts the structures are split into, spacing,
    folds and iterations; docs/training.md explains it.

    Killed, the same command goes on from the last checkpoint. On a cluster each part and fold is a
    GPU job of its own: snakemake --snakefile workflow/training.smk.

    Example:
    [dim]cohortvol train --recipe my/recipe.yaml --work training/mine --out models/mine \
    --device cuda --processes 8
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


def simulate(
    out: Annotated[Path | None, typer.Option(help="Folder for manifest, images and truth.")] = None,
    results: Annotated[
        Path | None, typer.Option(help="With --tables-only: results folder to write tables to.")
    ] = None,
    n: Annotated[int, typer.Option(min=1, help="Number of scans.")] = 48,
    seed: Annotated[int, typer.Option(help="The same seed gives the same cohort.")] = 1,
    broken: Annotated[
        bool, typer.Option("--broken", help="Break some scans, each in another way.")
    ] = False,
    tables_only: Annotated[
        bool, typer.Option("--tables-only", help="Draw the tables of a cohort, without images.")
    ] = False,
    processes: Annotated[int, typer.Option(min=1, help="Scans built at a time.")] = 1,
) -> None:
    """Make a synthetic cohort whose true volumes and age trends are known.

    Example:
    [dim]cohortvol simulate --out results/demo/source --n 48 --seed 1 --broken
    cohortvol simulate --tables-only --n 8672 --results results/demo-population[/]
    """
    if tables_only:
        if results is None or out is not None or broken:
            raise ConfigError("--tables-only needs --results, and takes neither --out nor --broken")
        from cohortvol.tools.simulate import population

        population.run(results, n=n, seed=seed)
        return
    if out is None or results is not None:
        raise ConfigError("images need --out; --results goes with --tables-only")
    from cohortvol.tools.simulate.run import run

    run(out, n=n, seed=seed, broken=broken, processes=processes)


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


def compare(
    results: Results,
    planted: Annotated[Path, typer.Option(help="planted.csv of the simulation.")],
    source: Annotated[
        Path | None, typer.Option(help="Folder that `cohortvol simulate --out` made.")
    ] = None,
) -> None:
    r"""A simulated cohort's volumes and slopes, beside the truth it was drawn from.

    Example:
    [dim]cohortvol compare --results results/demo --source results/demo/source \
    --planted results/demo/source/planted.csv[/]
    """
    from rich.console import Console

    from cohortvol.tools.simulate import compare as truth

    console = Console(width=width())
    if source is not None:
        accuracy = truth.volumes_against_truth(source, results)
        console.print(as_table(accuracy, "Measured against drawn volumes"))
    slopes = truth.slopes_against_planted(planted, results / "analyse" / "slopes.parquet")
    console.print(as_table(slopes, "Planted and recovered slopes, % per decade"))

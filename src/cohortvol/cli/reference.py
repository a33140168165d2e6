"""Subcommands of `cohortvol reference`: centiles of a cohort as a file, and scores in them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cohortvol.cli.options import AgeRange, Scans, Volumes, setting_from_json

OneModel = Annotated[str | None, typer.Option(help="Model to use, where the table holds several.")]

app = typer.Typer(
    name="reference",
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="Centiles of one cohort as a small file, and where the organs of other scans lie in them.",
)


@app.command("fit")
def fit_reference(
    volumes: Volumes,
    scans: Scans,
    out: Annotated[Path, typer.Option(help="JSON file to write.")],
    segmentation_model: OneModel = None,
    min_n: Annotated[
        int, typer.Option(min=50, help="Subjects per sex below which there are no centiles.")
    ] = 300,
    age_range_years: AgeRange = (0.0, 120.0),
    covariates: Annotated[
        str,
        typer.Option(
            help="JSON: further columns of the scans table that the median depends on, each "
            'continuous or factor, such as {"waist_cm": "continuous"}. Scores then need them.'
        ),
    ] = "{}",
) -> None:
    r"""Fit centiles of every organ by age and sex, and save them.

    The file holds curves, age ranges and counts, and no row of any person, so that it may be
    given to others. One scan per subject counts; volumes that the field of view cuts are left
    out. LMS (BCCG in R's gamlss) is used where the people agree with it, else a family with
    heavier tails or with a share of people far out, and none where none agrees.

    Example:
    [dim]cohortvol reference fit --volumes results/mine/volumes.parquet \
    --scans results/mine/scans.parquet --out reference.json[/]
    """
    further = setting_from_json("covariates", covariates)
    from cohortvol.stages.analyse.answers import reference

    reference.fit(
        volumes,
        scans,
        out,
        segmentation_model,
        min_n_centiles=min_n,
        age_range_years=age_range_years,
        covariates=further,
    )


@app.command("score")
def score_reference(
    reference: Annotated[Path, typer.Option(help="File that `reference fit` wrote.")],
    volumes: Volumes,
    scans: Scans,
    out: Annotated[Path, typer.Option(help="Table to write, CSV or .parquet.")],
    segmentation_model: OneModel = None,
    any_model: Annotated[
        bool,
        typer.Option(
            "--any-model", help="Also score volumes of another segmentation model; they differ."
        ),
    ] = False,
    age_range_years: AgeRange = (0.0, 120.0),
    adapt_by: Annotated[
        str | None,
        typer.Option(help="site or scanner: take out what each adds to the scores, from 20 scans."),
    ] = None,
) -> None:
    r"""Centile and z of every scan and organ in a reference.

    A z of -2 is a volume smaller than that of 98 of 100 people of the reference of the same age
    and sex; of height it knows nothing. There is no score, and a reason instead, where age or sex
    is unknown, the age lies outside the reference, the organ is not in it, is cut by the field of
    view or failed QC, or a covariate that the reference depends on is missing. A score describes a
    scan; it is no diagnosis. Sites whose organs score high or low on average are named; --adapt-by
    site writes scores beside that have this taken out.

    Example:
    [dim]cohortvol reference score --reference reference.json \
    --volumes results/new/volumes.parquet --scans results/new/scans.parquet --out scores.csv[/]
    """
    from cohortvol.stages.analyse.answers import reference as stage

    stage.score(
        reference, volumes, scans, out, segmentation_model, any_model, age_range_years, adapt_by
    )

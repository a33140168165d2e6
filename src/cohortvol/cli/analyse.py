"""`cohortvol analyse`: slopes, curves and centiles of a cohort."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cohortvol.cli.options import (
    AgeRange,
    AsNoted,
    OutFolder,
    Scans,
    Volumes,
    setting_from_json,
)


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
    ] = 2,
    time_of_day: Annotated[
        str,
        typer.Option(
            help="Adjust M2 for the time of day by one harmonic: auto (where it is known of nearly "
            "all scans), always (scans without one are left out of M2) or never."
        ),
    ] = "auto",
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
    companions: Annotated[
        Path | None,
        typer.Option(
            help="companions.parquet, where other images were measured in the structures."
        ),
    ] = None,
    age_range_years: AgeRange = (0.0, 120.0),
    covariates: Annotated[
        str,
        typer.Option(
            help="JSON: further columns of the scans table that M2 adjusts for, each continuous or "
            'factor, such as {"waist_cm": "continuous"}.'
        ),
    ] = "{}",
    centile_covariates: Annotated[
        list[str] | None,
        typer.Option(help="One of the covariates that centiles depend on; repeat for several."),
    ] = None,
    threads: Annotated[
        int, typer.Option(min=1, help="Processes that work at structures side by side.")
    ] = 1,
    record: AsNoted = None,
) -> None:
    r"""Volumes against age: slopes with intervals, bends, correlations, and who is in each.

    Any two tables with the columns scan_id, structure, volume_ml and scan_id, age_years do; sex,
    height_cm, weight_kg, site, scanner, sequence, contrast and time_of_day_h (since midnight) are
    used where there, and so are cluster_id, sampling_weight, stratum (how people were drawn) and
    absent (what surgery took).

    Example:
    [dim]cohortvol analyse --volumes results/mine/volumes.parquet \
    --scans results/mine/scans.parquet --out results/mine/analyse[/]
    """
    further = setting_from_json("covariates", covariates)
    from cohortvol.stages.analyse import run
    from cohortvol.store.records import noted

    with noted(record):
        run(
            volumes,
            scans,
            out,
            threads=threads,
            exclude_cut=exclude_cut,
            min_n_per_sex=min_n_per_sex,
            age_center=age_center,
            fdr=fdr,
            min_n_per_level=min_n_per_level,
            time_of_day=time_of_day,
            bootstrap_draws=bootstrap_draws,
            seed=seed,
            segmentation_model=segmentation_model,
            min_n_centiles=min_n_centiles,
            min_n_rescanned=min_n_rescanned,
            quantile_check=quantile_check,
            literature=None if literature is None else str(literature),
            agreement=None if agreement is None else str(agreement),
            companions=None if companions is None else str(companions),
            age_range_years=age_range_years,
            covariates=further,
            centile_covariates=centile_covariates or [],
        )

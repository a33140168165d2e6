"""`cohortvol verify`: every file of a results folder, looked at; and a proof of removal."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from cohortvol.cli.options import AsJson, Results
from cohortvol.cli.output import line_a_minute, show
from cohortvol.errors import ConfigError


def verify(
    results: Results,
    deep: Annotated[
        bool, typer.Option("--deep", help="Read every byte of label maps and converted images.")
    ] = False,
    repair: Annotated[
        bool,
        typer.Option("--repair", help="Delete what is damaged, so that the next run makes it."),
    ] = False,
    withdrawn: Annotated[
        Path | None,
        typer.Option(
            help="List of withdrawn subjects (a table with subject_id or scan_id, or an id per "
            "line): look for these people in every byte, and for nothing else."
        ),
    ] = None,
    salt_file: Annotated[
        Path | None,
        typer.Option(help="Salt of hashed ids, if it is not <results>/private/salt."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    r"""Find every file of a results folder that is damaged, missing or out of date.

    Tables, receipts and pages are read in full and compared with each other; of label maps the
    size is compared with the receipt, with --deep every byte. With --repair exactly those files
    are deleted that the next `snakemake` must make again: a table alone, or a label map with its
    receipt, so that only that scan is segmented again.

    With --withdrawn it is the proof that people who withdrew are gone: their ids and keys, those of
    their scans, and paths, names and digests of their images are looked for in names, in bytes, in
    archives, pictures and every column, here and in the .snakemake of the folder you stand in.

    Ends with 0 when all is well; 3 when there are problems, repaired or not; with --withdrawn when
    something is found, a file cannot be looked into, or an id of the list was never known here, so
    that nothing is proven for it; 64 when the list cannot be read with certainty.

    Example:
    [dim]cohortvol verify --results results/mine --deep
    cohortvol verify --results results/mine --deep --repair
    cohortvol verify --results results/mine --withdrawn withdrawn.csv[/]
    """
    from cohortvol.tools.verify import folder
    from cohortvol.tools.verify.render import render, render_search

    if withdrawn is not None:
        if deep or repair:
            raise ConfigError("--withdrawn looks for ids alone: leave out --deep and --repair")
        from cohortvol.tools.verify.search import search

        hits = search(results, withdrawn, salt_file, beside=[Path(".snakemake")])
        show(hits, None if as_json else render_search(hits))
        raise typer.Exit(hits["exit_code"])
    found = folder.verify(
        results, deep=deep, salt_file=salt_file, told=line_a_minute("shards looked at")
    )
    gone = folder.repair(results, found["problems"]) if repair else None
    listed = {**found, "problems": [asdict(one) for one in found["problems"]]}
    listed |= {} if gone is None else {"deleted": gone}
    show(listed, None if as_json else render(found, gone))
    raise typer.Exit(found["exit_code"])

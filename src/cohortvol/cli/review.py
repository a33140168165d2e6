"""`cohortvol review`: what people decided after looking, checked; and what is to be looked at."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from cohortvol.cli.options import AsJson, ModelId, Results
from cohortvol.cli.output import show
from cohortvol.errors import ConfigError


def review(
    results: Results,
    decisions: Annotated[
        Path | None, typer.Argument(help="Decision table, CSV, TSV or Parquet.")
    ] = None,
    todo: Annotated[
        bool, typer.Option("--todo", help="Write what is to be looked at, to be filled in.")
    ] = False,
    out: Annotated[Path | None, typer.Option(help="With --todo: CSV to write.")] = None,
    sample: Annotated[
        int, typer.Option(min=0, help="With --todo: passed scans drawn at random.")
    ] = 50,
    seed: Annotated[int, typer.Option(help="The same seed draws the same sample.")] = 1,
    model: ModelId = None,
    as_json: AsJson = False,
) -> None:
    r"""Check a table of human decisions, and say what it would change; nothing is written.

    Columns: scan_id; structure, empty or * for the whole scan; decision, accept or exclude;
    reviewer; date, such as 2026-11-23; note. A decision on a structure beats one on its scan, the
    latest date wins. `decisions:` in the config makes a run use the table; automatic QC stays
    beside it as qc_auto.

    Ends with 0, with 3 where decisions have no effect (the scan is not done, or nothing was
    measured), with 64 where the table cannot be used; then every such row is listed.

    Example:
    [dim]cohortvol review --todo --results results/mine --out todo.csv
    cohortvol review decisions.csv --results results/mine[/]
    """
    from cohortvol.stages.assemble import cohort, settings_of
    from cohortvol.stages.assemble.review import changes, to_look_at
    from cohortvol.tools.status.reading import choose_model

    if todo and (out is None or as_json):
        raise ConfigError("--todo needs --out, and has no --json")
    if not todo and (decisions is None or out is not None):
        raise ConfigError(
            "give a decision table, or --todo with --out\n"
            f"  cohortvol review --todo --results {results} --out todo.csv"
        )
    chosen = choose_model(results, model)
    if chosen is None:
        raise ConfigError(f"{results}: nothing is segmented yet, so there is nothing to review")
    found = cohort(results, chosen, decisions, settings_of(results))
    if todo and out is not None:
        from cohortvol.store.files import commit_text
        from cohortvol.store.tables import csv_text

        rows = to_look_at(found.scans, found.volumes, sample, seed)
        commit_text(out, csv_text(rows, float_format="%.6g"))
        typer.echo(f"{out}: {len(rows):,} rows of {rows['scan_id'].nunique():,} scans to look at")
        return
    told = changes(found.scans, found.volumes, found.idle)
    show(told, None if as_json else _text(told))
    raise typer.Exit(told["exit_code"])


def _text(told: dict[str, Any]) -> str:
    lines = []
    for what in ("scans", "volumes"):
        for name, words in (("qc_auto", "automatic QC"), ("qc", "with these decisions")):
            counts = ", ".join(f"{n:,} {level}" for level, n in told[what][name].items())
            lines.append(f"{what:8} {words:22} {counts}")
    if told["structures"]:
        lines += ["", f"{'structure':24} excluded  accepted  usable before  after"]
    for row in told["structures"]:
        lines.append(
            f"{row['structure']:24} {row['excluded']:8,}  {row['accepted']:8,}  "
            f"{row['usable_before']:13,}  {row['usable_after']:5,}"
        )
    if told["idle"]:
        lines += ["", f"{len(told['idle']):,} decisions have no effect:"]
        lines += [f"  {line}" for line in told["idle"]]
    return "\n".join(lines)

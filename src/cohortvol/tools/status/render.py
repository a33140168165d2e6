"""What `summary` and `explain` return, as text for a terminal."""

from __future__ import annotations

import io
from datetime import datetime
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from cohortvol.compute.resources import INTERRUPTED
from cohortvol.errors import BUG, TEMPORARY, USAGE
from cohortvol.tools.status.words import duration, moment, where

BAR_CHARACTERS = 24
MOST_SLOWEST = 3
MOST_TROUBLE = 8
EXITS = {
    BUG: "a bug of ours",
    USAGE: "cannot work as it is",
    TEMPORARY: "stopped, to be run again",
    INTERRUPTED: "interrupted",
}
"""What the exit codes of jobs mean; docs of the command line have the same."""


def render_summary(summary: dict[str, Any], width: int = 100) -> str:
    """The result of `summary` as a few lines: states, progress, reasons, what to do next."""
    states = summary["states"]
    cohort = f"{summary['scans']:,} scans in {summary['shards']:,} shards"
    if summary["model"]:
        cohort += f", model {summary['model']}"
    blocks: list[RenderableType] = [
        Text(f"{summary['results']}:", overflow="ignore", no_wrap=True),
        Text(cohort),
        Text("  " + "  ".join(f"{states[state]:,} {state}" for state in states)),
    ]
    if not summary["assembled"]:
        blocks.append(_progress(summary["stages"]))
        blocks.append(Text("  " + _pace(summary)))
    blocks += _resources(summary)
    if summary["states"]["waiting"] and summary["slowest"]:
        blocks += [Text(""), Text("Slowest shards:"), _slowest(summary["slowest"])]
    if summary["trouble"]:
        blocks += [Text(""), Text(_heading(summary)), trouble_table(summary["trouble"])]
    if summary["reasons"]:
        blocks += [Text(""), _reasons(summary["reasons"])]
    blocks += [Text(""), Text(_next_step(summary))]
    return as_text(blocks, width)


def _heading(summary: dict[str, Any]) -> str:
    more = len(summary["trouble"]) - MOST_TROUBLE
    others = f", and {more:,} more like these" if more > 0 else ""
    return f"Shards to look at{others}; see {summary['results']}/logs/STAGE/SHARD.log:"


def _progress(stages: dict[str, dict[str, int]]) -> Table:
    table = Table.grid(padding=(0, 2))
    for stage, count in stages.items():
        share = count["finished"] / count["of"] if count["of"] else 1.0
        filled = int(share * BAR_CHARACTERS)
        bar = "#" * filled + "." * (BAR_CHARACTERS - filled)
        table.add_row("", stage, bar, f"{count['finished']:,} of {count['of']:,}")
    return table


def _pace(summary: dict[str, Any]) -> str:
    if summary["last_finished_utc"] is None:
        return "no scan segmented yet"
    last = f"last scan segmented {summary['last_finished_utc']}"
    if summary["scans_per_hour"] is None:
        return last
    rate = summary["scans_per_hour"]
    pace = f"{rate:,.0f} scans per hour" if rate >= 10 else f"{rate} scans per hour"
    if summary["seconds_left"] is None:
        return f"{last}, then at {pace}"
    return f"{pace}, about {duration(summary['seconds_left'])} left"


def _resources(summary: dict[str, Any]) -> list[RenderableType]:
    """GPU time, jobs in the queue; nothing of what is not known."""
    lines = []
    if summary["gpu_seconds"]:
        share = summary["gpu_seconds_network"] / summary["gpu_seconds"]
        held = duration(summary["gpu_seconds"])
        lines.append(f"GPUs held for {held}, {share:.0%} of it in the network")
    if summary["jobs"] is not None:
        jobs = ", ".join(f"{n:,} {state}" for state, n in summary["jobs"].items())
        lines.append(f"jobs on Slurm: {jobs}")
    for row in summary["waiting"]:
        what = f": {row['what_to_do']}" if row["what_to_do"] else ""
        lines.append(f"{row['n_jobs']:,} pending ({row['reason']}){what}")
    return [Text(f"  {line}") for line in lines]


def _slowest(shards: list[dict[str, Any]]) -> Table:
    table = columns("shard", "s per scan>", "usual>", "segmented>", "host")
    for row in shards[:MOST_SLOWEST]:
        seconds, usual = row["seconds_per_scan"], row["seconds_per_scan_usual"]
        segmented = f"{row['n_segmented']:,} of {row['n_scans']:,}"
        table.add_row(row["shard"], f"{seconds:g}", f"{usual:g}", segmented, row["host"] or "")
    return table


def trouble_table(rows: list[dict[str, Any]]) -> Table:
    table = columns("stage", "shard", "what is wrong")
    for row in rows[:MOST_TROUBLE]:
        table.add_row(row["stage"], row["shard"], _problem(row))
    return table


def _problem(row: dict[str, Any]) -> str:
    if row["problem"] == "failed scans":
        return f"failed on {row['n_failed']:,} of {row['n_scans']:,} scans"
    when = moment(datetime.fromisoformat(row["last_sign_utc"]))
    if row["problem"] == "silent":
        return f"not heard of since {when}: killed, or it hangs"
    again = f", {row['n_runs']} runs" if row["n_runs"] > 1 else ""
    return f"{EXITS.get(row['exit_code'], 'ended')} (exit {row['exit_code']}) {when}{again}"


def columns(*names: str) -> Table:
    """A table without lines; a column whose name ends in > is one of numbers."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name in names:
        table.add_column(name.rstrip(">"), justify="right" if name.endswith(">") else "left")
    return table


def _reasons(rows: list[dict[str, Any]]) -> Table:
    table = columns("scans>", "state", "reason", "what it means, and what to do")
    for row in rows:
        meaning = f"{row['sentence']} {row['what_to_do']}".strip()
        table.add_row(f"{row['n_scans']:,}", row["state"], row["reason"], Text(meaning))
    return table


def _next_step(summary: dict[str, Any]) -> str:
    if summary["states"]["waiting"]:
        return "Not finished. Run the workflow, or run it again: finished scans are kept."
    if not summary["assembled"]:
        return "Every scan has a state; the final tables are still to be assembled."
    told = "Finished. `cohortvol explain SCAN_ID` tells what happened to one scan."
    return f"{told}\n{where(summary['results'])}".rstrip()


def render_explanation(explanation: dict[str, Any], width: int = 100) -> str:
    """The result of `explain` as text: what each stage made of the scan, and what to do."""
    blocks: list[RenderableType] = [Text(f"{explanation['scan_id']}: {explanation['state']}")]
    for step in explanation["steps"]:
        table = Table.grid(padding=(0, 2))
        table.add_column(no_wrap=True)
        for name, value in step["facts"].items():
            table.add_row(name, Text(_shown(value)))
        blocks += [
            Text(""),
            Text(f"{step['stage']}: {step['outcome']}"),
            Padding(table, (0, 0, 0, 2)),
        ]
    if explanation["volumes"]:
        blocks += [Text(""), _volumes(explanation["volumes"])]
    for reason in explanation["reasons"]:
        meaning = f"{reason['reason']}: {reason['sentence']} {reason['what_to_do']}"
        blocks += [Text(""), Text(meaning.strip())]
    if explanation["commands"]:
        blocks += [Text(""), Text("To run its shard again from there:")]
    return as_text(blocks, width) + "".join(f"  {line}\n" for line in explanation["commands"])


def _volumes(rows: list[dict[str, Any]]) -> Table:
    known = any(row["interval"] is not None for row in rows)
    of_interval = ("low_to_high_ml>", "interval") if known else ()
    table = columns("structure", "volume_ml>", *of_interval, "status", "qc", "qc_flags")
    for row in rows:
        cells = [row["structure"], "-" if row["volume_ml"] is None else f"{row['volume_ml']:.1f}"]
        if known:
            cells += _interval(row)
        qc = row["qc"]
        if row["review"]:
            qc = f"{qc} ({row['review']} by review, {row['qc_auto']} before)"
        table.add_row(*cells, row["status"], qc, row["qc_flags"] or "")
    return table


def _interval(row: dict[str, Any]) -> list[str]:
    if row["interval"] is None:
        return ["-", ""]
    return [f"{row['volume_low_ml']:.1f} to {row['volume_high_ml']:.1f}", row["interval"]]


def _shown(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def as_text(blocks: list[RenderableType], width: int) -> str:
    stream = io.StringIO()
    Console(file=stream, width=width, color_system=None, highlight=False).print(Group(*blocks))
    return "\n".join(line.rstrip() for line in stream.getvalue().splitlines()) + "\n"

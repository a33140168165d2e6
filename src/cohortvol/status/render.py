"""What `summary` and `explain` return, as text for a terminal."""

from __future__ import annotations

import io
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

BAR_CHARACTERS = 24


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
    if summary["reasons"]:
        blocks += [Text(""), _reasons(summary["reasons"])]
    blocks += [Text(""), Text(_next_step(summary))]
    return _text(blocks, width)


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
    pace = f"{summary['scans_per_hour']:,} scans per hour"
    if summary["seconds_left"] is None:
        return f"{last}, then at {pace}"
    return f"{pace}, about {_duration(summary['seconds_left'])} left"


def _duration(seconds: int) -> str:
    if seconds < 90:
        return f"{seconds} s"
    if seconds < 5400:
        return f"{round(seconds / 60)} min"
    hours, rest = divmod(round(seconds / 60), 60)
    return f"{hours} h {rest} min" if hours < 48 else f"{hours / 24:.1f} days"


def _reasons(rows: list[dict[str, Any]]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name in ("scans", "state", "reason", "what it means, and what to do"):
        table.add_column(name, justify="right" if name == "scans" else "left")
    for row in rows:
        meaning = f"{row['sentence']} {row['what_to_do']}".strip()
        table.add_row(f"{row['n_scans']:,}", row["state"], row["reason"], Text(meaning))
    return table


def _next_step(summary: dict[str, Any]) -> str:
    if summary["states"]["waiting"]:
        return "Not finished. Run the workflow, or run it again: finished scans are kept."
    if not summary["assembled"]:
        return "Every scan has a state; the final tables are still to be assembled."
    return "Finished. `cohortvol explain SCAN_ID` tells what happened to one scan."


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
    return _text(blocks, width) + "".join(f"  {line}\n" for line in explanation["commands"])


def _volumes(rows: list[dict[str, Any]]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    known = any(row["interval"] is not None for row in rows)
    for name in ("structure", "volume_ml", *(("low_to_high_ml", "interval") if known else ())):
        table.add_column(name, justify="right" if name.endswith("_ml") else "left")
    for name in ("status", "qc", "qc_flags"):
        table.add_column(name)
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


def _text(blocks: list[RenderableType], width: int) -> str:
    stream = io.StringIO()
    Console(file=stream, width=width, color_system=None, highlight=False).print(Group(*blocks))
    return "\n".join(line.rstrip() for line in stream.getvalue().splitlines()) + "\n"

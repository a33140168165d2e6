"""What `findings` and `needs` say, as text for a terminal."""

from __future__ import annotations

import io
from typing import Any

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from cohortvol.tools.check.workload import Needs


def render(found: dict[str, Any], need: Needs | None, no_estimate: str, width: int = 100) -> str:
    """The accounts, a table of reasons, the estimate, and what to do next.

    Parameters
    ----------
    found : dict
        What `findings` returned.
    need : Needs or None
        What segmenting takes; None where that cannot be told.
    no_estimate : str
        Why it cannot.
    """
    buffer = io.StringIO()
    console = Console(file=buffer, width=width, highlight=False, no_color=True)
    console.print(f"{_counted(found['rows'], 'row')}: {found['usable']:,} can be used")
    for heading, group in (("Cannot be used", "problems"), ("Usable, but marked", "marks")):
        if found[group]:
            console.print()
            console.print(f"{heading}:")
            console.print(_reasons(found[group]))
    missing = {name: n for name, n in found["without"].items() if n}
    if missing:
        console.print()
    for name, n in missing.items():
        words = name.replace("_years", "")
        console.print(f"{_counted(n, 'usable row')} without {words}: measured, but in no trend")
    if found["counts"]:
        console.print()
        console.print("Usable scans by")
        console.print(_levels(found["counts"]))
    console.print()
    console.print(Text(no_estimate) if need is None else _estimate(need))
    return buffer.getvalue()


def _counted(n: int, what: str) -> str:
    return f"{n:,} {what}{'' if n == 1 else 's'}"


def _reasons(group: list[dict[str, Any]]) -> Table:
    table = Table(box=None, pad_edge=False, show_edge=False)
    table.add_column("rows", justify="right")
    table.add_column("reason", no_wrap=True)
    table.add_column("what it is, and what to do", overflow="fold")
    table.add_column("lines", overflow="fold", max_width=18)
    for row in group:
        what = Text(row["sentence"])
        what.append(f"\n{row['what_to_do']}")
        more = ", ..." if row["n"] > len(row["lines"]) else ""
        lines = ", ".join(map(str, row["lines"])) + more
        name = row["reason"] if row["state"] == "marked" else f"{row['reason']}\n{row['state']}"
        table.add_row(f"{row['n']:,}", Text(name), what, lines)
    return table


def _levels(counts: dict[str, dict[str, int]]) -> Padding:
    table = Table.grid(padding=(0, 2))
    for name, levels in counts.items():
        table.add_row(name, Text(", ".join(f"{level} {n:,}" for level, n in levels.items())))
    return Padding(table, (0, 0, 0, 2))


def _estimate(need: Needs) -> Text:
    lines = [
        f"To segment {_counted(need.n_scans, 'scan')} (an estimate):",
        f"  time on one GPU    {_duration(need.gpu.hours)}  ({need.gpu.basis})",
        f"  or on two cores    {_duration(need.two_cores.hours)}  ({need.two_cores.basis})",
        f"  memory             {need.memory_gb:.1f} GB for the largest scan, per worker",
        f"  disk               at most {_size(need.disk_gb)} of label maps"
        + ("" if need.kept_for is None else " for each shard at work; they are not kept"),
    ]
    if need.converted_gb:
        made = _size(need.converted_gb)
        lines.append(f"                     and {made} of images made of DICOM or channels")
    return Text("\n".join(lines))


def _size(gigabytes: float) -> str:
    return f"{gigabytes:.1f} GB" if gigabytes >= 0.95 else f"{max(gigabytes * 1000, 1):.0f} MB"


def _duration(hours: float) -> str:
    if hours >= 1:
        return f"{hours:,.1f} h" if hours < 10 else f"{hours:,.0f} h"
    return f"{max(hours * 60, 1):.0f} min"

"""What was found, in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cohortvol.errors import LONGEST_LIST


def render(found: Mapping[str, Any], gone: list[str] | None = None) -> str:
    """A line for each problem, then how many there are, and what was done about it.

    Parameters
    ----------
    found : mapping
        What `cohortvol.verify.folder.verify` returned.
    gone : list of str, optional
        Files deleted to have them made again; None if that was not asked for.
    """
    problems = found["problems"]
    lines = [f"{one.path}: {one.kind}: {one.what}; {one.effect}" for one in problems[:LONGEST_LIST]]
    if len(problems) > LONGEST_LIST:
        lines.append(f"... and {len(problems) - LONGEST_LIST} more; --json lists all")
    read = "" if found["deep"] else "; of label maps and images the size alone (--deep reads them)"
    lines.append(f"{found['files']:,} files, {found['bytes'] / 1e6:,.1f} MB looked at{read}")
    if not problems:
        return "\n".join([*lines, "All there, all whole."])
    counts = ", ".join(f"{n} {kind}" for kind, n in sorted(found["counts"].items()))
    lines.append(f"{len(problems)} problems: {counts}")
    if gone is not None:
        lines.append(f"{len(gone)} files deleted. Run the workflow again: it makes them, no other.")
    else:
        lines.append("`cohortvol verify --repair` deletes what the next run must make again.")
    if any(not one.remake for one in problems):
        lines.append("What cannot be made again is for a backup to restore.")
    return "\n".join(lines)


def render_search(found: Mapping[str, Any]) -> str:
    """How many files were searched for withdrawn ids, and which hold one; no id is repeated."""
    lines = [f"{path}: holds {n} withdrawn ids" for path, n in found["hits"].items()]
    if len(lines) > LONGEST_LIST:
        lines = [*lines[:LONGEST_LIST], f"... and {len(lines) - LONGEST_LIST} more; see --json"]
    keys = " and their keys" if found["with_keys"] else ""
    lines.append(
        f"{found['ids']} ids{keys} looked for in {found['files']:,} files, "
        f"{found['bytes'] / 1e6:,.1f} MB unpacked: {len(found['hits'])} files hold one"
    )
    if found["short"]:
        lines.append(
            f"{found['short']} ids of under {found['least_bytes']} bytes stand in numbers by "
            "chance: looked for in file names and in columns and fields of ids alone"
        )
    return "\n".join(lines)

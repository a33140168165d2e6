"""What was found, in words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from cohortvol.errors import LONGEST_LIST


def render(found: Mapping[str, Any], gone: list[str] | None = None) -> str:
    """A line for each problem, then how many there are, and what was done about it.

    Parameters
    ----------
    found : mapping
        What `cohortvol.tools.verify.folder.verify` returned.
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


def _shortened(lines: Iterable[str]) -> list[str]:
    shown = list(lines)
    if len(shown) > LONGEST_LIST:
        shown[LONGEST_LIST:] = [f"... and {len(shown) - LONGEST_LIST} more; see --json"]
    return shown


def render_search(found: Mapping[str, Any]) -> str:
    """How many files were searched for withdrawn people, and which name one; no id is repeated."""
    lines = _shortened(f"{path}: names {n} of them" for path, n in found["hits"].items())
    lines += _shortened(
        f"{path}: cannot be looked into: {why}" for path, why in found["unread"].items()
    )
    if any(path.startswith(".snakemake") for path in found["hits"]):
        lines.append("Snakemake's own folder is yours to clean: delete these files.")
    keys = ", their keys" if found["with_keys"] else ""
    lines.append(
        f"{found['ids']} ids{keys}, their scans and images, {found['names']:,} names in all, "
        f"looked for in {found['files']:,} files, {found['bytes'] / 1e6:,.1f} MB unpacked: "
        f"{len(found['hits'])} files hold one"
    )
    if found["unknown"]:
        lines.append(
            f"{len(found['unknown'])} of the {found['ids']} ids were found nowhere, and no removal "
            "of them is on record here: nothing is proven for them"
        )
        lines += _shortened(
            f"  line {line} of the list" + (f"; nearly one that is known ({kind})" if kind else "")
            for line, kind in found["unknown"].items()
        )
    if found["short"]:
        lines.append(
            f"{found['short']} ids of under {found['least_bytes']} bytes stand in numbers by "
            "chance: looked for in file names and in columns and fields of ids alone"
        )
    return "\n".join(lines)

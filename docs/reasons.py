"""Write docs/reasons.md from the table of reason codes: ``python docs/reasons.py``."""

from __future__ import annotations

from pathlib import Path

from cohortvol import reasons

PAGE = Path(__file__).with_name("reasons.md")

HEAD = """\
# Reasons

Why a scan, a row, a result or a run is not what was hoped for, and what to do about it. Written by
`make docs` from `src/cohortvol/reasons.tsv`. A code is never renamed. `cohortvol explain SCAN_ID`
prints those of one scan.
"""

CLASSES = {
    "quarantine": "The data are at fault: the scan is set aside until its image or row is mended.",
    "skip": "Left out by a stated rule.",
    "flag": "Kept; a person should look.",
    "note": "Kept; nobody need look.",
    "retry": "The machine or cohortvol is at fault: the next run tries the scan again.",
    "stop": "The run stops before any work.",
}


def page() -> str:
    """The whole page: a table for each class, in the order of the codes' table."""
    known = [reason for reason in reasons.load().values() if reason.produced]
    parts = [HEAD]
    for name, meaning in CLASSES.items():
        rows = [
            f"| `{r.code}` | {r.stage} | {r.sentence} | {r.what_to_do} |"
            for r in known
            if r.class_ == name
        ]
        parts.append(
            f"\n## {name.capitalize()}\n\n{meaning}\n\n"
            "| code | stage | what it means | what to do |\n|---|---|---|---|\n"
            + "\n".join(rows)
            + "\n"
        )
    return "".join(parts).replace("<", "\\<")


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")

"""How far a cohort is, in one line; durations and times of day in words."""

from __future__ import annotations

import time
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any


def digest(summary: dict[str, Any], failed: str | None = None) -> str:
    """The result of `summary` in one line, fit for a mail or a chat; it names no scan.

    `failed` says what kept a run from finishing; then the cohort is not called finished.
    """
    states = summary["states"]
    name = Path(summary["results"]).resolve().name
    counts = [f"{states['done']:,} of {summary['scans']:,} done"]
    counts += [
        f"{states[state]:,} {state}"
        for state in ("skipped", "quarantined", "failed")
        if states[state] or state == "failed"
    ]
    if failed is not None:
        return f"cohort {name}: NOT finished, {failed}; {', '.join(counts)}"
    told = [("finished, " if summary["assembled"] else "") + ", ".join(counts)]
    if not summary["assembled"]:
        told.append(_course(summary))
        if summary["trouble"]:
            told.append(f"{counted(len(summary['trouble']), 'shard')} to look at")
    return f"cohort {name}: " + "; ".join(told)


def where(results: str | Path) -> str:
    """A line on where the page and one on where the volumes of a cohort are, if they are there."""
    files = {"Page": "report/index.html", "Volumes": "volumes.parquet"}
    return "".join(
        f"{what}: {Path(results, name)}\n"
        for what, name in files.items()
        if Path(results, name).is_file()
    )


def _course(summary: dict[str, Any]) -> str:
    if not summary["states"]["waiting"]:
        return "final tables still to be assembled"
    if summary["last_finished_utc"] is None:
        return "no scan segmented yet"
    if summary["seconds_left"] is None:
        return f"last scan segmented {moment(datetime.fromisoformat(summary['last_finished_utc']))}"
    end = datetime.now().astimezone() + timedelta(seconds=summary["seconds_left"])
    return f"{summary['scans_per_hour']:,.0f}/h; done about {moment(end)}"


def moment(time_of: datetime) -> str:
    """A point of time on the clock of this machine: day of the week within six days, or date."""
    local = time_of.astimezone()
    near = abs(local.timestamp() - time.time()) < 6 * 86400
    return local.strftime("%a %H:%M" if near else "%Y-%m-%d %H:%M")


def duration(seconds: float) -> str:
    """Seconds, minutes, hours or days, whichever is read most easily."""
    if seconds < 90:
        return f"{seconds:.3g} s"
    if seconds < 5400:
        return f"{round(seconds / 60)} min"
    hours, rest = divmod(round(seconds / 60), 60)
    return f"{hours} h {rest} min" if hours < 48 else f"{hours / 24:.1f} days"


def counted(n: int, what: str) -> str:
    """``1 shard``, ``2 shards``."""
    return f"{n:,} {what}{'' if n == 1 else 's'}"

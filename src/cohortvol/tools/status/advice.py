"""What `resources.report` found, as text for a terminal; how a run ended, in a few lines."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from cohortvol.errors import CohortvolError
from cohortvol.store.machine import error_to_act_on
from cohortvol.store.storage import check_room
from cohortvol.tools.status.reading import seconds_of
from cohortvol.tools.status.render import as_text, columns, trouble_table
from cohortvol.tools.status.resources import BUSY_FRACTION, report
from cohortvol.tools.status.summary import summary
from cohortvol.tools.status.words import counted, digest, duration, where

LOG_LINES = 4
MOST_LOGS = 3
MOST_VERSIONS, MOST_HOSTS = 5, 3


def render_report(
    found: dict[str, Any], width: int = 100, profile: Mapping[str, Mapping[str, Any]] | None = None
) -> str:
    """A table of the stages, how busy the GPU was, and what to put into config and profile.

    Parameters
    ----------
    found : dict
        See `report`.
    width : int
        Of the table, characters.
    profile : mapping, optional
        ``set-resources`` of the profile in use, by rule. A profile named later replaces them as a
        whole, so the lines to paste hold them too: without its GPU, segment would have none.
    """
    model = f", model {found['model']}" if found["model"] else ""
    blocks: list[RenderableType] = [
        Text(f"{found['results']}{model}:", overflow="ignore", no_wrap=True)
    ]
    if not found["stages"]:
        blocks.append(Text("no job has left a record yet; jobs of the workflow write them"))
        return as_text(blocks, width)
    blocks += [_stages(found["stages"]), Text(""), *map(Text, _facts(found))]
    text = as_text(blocks, width)
    return f"{text}\n{_suggestions(found, profile or {})}"


def _stages(stages: dict[str, dict[str, Any]]) -> Table:
    table = columns(
        "stage",
        "jobs>",
        "scans>",
        "job>",
        "longest>",
        "start-up>",
        "per scan>",
        "cores>",
        "memory>",
    )
    for stage, took in stages.items():
        seconds = ("job_seconds_median", "job_seconds_longest", "startup_seconds_median")
        times = [took[name] for name in (*seconds, "seconds_per_scan")]
        table.add_row(
            stage,
            f"{took['jobs']:,}",
            f"{took['scans']:,}",
            *("-" if time is None else duration(time) for time in times),
            f"{took['cores_busy']:.1f}",
            f"{took['memory_mb'] / 1000:.1f} GB",
        )
    return table


def _facts(found: dict[str, Any]) -> list[str]:
    lines = []
    if found["scan_seconds_median"] is not None:
        middle, high = (duration(found[f"scan_seconds_{name}"]) for name in ("median", "p95"))
        lines.append(f"A scan in segment: {middle} in the middle, 95 of 100 within {high}.")
    share = found["network_fraction"]
    if share is not None:
        lines.append(f"Jobs of segment were in the network for {share:.0%} of their time.")
    if found["gpu_seconds"]:
        names = ", ".join(found["gpu_names"])
        memory = (
            f", {found['gpu_memory_mb'] / 1000:.1f} GB of it used" if found["gpu_memory_mb"] else ""
        )
        lines.append(f"GPU ({names}): held for {duration(found['gpu_seconds'])}{memory}.")
        if share is not None and share < BUSY_FRACTION:
            lines.append(
                "The GPU waited for the host: give segment more cores, and segment.workers."
            )
    for stage, took in found["stages"].items():
        if took["jobs_ended_early"] or took["jobs_without_end"]:
            lines.append(
                f"Of the jobs of {stage}, {took['jobs_ended_early']:,} ended early, "
                f"{took['jobs_without_end']:,} without a word (killed, or still at work)."
            )
    return lines + _told_of_versions(found["other_versions"])


def _told_of_versions(rows: list[dict[str, Any]]) -> list[str]:
    """A line for each package that jobs had in another version, and what it may do."""
    lines = []
    for row in rows[:MOST_VERSIONS]:
        more = len(row["hosts"]) - MOST_HOSTS
        hosts = ", ".join(row["hosts"][:MOST_HOSTS]) + (f" and {more} more" if more > 0 else "")
        lines.append(f"{row['package']}: {row['there']} on {hosts}, {row['here']} here.")
    if not lines:
        return []
    if (rest := len(rows) - MOST_VERSIONS) > 0:
        lines.append(f"And {rest} more.")
    return [
        "Jobs had other versions than this machine; last digits of numbers may differ by them:",
        *(f"  {line}" for line in lines),
    ]


def _suggestions(found: dict[str, Any], profile: Mapping[str, Mapping[str, Any]]) -> str:
    """Lines to paste; they are not wrapped."""
    wanted = found["suggested"]
    lines = ["For the next cohort like this one:"]
    if wanted["shard_size"] is not None:
        lines += [
            "  the config, for jobs of segment of about 45 min:",
            f"    shard_size: {wanted['shard_size']}",
        ]
    lines += [
        "  the profile that is named last, in place of its set-resources:",
        "    set-resources:",
    ]
    for rule in dict.fromkeys([*profile, *wanted["set_resources"]]):
        asked = wanted["set_resources"].get(rule, {})
        own = {name: value for name, value in profile.get(rule, {}).items() if name not in asked}
        lines.append(f"      {rule}:")
        lines += [f"        {name}: {value} * attempt" for name, value in asked.items()]
        lines += [f"        {name}: {json.dumps(value)}" for name, value in own.items()]
    return "\n".join(lines) + "\n"


def closing_words(
    results: Path, model: str, since: float, failed_jobs: Sequence[tuple[str, str]] | None = None
) -> str:
    """How a run ended: a line on the cohort, one on its jobs, and where to look: the page, or the
    end of logs of failed jobs.

    Empty where a run that did not fail has nothing to tell yet.

    Parameters
    ----------
    results : Path
        Results folder.
    model : str
        Model id.
    since : float
        When the run began, seconds since the epoch.
    failed_jobs : sequence of (str, str), optional
        Of a run that did not finish: rule and log of each job that failed; the log is empty where
        the rule has none.
    """
    jobs = failed_jobs or ()
    rules = sorted({rule for rule, _ in jobs})
    failed = None if failed_jobs is None else f"{', '.join(rules) or 'the run'} failed"
    try:
        found, took = summary(results, model), report(results, model)
    except Exception as error:
        if error_to_act_on(error) is None:
            raise
        if failed is None:
            return ""
        name = Path(results).resolve().name
        return f"cohort {name}: NOT finished, {failed}\n" + _why(results, jobs, [])
    lines = [digest(found, failed)]
    if "segment" in took["stages"]:
        segment = took["stages"]["segment"]
        share = took["network_fraction"]
        busy = "" if share is None else f", {share:.0%} of their time in the network"
        lines.append(
            f"{counted(segment['jobs'], 'job')} of segment: "
            f"{segment['memory_mb'] / 1000:.1f} GB at most{busy}; "
            f"`cohortvol resources --results {results}` says more"
        )
        last = took["last_segmented_utc"]
        if last is None or seconds_of(last) < since:
            lines.append("No scan was segmented in this run: what was there before stands.")
    lines += _told_of_versions(
        [row for row in took["other_versions"] if seconds_of(row["last_started_utc"]) >= since]
    )
    text = "\n".join(lines) + "\n"
    ended = [row for row in found["trouble"] if row["problem"] == "ended"]
    if ended:
        text += f"\n{as_text([trouble_table(ended)], 120)}"
    text += _why(results, jobs, [row["log"] for row in ended])
    return text if failed else text + where(results)


def _why(results: Path, jobs: Sequence[tuple[str, str]], first: list[str]) -> str:
    """The end of logs of failed jobs, those of `first` before others; what the disk lacks."""
    logs = dict.fromkeys([*first, *(log for _, log in jobs if log)])
    text = ""
    for log in [*logs][:MOST_LOGS]:
        text += "".join(f"\n{line}" for line in [f"End of {log}:", *_end_of(log)]) + "\n"
    if jobs and "(IO_" not in text:
        try:
            check_room(Path(results))
        except CohortvolError as error:
            text += f"\n{error}\n"
    return text


def _end_of(log: str) -> list[str]:
    try:
        lines = Path(log).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    return [f"  {line}" for line in lines[-LOG_LINES:]]

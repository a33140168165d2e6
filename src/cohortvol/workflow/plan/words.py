"""What the next run will do, in words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from cohortvol.workflow.plan.scans import MEANINGS, TO_SEGMENT


def render(found: Mapping[str, Any], manifest: str, model: str) -> str:
    """What `plan` found, in words."""
    lines = [f"{manifest}: {found['rows']:,} rows, {found['unusable']:,} of them unusable."]
    width = max(len(f"{n:,}") for n in [*found["scans"].values(), found["gone"]])
    told = [(n, MEANINGS[name]) for name, n in found["scans"].items() if n]
    if found["gone"]:
        told.append((found["gone"], "left the manifest or were withdrawn: their rows go"))
    lines += [f"  {n:>{width},}  {meaning}" for n, meaning in told]
    most = sum(found["scans"][name] for name in TO_SEGMENT)
    if most:
        old = f" in {found['shards_to_segment']:,} of {found['shards']:,} shards"
        more = " and in new ones" if found["scans"]["new"] else ""
        lines.append(f"To segment with {model}: at most {most:,} scans{old}{more}.")
    else:
        lines.append(f"Nothing to segment with {model}: no GPU is needed.")
    return "\n".join(lines) + "\n" + render_jobs(found["jobs"], found["jobs_of"])


def render_jobs(jobs: Mapping[str, str], jobs_of: Mapping[str, Sequence[int]]) -> str:
    """The jobs of the next run, a line for each rule: how many run, of how many, and why."""
    if not jobs:
        return "No job is to run.\n"
    why = {
        rule: Counter(text for name, text in jobs.items() if name.split()[0] == rule)
        for rule, (n_running, _) in jobs_of.items()
        if n_running
    }
    lines = [f"Jobs of the next run: {len(jobs):,}."]
    for rule, reasons in why.items():
        n_running, most = jobs_of[rule]
        count = f"{n_running:,} of {most:,}" if most > 1 else f"{n_running:,}"
        lines += [f"  {rule:<9} {count:>9}  {_most_common(reasons)}"]
    return "\n".join(lines) + "\n"


def _most_common(reasons: Counter[str]) -> str:
    (text, n_first), *others = reasons.most_common()
    if not others:
        return text
    n_others = sum(n for _, n in others)
    return f"{text} ({n_first:,}); other reasons ({n_others:,})"

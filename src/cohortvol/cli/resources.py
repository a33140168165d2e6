"""`cohortvol resources`: what jobs took, beside what they may."""

from __future__ import annotations

from cohortvol.cli.options import AsJson, ModelId, Profiles, Results
from cohortvol.cli.output import show, width


def resources(
    results: Results,
    model: ModelId = None,
    profile: Profiles = None,
    as_json: AsJson = False,
) -> None:
    """What jobs took (time, memory, GPU), and what to ask for in the next cohort like this one.

    Counts the jobs of ingest, segment and measure that are on record, ended or not. Suggests a
    shard_size with which a job takes 30 to 60 minutes, memory with half as much again as was used,
    and twice the time of the longest job, as lines for the config and the profile; with them
    stands what else the profiles in use set, such as the GPU of segment, as a profile replaces
    set-resources as a whole.

    Example:
    [dim]cohortvol resources --results results/mine
    cohortvol resources --results results/mine --profile slurm --profile mysite[/]
    """
    from cohortvol.compute import profiles
    from cohortvol.tools.status import render_report, report

    found = report(results, model)
    own = profiles.by_rule(profiles.together(profile or profiles.shipped()))
    show(found, None if as_json else render_report(found, width=width(), profile=own))

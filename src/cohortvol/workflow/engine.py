"""What is asked of Snakemake beyond what it documents for workflows, a function for each question.

Nothing else looks inside Snakemake. ``tests/test_engine.py`` asks each question of the installed
one, so that a new Snakemake breaks a named test and no cohort. `workflow` is the object of this
name in every Snakefile.
"""

from __future__ import annotations

import sys
from collections.abc import Collection
from pathlib import Path
from typing import Any

from snakemake.io import ancient as ancient


def config_files(workflow: Any) -> list[Path]:
    """Files of settings, the later wins: the workflow's, then those of the command line."""
    given = workflow.config_settings
    ours = [path for path in workflow.configfiles if path not in given.configfiles]
    return [*map(Path, [] if given.replace_workflow_config else ours), *given.configfiles]


def given_settings(workflow: Any) -> dict[str, Any]:
    """What ``--config`` says."""
    return dict(workflow.config_settings.config)


def lints() -> bool:
    """Whether this is ``snakemake --lint``, which needs no cohort."""
    return "--lint" in sys.argv


def deletes() -> bool:
    """Whether this is ``snakemake --delete-all-output`` or the like, which runs no job."""
    return any(word.startswith("--delete") for word in sys.argv)


def is_driver(workflow: Any) -> bool:
    """Whether this process plans and starts jobs, and is not one of the jobs."""
    return bool(workflow.is_main_process)


def retries(workflow: Any, most: int) -> int:
    """Of a rule: attempts are jobs, so the Snakemake inside a job of a cluster starts it once."""
    return most if is_driver(workflow) else 0


def is_dry_run(workflow: Any) -> bool:
    """Whether this is ``snakemake -n``."""
    return bool(workflow.dryrun)


def touches(workflow: Any) -> bool:
    """Whether this is ``snakemake --touch``."""
    return bool(workflow.touch)


def runs_jobs(workflow: Any) -> bool:
    """Whether jobs will be run, here or on a cluster; not so with ``-n`` or ``--unlock``."""
    return workflow.executor_plugin is not None and not workflow.dryrun


def submits_to_slurm(workflow: Any) -> bool:
    """Whether jobs go to Slurm."""
    return runs_jobs(workflow) and workflow.executor_plugin.name == "slurm"


def slurm_run_name(workflow: Any) -> str | None:
    """Name of this run's jobs in Slurm, once jobs may start; None where it submits none."""
    return getattr(getattr(workflow.scheduler, "_executor", None), "run_uuid", None)


def rules_of(workflow: Any) -> Any:
    """Every rule, with its resources by name."""
    return workflow.rules


def failed_jobs(workflow: Any) -> list[tuple[str, str]]:
    """Rule and log of each job of this run that failed, and was not repeated with success."""
    failed = getattr(workflow.scheduler, "failed", ())
    jobs = [one for job in failed for one in (job.jobs if job.is_group() else [job])]
    return sorted((job.rule.name, str(job.log[0]) if job.log else "") for job in jobs)


def forced_by_user(workflow: Any) -> list[str] | None:
    """Rules and files of ``--forcerun``; None where all are forced."""
    if workflow.dag_settings.forceall:
        return None
    return [str(name) for name in workflow.dag_settings.forcerun]


def force(workflow: Any, files: Collection[str], instead_of: Collection[str]) -> None:
    """Have the jobs run that make these files, and no longer those that make others."""
    workflow.dag.forcefiles.difference_update(instead_of)
    workflow.dag.forcefiles.update(files)


OF_THE_GPU = (
    *("gpu", "gpu_model", "gpu_manufacturer", "gres", "cpus_per_gpu", "tasks_per_gpu"),
    *("slurm_partition", "constraint"),
)
"""Resources that a profile gives a rule for its GPU, or to bring it where there is one."""


def leave_the_gpu(workflow: Any, rule: str) -> None:
    """Have no profile give a rule a GPU, nor a partition of its own: it runs where all others do.

    To be called before the rule is read.
    """
    every = workflow.resource_settings._parsed_overwrite_resources
    if rule in every:
        kept = {name: own for name, own in every[rule].items() if name not in OF_THE_GPU}
        every[rule] = type(every[rule])(kept)

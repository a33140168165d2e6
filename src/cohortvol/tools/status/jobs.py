"""Jobs of a cohort in the queue of a Slurm cluster, where there is one."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from cohortvol.compute.cluster import name_of_run, queue, what_to_change

PATIENCE_SECONDS = 1.0


def slurm_jobs(results: Path) -> dict[str, Any]:
    """Jobs of the run that works in a results folder, or was killed there.

    Returns
    -------
    dict
        ``jobs`` by state, ``running``, ``pending`` and others that occur; null where no such run
        submits to Slurm, or it does not answer at once. ``waiting``: of the pending ones,
        ``reason`` in Slurm's word, ``n_jobs``, and ``what_to_do``, null where they start by
        themselves.
    """
    name = name_of_run(results)
    found = queue(name, PATIENCE_SECONDS) if name else None
    if found is None:
        return {"jobs": None, "waiting": []}
    waiting = Counter(job.reason for job in found if job.state == "pending")
    return {
        "jobs": {"running": 0, "pending": 0} | dict(Counter(job.state for job in found)),
        "waiting": [
            {"reason": reason, "n_jobs": n_jobs, "what_to_do": what_to_change(reason)}
            for reason, n_jobs in waiting.most_common()
        ],
    }

"""Jobs in the queue of a Slurm cluster, where there is one."""

from __future__ import annotations

import shutil
import subprocess
from collections import Counter

JOB_NAME = "cohortvol"
"""How the names of the jobs begin: `slurm-jobname-prefix` of profiles/slurm."""
PATIENCE_SECONDS = 1.0


def slurm_jobs() -> dict[str, int] | None:
    """Jobs of this user by state, ``running``, ``pending`` and others that occur.

    Those of all cohorts; None where there is no Slurm, or it does not answer at once.
    """
    squeue = shutil.which("squeue")
    if squeue is None:
        return None
    words = [squeue, "--me", "--noheader", "--format=%T %j"]
    try:
        told = subprocess.run(  # noqa: S603 - words of ours
            words, capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=True
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    jobs = [line.split(maxsplit=1) for line in told.splitlines()]
    states = [job[0].lower() for job in jobs if job[-1].startswith(JOB_NAME)]
    return {"running": 0, "pending": 0} | dict(Counter(states))

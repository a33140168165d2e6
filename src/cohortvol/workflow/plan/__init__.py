"""What the next run will do, told before it does it: which jobs, which scans, and why.

`next_run` is what the workflow itself asks before it starts a job, so that `cohortvol plan`,
`snakemake -n` and the run say the same.
"""

from cohortvol.workflow.plan.jobs import NextRun, next_run
from cohortvol.workflow.plan.scans import MEANINGS, TO_SEGMENT, plan
from cohortvol.workflow.plan.words import render, render_jobs

__all__ = ["MEANINGS", "TO_SEGMENT", "NextRun", "next_run", "plan", "render", "render_jobs"]

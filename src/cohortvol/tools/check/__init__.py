"""What an intake found, before anything is segmented: accounts, and what segmenting will take."""

from cohortvol.check.findings import findings
from cohortvol.check.remaining import Remaining, remaining
from cohortvol.check.render import render
from cohortvol.check.workload import Needs, Seconds, needs

__all__ = ["Needs", "Remaining", "Seconds", "findings", "needs", "remaining", "render"]

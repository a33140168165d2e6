"""What an intake found, before anything is segmented: accounts, and what segmenting will take."""

from cohortvol.tools.check.findings import findings
from cohortvol.tools.check.remaining import Remaining, remaining
from cohortvol.tools.check.render import render
from cohortvol.tools.check.workload import Needs, Seconds, needs

__all__ = ["Needs", "Remaining", "Seconds", "findings", "needs", "remaining", "render"]

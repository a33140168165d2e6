"""Finished label maps and volumes as a BIDS derivatives dataset, for tools that read those."""

from cohortvol.tools.derivatives.run import run

__all__ = ["run"]

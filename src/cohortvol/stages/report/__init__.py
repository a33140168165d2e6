"""Report: tables become figures and one offline page. No statistics are done here."""

from cohortvol.stages.report.figures.sheets import SheetSettings
from cohortvol.stages.report.run import run

__all__ = ["SheetSettings", "run"]

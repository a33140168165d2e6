"""Report: tables become figures and one offline page. No statistics are done here."""

from cohortvol.report.run import run
from cohortvol.report.sheets import SheetSettings

__all__ = ["SheetSettings", "run"]

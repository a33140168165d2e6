"""Report: tables become figures and one offline page. No statistics are done here."""

from cohortvol.report.run import run

__all__ = ["run"]

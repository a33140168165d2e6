"""What happened so far: to the whole cohort, and to one scan."""

from cohortvol.tools.status.advice import closing_words, render_report
from cohortvol.tools.status.explain import explain
from cohortvol.tools.status.render import render_explanation, render_summary
from cohortvol.tools.status.resources import report
from cohortvol.tools.status.summary import summary
from cohortvol.tools.status.watch import watch
from cohortvol.tools.status.words import digest

__all__ = [
    "closing_words",
    "digest",
    "explain",
    "render_explanation",
    "render_report",
    "render_summary",
    "report",
    "summary",
    "watch",
]

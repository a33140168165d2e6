"""What happened so far: to the whole cohort, and to one scan."""

from cohortvol.status.advice import closing_words, render_report
from cohortvol.status.explain import explain
from cohortvol.status.render import render_explanation, render_summary
from cohortvol.status.resources import report
from cohortvol.status.summary import summary
from cohortvol.status.watch import watch
from cohortvol.status.words import digest

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

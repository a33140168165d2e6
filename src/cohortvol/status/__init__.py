"""What happened so far: to the whole cohort, and to one scan."""

from cohortvol.status.explain import explain
from cohortvol.status.render import render_explanation, render_summary
from cohortvol.status.summary import summary

__all__ = ["explain", "render_explanation", "render_summary", "summary"]

"""Is this machine fit to run a cohort: one finding per check, with what to do about it."""

from cohortvol.tools.doctor.findings import Finding, Verdict, examine, exit_code, render, tell

__all__ = ["Finding", "Verdict", "examine", "exit_code", "render", "tell"]

"""Rules, package and study go together only in versions that fit: told before anything is read."""

from __future__ import annotations

from packaging.version import Version

from cohortvol import __version__
from cohortvol.errors import InstallationError
from cohortvol.shipped import path_of
from cohortvol.workflow.told import told_without_traceback


def check_rules(of: str) -> None:
    """End the process with a message unless rules of this version are those of the package."""
    with told_without_traceback():
        if of != __version__:
            raise InstallationError(
                f"these rules are of cohortvol {of}, the package installed is {__version__}\n"
                "  In a checkout: `pip install -e .` there, or check out the tag of that version.\n"
                "  Without one: take share/workflow/cohort.smk in the folder of the package."
            )


def workflow_for(study: str) -> str:
    """Path of the rules of the installed package.

    What the Snakefile of a study includes. One that an older version made goes on with the rules of
    today; one that a newer version made ends the process with a message.

    Parameters
    ----------
    study : str
        Version that made the study.
    """
    with told_without_traceback():
        if Version(study) > Version(__version__):
            raise InstallationError(
                f"this study was made by cohortvol {study}, the package installed is "
                f"{__version__}\n"
                f"  pip install 'cohortvol>={study}'"
            )
    return str(path_of("workflow") / "cohort.smk")

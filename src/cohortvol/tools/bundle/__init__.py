"""A folder from which a machine without internet installs cohortvol and runs it."""

from cohortvol.tools.bundle.check import Checked, check
from cohortvol.tools.bundle.make import make

__all__ = ["Checked", "check", "make"]

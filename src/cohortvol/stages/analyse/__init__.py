"""The analyse stage: cohort tables in, correlations, slopes and their uncertainty out."""

from cohortvol.analyse.outputs import SCHEMAS
from cohortvol.analyse.run import run
from cohortvol.analyse.settings import Settings

__all__ = ["SCHEMAS", "Settings", "run"]

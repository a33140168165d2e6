"""The analyse stage: cohort tables in, correlations, slopes and their uncertainty out."""

from cohortvol.stages.analyse.cohort.settings import Settings
from cohortvol.stages.analyse.outputs import SCHEMAS
from cohortvol.stages.analyse.run import run

__all__ = ["SCHEMAS", "Settings", "run"]

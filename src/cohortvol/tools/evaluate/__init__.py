"""Label maps against experts' label maps: Dice, surface distances, volumes, and their page."""

from cohortvol.tools.evaluate.outputs import SCHEMAS
from cohortvol.tools.evaluate.run import Model, Settings, run

__all__ = ["SCHEMAS", "Model", "Settings", "run"]

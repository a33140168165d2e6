"""Label maps against experts' label maps: Dice, surface distances, volumes, and their page."""

from cohortvol.evaluate.outputs import SCHEMAS
from cohortvol.evaluate.run import Model, Settings, run

__all__ = ["SCHEMAS", "Model", "Settings", "run"]

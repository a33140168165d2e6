"""Label map to volumes: how much of each structure there is, and whether to believe it."""

from cohortvol.measure.quality import judge, pair_sums
from cohortvol.measure.shard import measure_scan, measure_shard, run_shard
from cohortvol.measure.volumes import structure_volumes

__all__ = [
    "judge",
    "measure_scan",
    "measure_shard",
    "pair_sums",
    "run_shard",
    "structure_volumes",
]

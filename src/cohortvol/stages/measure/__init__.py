"""Label map to volumes: how much of each structure there is, and whether to believe it."""

from cohortvol.stages.measure.preview import draw_preview, worst_structure
from cohortvol.stages.measure.quality import judge, pair_sums
from cohortvol.stages.measure.reading import read_scan
from cohortvol.stages.measure.shard import measure_scan, measure_shard, run_shard
from cohortvol.stages.measure.volumes import structure_volumes

__all__ = [
    "draw_preview",
    "judge",
    "measure_scan",
    "measure_shard",
    "pair_sums",
    "read_scan",
    "run_shard",
    "structure_volumes",
    "worst_structure",
]

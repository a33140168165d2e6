"""What the scans of a results folder that are not segmented yet still need on the disk."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cohortvol.errors import TableError
from cohortvol.models.card import Card
from cohortvol.tools.check.workload import LABEL_MAP_BYTES_PER_VOXEL

USUAL_VOXELS = 320 * 260 * 72
"""Of a scan whose grid is not known yet: the T1 VIBE images of the UK Biobank are of this size."""


@dataclass(frozen=True)
class Remaining:
    """Scans still to be segmented, and what their label maps take at most."""

    n_scans: int
    n_bytes: float


def remaining(results: Path, card: Card) -> Remaining | None:
    """Scans of shards whose table of `segment` is not there; None where no manifest was read.

    Parameters
    ----------
    results : Path
        Results folder.
    card : Card
        Of the model they are segmented with.

    Raises
    ------
    TableError
        If a table is damaged.
    """
    n_scans, voxels = 0, 0.0
    shards = sorted((results / "manifest" / "shards").glob("*.parquet"))
    if not shards:
        return None
    for shard in shards:
        if (results / "segment" / card.id / shard.name).is_file():
            continue
        ingested = results / "ingest" / shard.name
        try:
            if ingested.is_file():
                grids = pq.read_table(ingested, columns=["state", "n_i", "n_j", "n_k"])
                usable = grids.filter(pc.equal(grids["state"], "ready"))
                n_scans += usable.num_rows
                sizes = [pc.cast(usable[name], pa.float64()) for name in ("n_i", "n_j", "n_k")]
                voxels += pc.sum(pc.multiply(pc.multiply(*sizes[:2]), sizes[2])).as_py() or 0.0
            else:
                rows = pq.read_metadata(shard).num_rows
                n_scans += rows
                voxels += rows * USUAL_VOXELS
        except (OSError, ValueError, KeyError) as error:
            raise TableError(f"shard {shard.stem}: a table cannot be read ({error})") from error
    return Remaining(n_scans, voxels * LABEL_MAP_BYTES_PER_VOXEL * len(card.layers))

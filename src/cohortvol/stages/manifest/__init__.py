"""Which scans exist, and which shard each is in.

`rows` or `bids` read the manifest, `reading` adds who withdrew and which keys stand for whom,
`shards` keeps each scan where it is, `removal` takes out who left, and `run` writes the lists.
"""

from cohortvol.stages.manifest.bids import read_bids
from cohortvol.stages.manifest.bids_images import Choice
from cohortvol.stages.manifest.channels import all_images
from cohortvol.stages.manifest.folder import from_folder, write_from_folder
from cohortvol.stages.manifest.foreseen import Foreseen, changed_images, foresee, sources
from cohortvol.stages.manifest.reading import (
    check,
    check_label_maps,
    from_config,
    unknown_withdrawn,
    who_withdrew,
)
from cohortvol.stages.manifest.rows import read_manifest
from cohortvol.stages.manifest.run import run
from cohortvol.stages.manifest.shards import assign_shards, file_facts

__all__ = [
    "Choice",
    "Foreseen",
    "all_images",
    "assign_shards",
    "changed_images",
    "check",
    "check_label_maps",
    "file_facts",
    "foresee",
    "from_config",
    "from_folder",
    "read_bids",
    "read_manifest",
    "run",
    "sources",
    "unknown_withdrawn",
    "who_withdrew",
    "write_from_folder",
]

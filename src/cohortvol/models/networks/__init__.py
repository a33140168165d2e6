"""Torch side of a model folder: build its networks, and make one from a trained nnU-Net.

At run time no pickle is opened. `import_nnunet` opens one, once, with torch's unpickler
restricted to tensors and numpy scalars, and keeps the weights as safetensors.
"""

from cohortvol.models.networks.build import (
    LoadedPart,
    Network,
    build,
    canary_of,
    canary_patch,
    check,
    load_part,
)
from cohortvol.models.networks.channels_last import ChannelsLastUNet, can_be_channels_last
from cohortvol.models.networks.nnunet import import_known, import_nnunet
from cohortvol.models.networks.source import Source
from cohortvol.models.networks.unrolled import UnrolledUNet, can_unroll

__all__ = [
    "ChannelsLastUNet",
    "LoadedPart",
    "Network",
    "Source",
    "UnrolledUNet",
    "build",
    "can_be_channels_last",
    "can_unroll",
    "canary_of",
    "canary_patch",
    "check",
    "import_known",
    "import_nnunet",
    "load_part",
]

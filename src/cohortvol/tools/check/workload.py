"""What segmenting scans will take, from their grids and the plans of the model.

The work is counted: patches of every scan times the multiplications of the network for one patch.
What the machine makes of it is measured where it could be and assumed where not; each constant
says which.
"""

from __future__ import annotations

import json
import math
import re
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cohortvol.errors import ModelError
from cohortvol.models.card import PARTS, Card, weights_file
from cohortvol.models.inference import Profile
from cohortvol.models.part import Part

CPU_FLOP_PER_S = 219e9
"""Of two cores: 547 GFLOP of a full-size 3 mm patch in 2.50 s, benchmarks/network_choices.py."""
GPU_FLOP_PER_S = 30e12
"""Assumed: a tenth of what the makers state for half precision. No GPU has been measured."""
HOST_S_PER_VOXEL = 0.71 / (320 * 260 * 72)
"""Outside the network, on one core: sum of the other stages of benchmarks/warm_scan.py."""
GPU_WORKERS = 4
"""Threads that do the host's part beside a GPU, by default."""

WORKER_BYTES = 1.2e9
BYTES_PER_VOXEL = 8
BYTES_PER_LOGIT = 6
ACTIVATIONS = 5
"""Of memory: what a worker takes for itself, for the scan, for the logits of a patch, and copies of
the first stage's activations. Fitted to benchmarks/memory.py and the memory column of
benchmarks/side_by_side.py, all on a CPU; see tests/test_check.py."""
BYTES_PER_KEPT_LOGIT = 2
"""Of an ensemble, for every label, network and voxel of a scan."""

LABEL_MAP_BYTES_PER_VOXEL = 0.1
"""At most: label maps of 2 to 41 structures by TotalSegmentator take 0.017 to 0.096, those of
simulated scans 0.014."""

_WEIGHT = re.compile(r"(encoder|decoder)\.(stem|stages|transpconvs|seg_layers)\.(?:(\d+)\.)?.*")


@dataclass(frozen=True)
class Seconds:
    """Time of one step of a shard, with what the figure rests on."""

    hours: float
    basis: str


@dataclass(frozen=True)
class Needs:
    """What segmenting the usable scans will take.

    `memory_gb` is for the scan that takes most; `disk_gb` is at most, of all label maps or of the
    shard of `kept_for` scans that takes most, with `converted_gb` of images made from DICOM, which
    is known exactly.
    """

    n_scans: int
    petaflop: float
    gpu: Seconds
    two_cores: Seconds
    memory_gb: float
    disk_gb: float
    converted_gb: float
    kept_for: int | None


@dataclass(frozen=True)
class Network:
    """What one part of a model asks of the machine."""

    spacing_mm: tuple[float, ...]  # z y x
    patch: tuple[int, int, int]
    transpose: tuple[int, ...]
    step: float
    flop_per_patch: float  # of all folds
    features: int
    n_labels: int

    def patches(self, extent_mm: np.ndarray) -> np.ndarray:
        """Patches of scans of these (n, 3) extents, z y x."""
        shape = np.rint(extent_mm / self.spacing_mm)[:, self.transpose]
        counts = np.ones(len(shape))
        for axis, size in enumerate(self.patch):
            if size == 1:
                counts *= np.maximum(shape[:, axis], 1)  # a 2D network sees every plane once
                continue
            beyond = np.maximum(shape[:, axis] - size, 0)
            counts = counts * (np.ceil(beyond / (size * self.step)) + 1)
        return counts


def needs(
    usable: pd.DataFrame,
    card: Card,
    profile: Profile,
    seconds_per_scan: float | None = None,
    converted_bytes: int = 0,
    kept_for: int | None = None,
) -> Needs:
    """Work, time, memory and disk for scans of these grids.

    Whole images are counted: a profile that looks at the body alone takes less.

    Parameters
    ----------
    usable : pandas.DataFrame
        Grid columns of the table INGEST.
    card, profile : Card, Profile
        What they are segmented with.
    seconds_per_scan : float, optional
        Measured on the user's own machine; replaces the estimates of time.
    converted_bytes : int
        Of images made of DICOM or of several channels.
    kept_for : int, optional
        Scans of a shard, where label maps are removed once it is measured.

    Raises
    ------
    ModelError
        If the model's plans are not those of an nnU-Net.
    """
    networks = [_network(card, profile, part) for part in card.parts]
    voxels = usable[["n_i", "n_j", "n_k"]].to_numpy(dtype=float).prod(axis=1)
    extent_mm = _extent_mm(usable)
    flop = sum(
        (network.patches(extent_mm) * network.flop_per_patch for network in networks),
        np.zeros(len(usable)),
    )
    host_s = voxels * HOST_S_PER_VOXEL
    largest = float(voxels.max(initial=0))
    stored = voxels.sum() if kept_for is None else largest * min(kept_for, len(usable))
    if seconds_per_scan is None:
        gpu_s = np.maximum(flop / GPU_FLOP_PER_S, host_s / GPU_WORKERS).sum()
        cpu_s = np.maximum(flop / CPU_FLOP_PER_S, host_s).sum()
        gpu = Seconds(float(gpu_s) / 3600, "assumed speed: no GPU has been measured")
        cpu = Seconds(float(cpu_s) / 3600, "speed measured on two cores, see benchmarks/README.md")
    else:
        hours = len(usable) * seconds_per_scan / 3600
        gpu = cpu = Seconds(hours, f"{seconds_per_scan:g} s a scan, as given")
    return Needs(
        n_scans=len(usable),
        petaflop=float(flop.sum() / 1e15),
        gpu=gpu,
        two_cores=cpu,
        memory_gb=memory_gb(largest * max(1, len(card.channels)), networks)
        + largest * logits_kept(card, networks) * BYTES_PER_KEPT_LOGIT / 1e9,
        disk_gb=float(stored * LABEL_MAP_BYTES_PER_VOXEL * len(card.layers) / 1e9),
        kept_for=kept_for,
        converted_gb=converted_bytes / 1e9,
    )


def logits_kept(card: Card, networks: Sequence[Network]) -> int:
    """Logits of every voxel of a scan that are held until the networks of an ensemble are done."""
    of_part = {
        part.name: network.n_labels for part, network in zip(card.parts, networks, strict=True)
    }
    ensembles = [(part.name, *part.averaged_with) for part in card.parts if part.averaged_with]
    return sum(of_part[name] for names in ensembles for name in names)


def memory_gb(voxels: float, networks: Sequence[Network]) -> float:
    """Of a worker that has read a scan of so many voxels, in all of its channels."""
    patch = max(
        math.prod(network.patch)
        * (network.n_labels * BYTES_PER_LOGIT + network.features * 4 * ACTIVATIONS)
        for network in networks
    )
    return (WORKER_BYTES + voxels * BYTES_PER_VOXEL + patch) / 1e9


def _extent_mm(rows: pd.DataFrame) -> np.ndarray:
    """(n, 3): edges of the images along S, A and R, mm."""
    edges_mm: np.ndarray = rows[["n_i", "n_j", "n_k"]].to_numpy(dtype=float) * rows[
        ["spacing_i_mm", "spacing_j_mm", "spacing_k_mm"]
    ].to_numpy(dtype=float)
    axis = {"S": 0, "I": 0, "A": 1, "P": 1, "R": 2, "L": 2}
    order = np.array([[axis[letter] for letter in codes] for codes in rows["orientation"]], int)
    extent_mm: np.ndarray = np.zeros_like(edges_mm)
    np.put_along_axis(extent_mm, order.reshape(-1, 3), edges_mm, axis=1)
    return extent_mm


def _network(card: Card, profile: Profile, part: Part) -> Network:
    plans_file = card.folder / PARTS / part.name / "plans.json"
    try:
        plans = json.loads(plans_file.read_text(encoding="utf-8"))
        settings = plans["configurations"][part.configuration]
        patch = tuple(int(size) for size in (1, *settings["patch_size"])[-3:])
        spacing_mm = [float(edge) for edge in settings["spacing"]]
        shapes = _weight_shapes(card.folder / weights_file(part, part.folds[0]))
        flop, features = flop_per_patch(shapes, settings["patch_size"], _strides(settings))
    except (OSError, KeyError, TypeError, ValueError, IndexError) as error:
        raise ModelError(
            f"{plans_file}: the work of this network cannot be counted "
            f"({type(error).__name__}: {error})"
        ) from error
    back = plans.get("transpose_backward", [0, 1, 2])
    on_scan_axes = [spacing_mm[axis] for axis in back] if len(spacing_mm) == 3 else None
    passes = 2 ** len(part.mirror_axes) if profile.mirrors else 1
    zoomed = card.spacing_mm if profile.zoom_order is not None else None
    chosen = tuple(reversed(zoomed)) if zoomed else tuple(on_scan_axes or (1.0, *spacing_mm))
    return Network(
        spacing_mm=chosen,
        patch=(patch[0], patch[1], patch[2]),
        transpose=tuple(plans.get("transpose_forward", [0, 1, 2])),
        step=min(profile.tile_step, part.tile_step or 1.0),
        flop_per_patch=flop * len(part.folds) * passes,
        features=features,
        n_labels=next(shape[0] for name, shape in shapes.items() if ".seg_layers." in name),
    )


def _strides(settings: Mapping[str, Any]) -> list[list[int]]:
    """Of every stage, in plans of either format."""
    if "architecture" in settings:
        return list(settings["architecture"]["arch_kwargs"]["strides"])
    return list(settings["pool_op_kernel_sizes"])


def _weight_shapes(path: Path) -> dict[str, list[int]]:
    """Shape of every tensor of a safetensors file, from its header alone."""
    with open(path, "rb") as stream:
        (size,) = struct.unpack("<Q", stream.read(8))
        header = json.loads(stream.read(size))
    return {name: entry["shape"] for name, entry in header.items() if "shape" in entry}


def flop_per_patch(
    shapes: Mapping[str, Sequence[int]], patch: Sequence[int], strides: Sequence[Sequence[int]]
) -> tuple[float, int]:
    """Floating-point operations of a U-Net for one patch, and features of its first stage.

    A convolution takes two for every weight and voxel of its output, a transposed one for every
    weight and voxel of its input. Of the heads only the last is used.

    Parameters
    ----------
    shapes : mapping of str to sequence of int
        Name and shape of every tensor, as nnU-Net names them.
    patch : sequence of int
        Voxels along each axis.
    strides : sequence of sequences of int
        Of every stage of the encoder.
    """
    scale = np.cumprod(np.asarray(strides, dtype=float), axis=0)
    voxels = np.prod(np.asarray(patch) / scale, axis=1)
    deepest = len(voxels) - 1
    flop, features = 0.0, 0
    for name, shape in shapes.items():
        found = _WEIGHT.fullmatch(name)
        if found is None or not name.endswith(".weight") or len(shape) < 4:
            continue
        side, kind, number = found[1], found[2], int(found[3] or 0)
        if side == "encoder":
            stage = 0 if kind == "stem" else number
            features = max(features, shape[0]) if stage == 0 else features
        elif kind == "transpconvs":
            stage = deepest - number
        else:
            stage = deepest - 1 - number
        if kind == "seg_layers" and stage != 0:
            continue
        flop += 2 * math.prod(shape) * voxels[stage]
    return flop, features

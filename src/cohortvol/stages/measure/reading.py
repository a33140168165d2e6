"""A scan and its label map from the files that they were when the scan was segmented."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from cohortvol.anatomy.geometry import check_same_grid
from cohortvol.anatomy.nifti import image_of
from cohortvol.errors import GeometryError, ScanError
from cohortvol.models.channels import dixon_part
from cohortvol.stages.measure.dixon import PARTS
from cohortvol.store import of_scans


@dataclass(frozen=True)
class Scan:
    """Voxels of a scan and of its label map, on one grid.

    Attributes
    ----------
    label_map : (I, J, K, n_layers) integer array
    image : (I, J, K) array
        In its own units; of several channels the first.
    affine : (4, 4) float array
        Voxel indices to RAS+ millimetres.
    parts : mapping of str to (I, J, K) array
        Channels that are called water or fat, of a scan with several.
    gaps
        See `structure_volumes`.
    """

    label_map: np.ndarray
    image: np.ndarray
    affine: np.ndarray
    parts: Mapping[str, np.ndarray] = field(default_factory=dict)
    gaps: Sequence[tuple[int, int]] = ()


def read_scan(label_map: Path, image: Path, n_layers: int, channels: Sequence[str] = ()) -> Scan:
    """A scan and its label map from two NIfTI files. A trailing axis of one volume is dropped.

    The label map may be packed, see `cohortvol.store.of_scans`.
    `channels` are the names of those along the fourth axis of the image, where it has several.

    Raises
    ------
    GeometryError
        If the two are on different grids, or the label map has another number of layers.
    """
    labels = image_of(of_scans.read(label_map))
    scan: Any = nib.load(image)
    check_same_grid((scan.shape[:3], scan.affine), (labels.shape[:3], labels.affine))
    volumes = np.atleast_1d(voxels_of(labels))
    volumes = volumes[..., None] if volumes.ndim == 3 else volumes
    if volumes.shape[3:] != (n_layers,):
        raise GeometryError(f"{n_layers} layers in a label map of shape {labels.shape}")
    voxels = voxels_of(scan)
    if not channels:
        return Scan(volumes, voxels, labels.affine)
    named = {dixon_part(name): voxels[..., n] for n, name in enumerate(channels)}
    parts = {part: named[part] for part in PARTS if part in named}
    return Scan(volumes, voxels[..., 0], labels.affine, parts)


def voxels_of(image: Any) -> np.ndarray:
    """Voxels in their stored type, or in float64 where the header scales them."""
    voxels: np.ndarray = np.asanyarray(image.dataobj)
    return voxels.reshape(voxels.shape[:3]) if set(voxels.shape[3:]) <= {1} else voxels


def check_unchanged(path: Path, sha256: str, reason: str) -> None:
    """Raise ScanError with this reason, or ``SRC_MISSING``, unless a file has the bytes it had."""
    try:
        found = of_scans.digest(path)
    except FileNotFoundError as error:
        missing = "SRC_MISSING" if reason == "SRC_CHANGED" else reason
        raise ScanError(missing, "it is missing") from error
    if found != sha256:
        raise ScanError(reason, "it is not the file that was segmented")

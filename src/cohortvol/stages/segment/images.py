"""A scan from its file, checked against what ingest read."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cohortvol.anatomy.nifti import NO_IMAGE, image_of
from cohortvol.errors import ScanError
from cohortvol.store.storage import of_scan


@dataclass(frozen=True)
class Image:
    """Voxels of a scan after scaling, with voxel to RAS+ mm."""

    data: np.ndarray
    affine: np.ndarray


def read_image(path: Path, sha256: str, dtype: type[np.floating[Any]] = np.float32) -> Image:
    """Read a NIfTI file, scaled in `dtype`, whose bytes must be the ones ingest read and checked.

    A 4D file with one volume is taken as 3D.

    Raises
    ------
    ScanError
        ``SRC_MISSING``, ``SRC_PERMISSION``, ``SRC_CHANGED`` or ``IO_READ_ERROR``.
    TemporaryError
        If the storage fails, and not for this file alone.
    """
    content = _read_bytes(path)
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        raise ScanError("SRC_CHANGED", f"sha256 {found[:16]}, at ingest {sha256[:16]}")
    return _decoded(content, dtype)


def read_unchecked(path: Path, dtype: type[np.floating[Any]] = np.float32) -> Image:
    """`read_image` of a file that no ingest has looked at.

    Raises
    ------
    ScanError
        As `read_image`, and ``SRC_NOT_NIFTI`` if it is no whole NIfTI image.
    """
    try:
        return _decoded(_read_bytes(path), dtype)
    except NO_IMAGE as error:
        raise ScanError("SRC_NOT_NIFTI", str(error)) from error


def _decoded(content: bytes, dtype: type[np.floating[Any]]) -> Image:
    image = image_of(content)
    data = image.get_fdata(dtype=dtype, caching="unchanged")
    if data.ndim > 3 and data.shape[3:] == (1,) * (data.ndim - 3):
        data = data.reshape(data.shape[:3])
    return Image(data, np.asarray(image.affine))


def _read_bytes(path: Path) -> bytes:
    try:
        return of_scan(path, path.read_bytes)
    except FileNotFoundError as error:
        raise ScanError("SRC_MISSING", "") from error
    except PermissionError as error:
        raise ScanError("SRC_PERMISSION", "") from error
    except OSError as error:
        raise ScanError("IO_READ_ERROR", f"errno {error.errno}") from error

"""A scan from its file, checked against what ingest read."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError
from nibabel.wrapstruct import WrapStructError

from cohortvol.errors import ScanError
from cohortvol.store.files import inflate
from cohortvol.store.storage import of_scan

_GZIP = b"\x1f\x8b"
NO_IMAGE = (ImageFileError, HeaderDataError, WrapStructError, inflate.error, ValueError)


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


def image_of(content: bytes) -> Any:
    """The bytes of a NIfTI file, packed or not, as an image of nibabel.

    Raises
    ------
    ImageFileError, HeaderDataError, WrapStructError, ValueError, inflate.error
        If they are none.
    """
    if content.startswith(_GZIP):
        content = _gunzip(content)
    second_version = (540).to_bytes(4, "little"), (540).to_bytes(4, "big")
    kind = nib.Nifti2Image if content[:4] in second_version else nib.Nifti1Image
    return kind.from_bytes(content)


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


def _gunzip(content: bytes) -> bytes:
    """All gzip members of a file; bytes after the last one are ingest's to judge."""
    parts = []
    while content.startswith(_GZIP):
        member = inflate.decompressobj(wbits=31)
        parts.append(member.decompress(content))
        content = member.unused_data
    return b"".join(parts)

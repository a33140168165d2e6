"""A scan from its file, checked against what ingest read."""

from __future__ import annotations

import errno
import hashlib
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from cohortvol.errors import ScanError
from cohortvol.files import inflate

_GZIP = b"\x1f\x8b"
_AGAIN = {errno.EIO, errno.ESTALE, errno.ETIMEDOUT}
_READ_ATTEMPTS = 4


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
    """
    content = _read_bytes(path)
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        raise ScanError("SRC_CHANGED", f"sha256 {found[:16]}, at ingest {sha256[:16]}")
    if content.startswith(_GZIP):
        content = _gunzip(content)
    second_version = (540).to_bytes(4, "little"), (540).to_bytes(4, "big")
    kind = nib.Nifti2Image if content[:4] in second_version else nib.Nifti1Image
    image = kind.from_bytes(content)
    data = image.get_fdata(dtype=dtype, caching="unchanged")
    if data.ndim > 3 and data.shape[3:] == (1,) * (data.ndim - 3):
        data = data.reshape(data.shape[:3])
    return Image(data, np.asarray(image.affine))


def _read_bytes(path: Path) -> bytes:
    for attempt in range(1, _READ_ATTEMPTS + 1):
        try:
            return path.read_bytes()
        except FileNotFoundError as error:
            raise ScanError("SRC_MISSING", "") from error
        except PermissionError as error:
            raise ScanError("SRC_PERMISSION", "") from error
        except OSError as error:
            # A network file system that was away for a moment answers the next time.
            if error.errno not in _AGAIN or attempt == _READ_ATTEMPTS:
                raise ScanError("IO_READ_ERROR", f"errno {error.errno}") from error
            time.sleep(0.5 * 2**attempt)
    raise AssertionError("unreachable")


def _gunzip(content: bytes) -> bytes:
    """All gzip members of a file; bytes after the last one are ingest's to judge."""
    parts = []
    while content.startswith(_GZIP):
        member = inflate.decompressobj(wbits=31)
        parts.append(member.decompress(content))
        content = member.unused_data
    return b"".join(parts)

"""NIfTI bytes to images, and volumes to bytes that say nothing of the person and are equal for
equal volumes.
"""

from __future__ import annotations

import zlib
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError
from nibabel.wrapstruct import WrapStructError

from cohortvol.anatomy.geometry import spacing_mm
from cohortvol.store.files import inflate

_GZIP = b"\x1f\x8b"
NO_IMAGE = (ImageFileError, HeaderDataError, WrapStructError, inflate.error, ValueError)
"""What `image_of` raises for bytes that are no image, and nibabel where voxels are read."""

ROUNDED_SHEAR = 1e-3
"""Cosine between two axes up to which they count as at right angles, but for rounding."""


def nifti_gz(volume: np.ndarray, affine: np.ndarray) -> bytes:
    """A volume as ``.nii.gz``: equal volumes give equal bytes.

    The header is new: shape, type, affine and millimetres, nothing of the scan's own header,
    which may hold names. The gzip header holds no time.
    """
    image = nib.Nifti1Image(volume, affine)
    image.header.set_xyzt_units("mm")
    image.set_sform(affine, code=1)
    image.set_qform(affine, code=1, strip_shears=True)
    # A quaternion cannot say shear. Up to rounding it is the grid with its angles made right, which
    # readers take that refuse any shear; beyond, the sform alone says it all.
    turned = (np.asarray(image.get_qform()) - affine)[:3, :3] / spacing_mm(affine)
    if np.abs(turned).max() > ROUNDED_SHEAR:
        image.set_qform(None, code=0)
    # zlib rather than a faster one: its bytes do not depend on the processor.
    packer = zlib.compressobj(level=1, wbits=31)
    return packer.compress(image.to_bytes()) + packer.flush()


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


def _gunzip(content: bytes) -> bytes:
    """All gzip members of a file; bytes after the last one are ingest's to judge."""
    parts = []
    while content.startswith(_GZIP):
        member = inflate.decompressobj(wbits=31)
        parts.append(member.decompress(content))
        content = member.unused_data
    return b"".join(parts)

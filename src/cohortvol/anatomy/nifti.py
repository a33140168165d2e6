"""Volumes to NIfTI bytes that say nothing of the person and are equal for equal volumes."""

from __future__ import annotations

import zlib

import nibabel as nib
import numpy as np

from cohortvol.anatomy.geometry import spacing_mm

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

"""Volumes to NIfTI bytes that say nothing of the person and are equal for equal volumes."""

from __future__ import annotations

import zlib

import nibabel as nib
import numpy as np


def nifti_gz(volume: np.ndarray, affine: np.ndarray) -> bytes:
    """A volume as ``.nii.gz``: equal volumes give equal bytes.

    The header is new: shape, type, affine and millimetres, nothing of the scan's own header,
    which may hold names. The gzip header holds no time.
    """
    image = nib.Nifti1Image(volume, affine)
    image.header.set_xyzt_units("mm")
    image.set_sform(affine, code=1)
    image.set_qform(affine, code=1, strip_shears=True)
    if not np.allclose(image.get_qform(), affine, rtol=0, atol=1e-3):
        image.set_qform(None, code=0)  # a sheared grid has no quaternion; the sform says it all
    # zlib rather than a faster one: its bytes do not depend on the processor.
    packer = zlib.compressobj(level=1, wbits=31)
    return packer.compress(image.to_bytes()) + packer.flush()

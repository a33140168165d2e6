"""Ways in which scans of a real archive are broken, planted into a simulated one."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np


def truncate(path: Path) -> None:
    """Cut the file in the middle, as an interrupted copy does."""
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


def flip_bits(path: Path) -> None:
    """Damage the checksum, as a bad disk does; a reader that does not check it sees nothing."""
    data = bytearray(path.read_bytes())
    data[-6] ^= 0xFF
    path.write_bytes(bytes(data))


def empty(path: Path) -> None:
    """Leave a file of no bytes."""
    path.write_bytes(b"")


def remove(path: Path) -> None:
    """Leave no file where the manifest names one."""
    path.unlink()


def not_an_image(path: Path) -> None:
    """Leave a web server's error page in place of the image."""
    path.write_bytes(b"<!DOCTYPE html><html><body>404 Not Found</body></html>\n")


def nan_voxels(path: Path) -> None:
    """Set a block of voxels to NaN."""

    def spoil(image: nib.Nifti1Image) -> nib.Nifti1Image:
        data = image.get_fdata(dtype=np.float32)
        data[: data.shape[0] // 8] = np.nan
        return nib.Nifti1Image(data, image.affine)

    _rewrite(path, spoil)


def conflicting_geometry(path: Path) -> None:
    """Give the two affines of the header different voxel sizes."""

    def spoil(image: nib.Nifti1Image) -> nib.Nifti1Image:
        spoiled = nib.Nifti1Image(np.asarray(image.dataobj), image.affine)
        spoiled.set_sform(image.affine, code=1)
        spoiled.set_qform(image.affine @ np.diag([1.5, 1.5, 1.0, 1.0]), code=1)
        return spoiled

    _rewrite(path, spoil)


def localizer(path: Path) -> None:
    """Leave three slices."""
    _rewrite(path, lambda image: image.slicer[:, :, :3])


def constant(path: Path) -> None:
    """Set every voxel to one value."""
    _rewrite(path, lambda image: nib.Nifti1Image(np.full(image.shape, 7, np.int16), image.affine))


FAULTS: dict[str, Callable[[Path], None]] = {
    "truncated": truncate,
    "bad checksum": flip_bits,
    "empty file": empty,
    "missing file": remove,
    "not an image": not_an_image,
    "NaN voxels": nan_voxels,
    "conflicting geometry": conflicting_geometry,
    "localizer": localizer,
    "constant": constant,
}
"""Fault by name; each takes the path of a sound scan and breaks it."""


def _rewrite(path: Path, change: Callable[[nib.Nifti1Image], nib.Nifti1Image]) -> None:
    image = nib.Nifti1Image.from_bytes(gzip.decompress(path.read_bytes()))
    path.write_bytes(gzip.compress(change(image).to_bytes(), compresslevel=1, mtime=0))

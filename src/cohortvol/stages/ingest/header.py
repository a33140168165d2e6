"""The NIfTI header: what it promises, and whether all readers would agree on it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import nibabel as nib
import numpy as np

from cohortvol.errors import ScanError
from cohortvol.stages.ingest.rules import Rules

_LAYOUTS = {348: nib.nifti1.header_dtype, 540: nib.nifti2.header_dtype}
_MAGIC = {348: (b"n+1", b"ni1"), 540: (b"n+2", b"ni2")}
_MAX_OFFSET = 1 << 26  # bytes of header extensions; the largest seen in practice are a few MB

_TYPES = {
    2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8",
    256: "i1", 512: "u2", 768: "u4", 1024: "i8", 1280: "u8",
}  # fmt: skip
_COLOUR = {128, 2304}
_COMPLEX = {32, 1792, 2048}
_UNSEGMENTABLE = {1: "1-bit", 1536: "128-bit float"}


@dataclass(frozen=True)
class Header:
    """A NIfTI header that passed its checks.

    Parameters
    ----------
    shape : (3,) tuple of int
        Voxels along the three array axes.
    n_volumes : int
        Volumes of that shape, of which `Rules.volume` chooses one.
    dtype : numpy.dtype
        Voxels on disk, with byte order.
    offset : int
        Byte of the first voxel in the unpacked file.
    slope, intercept : float
        Value = slope x voxel + intercept; 1 and 0 where the header scales nothing.
    fields : numpy structured scalar
        The header's own fields, for the geometry.
    warnings : tuple of str
        ``W_...`` codes.
    """

    shape: tuple[int, int, int]
    n_volumes: int
    dtype: np.dtype[Any]
    offset: int
    slope: float
    intercept: float
    fields: np.void
    warnings: tuple[str, ...]

    @property
    def n_content(self) -> int:
        """Bytes from the start of the unpacked file to the end of its voxels."""
        return self.offset + self.n_volumes * math.prod(self.shape) * self.dtype.itemsize


def parse_header(head: bytes, rules: Rules) -> Header:
    """Header of the first bytes of a NIfTI-1 or NIfTI-2 file, of either byte order.

    Raises
    ------
    ScanError
        ``SRC_TRUNCATED``, ``HDR_...`` or ``IMG_...``.
    """
    fields = _fields(head)
    shape, n_volumes, warnings = _shape(fields, rules)
    dtype = _dtype(fields)
    slope, intercept, scaling_warnings = _scaling(fields)
    return Header(
        shape=shape,
        n_volumes=n_volumes,
        dtype=dtype,
        offset=_offset(fields),
        slope=slope,
        intercept=intercept,
        fields=fields,
        warnings=(*warnings, *scaling_warnings),
    )


def _fields(head: bytes) -> np.void:
    if len(head) < 4:
        raise ScanError("SRC_TRUNCATED", f"{len(head)} of 348 header bytes")
    order: Literal["<", ">"]
    for order in ("<", ">"):
        size = int(np.frombuffer(head, f"{order}i4", 1)[0])
        if size in _LAYOUTS:
            break
    else:
        raise ScanError("HDR_SIZEOF", f"{int.from_bytes(head[:4], 'little')}, not 348 or 540")
    if len(head) < size:
        raise ScanError("SRC_TRUNCATED", f"{len(head)} of {size} header bytes")
    fields: np.void = np.frombuffer(head, _LAYOUTS[size].newbyteorder(order), 1)[0]
    magic = bytes(fields["magic"])[:3]
    single, pair = _MAGIC[size]
    if magic == pair:
        raise ScanError("SRC_UNSUPPORTED_FORMAT", "header of an .img/.hdr pair")
    if magic != single:
        raise ScanError("HDR_MAGIC", f"{magic.hex(' ')} where {single.hex(' ')} must be")
    return fields


def _shape(fields: np.void, rules: Rules) -> tuple[tuple[int, int, int], int, list[str]]:
    """Shape of a volume, the number of volumes, and ``W_...`` codes."""
    dim = [int(n) for n in fields["dim"]]
    n_dims = dim[0]
    if not 1 <= n_dims <= 7:
        raise ScanError("HDR_DIM", f"{n_dims} dimensions")
    lengths = dim[1 : n_dims + 1]
    text = " x ".join(map(str, lengths))
    if min(lengths) < 1:
        raise ScanError("HDR_DIM", text)
    if n_dims < 3:
        raise ScanError("IMG_2D", text)
    if math.prod(lengths) > rules.max_voxels:
        raise ScanError("IMG_TOO_LARGE", f"{text}, over {rules.max_voxels} voxels")
    n_volumes = math.prod(lengths[3:])
    if n_volumes > 1 and (rules.volume is None or n_volumes != lengths[3]):
        raise ScanError("IMG_4D", text)
    if n_volumes > 1 and not 1 <= (rules.volume or 0) <= n_volumes:
        raise ScanError("IMG_4D", f"{text}, of which there is no volume {rules.volume}")
    if min(lengths[:3]) < rules.min_slices:
        raise ScanError("IMG_TOO_FEW_SLICES", f"{text}, fewer than {rules.min_slices}")
    i, j, k = lengths[:3]
    squeezed = n_dims > 3 and n_volumes == 1
    return (i, j, k), n_volumes, ["W_SQUEEZED"] if squeezed else []


def _dtype(fields: np.void) -> np.dtype[Any]:
    code = int(fields["datatype"])
    if code in _COLOUR:
        raise ScanError("IMG_RGB", f"datatype {code}")
    if code in _COMPLEX:
        raise ScanError("IMG_COMPLEX", f"datatype {code}")
    if code in _UNSEGMENTABLE:
        raise ScanError("IMG_DTYPE", f"datatype {code}, {_UNSEGMENTABLE[code]}")
    if code not in _TYPES:
        raise ScanError("HDR_DATATYPE", f"datatype {code}")
    dtype = np.dtype(_TYPES[code]).newbyteorder(fields["dim"].dtype.byteorder)
    bits = int(fields["bitpix"])
    if bits != 8 * dtype.itemsize:
        raise ScanError("HDR_BITPIX", f"{bits} bits for datatype {code}")
    return dtype


def _offset(fields: np.void) -> int:
    offset = float(fields["vox_offset"])
    least = int(fields["sizeof_hdr"]) + 4
    if not (math.isfinite(offset) and least <= offset <= _MAX_OFFSET and offset.is_integer()):
        raise ScanError("HDR_VOXOFFSET", f"{offset:g}, not from {least} to {_MAX_OFFSET}")
    return int(offset)


def _scaling(fields: np.void) -> tuple[float, float, list[str]]:
    """Slope and intercept where all readers agree on them."""
    slope, intercept = float(fields["scl_slope"]), float(fields["scl_inter"])
    if (slope == 0 and intercept == 0) or (math.isnan(slope) and math.isnan(intercept)):
        return 1.0, 0.0, ["W_SCL_IGNORED"]
    if slope == 0 or not (math.isfinite(slope) and math.isfinite(intercept)):
        raise ScanError("HDR_SCL", f"slope {slope:g}, intercept {intercept:g}")
    return slope, intercept, []

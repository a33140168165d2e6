"""Small NIfTI files: a sound one, and one for every fault that ingest must name."""

from __future__ import annotations

import gzip
import os
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from cohortvol.errors import ScanError
from cohortvol.stages.ingest import check_scan

SHAPE = (24, 20, 12)
AFFINE = np.diag([2.5, 3.0, 4.0, 1.0])  # mm; 60 x 60 x 48 mm
AFFINE[:3, 3] = [-30.0, 10.0, -5.0]


def image_voxels(dtype="int16"):
    return np.random.default_rng(0).integers(1, 1000, SHAPE).astype(dtype)


def tilted(degrees, axis=0):
    """`AFFINE` turned about a scanner axis."""
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    turn = np.eye(4)
    first, second = [n for n in range(3) if n != axis]
    turn[[first, first, second, second], [first, second, first, second]] = [c, -s, s, c]
    return turn @ AFFINE


def nifti(voxels=None, *, affine=AFFINE, sform=None, sform_code=1, header=None, big_endian=False):
    """Bytes of a NIfTI-1 file; `header` sets single fields after nibabel is done with them.

    Parameters
    ----------
    voxels : array, optional
        Noise if not given.
    affine : (4, 4) array
        For the qform, and for the sform unless `sform` is given.
    header : mapping, optional
        Field to value, or to (position, value) for one element of an array.
    """
    voxels = image_voxels() if voxels is None else voxels
    made = nib.Nifti1Header()
    made.set_data_dtype(voxels.dtype)
    made.set_data_shape(voxels.shape)
    made.set_xyzt_units("mm")
    made.set_qform(affine, 1, strip_shears=True)
    made.set_sform(affine if sform is None else sform, sform_code)
    made["magic"], made["vox_offset"] = b"n+1", 352
    made["scl_slope"], made["scl_inter"] = 1, 0
    for field, value in (header or {}).items():
        if isinstance(value, tuple):
            made[field][value[0]] = value[1]
        else:
            made[field] = value
    if big_endian:
        made = made.as_byteswapped(">")
        voxels = voxels.astype(voxels.dtype.newbyteorder(">"))
    return made.binaryblock + bytes(4) + voxels.tobytes(order="F")


def saved(tmp_path, content, name="scan.nii"):
    path = tmp_path / name
    path.write_bytes(content)
    return path


def reason_of(path, rules=None):
    """The reason code of a scan that must be refused."""
    with pytest.raises(ScanError) as raised:
        check_scan(path, rules)
    return raised.value.reason


def field(**values):
    """A faulty header: `nifti` with these fields."""
    return lambda tmp_path: saved(tmp_path, nifti(header=values))


def content(make, name="scan.nii"):
    return lambda tmp_path: saved(tmp_path, make(), name)


def packed(change):
    """A faulty ``.nii.gz``: packed bytes after `change`."""
    return lambda tmp_path: saved(tmp_path, change(gzip.compress(nifti(), 6)), "scan.nii.gz")


def flip(data, position):
    return data[:position] + bytes([data[position] ^ 8]) + data[position + 1 :]


def zeros_from(data, fraction):
    """As a write that was lost leaves it: the right length, and zeros from some place on."""
    kept = int(fraction * len(data))
    return data[:kept] + bytes(len(data) - kept)


def link(target):
    def make(tmp_path):
        path = tmp_path / "scan.nii.gz"
        path.symlink_to(target)
        return path

    return make


def fifo(tmp_path):
    os.mkfifo(tmp_path / "scan.nii")
    return tmp_path / "scan.nii"


def spoilt(place, value):
    voxels = image_voxels("float32")
    voxels[place] = value
    return voxels


def sheared(cosine):
    affine = AFFINE.copy()
    affine[0, 1] = cosine * 3.0
    return affine


def end_slices_of_zero(count):
    voxels = image_voxels()
    voxels[:, :, SHAPE[2] - count :] = 0
    return voxels


def with_hole(where, value=0):
    """The sound image with one value in a part of it."""
    voxels = image_voxels()
    voxels[where] = value
    return voxels


def with_a_slice_twice():
    voxels = image_voxels()
    voxels[:, :, 7] = voxels[:, :, 3]
    return voxels


def with_a_sector_lost():
    """256 voxels in the order of the file, from the middle of a row of the seventh slice."""
    stored = np.random.default_rng(0).integers(1, 1000, (12, 40, 30)).astype("int16")
    stored[6].reshape(-1)[401 : 401 + 256] = 0
    return stored.T


LABELS = np.random.default_rng(1).integers(0, 5, SHAPE).astype("uint8")
NEARLY_EMPTY = np.where(np.random.default_rng(2).random(SHAPE) < 0.005, image_voxels(), 0)

FAULTS = [
    ("SRC_MISSING", "no file", lambda tmp_path: tmp_path / "nowhere.nii"),
    ("SRC_MISSING", "a file for a folder", lambda tmp_path: saved(tmp_path, b"x") / "scan.nii"),
    ("SRC_EMPTY", "zero bytes", content(lambda: b"")),
    ("SRC_TRUNCATED", "plain, voxels cut", content(lambda: nifti()[:-1])),
    ("SRC_TRUNCATED", "plain, header cut", content(lambda: nifti()[:200])),
    ("SRC_TRUNCATED", "plain, all zeros", content(lambda: bytes(5000))),
    ("SRC_TRUNCATED", "packed, cut to 10 %", packed(lambda data: data[: len(data) // 10])),
    ("SRC_TRUNCATED", "packed, cut to 90 %", packed(lambda data: data[: 9 * len(data) // 10])),
    ("SRC_TRUNCATED", "packed, no trailer", packed(lambda data: data[:-8])),
    ("SRC_TRUNCATED", "packed, half a trailer", packed(lambda data: data[:-4])),
    ("SRC_TRUNCATED", "packed, 12 bytes", packed(lambda data: data[:12])),
    ("SRC_TRUNCATED", "packed, half lost as zeros", packed(lambda data: zeros_from(data, 0.5))),
    ("SRC_TRUNCATED", "packed, end lost as zeros", packed(lambda data: zeros_from(data, 0.99))),
    (
        "SRC_TRUNCATED",
        "sound gzip of a cut image",
        content(lambda: gzip.compress(nifti()[:-9]), "scan.nii.gz"),
    ),
    ("SRC_GZIP_CORRUPT", "wrong CRC", packed(lambda data: flip(data, len(data) - 7))),
    ("SRC_GZIP_CORRUPT", "wrong length", packed(lambda data: flip(data, len(data) - 3))),
    ("SRC_GZIP_CORRUPT", "flipped bit", packed(lambda data: flip(data, len(data) // 2))),
    ("SRC_GZIP_CORRUPT", "garbage behind", packed(lambda data: data + b"garbage")),
    ("SRC_GZIP_CORRUPT", "broken second part", packed(lambda data: data + flip(data, 5000))),
    ("SRC_GZIP_CORRUPT", "no gzip after its mark", packed(lambda data: data[:2] + b"?" * 50)),
    ("SRC_EXT_MISMATCH", "plain as .nii.gz", content(nifti, "scan.nii.gz")),
    ("SRC_EXT_MISMATCH", "gzip as .nii", content(lambda: gzip.compress(nifti()))),
    ("SRC_NOT_NIFTI", "error page", content(lambda: b"<html>404 not found</html>" * 30)),
    ("SRC_NOT_NIFTI", "error message", content(lambda: b'{"error": "not allowed"}' * 30)),
    (
        "SRC_NOT_NIFTI",
        "packed text",
        content(lambda: gzip.compress(b"some text" * 99), "scan.nii.gz"),
    ),
    (
        "SRC_POINTER_FILE",
        "git-lfs",
        content(lambda: b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n"),
    ),
    ("SRC_POINTER_FILE", "git-annex", link("../.git/annex/objects/xx/SHA256E-s1--00.nii.gz")),
    (
        "SRC_POINTER_FILE",
        "git-annex, unlocked",
        content(lambda: b"/annex/objects/SHA256E-s99--00.nii.gz\n", "scan.nii.gz"),
    ),
    ("SRC_BROKEN_LINK", "link to nothing", link("nowhere.nii.gz")),
    ("SRC_NOT_REGULAR", "pipe", fifo),
    ("SRC_NOT_REGULAR", "device", lambda _tmp_path: Path("/dev/zero")),
    ("SRC_UNSUPPORTED_FORMAT", "zip", content(lambda: b"PK\x03\x04" + bytes(500), "scan.nii.gz")),
    ("SRC_UNSUPPORTED_FORMAT", "other name", content(nifti, "scan.hdr")),
    ("SRC_UNSUPPORTED_FORMAT", "img/hdr pair", field(magic=b"ni1")),
    ("HDR_MAGIC", "Analyze", field(magic=b"\0\0\0\0")),
    ("HDR_SIZEOF", "size 349", field(sizeof_hdr=349)),
    ("HDR_DIM", "eight dimensions", field(dim=(0, 8))),
    ("HDR_DIM", "no dimensions", field(dim=(0, 0))),
    ("HDR_DIM", "no voxels", field(dim=(2, 0))),
    ("HDR_DIM", "negative", field(dim=(3, -12))),
    ("HDR_DATATYPE", "unknown type", field(datatype=5)),
    ("HDR_BITPIX", "8 bits of int16", field(bitpix=8)),
    ("HDR_VOXOFFSET", "inside the header", field(vox_offset=0)),
    ("HDR_VOXOFFSET", "far away", field(vox_offset=1e9)),
    ("HDR_VOXOFFSET", "not a number", field(vox_offset=np.nan)),
    ("HDR_SCL", "slope 0, intercept 5", field(scl_slope=0, scl_inter=5)),
    ("HDR_SCL", "infinite slope", field(scl_slope=np.inf)),
    ("HDR_SCL", "slope not a number", field(scl_slope=np.nan)),
    ("HDR_SCL", "intercept not a number", field(scl_inter=np.nan)),
    ("IMG_TOO_LARGE", "huge matrix", field(dim=(slice(1, 4), 32767))),
    (
        "IMG_TOO_LARGE",
        "gzip bomb",
        content(lambda: gzip.compress(nifti() + bytes(1 << 27)), "scan.nii.gz"),
    ),
    ("IMG_RGB", "RGB24", field(datatype=128, bitpix=24)),
    ("IMG_RGB", "RGBA32", field(datatype=2304, bitpix=32)),
    ("IMG_COMPLEX", "complex64", field(datatype=32, bitpix=64)),
    ("IMG_DTYPE", "float128", field(datatype=1536, bitpix=128)),
    ("IMG_2D", "one slice", field(dim=(0, 2))),
    ("IMG_4D", "two volumes", field(dim=(slice(0, 5), [4, 24, 20, 6, 2]))),
    ("IMG_4D", "vectors", field(dim=(slice(0, 6), [5, 24, 20, 4, 1, 3]))),
    ("IMG_TOO_FEW_SLICES", "one slice in 3D", content(lambda: nifti(image_voxels()[:, :, :1]))),
    ("IMG_TOO_FEW_SLICES", "seven slices", content(lambda: nifti(image_voxels()[:, :, :7]))),
    ("GEO_NO_XFORM", "neither form", field(qform_code=0, sform_code=0)),
    (
        "GEO_ZOOM_CONFLICT",
        "other voxel size",
        content(lambda: nifti(sform=AFFINE @ np.diag([1, 1, 1.1, 1]))),
    ),
    (
        "GEO_ZOOM_CONFLICT",
        "no qform, other pixdim",
        field(qform_code=0, pixdim=(3, 4.1)),
    ),
    ("GEO_XFORM_CONFLICT", "turned by 2 degrees", content(lambda: nifti(sform=tilted(2)))),
    (
        "GEO_XFORM_CONFLICT",
        "mirrored",
        content(lambda: nifti(sform=AFFINE @ np.diag([-1, 1, 1, 1]))),
    ),
    ("GEO_PIXDIM", "zero", field(pixdim=(2, 0))),
    ("GEO_PIXDIM", "negative", field(pixdim=(2, -3))),
    ("GEO_PIXDIM", "not a number", field(pixdim=(2, np.nan))),
    ("GEO_UNITS", "metres", field(xyzt_units=1)),
    ("GEO_UNITS", "micrometres", field(xyzt_units=3)),
    ("GEO_NONFINITE", "sform", field(srow_x=(0, np.nan))),
    ("GEO_NONFINITE", "qform", field(quatern_b=np.nan)),
    ("GEO_NONFINITE", "long quaternion", field(quatern_b=1.5)),
    ("GEO_SINGULAR", "an empty row", field(srow_z=(slice(0, 4), 0))),
    ("GEO_SINGULAR", "two equal axes", field(srow_x=(slice(0, 3), [0, 3, 0]), srow_y=(0, 0))),
    ("GEO_SHEAR", "three degrees", content(lambda: nifti(sform=sheared(0.0523)))),
    (
        "GEO_SPACING_RANGE",
        "microscope",
        content(lambda: nifti(affine=AFFINE @ np.diag([0.01, 1, 1, 1]))),
    ),
    (
        "GEO_SPACING_RANGE",
        "slices of 28 mm",
        content(lambda: nifti(affine=AFFINE @ np.diag([1, 1, 7, 1]))),
    ),
    (
        "GEO_FOV_RANGE",
        "a thin slab",
        content(lambda: nifti(affine=AFFINE @ np.diag([1, 1, 0.5, 1]))),
    ),
    ("VOX_NONFINITE", "one NaN", content(lambda: nifti(spoilt((3, 4, 5), np.nan)))),
    ("VOX_NONFINITE", "one infinity", content(lambda: nifti(spoilt((3, 4, 5), -np.inf)))),
    ("VOX_NONFINITE", "beyond single precision", field(scl_slope=1e38)),
    ("VOX_CONSTANT", "all zero", content(lambda: nifti(np.zeros(SHAPE, "int16")))),
    ("VOX_LOW_ENTROPY", "label map", content(lambda: nifti(LABELS))),
    ("VOX_LOW_ENTROPY", "mask", content(lambda: nifti((LABELS > 3).astype("uint8")))),
    ("VOX_LOW_ENTROPY", "nearly empty", content(lambda: nifti(NEARLY_EMPTY))),
    ("VOX_HOLE", "an inner slice of zeros", content(lambda: nifti(with_hole(np.s_[:, :, 5])))),
    ("VOX_HOLE", "two of one value", content(lambda: nifti(with_hole(np.s_[:, :, 5:7], -1000)))),
    ("VOX_HOLE", "a lost slice since turned", content(lambda: nifti(with_hole(np.s_[:, 9])))),
    ("VOX_HOLE", "and turned otherwise", content(lambda: nifti(with_hole(np.s_[11])))),
    ("VOX_HOLE", "a lost sector", content(lambda: nifti(with_a_sector_lost()))),
    ("VOX_REPEATED", "a slice twice", content(lambda: nifti(with_a_slice_twice()))),
    ("QC_ZERO_SLICES", "a third zeros", content(lambda: nifti(end_slices_of_zero(4)))),
]

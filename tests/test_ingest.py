"""Ingest accepts sound images whatever their storage, and names what is wrong with others."""

from __future__ import annotations

import errno
import gzip
import hashlib
import logging
import os
import zlib
from itertools import permutations, product
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cohortvol import geometry, ingest, reasons
from cohortvol.errors import ScanError, TableError, TemporaryError
from cohortvol.ingest import Rules, check_scan, source
from cohortvol.tables import INGEST, SHARD, read_table, write_table

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
    ("SRC_BROKEN_LINK", "link to nothing", link("nowhere.nii.gz")),
    ("SRC_NOT_REGULAR", "pipe", fifo),
    ("SRC_UNSUPPORTED_FORMAT", "folder", lambda tmp_path: tmp_path),
    ("SRC_UNSUPPORTED_FORMAT", "DICOM", content(lambda: bytes(128) + b"DICM" + bytes(500))),
    ("SRC_UNSUPPORTED_FORMAT", "zip", content(lambda: b"PK\x03\x04" + bytes(500), "scan.nii.gz")),
    ("SRC_UNSUPPORTED_FORMAT", "other name", content(nifti, "scan.hdr")),
    ("SRC_UNSUPPORTED_FORMAT", "img/hdr pair", field(magic=b"ni1")),
    ("HDR_MAGIC", "Analyze", field(magic=b"\0\0\0\0")),
    ("HDR_SIZEOF", "size 349", field(sizeof_hdr=349)),
    ("HDR_DIM", "eight dimensions", field(dim=(0, 8))),
    ("HDR_DIM", "no voxels", field(dim=(2, 0))),
    ("HDR_DIM", "negative", field(dim=(3, -12))),
    ("HDR_DATATYPE", "unknown type", field(datatype=5)),
    ("HDR_BITPIX", "8 bits of int16", field(bitpix=8)),
    ("HDR_VOXOFFSET", "inside the header", field(vox_offset=0)),
    ("HDR_VOXOFFSET", "far away", field(vox_offset=1e9)),
    ("HDR_VOXOFFSET", "not a number", field(vox_offset=np.nan)),
    ("HDR_SCL", "slope 0, intercept 5", field(scl_slope=0, scl_inter=5)),
    ("HDR_SCL", "infinite slope", field(scl_slope=np.inf)),
    ("HDR_SCL", "intercept not a number", field(scl_inter=np.nan)),
    ("IMG_TOO_LARGE", "huge matrix", field(dim=(slice(1, 4), 32767))),
    (
        "IMG_TOO_LARGE",
        "gzip bomb",
        content(lambda: gzip.compress(nifti() + bytes(1 << 27)), "scan.nii.gz"),
    ),
    ("IMG_RGB", "RGB24", field(datatype=128, bitpix=24)),
    ("IMG_COMPLEX", "complex64", field(datatype=32, bitpix=64)),
    ("IMG_DTYPE", "float128", field(datatype=1536, bitpix=128)),
    ("IMG_2D", "one slice", field(dim=(0, 2))),
    ("IMG_4D", "two volumes", field(dim=(slice(0, 5), [4, 24, 20, 6, 2]))),
    ("IMG_4D", "vectors", field(dim=(slice(0, 6), [5, 24, 20, 4, 1, 3]))),
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
    ("GEO_SHEAR", "one degree", content(lambda: nifti(sform=sheared(0.0175)))),
    (
        "GEO_SPACING_RANGE",
        "microscope",
        content(lambda: nifti(affine=AFFINE @ np.diag([0.01, 1, 1, 1]))),
    ),
    (
        "GEO_FOV_RANGE",
        "a thin slab",
        content(lambda: nifti(affine=AFFINE @ np.diag([1, 1, 0.5, 1]))),
    ),
    ("VOX_NONFINITE", "one NaN", content(lambda: nifti(spoilt((3, 4, 5), np.nan)))),
    ("VOX_NONFINITE", "one infinity", content(lambda: nifti(spoilt((3, 4, 5), -np.inf)))),
    ("VOX_CONSTANT", "all zero", content(lambda: nifti(np.zeros(SHAPE, "int16")))),
    ("VOX_LOW_ENTROPY", "label map", content(lambda: nifti(LABELS))),
    ("VOX_LOW_ENTROPY", "mask", content(lambda: nifti((LABELS > 3).astype("uint8")))),
    ("VOX_LOW_ENTROPY", "nearly empty", content(lambda: nifti(NEARLY_EMPTY))),
    ("QC_ZERO_SLICES", "a third zeros", content(lambda: nifti(end_slices_of_zero(4)))),
]


@pytest.mark.parametrize(
    ("code", "make"),
    [(code, make) for code, _, make in FAULTS],
    ids=[f"{code}: {name}" for code, name, _ in FAULTS],
)
def test_a_fault_gets_its_reason(tmp_path, code, make):
    assert reason_of(make(tmp_path)) == code


def test_every_reason_that_ingest_gives_is_provoked_by_a_test():
    elsewhere = {"SRC_PERMISSION", "SRC_OUTSIDE_ROOT", "SRC_CHANGED"}  # below
    known = {
        reason.code
        for reason in reasons.load().values()
        if reason.stage == "ingest" and reason.class_ == "quarantine" and reason.produced
    }
    assert {code for code, _, _ in FAULTS} | elsewhere == known | {"QC_ZERO_SLICES"}


def test_an_unreadable_file_is_told_from_a_missing_one(tmp_path, monkeypatch):
    path = saved(tmp_path, nifti())

    def refuse(*args, **kwargs):
        raise PermissionError(errno.EACCES, "denied")

    monkeypatch.setattr(source.os, "open", refuse)
    assert reason_of(path) == "SRC_PERMISSION"


def test_a_link_out_of_the_allowed_folders_is_refused(tmp_path):
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    inside.mkdir()
    outside.mkdir()
    target = saved(outside, nifti())
    (inside / "scan.nii").symlink_to(target)
    assert check_scan(inside / "scan.nii")["n_bytes"] == target.stat().st_size
    rules = Rules(allow_roots=(str(inside),))
    assert reason_of(inside / "scan.nii", rules) == "SRC_OUTSIDE_ROOT"
    assert check_scan(target, Rules(allow_roots=(str(outside),)))


def test_a_file_that_changes_while_it_is_read_is_refused(tmp_path, monkeypatch):
    path = saved(tmp_path, nifti())
    parse = ingest.parse_header

    def grow(head, rules):
        with open(path, "ab") as stream:
            stream.write(b"more")
        return parse(head, rules)

    monkeypatch.setattr(ingest, "parse_header", grow)
    assert reason_of(path) == "SRC_CHANGED"


@pytest.mark.parametrize("failures", [0, 4, 5])
def test_a_failing_disk_is_tried_five_times(tmp_path, monkeypatch, failures):
    path = saved(tmp_path, nifti())
    read, left = source._read_once, [None] * failures

    def fail_at_first(*args):
        if left:
            left.pop()
            raise OSError(errno.ESTALE, "stale")
        return read(*args)

    monkeypatch.setattr(source, "_WAITS_S", (0, 0, 0, 0))
    monkeypatch.setattr(source, "_read_once", fail_at_first)
    if failures < 5:
        assert check_scan(path)
    else:
        assert reason_of(path) == "IO_READ_ERROR"


# --- sound images ----------------------------------------------------------------------------


def test_a_sound_image_is_described(tmp_path):
    data = gzip.compress(nifti(header={"scl_slope": 2, "scl_inter": -10}))
    found = check_scan(saved(tmp_path, data, "scan.nii.gz"))
    voxels = image_voxels()
    assert found == {
        "n_bytes": len(data),
        "image_sha256": hashlib.sha256(data).hexdigest(),
        "n_i": 24,
        "n_j": 20,
        "n_k": 12,
        "spacing_i_mm": 2.5,
        "spacing_j_mm": 3.0,
        "spacing_k_mm": 4.0,
        "orientation": "RAS",
        "voxel_ml": pytest.approx(0.03),
        "intensity_min": 2.0 * voxels.min() - 10,
        "intensity_max": 2.0 * voxels.max() - 10,
        "warnings": None,
    }


@pytest.mark.parametrize("dtype", ["i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8"])
@pytest.mark.parametrize("big_endian", [False, True])
def test_every_real_voxel_type_is_read_in_both_byte_orders(tmp_path, dtype, big_endian):
    voxels = np.random.default_rng(0).integers(1, 120, SHAPE).astype(dtype)
    found = check_scan(saved(tmp_path, nifti(voxels, big_endian=big_endian)))
    assert (found["intensity_min"], found["intensity_max"]) == (1, 119)


def test_nifti_2_is_read(tmp_path):
    made = nib.Nifti2Image(image_voxels(), AFFINE)
    made.header.set_xyzt_units("mm")
    nib.save(made, tmp_path / "scan.nii.gz")
    found = check_scan(tmp_path / "scan.nii.gz")
    assert found["n_k"] == 12
    assert found["warnings"] is None


@pytest.mark.parametrize("axes", list(permutations(range(3))))
@pytest.mark.parametrize("flips", list(product([1, -1], repeat=3)))
def test_all_48_orientations_are_fine_and_have_the_same_voxel_volume(tmp_path, axes, flips):
    affine = AFFINE.copy()
    affine[:3, :3] = AFFINE[:3, axes] * flips
    found = check_scan(saved(tmp_path, nifti(image_voxels().transpose(axes), affine=affine)))
    assert found["voxel_ml"] == pytest.approx(0.03)
    assert found["orientation"] == geometry.orientation(affine)


@pytest.mark.parametrize("codes", [(1, 0), (0, 1), (1, 1)], ids=["qform", "sform", "both"])
def test_the_affine_is_the_one_nibabel_takes(tmp_path, codes):
    header = {"qform_code": codes[0], "sform_code": codes[1]}
    path = saved(tmp_path, nifti(affine=tilted(17), header=header))
    found = check_scan(path)
    affine = nib.load(path).affine
    edges = [found[f"spacing_{axis}_mm"] for axis in "ijk"]
    assert edges == pytest.approx(list(geometry.spacing_mm(affine)), rel=1e-5)
    assert found["orientation"] == geometry.orientation(affine)


@pytest.mark.parametrize("chunk", [1, 7, 4096])
def test_gzip_of_several_members_is_read_to_its_end(tmp_path, monkeypatch, chunk):
    data = nifti()
    parts = gzip.compress(data[:1000]) + gzip.compress(data[1000:9000]) + gzip.compress(data[9000:])
    path = saved(tmp_path, parts, "scan.nii.gz")
    expected = check_scan(path)
    monkeypatch.setattr(source, "_PACKED_CHUNK", chunk)
    monkeypatch.setattr(source, "_UNPACKED_CHUNK", 1000)
    assert check_scan(path) == expected


def test_without_isal_the_standard_library_finds_the_same(tmp_path, monkeypatch):
    good = saved(tmp_path, gzip.compress(nifti()), "good.nii.gz")
    expected = check_scan(good)
    faults = [(code, make(tmp_path)) for code, _, make in FAULTS if code == "SRC_GZIP_CORRUPT"]
    monkeypatch.setattr(source, "_inflate", zlib)
    assert check_scan(good) == expected
    assert reason_of(faults[-1][1]) == "SRC_GZIP_CORRUPT"


WARNINGS = [
    ("W_EXTRA_BYTES", lambda: nifti() + b"more"),
    ("W_SCL_IGNORED", lambda: nifti(header={"scl_slope": 0})),
    ("W_SCL_IGNORED", lambda: nifti(header={"scl_slope": np.nan, "scl_inter": np.nan})),
    ("W_SQUEEZED", lambda: nifti(image_voxels()[..., None])),
    ("W_UNITS_UNKNOWN", lambda: nifti(header={"xyzt_units": 0})),
    ("W_SHEAR_ROUNDED", lambda: nifti(sform=sheared(1e-4))),
    ("W_ANISOTROPIC", lambda: nifti(affine=np.diag([1.7, 2.1, 14.0, 1.0]))),
    ("QC_ZERO_SLICES", lambda: nifti(end_slices_of_zero(2))),
    ("QC_INTENSITY", lambda: nifti(np.minimum(image_voxels(), 900))),
]


@pytest.mark.parametrize(("code", "make"), WARNINGS)
def test_an_oddity_is_kept_and_marked(tmp_path, code, make):
    assert check_scan(saved(tmp_path, make()))["warnings"] == code


def test_zeros_behind_the_gzip_are_marked(tmp_path):
    path = saved(tmp_path, gzip.compress(nifti()) + bytes(512), "scan.nii.gz")
    assert check_scan(path)["warnings"] == "W_EXTRA_BYTES"


def test_an_image_with_a_masked_background_is_no_label_map(tmp_path):
    voxels = image_voxels()
    voxels[np.random.default_rng(3).random(SHAPE) < 0.9] = 0
    assert check_scan(saved(tmp_path, nifti(voxels)))["warnings"] is None


# --- damage at random ------------------------------------------------------------------------


@settings(deadline=None, derandomize=True, max_examples=300)
@given(
    changes=st.lists(st.tuples(st.integers(0, 351), st.integers(0, 255)), min_size=1, max_size=4)
)
def test_no_damaged_header_gives_anything_but_a_reason(tmp_path_factory, changes):
    data = bytearray(nifti())
    for position, value in changes:
        data[position] = value
    path = saved(tmp_path_factory.mktemp("header"), bytes(data))
    try:
        check_scan(path)
    except ScanError as error:
        assert error.reason in reasons.load()


@settings(deadline=None, derandomize=True, max_examples=300)
@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_no_flipped_bit_of_a_packed_image_goes_unseen(tmp_path_factory, place, bit):
    good = gzip.compress(nifti(), 6)
    data = bytearray(good)
    data[int(place * len(data))] ^= 1 << bit
    path = saved(tmp_path_factory.mktemp("flip"), bytes(data), "scan.nii.gz")
    try:
        check_scan(path)
    except ScanError:
        return
    assert zlib.decompress(bytes(data), wbits=31) == nifti()  # the flip is in gzip's own header


# --- a shard ---------------------------------------------------------------------------------


def shard_of(tmp_path, **images):
    table = pd.DataFrame({"scan_id": list(images), "image": [str(p) for p in images.values()]})
    path = tmp_path / "0017.parquet"
    write_table(path, table, SHARD)
    return path


def test_a_shard_gives_one_row_per_scan_in_order(tmp_path, caplog):
    good = saved(tmp_path, nifti(), "good.nii")
    cut = saved(tmp_path, gzip.compress(nifti())[:-9], "cut.nii.gz")
    sheared_image = saved(tmp_path, nifti(spoilt((0, 0, 0), np.nan)), "nan.nii")
    shard = shard_of(tmp_path, s3=good, s1=cut, s2=sheared_image)
    out = tmp_path / "out" / "0017.parquet"
    with caplog.at_level(logging.INFO):
        ingest.run(shard, out)
    table = read_table(out, INGEST).set_index("scan_id")
    assert table["state"].to_dict() == {"s1": "quarantined", "s2": "quarantined", "s3": "ready"}
    assert table["reason"].dropna().to_dict() == {"s1": "SRC_TRUNCATED", "s2": "VOX_NONFINITE"}
    assert table["detail"]["s2"] == "1 of 5760 voxels, 0.00017"
    assert table["image_sha256"].notna().to_dict() == {"s1": False, "s2": True, "s3": True}
    assert "0017: 2 quarantined, 1 ready" in caplog.text


def test_the_same_shard_gives_the_same_bytes(tmp_path):
    shard = shard_of(tmp_path, s1=saved(tmp_path, nifti()), s2=tmp_path / "nowhere.nii")
    ingest.run(shard, tmp_path / "a.parquet")
    ingest.run(shard, tmp_path / "b.parquet")
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()


def test_a_bug_on_one_scan_is_its_row_and_the_shard_goes_on(tmp_path, monkeypatch):
    shard = shard_of(tmp_path, s1=saved(tmp_path, nifti(), "a.nii"), s2=saved(tmp_path, nifti()))
    check = ingest.check_voxels
    calls = []

    def fail_first(voxels, rules):
        calls.append(voxels.shape)
        if len(calls) == 1:
            raise KeyError("name of a person")
        return check(voxels, rules)

    monkeypatch.setattr(ingest, "check_voxels", fail_first)
    table = ingest.run(shard, tmp_path / "out.parquet")
    assert table["state"].tolist() == ["failed", "ready"]
    assert table["reason"].tolist()[0] == "BUG_UNEXPECTED"
    assert table["detail"].str.fullmatch(r"KeyError [0-9a-f]{12}").tolist()[0]


def test_running_out_of_memory_is_a_matter_for_the_job(tmp_path, monkeypatch):
    shard = shard_of(tmp_path, s1=saved(tmp_path, nifti()))

    def fail(*args):
        raise MemoryError

    monkeypatch.setattr(ingest, "check_voxels", fail)
    with pytest.raises(TemporaryError, match="s1: not enough memory"):
        ingest.run(shard, tmp_path / "out.parquet")


def test_a_missing_shard_table_is_an_error(tmp_path):
    with pytest.raises(TableError):
        ingest.run(tmp_path / "0000.parquet", tmp_path / "out.parquet")


# --- real scans ------------------------------------------------------------------------------


def test_the_real_abdominal_scans_are_usable(shared_data):
    images = [
        *sorted((shared_data / "chaos_mr_t2spir" / "images").glob("*.nii.gz")),
        *sorted((shared_data / "ukat_renal_mr").glob("*/*dual_echo_e[12].nii.gz")),
        *sorted((shared_data / "ukat_renal_mr").glob("*/01001*product_auto_e[12].nii.gz")),
        *sorted((shared_data / "ukat_renal_mr").glob("*/0044*default_e[12].nii.gz")),
        shared_data / "totalsegmentator_refs" / "example_mr_sm.nii.gz",
    ]
    assert len(images) > 20
    for image in images:
        found = check_scan(image)
        affine = nib.load(image).affine
        assert found["voxel_ml"] == pytest.approx(geometry.voxel_volume_ml(affine), rel=1e-6)
        assert found["orientation"] == geometry.orientation(affine)


def test_the_label_maps_beside_them_are_not_taken_for_scans(shared_data):
    labels = sorted(Path(shared_data / "chaos_mr_t2spir" / "labels").glob("*.nii.gz"))
    assert {reason_of(path) for path in labels} == {"VOX_LOW_ENTROPY"}

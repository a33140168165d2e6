"""Ingest takes sound images whatever their storage, and marks what is odd about them."""

from __future__ import annotations

import gzip
import hashlib
import json
import zlib
from itertools import permutations, product

import nibabel as nib
import numpy as np
import pytest
import SimpleITK

from cohortvol.anatomy import geometry
from cohortvol.anatomy.nifti import nifti_gz
from cohortvol.stages.ingest import check_scan, source
from cohortvol.stages.segment.images import read_image
from nifti_files import (
    AFFINE,
    FAULTS,
    SHAPE,
    end_slices_of_zero,
    image_voxels,
    nifti,
    reason_of,
    saved,
    sheared,
    tilted,
)

# --- sound images ----------------------------------------------------------------------------


def test_a_sound_image_is_described(tmp_path):
    data = gzip.compress(nifti(header={"scl_slope": 2, "scl_inter": -10}))
    found = check_scan(saved(tmp_path, data, "scan.nii.gz"))
    voxels = image_voxels()
    assert found == {
        "n_bytes": len(data),
        "image_sha256": hashlib.sha256(data).hexdigest(),
        "voxels_sha256": hashlib.sha256((2 * voxels - 10).tobytes(order="F")).hexdigest(),
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
        "body_orientation": None,
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
    monkeypatch.setattr(source, "inflate", zlib)
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
    ("QC_ODD_SLICE", lambda: nifti(with_a_slice_scaled(2.0))),
    ("QC_ODD_SLICE", lambda: nifti(with_a_slice_scaled(0.5))),
    ("W_REPEATED_SLICES", lambda: nifti(np.repeat(image_voxels()[:, :, ::2], 2, axis=2))),
]


def with_a_slice_scaled(factor):
    voxels = image_voxels()
    voxels[:, :, 6] = voxels[:, :, 6] * factor
    return voxels


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


def test_equal_voxels_have_one_hash_however_they_are_packed(tmp_path):
    first, second = (gzip.compress(nifti(), level, mtime=level) for level in (1, 9))
    found = [check_scan(saved(tmp_path, data, "scan.nii.gz")) for data in (first, second, first)]
    assert found[0]["image_sha256"] == found[2]["image_sha256"] != found[1]["image_sha256"]
    assert found[0]["voxels_sha256"] == found[1]["voxels_sha256"]


@pytest.mark.parametrize("seed", range(3))
def test_equal_values_have_one_digest_whatever_type_they_are_stored_in(tmp_path, seed):
    values = np.random.default_rng(seed).integers(-900, 1000, SHAPE)
    stored = {kind: nifti(values.astype(kind)) for kind in ("i2", "i4", "i8", "f4", "f8")}
    stored["big endian"] = nifti(values.astype("f4"), big_endian=True)
    stored["scaled"] = nifti((2 * values).astype("i2"), header={"scl_slope": 0.5})
    stored["moved"] = nifti((values + 1000).astype("u2"), header={"scl_inter": -1000})
    found = {kind: check_scan(saved(tmp_path, data)) for kind, data in stored.items()}
    assert len({row["voxels_sha256"] for row in found.values()}) == 1
    assert {row["intensity_max"] for row in found.values()} == {float(values.max())}
    other = values.copy()
    other[3, 4, 5] += 1
    changed = check_scan(saved(tmp_path, nifti(other.astype("f4"))))
    assert changed["voxels_sha256"] != found["f4"]["voxels_sha256"]


def test_fractions_have_one_digest_in_single_and_double_precision(tmp_path):
    values = np.random.default_rng(0).normal(0, 100, SHAPE).astype("f4")
    values[0, 0, 0] = 0
    found = [check_scan(saved(tmp_path, nifti(values.astype(kind)))) for kind in ("f4", "f8")]
    values[0, 0, 0] = -0.0
    found.append(check_scan(saved(tmp_path, nifti(values))))
    assert len({row["voxels_sha256"] for row in found}) == 1


def test_gaps_of_air_between_a_body_and_its_table_are_no_holes(tmp_path):
    voxels = np.full(SHAPE, -1000, "int16")
    noise = np.random.default_rng(4).integers(-200, 300, SHAPE)
    voxels[4:20, 3:14] = noise[4:20, 3:14]
    voxels[10:14, 17] = noise[10:14, 17]  # the table: planes 14 to 16 hold air alone
    assert check_scan(saved(tmp_path, nifti(voxels)))["warnings"] is None


def test_values_beyond_the_stored_type_are_scaled_as_real_numbers(tmp_path):
    data = nifti(header={"scl_slope": 100, "scl_inter": -7})  # 99,900 does not fit in int16
    path = saved(tmp_path, data)
    found = check_scan(path)
    assert (found["intensity_min"], found["intensity_max"]) == (93.0, 99893.0)
    assert read_image(path, found["image_sha256"]).data.max() == 99893.0


@pytest.mark.parametrize("degrees", [0.1, 1.0, 1.9])
def test_slanted_voxels_have_the_volume_of_their_vectors(tmp_path, degrees):
    affine = sheared(np.tan(np.radians(degrees)))
    found = check_scan(saved(tmp_path, nifti(sform=affine, header={"qform_code": 0})))
    assert found["warnings"] == "W_SHEAR"
    assert found["voxel_ml"] == pytest.approx(0.03, rel=1e-6)  # the edges are longer, not the voxel


@pytest.mark.parametrize("cosine", [1e-4, 9.9e-4])
def test_a_rounded_shear_changes_no_volume_and_strict_readers_take_the_label_map(tmp_path, cosine):
    affine = sheared(cosine)
    image = saved(tmp_path, nifti(sform=affine))
    found = check_scan(image)
    assert found["warnings"] == "W_SHEAR_ROUNDED"
    assert found["voxel_ml"] == pytest.approx(0.03, rel=1e-6)
    label_map = saved(tmp_path, nifti_gz(image_voxels("uint8"), affine), "dseg.nii.gz")
    np.testing.assert_allclose(nib.load(label_map).affine, affine, atol=1e-5)
    itk = SimpleITK.ReadImage(str(label_map))  # refuses a grid whose angles are not right
    assert np.prod(itk.GetSpacing()) == pytest.approx(30.0, rel=1e-5)


# --- the sidecar -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "marked"),
    [
        ({"SpacingBetweenSlices": 6.1, "SliceThickness": 4.0}, True),  # the step is 4 mm here
        ({"SpacingBetweenSlices": 4.0, "SliceThickness": 3.0}, False),
        ({"SpacingBetweenSlices": 4.0, "SliceThickness": 4.0}, False),
        ({"SpacingBetweenSlices": 6.1, "SliceThickness": 5.0}, False),  # resampled since
        ({"SliceThickness": 4.0}, False),
        ({"SpacingBetweenSlices": "6.1", "SliceThickness": 4.0}, False),
        ({"SpacingBetweenSlices": 0, "SliceThickness": 4.0}, False),
        ([6.1, 4.0], False),
    ],
)
def test_a_step_that_is_the_thickness_of_a_slice_is_marked(tmp_path, said, marked):
    image = saved(tmp_path, gzip.compress(nifti()), "scan.nii.gz")
    (tmp_path / "scan.json").write_text(json.dumps(said))
    assert (check_scan(image)["warnings"] == "QC_SCALE") == marked
    link = tmp_path / "under another name.nii.gz"
    link.symlink_to(image)
    assert (check_scan(link)["warnings"] == "QC_SCALE") == marked


@pytest.mark.parametrize(
    ("image_type", "part"),
    [
        (["DERIVED", "PRIMARY", "M", "DIXON", "W"], "water"),
        (["DERIVED", "PRIMARY", "DIXON", "fat"], "fat"),
        (["ORIGINAL", "PRIMARY", "M", "IN_PHASE"], "in_phase"),
        (["ORIGINAL", "PRIMARY", "M", "ND"], None),
        ("W", None),
        ([1, None, 3], None),
    ],
)
def test_the_part_of_a_dixon_acquisition_is_what_the_sidecar_says(tmp_path, image_type, part):
    image = saved(tmp_path, gzip.compress(nifti()), "scan.nii.gz")
    (tmp_path / "scan.json").write_text(json.dumps({"ImageType": image_type}))
    assert check_scan(image).get("dixon") == part


@pytest.mark.parametrize("twin", ["scan_Eq_1.nii.gz", "scan_Eq.nii"])
def test_an_image_that_was_resampled_to_equal_steps_beside_it_has_a_gap(tmp_path, twin):
    image = saved(tmp_path, gzip.compress(nifti()), "scan.nii.gz")
    saved(tmp_path, b"", twin)
    assert reason_of(image) == "DCM_SPACING_IRREGULAR"


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, "\x00", "{}" + " " * (1 << 20)])
def test_a_sidecar_that_cannot_be_read_says_nothing(tmp_path, text):
    image = saved(tmp_path, nifti(), "scan.nii")
    (tmp_path / "scan.json").write_text(text)
    assert check_scan(image)["warnings"] is None

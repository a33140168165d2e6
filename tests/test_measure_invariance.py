"""The same anatomy stored in another way has the same volumes."""

import gzip

import nibabel as nib
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from cohortvol.stages.measure import measure_scan, read_scan
from phantoms import ANISOTROPIC, STRUCTURES, abdomen, ramp, stored_in_every_order

SAME = [
    "structure",
    "label",
    "n_voxels",
    "volume_ml",
    "status",
    "cut_by_fov",
    "cut_area_mm2",
    "n_components",
    "largest_component_fraction",
    "mean_intensity",
    "sd_intensity",
]
ORDERS = list(stored_in_every_order(abdomen(), ANISOTROPIC))
IMAGES = [image for image, _ in stored_in_every_order(ramp(), ANISOTROPIC)]
ANGLES = st.tuples(st.floats(-180, 180), st.floats(-90, 90), st.floats(-180, 180))
LABEL_TYPES = st.sampled_from(["uint8", "int8", "int16", "uint16", "int32"])
IMAGE_TYPES = st.sampled_from(["int16", "int32", "uint16", "float32", "float64"])
SCALES = st.sampled_from([None, (2.0, 0.0), (0.5, -100.0), (-1.0, 300.0)])


def volumes(folder, label_map, image, affine, *, level=6, suffix=".nii.gz"):
    """Measured from files of these, with the structures of the phantom."""
    paths = folder / f"labels{suffix}", folder / f"image{suffix}"
    for path, made in zip(paths, (label_map, image), strict=True):
        if not isinstance(made, nib.Nifti1Image):
            made = nib.Nifti1Image(made, affine)
        content = made.to_bytes()
        path.write_bytes(gzip.compress(content, level) if suffix.endswith("gz") else content)
    return measure_scan(read_scan(*paths, n_layers=1), [STRUCTURES], plausible_ml={})


def scaled(data, affine, dtype, scale):
    """An image whose header turns its stored values back into `data`."""
    slope, intercept = scale or (1.0, 0.0)
    made = nib.Nifti1Image(((data - intercept) / slope).astype(dtype), affine)
    made.header.set_slope_inter(slope, intercept)
    return made


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    return volumes(tmp_path_factory.mktemp("as_it_is"), abdomen(), ramp(), ANISOTROPIC)[SAME]


@pytest.mark.slow
@settings(deadline=None, derandomize=True, max_examples=200)
@given(
    order=st.integers(0, 47),
    angles=ANGLES,
    label_type=LABEL_TYPES,
    image_type=IMAGE_TYPES,
    scale=SCALES,
    level=st.integers(1, 9),
    suffix=st.sampled_from([".nii", ".nii.gz"]),
)
@example(0, (0.0, 0.0, 0.0), "uint8", "int16", None, 1, ".nii")
@example(47, (90.0, 0.0, 90.0), "int32", "float64", (-1.0, 300.0), 9, ".nii.gz")
def test_volumes_depend_on_nothing_but_the_anatomy(
    tmp_path_factory, expected, order, angles, label_type, image_type, scale, level, suffix
):
    label_map, affine = ORDERS[order]
    turn = np.eye(4)
    turn[:3, :3] = Rotation.from_euler("xyz", angles, degrees=True).as_matrix()
    found = volumes(
        tmp_path_factory.mktemp("moved"),
        label_map.astype(label_type),
        scaled(IMAGES[order].astype(float), turn @ affine, image_type, scale),
        turn @ affine,
        level=level,
        suffix=suffix,
    )
    # Turned over, left is no longer left of right: there is no sum then.
    compared = found["label"].notna() | ~found["qc_flags"].str.contains("QC_SIDE")
    for name in SAME:
        ours, theirs = found.loc[compared, name], expected.loc[compared, name]
        if ours.dtype.kind == "f":
            np.testing.assert_allclose(ours, theirs, rtol=1e-5, err_msg=name)
        else:
            assert ours.equals(theirs), name


@pytest.mark.slow
@settings(deadline=None, derandomize=True, max_examples=100)
@given(order=st.integers(0, 47), angles=st.tuples(*[st.floats(-40, 40)] * 3))
def test_sides_are_those_of_the_patient_however_the_grid_lies(tmp_path_factory, order, angles):
    label_map, affine = ORDERS[order]
    turn = np.eye(4)
    turn[:3, :3] = Rotation.from_euler("xyz", angles, degrees=True).as_matrix()
    found = volumes(
        tmp_path_factory.mktemp("turned"), label_map, IMAGES[order], turn @ affine, level=1
    ).set_index("structure")
    x = {name: found.loc[name, "centroid_ras_mm"][0] for name in ("kidney_left", "kidney_right")}
    swapped = any("QC_SIDE" in (flags or "") for flags in found["qc_flags"].dropna())
    assert swapped == (x["kidney_left"] > x["kidney_right"])

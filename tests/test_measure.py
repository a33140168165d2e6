"""Measure: volumes worked out by hand, published volumes, and what makes them doubtful."""

import gzip
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from pandas.testing import assert_frame_equal

from cohortvol.errors import GeometryError, UnknownLabelError
from cohortvol.stages import measure
from phantoms import ANISOTROPIC, STRUCTURES, VOXEL_ML, abdomen, ramp, stored_in_every_order, tilted

ANY_SIZE = {"plausible_ml": {}}  # the phantom's organs are as small as a pea


def measured(label_map=None, affine=ANISOTROPIC, image=None):
    data = abdomen() if label_map is None else label_map
    return measure.structure_volumes(data, affine, STRUCTURES, image=image).set_index("structure")


def judged(label_map, **thresholds):
    rows = measure.structure_volumes(label_map, ANISOTROPIC, STRUCTURES)
    return measure.judge(rows, **(ANY_SIZE | thresholds)).set_index("structure")


# --- volumes ---------------------------------------------------------------------------------


def test_volume_is_voxel_count_times_voxel_volume():
    volumes = measured()
    assert volumes["n_voxels"].tolist() == [100, 18, 12, 14, pd.NA]
    assert volumes["volume_ml"].iloc[:4].to_numpy() == pytest.approx(
        np.array([100, 18, 12, 14]) * VOXEL_ML
    )


def test_structures_come_in_the_order_of_the_card_with_their_label():
    volumes = measured()
    assert volumes.index.tolist() == list(STRUCTURES.values())
    assert volumes["label"].tolist() == list(STRUCTURES)


def test_an_absent_structure_is_null_everywhere_and_never_zero():
    pancreas = measured(image=ramp()).loc["pancreas"].drop("label")
    assert pancreas.isna().all()


def test_an_oblique_grid_has_the_volume_of_its_determinant():
    straight, oblique = measured(), measured(affine=tilted(ANISOTROPIC))
    assert oblique["volume_ml"].to_numpy() == pytest.approx(
        straight["volume_ml"].to_numpy(), nan_ok=True
    )
    assert oblique["cut_area_mm2"].to_numpy() == pytest.approx(
        straight["cut_area_mm2"].to_numpy(), nan_ok=True
    )


def test_a_sheared_grid_has_the_volume_and_the_face_area_of_its_vectors():
    sheared = ANISOTROPIC.copy()
    sheared[0, 2] = 4.0  # slices slide 4 mm sideways: same volume, longer side faces
    volumes = measured(affine=sheared)
    assert volumes.loc["liver", "volume_ml"] == pytest.approx(100 * VOXEL_ML)
    assert volumes.loc["liver", "cut_area_mm2"] == pytest.approx(20 * 1.25 * 1.5)
    in_slices = 4 * 1.25 * 1.5  # kidney_left on I
    on_the_side = 6 * 1.5 * 5.0  # on L: |(0, 1.5, 0) x (4, 0, 3)| = 1.5 x 5 mm2 each
    assert volumes.loc["kidney_left", "cut_area_mm2"] == pytest.approx(in_slices + on_the_side)


def test_nothing_depends_on_the_order_the_voxels_are_stored_in():
    expected = measured(image=ramp()).drop(columns="bbox")
    expected["centroid_ras_mm"] = expected["centroid_ras_mm"].map(rounded)
    label_maps = list(stored_in_every_order(abdomen(), ANISOTROPIC))
    images = list(stored_in_every_order(ramp(), ANISOTROPIC))
    for (stored, affine), (image, _) in zip(label_maps, images, strict=True):
        got = measured(stored, affine, image=image).drop(columns="bbox")
        got["centroid_ras_mm"] = got["centroid_ras_mm"].map(rounded)
        assert_frame_equal(got, expected, check_exact=False, rtol=1e-12)
    assert len({affine[:3, :3].tobytes() for _, affine in label_maps}) == 48


def rounded(centroid):
    return tuple(np.round(centroid, 9)) if isinstance(centroid, list) else centroid


# --- the edge of the image -------------------------------------------------------------------


def test_a_structure_at_the_edge_is_cut_and_names_its_faces():
    volumes = measured()
    assert volumes["cut_by_fov"].tolist() == [True, False, True, False, pd.NA]
    assert volumes["cut_faces"].tolist()[:4] == ["S", "", "LI", ""]


def test_contact_is_counted_in_voxel_faces_of_the_right_size():
    volumes = measured()
    assert volumes.loc["liver", "cut_area_mm2"] == pytest.approx(4 * 5 * (1.25 * 1.5))
    assert volumes.loc["spleen", "cut_area_mm2"] == 0
    assert volumes.loc["kidney_left", "cut_area_mm2"] == pytest.approx(
        2 * 3 * (1.5 * 3.0) + 2 * 2 * (1.25 * 1.5)
    )


def test_a_single_slice_is_cut_above_and_below():
    one_slice = np.zeros((5, 5, 1), dtype=np.uint8)
    one_slice[2, 2, 0] = 1
    liver = measured(one_slice).loc["liver"]
    assert liver["cut_faces"] == "IS"
    assert liver["cut_area_mm2"] == pytest.approx(2 * 1.25 * 1.5)


# --- shape and intensity ---------------------------------------------------------------------


def test_components_share_faces_not_edges():
    label_map = np.zeros((6, 6, 6), dtype=np.uint8)
    label_map[1, 1, 1] = label_map[2, 2, 1] = label_map[2, 2, 2] = 1
    liver = measured(label_map).loc["liver"]
    assert liver["n_components"] == 2
    assert liver["largest_component_fraction"] == pytest.approx(2 / 3)


def test_a_component_is_not_joined_through_another_structure_in_its_box():
    label_map = abdomen()
    label_map[8, 3:9, 2] = label_map[9, 8, 2] = 7  # pancreas, from one part to the other
    kidney = measured(label_map).loc["kidney_right"]
    assert (kidney["n_components"], kidney["largest_component_fraction"]) == (2, 12 / 14)


def test_centroid_is_in_ras_millimetres():
    liver = measured().loc["liver"]  # mean index 8.5, 5, 6
    assert liver["centroid_ras_mm"] == pytest.approx([8.5 * 1.25 - 7.5, 5 * 1.5 + 4, 6 * 3.0 - 100])


def test_bounding_box_is_inclusive():
    assert measured().loc["liver", "bbox"] == [7, 10, 3, 7, 4, 8]


def test_intensities_are_averaged_in_double_precision():
    liver = measured(image=ramp()).loc["liver"]  # 170, 180, 190, 200 in equal parts
    assert liver["mean_intensity"] == 185.0
    assert liver["sd_intensity"] == pytest.approx(np.sqrt(125))


def test_intensities_are_null_without_an_image():
    assert measured()[["mean_intensity", "sd_intensity"]].isna().all(axis=None)


# --- what is refused -------------------------------------------------------------------------


def test_a_label_the_card_does_not_name_is_refused_with_its_index():
    label_map = abdomen()
    label_map[5, 5, 5] = 9
    with pytest.raises(UnknownLabelError, match=r"\[9\].*1 to 7"):
        measured(label_map)


@pytest.mark.parametrize("dtype", [np.float32, bool])
def test_a_label_map_of_other_than_integers_is_refused(dtype):
    with pytest.raises(UnknownLabelError, match="integers"):
        measured(abdomen().astype(dtype))


def test_a_negative_label_is_refused():
    label_map = abdomen().astype(np.int16)
    label_map[0, 0, 0] = -1
    with pytest.raises(UnknownLabelError, match="-1"):
        measured(label_map)


def test_a_label_map_of_four_axes_is_refused():
    with pytest.raises(GeometryError, match="3 axes"):
        measured(abdomen()[..., None])


def test_an_affine_that_spans_no_volume_is_refused():
    with pytest.raises(GeometryError, match="no volume"):
        measured(affine=np.diag([1.25, 1.5, 0.0, 1.0]))


def test_an_image_of_another_shape_is_refused():
    with pytest.raises(GeometryError, match="shape"):
        measured(image=ramp()[:-1])


# --- oracles ---------------------------------------------------------------------------------


def test_ibsi_digital_phantom_has_its_published_volume(shared_data):
    path = shared_data / "ibsi/ibsi_1_digital_phantom/nifti/mask/mask.nii.gz"
    mask = nib.load(path)
    volumes = measure.structure_volumes(as_labels(mask), mask.affine, {1: "roi"})
    assert volumes["volume_ml"].item() * 1000 == pytest.approx(592, abs=1e-9)


@pytest.mark.parametrize("name", ["brain1", "brain2", "breast1", "lung1", "lung2"])
def test_pyradiomics_masks_have_their_published_volumes(shared_data, name):
    folder = shared_data / "pyradiomics_volumes" / "data"
    published = pd.read_csv(folder / "baseline" / "baseline_shape.csv", index_col="featureName")
    volume_mm3 = float(published.loc["original_shape_VoxelVolume", name])
    mask, affine = read_nrrd(folder / f"{name}_label.nrrd")
    volumes = measure.structure_volumes((mask == 1).astype(np.uint8), affine, {1: "roi"})
    assert volumes["volume_ml"].item() * 1000 == pytest.approx(volume_mm3, rel=1e-13)


@pytest.mark.slow
def test_expert_label_maps_have_their_reference_volumes(shared_data):
    folder = shared_data / "chaos_mr_t2spir"
    reference = pd.read_csv(folder / "reference_volumes_ml.csv", index_col="case")
    names = {1: "liver", 2: "kidney_right", 3: "kidney_left", 4: "spleen"}
    columns = ["liver", "right_kidney", "left_kidney", "spleen"]
    for case, expected in reference.iterrows():
        label_map = nib.load(folder / "labels" / f"label_{case}.nii.gz")
        volumes = measure.structure_volumes(as_labels(label_map), label_map.affine, names)
        assert volumes["volume_ml"].tolist() == pytest.approx(expected[columns].tolist(), abs=0.051)
        at_the_end = volumes.loc[volumes["cut_faces"].str.contains("[IS]"), "label"].tolist()
        touching = expected["labels_touching_first_or_last_slice"]
        assert at_the_end == ([] if pd.isna(touching) else [int(touching)])
        assert not set(measure.judge(volumes)["qc_flags"]) & {"QC_OUTLIER", "QC_SIDE"}


def as_labels(image):
    return np.asarray(image.dataobj).astype(np.uint8)


def read_nrrd(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Voxels and RAS+ affine of a gzip NRRD file in LPS space."""
    header, body = path.read_bytes().split(b"\n\n", 1)
    fields = dict(line.split(": ", 1) for line in header.decode().splitlines() if ": " in line)
    kinds = {"short": "<i2", "unsigned char": "u1", "int": "<i4", "unsigned short": "<u2"}
    sizes = [int(size) for size in fields["sizes"].split()]
    voxels = np.frombuffer(gzip.decompress(body), kinds[fields["type"]]).reshape(sizes, order="F")
    to_lps = np.eye(4)
    for axis, vector in enumerate(fields["space directions"].split()):
        to_lps[:3, axis] = [float(part) for part in vector.strip("()").split(",")]
    return voxels, np.diag([-1.0, -1.0, 1.0, 1.0]) @ to_lps


# --- whether to believe it -------------------------------------------------------------------


def test_each_structure_gets_its_status_and_the_reason_for_it():
    rows = judged(abdomen())
    assert rows["status"].tolist() == ["cut", "ok", "cut", "ok", "absent"]
    assert rows.loc["liver", "reason"] == "QC_TRUNCATED_FOV"
    assert pd.isna(rows.loc["spleen", "reason"])
    assert rows.loc["pancreas", "reason"] == "QC_ABSENT"


def test_qc_asks_for_a_look_at_what_is_cut_or_in_pieces_and_leaves_out_what_is_absent():
    rows = judged(abdomen())
    assert rows["qc"].to_dict() == {
        "liver": "flag",
        "spleen": "pass",
        "kidney_left": "flag",
        "kidney_right": "flag",
        "pancreas": "exclude",
    }
    assert rows.loc["kidney_right", "qc_flags"] == "QC_FRAGMENTED"
    assert judged(abdomen(), min_largest_fraction=0.8).loc["kidney_right", "qc"] == "pass"


def test_an_implausible_volume_is_left_out_but_kept_in_the_table():
    rows = judged(abdomen(), plausible_ml={"spleen": (0.2, 1.0)})
    assert rows.loc["spleen", "qc_flags"] == "QC_OUTLIER"
    assert rows.loc["spleen", "qc"] == "exclude"
    assert rows.loc["spleen", "volume_ml"] == pytest.approx(18 * VOXEL_ML)


def test_a_cut_structure_cannot_be_too_small_but_can_be_too_large():
    small = judged(abdomen(), plausible_ml={"liver": (5.0, 9.0)})
    assert small.loc["liver", "qc_flags"] == "QC_TRUNCATED_FOV"
    large = judged(abdomen(), plausible_ml={"liver": (0.1, 0.5)})
    assert large.loc["liver", "qc_flags"] == "QC_TRUNCATED_FOV;QC_OUTLIER"


def test_swapped_kidneys_are_both_left_out_and_nothing_else_is():
    label_map = abdomen()
    left, right = label_map == 3, label_map == 4
    label_map[left], label_map[right] = 4, 3
    flagged = judged(label_map)["qc_flags"].str.contains("QC_SIDE")
    assert flagged[flagged].index.tolist() == ["kidney_left", "kidney_right"]


def test_in_a_mirrored_body_no_structure_has_a_side():
    rows = judged(abdomen()[::-1])
    found = rows[rows["n_voxels"].notna()]
    assert found["qc_flags"].str.contains("QC_SIDE").all()
    assert (found["qc"] == "exclude").all()


# --- sums of pairs ---------------------------------------------------------------------------


def sums(label_map):
    rows = measure.structure_volumes(label_map, ANISOTROPIC, STRUCTURES)
    return measure.pair_sums(measure.judge(rows, **ANY_SIZE)).set_index("structure")


def test_kidneys_are_the_sum_of_both_and_as_doubtful_as_the_worse():
    kidneys = sums(abdomen()).loc["kidneys"]
    assert kidneys["n_voxels"] == 12 + 14
    assert kidneys["volume_ml"] == pytest.approx(26 * VOXEL_ML)
    assert (kidneys["status"], kidneys["reason"]) == ("cut", "QC_TRUNCATED_FOV")
    assert bool(kidneys["cut_by_fov"])
    assert kidneys["cut_faces"] == "LI"
    assert kidneys["qc_flags"] == "QC_FRAGMENTED;QC_TRUNCATED_FOV"
    assert pd.isna(kidneys["label"])


def test_a_sum_is_null_where_one_side_is_absent():
    label_map = abdomen()
    label_map[label_map == 4] = 0
    kidneys = sums(label_map).loc["kidneys"]
    assert pd.isna(kidneys["volume_ml"])
    assert pd.isna(kidneys["n_voxels"])
    assert pd.isna(kidneys["cut_by_fov"])
    assert (kidneys["status"], kidneys["qc"]) == ("absent", "exclude")


def test_only_pairs_of_which_the_model_has_both_sides_are_summed():
    assert sums(abdomen()).index.tolist() == ["kidneys"]


def test_a_structure_is_cut_at_a_gap_between_stations_and_not_at_a_seam():
    label_map = np.zeros((12, 10, 9), np.uint8)
    label_map[2:6, 2:5, 1:5] = 1  # across the gap
    label_map[8:10, 2:5, 6:8] = 2  # above it
    label_map[:, :, 4:6] = 0
    whole = measure.structure_volumes(label_map, ANISOTROPIC, STRUCTURES).set_index("structure")
    assert not whole.loc[["liver", "spleen"], "cut_by_fov"].any()
    cut = measure.structure_volumes(label_map, ANISOTROPIC, STRUCTURES, gaps=[(4, 5)])
    cut = cut.set_index("structure")
    assert cut.loc[["liver", "spleen"], "cut_faces"].tolist() == ["S", "I"]
    assert cut.loc["liver", "cut_area_mm2"] == pytest.approx(12 * 1.25 * 1.5)

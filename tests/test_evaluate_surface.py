"""Surfaces and their distances, against independent ways of getting them."""

import itertools

import numpy as np
import pytest
from scipy import ndimage

from cohortvol.tools.evaluate.surface import (
    Distances,
    border_distances,
    element_areas_mm2,
    element_distances,
    neighbourhood_codes,
)

ANISOTROPIC_MM = np.array([1.25, 1.5, 3.0])


def random_blobs(seed):
    """Two rough bodies that overlap, with every kind of neighbourhood, one at the image's edge."""
    rng = np.random.default_rng(seed)
    shape = (21, 18, 11)
    grid = np.moveaxis(np.indices(shape), 0, -1) * ANISOTROPIC_MM
    masks = []
    for middle in ((12, 12, 15), (14, 13, 18)):
        far = np.linalg.norm(grid - np.array(middle), axis=-1)
        masks.append(far + 3 * ndimage.gaussian_filter(rng.normal(size=shape), 0.7) < 12)
    return masks


def distances_by_brute_force(first, second, spacing_mm):
    """Codes voxel by voxel, distances from everything to everything: slow and plain.

    The definition of DeepMind's surface-distance: its benchmark in benchmarks/evaluate_speed.py
    runs the package itself.
    """
    areas = areas_by_marching_cubes(spacing_mm)
    found = []
    for mask in (first, second):
        padded = np.pad(mask, 1)
        places, weights = [], []
        for i, j, k in itertools.product(*(range(n - 1) for n in padded.shape)):
            cube = padded[i : i + 2, j : j + 2, k : k + 2].ravel()
            code = int("".join("1" if inside else "0" for inside in cube), 2)
            if 0 < code < 255:
                places.append((i, j, k))
                weights.append(areas[code])
        found.append((np.array(places) * spacing_mm, np.array(weights)))
    (a, area_a), (b, area_b) = found
    apart = np.linalg.norm(a[:, None] - b[None], axis=-1)
    return (apart.min(axis=1), area_a), (apart.min(axis=0), area_b)


def areas_by_marching_cubes(spacing_mm):
    """Area of each neighbourhood by scikit-image, for the fewer corners inside or outside."""
    measure = pytest.importorskip("skimage.measure")
    areas = np.zeros(256)
    for code in range(1, 255):
        fewer = code if bin(code).count("1") <= 4 else 255 - code
        cube = np.array([fewer >> (7 - bit) & 1 for bit in range(8)], float).reshape(2, 2, 2)
        corners, faces, *_ = measure.marching_cubes(
            cube, 0.5, method="lorensen", spacing=tuple(spacing_mm)
        )
        areas[code] = measure.mesh_surface_area(corners, faces)
    return areas


def test_the_area_of_every_neighbourhood_is_that_of_marching_cubes():
    expected = areas_by_marching_cubes(ANISOTROPIC_MM)
    np.testing.assert_allclose(element_areas_mm2(ANISOTROPIC_MM), expected, rtol=1e-5)


@pytest.mark.parametrize("seed", range(3))
def test_surface_elements_are_as_far_apart_as_a_search_of_all_pairs_says(seed):
    first, second = random_blobs(seed)
    expected = distances_by_brute_force(first, second, ANISOTROPIC_MM)
    found = element_distances(first, second, ANISOTROPIC_MM)
    for here, (mm, area) in zip(found, expected, strict=True):
        np.testing.assert_allclose(here.mm, mm, atol=1e-9)
        np.testing.assert_allclose(here.weight, area, rtol=1e-5)


@pytest.mark.parametrize("seed", range(3))
def test_border_voxels_are_as_far_apart_as_distance_maps_say(seed):
    first, second = random_blobs(seed)
    star = ndimage.generate_binary_structure(3, 1)
    borders = [
        mask & ~ndimage.binary_erosion(mask, star, border_value=1) for mask in (first, second)
    ]
    maps = [ndimage.distance_transform_edt(~border, sampling=ANISOTROPIC_MM) for border in borders]
    found = border_distances(first, second, ANISOTROPIC_MM)
    np.testing.assert_allclose(np.sort(found[0].mm), np.sort(maps[1][borders[0]]), atol=1e-9)
    np.testing.assert_allclose(np.sort(found[1].mm), np.sort(maps[0][borders[1]]), atol=1e-9)


def test_a_code_names_its_corners_from_the_first_voxel_to_the_last():
    corner = np.zeros((2, 2, 2), dtype=bool)
    corner[1, 0, 1] = True
    assert neighbourhood_codes(corner)[1, 1, 1] == 0b00000100


def test_planes_two_millimetres_apart_are_within_two_and_not_within_less():
    slabs = np.zeros((2, 30, 30, 30), dtype=bool)
    slabs[0, 5:20], slabs[1, 5:22] = True, True
    for_tolerance = {}
    for tolerance_mm in (1.99, 2.0):
        parts = [one.share_within(tolerance_mm) for one in element_distances(*slabs, np.ones(3))]
        for_tolerance[tolerance_mm] = sum(part for part, _ in parts) / sum(all for _, all in parts)
    assert for_tolerance[2.0] == pytest.approx(1.0)
    assert for_tolerance[1.99] < 0.8


def test_a_distance_that_equals_the_tolerance_is_within_it_whatever_the_spacing():
    """10 x 0.7 - 8 x 0.7 is 1.4000000000000004 as a computer subtracts, and is 1.4 mm."""
    first, second = np.zeros((2, 30, 5, 5), dtype=bool)
    first[2:8, 1:4, 1:4] = second[2:10, 1:4, 1:4] = True
    edges_mm = np.array([0.7, 1.0, 1.0])
    tip = element_distances(second, first, edges_mm)[0]
    assert tip.mm.max() == 1.4
    assert tip.share_within(1.4) == (tip.weight.sum(), tip.weight.sum())


def test_the_percentile_weighs_by_area():
    mostly_near = Distances(np.array([5.0, 1.0, 3.0]), np.array([4.0, 90.0, 6.0]))
    assert mostly_near.percentile(90) == 1.0
    assert mostly_near.percentile(95) == 3.0
    assert mostly_near.percentile(97) == 5.0

"""TotalSegmentator's zoom: the nearest label by indexing, grey values cut as upstream cuts them."""

import numpy as np
import pytest
from scipy import ndimage

from cohortvol.stages.segment.zoom import linear, nearest, zoom, zoomed_shape


@pytest.mark.parametrize("seed", range(30))
def test_the_nearest_label_is_that_of_scipys_zoom_of_order_0(seed):
    rng = np.random.default_rng(seed)
    small, large = rng.integers(1, 90, 3), rng.integers(1, 120, 3)
    labels = rng.integers(0, 50, small).astype(np.uint8)
    expected = ndimage.zoom(labels, large / small, mode="nearest", order=0)
    np.testing.assert_array_equal(nearest(labels, tuple(large)), expected)


@pytest.mark.parametrize("seed", range(60))
def test_the_linear_zoom_is_scipys_bit_for_bit(seed):
    rng = np.random.default_rng(seed)
    small, large = rng.integers(1, 50, 3), rng.integers(1, 70, 3)
    large[seed % 3] = small[seed % 3] if seed % 2 else large[seed % 3]
    data = (1000 * rng.standard_normal(small)).astype((np.float64, np.float32)[seed % 2])
    factors = (large / small).astype(np.float32)
    expected = ndimage.zoom(data, factors, mode="nearest", order=1)
    found = linear(data, zoomed_shape(data.shape, factors))
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found, expected)


def test_the_network_is_told_the_nominal_spacing():
    zoomed = zoom(np.ones((30, 31, 22)), np.array([1.3, 1.7, 4.2]), np.full(3, 1.5), 1, True)
    assert zoomed.data.shape == (26, 35, 62)
    np.testing.assert_allclose(zoomed.spacing_mm, 1.5, atol=1e-6)


def test_fractions_are_cut_off_only_where_the_profile_says_so():
    image = np.linspace(0, 1, 8 * 9 * 10).reshape(8, 9, 10)
    assert not zoom(image, np.ones(3), np.full(3, 1.5), 1, True).data[:-1].any()
    assert zoom(image, np.ones(3), np.full(3, 1.5), 1, False).data.max() == pytest.approx(1)


def test_a_scan_of_the_wanted_spacing_is_not_touched():
    image = np.random.default_rng(0).random((4, 5, 6))
    assert zoom(image, np.full(3, 1.5), np.full(3, 1.5), 3, True).data is image

"""Resampling by matrices: the values of scipy's zoom, and of nnU-Net's resampling."""

import numpy as np
import pytest
import torch
from nnunetv2.preprocessing.resampling.default_resampling import resample_data_or_seg_to_shape
from scipy import ndimage

from cohortvol.stages.segment.resample import resize_on_device, zoom_on_device


def grey(seed, low=2, high=40):
    rng = np.random.default_rng(seed)
    shape, other = rng.integers(low, high, 3), rng.integers(low, high, 3)
    return rng.normal(300, 100, shape), tuple(int(n) for n in other)


@pytest.mark.parametrize("order", [1, 3])
@pytest.mark.parametrize("seed", range(8))
def test_zoom_is_scipys(seed, order):
    image, shape = grey(seed)
    factors = np.array(shape) / image.shape
    expected = ndimage.zoom(image, factors, order=order, mode="nearest")
    found = zoom_on_device(torch.from_numpy(image).float(), shape, order)
    np.testing.assert_allclose(found.numpy(), expected, atol=0.01)


@pytest.mark.parametrize("order", [1, 3])
@pytest.mark.parametrize("thick_axis", [None, 0, 1, 2])
@pytest.mark.parametrize("seed", range(3))
def test_resize_is_nnunets(seed, thick_axis, order):
    image, shape = grey(seed, low=6)
    spacing = [1.5, 1.4, 1.6]
    if thick_axis is not None:
        spacing[thick_axis] = 8.0
    new_spacing = [edge * n / m for edge, n, m in zip(spacing, image.shape, shape, strict=True)]
    rule = {"order": order, "order_z": 0, "force_separate_z": None}
    expected = resample_data_or_seg_to_shape(
        image[None], shape, spacing, new_spacing, is_seg=False, **rule
    )[0]
    found = resize_on_device(torch.from_numpy(image).float(), shape, spacing, new_spacing, rule)
    np.testing.assert_allclose(found.numpy(), expected, atol=0.01)

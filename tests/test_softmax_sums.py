"""Sums over the softmax: the expected volume and its spread, on phantoms."""

from __future__ import annotations

from math import pi

import numpy as np
import pytest
import torch
from scipy.special import softmax as softmax_in_double

from cohortvol.models.networks.regions import Regions
from cohortvol.models.networks.softness import Softness, ratios
from cohortvol.stages.segment.tiles import label_of_greatest

# --- partial volume --------------------------------------------------------------------------


def box_fractions(edges_voxels, shape=(24, 24, 24)):
    """Share of each voxel inside a box from voxel edge 3 on, `edges_voxels` long."""
    axes = []
    for edge, n in zip(edges_voxels, shape, strict=True):
        inside = np.clip(3 + edge - np.arange(n), 0, 1)
        inside[:3] = 0
        axes.append(inside)
    return np.einsum("i,j,k->ijk", *axes)


def sphere_fractions(radius_mm, voxel_mm, parts=6):
    """Share of each voxel inside a sphere off the middle of the grid, by `parts`^3 points each."""
    n = int(np.ceil(2 * radius_mm / voxel_mm)) + 4
    points = (np.arange(n * parts) + 0.5) / parts * voxel_mm - n * voxel_mm / 2
    x, y, z = (points + shift for shift in (0.13, -0.21, 0.34))
    inside = x[:, None, None] ** 2 + y[:, None] ** 2 + z**2 < radius_mm**2
    return inside.reshape(n, parts, n, parts, n, parts).mean((1, 3, 5))


def logits_of(*fractions, floor=1e-12):
    """Logits of a network that is right about every fraction; the rest is background."""
    shares = np.stack([1 - sum(fractions), *fractions])
    return torch.from_numpy(np.log(np.clip(shares, floor, None)).astype(np.float32))


def sums_of(logits):
    softness = Softness(len(logits))
    softness.add(logits)
    return softness


@pytest.mark.parametrize("edges", [(8.4, 9.3, 7.45), (8.6, 9.7, 7.55), (1.4, 5.3, 3.2)])
def test_the_expected_volume_is_the_true_one_where_the_count_is_biased(edges):
    fractions = box_fractions(edges)
    sums = sums_of(logits_of(fractions))
    true = np.prod(edges)
    assert fractions.sum() == pytest.approx(true)
    assert float(sums.expected[1]) == pytest.approx(true, rel=1e-5)
    assert abs(int(sums.counted[1]) - true) > 0.03 * true


def test_a_sphere_has_its_volume_on_voxels_of_any_size():
    for voxel_mm in (2.0, 5.0, 9.0):
        fractions = sphere_fractions(30.0, voxel_mm)
        sums = sums_of(logits_of(fractions))
        assert float(sums.expected[1]) == pytest.approx(fractions.sum(), rel=1e-5)
        assert float(sums.expected[1]) * voxel_mm**3 == pytest.approx(4 / 3 * pi * 30**3, rel=0.01)


def test_the_spread_grows_with_surface_and_with_voxel_size():
    """Share of a sphere's volume in doubt: surface / volume x voxel edge x mean p (1 - p)."""

    def spread_ratio(radius_mm, voxel_mm):
        sums = sums_of(logits_of(sphere_fractions(radius_mm, voxel_mm)))
        return float(sums.spread[1] / sums.counted[1])

    fine = spread_ratio(30.0, 2.0)
    assert spread_ratio(30.0, 4.0) == pytest.approx(2 * fine, rel=0.1)
    assert spread_ratio(15.0, 2.0) == pytest.approx(2 * fine, rel=0.1)
    # Across a border the fraction runs evenly from 0 to 1 over about a voxel: the integral of
    # p (1 - p) is 1/6 of it, and the sphere's 3 / r is its surface over its volume.
    assert fine == pytest.approx(3 / 30 * 2 / 6, rel=0.3)


def test_a_sharp_border_leaves_no_spread_and_expects_what_is_counted():
    fractions = box_fractions((8.0, 9.0, 7.0))
    sums = sums_of(logits_of(fractions, floor=1e-30))
    assert int(sums.counted[1]) == 8 * 9 * 7
    assert float(sums.expected[1]) == pytest.approx(8 * 9 * 7, abs=1e-9)
    assert float(sums.spread[1]) == pytest.approx(0.0, abs=1e-9)


def test_two_structures_share_their_border_and_add_up():
    """A wall inside a box: what one side loses there the other has, and no doubt is lost."""
    fractions = box_fractions((9.0, 8.0, 6.0))
    wall = np.clip(7.3 - np.arange(24), 0, 1)[:, None, None]
    sums = sums_of(logits_of(fractions * wall, fractions * (1 - wall)))
    assert sums.expected[1:].tolist() == pytest.approx([4.3 * 8 * 6, 4.7 * 8 * 6], rel=1e-5)
    assert sums.counted[1:].tolist() == [4 * 8 * 6, 5 * 8 * 6]
    assert sums.spread[1:].tolist() == pytest.approx([0.3 * 0.7 * 48] * 2, rel=1e-4)


# --- sums ------------------------------------------------------------------------------------


@pytest.fixture
def logits():
    """(51, 9, 40, 40) float16 logits of a scan that is mostly surely background."""
    generator = torch.Generator().manual_seed(3)
    values = torch.randn((51, 9, 40, 40), generator=generator) * 4
    values[0] += 12 * (torch.randn((9, 40, 40), generator=generator) + 0.5)
    return values.half()


def test_sums_are_those_of_the_whole_softmax(logits):
    sums = sums_of(logits)
    share = softmax_in_double(logits.double().numpy().reshape(51, -1), axis=0)
    counts = np.bincount(label_of_greatest(logits).ravel(), minlength=51)
    assert sums.counted[1:].tolist() == counts[1:].tolist()
    np.testing.assert_allclose(sums.expected[1:], share.sum(1)[1:], rtol=1e-3)
    np.testing.assert_allclose(sums.spread[1:], (share * (1 - share)).sum(1)[1:], rtol=1e-3)


def test_sums_do_not_depend_on_how_the_scan_is_cut(logits, monkeypatch):
    whole = sums_of(logits)
    slabs = Softness(51)
    for slab in logits.split(2, dim=1):
        slabs.add(slab)
    monkeypatch.setattr("cohortvol.models.networks.softness._PIECE_ON_CPU", 51 * 100)
    small = sums_of(logits)
    for other in (slabs, small):
        assert other.counted.tolist() == whole.counted.tolist()
        np.testing.assert_allclose(other.expected, whole.expected, rtol=1e-6)
        np.testing.assert_allclose(other.spread, whole.spread, rtol=1e-6)


def test_sums_of_regions_are_of_the_sigmoid_over_the_voxels_of_nnunets_map():
    """A voxel of the cyst alone is written as cyst, and so is one of the liver."""
    regions = Regions(labels=((1, 2), (2,)), written=(1, 2))
    sure, unsure = 9.0, -0.5
    logits = torch.tensor([[sure, sure, unsure, -30.0], [-sure, sure, sure, -30.0]])
    softness = Softness(2, regions)
    softness.add(logits)
    assert regions.label_map(logits).tolist() == [1, 2, 2, 0]
    assert softness.counted.tolist() == [3, 2]
    share = torch.sigmoid(logits.double())
    np.testing.assert_allclose(softness.expected, share.sum(1), rtol=1e-6)
    np.testing.assert_allclose(softness.spread, (share * (1 - share)).sum(1), rtol=1e-4)
    assert ratios([(softness, np.array([5, 7]))])["softmax_labels"] == [5, 7]


def test_a_scan_of_nothing_but_background_has_no_ratio():
    empty = torch.zeros((4, 6, 6, 6))
    empty[0] = 20
    found = ratios([(sums_of(empty), np.array([0, 1, 2, 3]))])
    assert found == {"softmax_labels": [], "expected_ratio": [], "spread_ratio": []}


def test_networks_that_share_a_structure_add_up_and_what_the_model_leaves_out_is_gone():
    first = sums_of(logits_of(box_fractions((4.0, 4.0, 4.0)), 0 * box_fractions((1, 1, 1))))
    second = sums_of(logits_of(box_fractions((4.0, 4.0, 2.4)), 0.4 * box_fractions((1, 1, 1))))
    second.counted[2], second.expected[2] = 5, 6.0
    found = ratios([(first, np.array([0, 7, 3])), (second, np.array([0, 7, 0]))])
    assert found["softmax_labels"] == [7]
    expected = (64 + float(second.expected[1])) / (64 + int(second.counted[1]))
    assert found["expected_ratio"] == pytest.approx([expected], abs=1e-4)

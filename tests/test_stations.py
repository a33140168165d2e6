"""Stations put together: volumes, gains and shifts against bodies whose truth is known."""

from __future__ import annotations

import numpy as np
import pytest

from cohortvol.errors import GeometryError
from cohortvol.stages.ingest.stations import compose
from station_bodies import EDGES_MM, Trunk, grid, heights, liver_ml

STEP_MM = EDGES_MM[2]


def stations(body, n=2, n_slices=26, overlap=6, step_mm=STEP_MM, gains=None, moved=None, noise=5.0):
    """Images of a body in n table positions, each with noise of its own."""
    return [
        (
            body.image(
                slices, noise=noise, draw=k,
                gain=1.0 if gains is None else gains[k],
                moved_mm=(moved or {}).get(k, (0, 0, 0)),
            ),
            grid(slices[0], step_mm),
        )
        for k, slices in enumerate(heights(n, n_slices, overlap, step_mm))
    ]  # fmt: skip


def test_parts_cut_out_of_one_image_make_it_again_voxel_for_voxel():
    slices = np.arange(-100, 100, STEP_MM)
    whole, affine = Trunk(1).image(slices), grid(slices[0])
    parts = []
    for first, last in ((0, 20), (14, 34), (28, 50)):
        place = affine.copy()
        place[:3, 3] += affine[:3, 2] * first
        parts.append((whole[:, :, first:last], place))
    made = compose([parts[2], parts[0], parts[1]])
    assert np.array_equal(made.voxels, whole)
    assert np.allclose(made.affine, affine)
    assert made.voxels.dtype == whole.dtype
    assert made.order == (1, 2, 0)
    assert made.spans == ((0, 19), (14, 33), (28, 49))
    assert made.gains == (1.0, 1.0, 1.0)
    assert [seam.overlap_mm for seam in made.seams] == pytest.approx([24.0, 24.0])
    assert [seam.movement.distance_mm for seam in made.seams] == [0.0, 0.0]


@pytest.mark.parametrize(
    ("n", "overlap", "gains"), [(2, 3, (0.7, 1.4)), (3, 10, (1.4, 1.0, 0.7)), (2, 6, (1.0, 0.8))]
)
def test_the_liver_of_the_whole_has_the_volume_of_the_undivided_one(n, overlap, gains):
    body = Trunk(n + overlap)
    made = compose(stations(body, n, overlap=overlap, gains=gains))
    slices = made.affine[2, 3] + STEP_MM * np.arange(made.voxels.shape[2])
    undivided = liver_ml(body.image(slices, noise=5.0, draw=99), grid(slices[0]))
    kept = made.voxels / gains[n // 2]
    assert liver_ml(kept, made.affine) == pytest.approx(undivided, rel=0.005)
    steps = [seam.gain / (gains[k + 1] / gains[k]) for k, seam in enumerate(made.seams)]
    assert steps == pytest.approx([1.0] * (n - 1), abs=0.02)
    evened = np.array(made.gains) * gains
    assert evened == pytest.approx([gains[n // 2]] * n, rel=0.02)


def test_values_that_have_a_unit_are_blended_and_not_evened_out():
    body = Trunk(3)
    made = compose(stations(body, gains=(1.0, 1.3), noise=0.0), keep_values=True)
    assert made.gains == (1.0, 1.0)
    last = stations(body, gains=(1.0, 1.3), noise=0.0)[1][0][:, :, -1]
    assert np.array_equal(made.voxels[:, :, -1], last)


def test_stations_off_the_grid_of_the_thinnest_keep_the_volume():
    body = Trunk(4)
    fine, coarse = -60 + 3.0 * np.arange(24), -11.3 + 4.5 * np.arange(20)
    made = compose([(body.image(fine), grid(-60, 3.0)), (body.image(coarse), grid(-11.3, 4.5))])
    slices = made.affine[2, 3] + 3.0 * np.arange(made.voxels.shape[2])
    undivided = liver_ml(body.image(slices, draw=99), grid(slices[0], 3.0))
    assert liver_ml(made.voxels, made.affine) == pytest.approx(undivided, rel=0.01)
    assert made.affine[2, 2] == 3.0


@pytest.mark.parametrize("moved_mm", [(0, 0, 0), (0, 0, 6), (0, 0, -5), (3, -3, 3), (0, 8, 0)])
def test_a_body_that_moved_between_two_stations_is_measured(moved_mm):
    made = compose(stations(Trunk(7), moved={1: moved_mm}, gains=(1.0, 1.2)))
    found = made.seams[0].movement
    assert found.shift_mm == pytest.approx(moved_mm, abs=1.0)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("moved_mm", "overlap"), [(-10, 2), (-10, 3), (0, 2), (0, 3), (0, 6)])
def test_a_body_that_moved_by_more_than_the_overlap_has_no_shift_in_place_of_0(
    moved_mm, overlap, seed
):
    made = compose(stations(Trunk(seed), overlap=overlap, moved={1: (0, 0, moved_mm)}, noise=15.0))
    found = made.seams[0].movement
    assert found.distance_mm == (None if moved_mm else 0.0)
    assert found.likeness > 0.9, "so that stations of one body are no reason to refuse it"


def test_a_gap_is_as_long_as_it_is_and_holds_nothing():
    lower, _, upper = stations(Trunk(2), 3, n_slices=16, overlap=4)
    made = compose([lower, upper])
    assert made.spans == ((0, 15), (24, 39))
    assert not made.voxels[:, :, 16:24].any()
    assert made.seams[0].overlap_mm == pytest.approx(-8 * STEP_MM)
    assert made.seams[0].gain is None
    assert made.seams[0].movement is None


def test_only_columns_that_all_stations_show_are_kept():
    lower, (voxels, affine) = stations(Trunk(3))
    narrow = affine.copy()
    narrow[:3, 3] += affine[:3, 0] * 5
    made = compose([lower, (voxels[5:-3], narrow)])
    assert made.voxels.shape[:2] == (46 - 8, 34)
    assert made.affine[0, 3] == narrow[0, 3]


def test_axes_that_are_not_parallel_are_refused():
    lower, (voxels, affine) = stations(Trunk(3))
    askew = affine.copy()
    askew[:3, 0] += [0, 0.5, 0]
    with pytest.raises(GeometryError, match="not parallel"):
        compose([lower, (voxels, askew)])
    with pytest.raises(GeometryError, match="no stations"):
        compose([])

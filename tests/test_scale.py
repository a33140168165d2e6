"""Scans of which one axis has another scale than those of the cohort."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from cohortvol.stages.assemble.rows import BOX
from cohortvol.stages.assemble.scale import (
    AXES,
    MIN_SCANS,
    marked_off_scale,
    off_scale,
    steps_of_neighbours,
    usual_factors,
)

EXTENTS_MM = {"liver": (190, 160, 150), "spleen": (60, 90, 100), "kidney_left": (55, 60, 110)}
EDGES = ["spacing_i_mm", "spacing_j_mm", "spacing_k_mm"]
ORIENTATIONS = ("RAS", "LPS", "ILP", "SAR")


def cohort(n=120, seed=0, cut=(), steps_mm=None):
    """Tables of bodies of many sizes, stored on many axes, with organs of somewhat many shapes.

    Sliced in any way; or, with steps, from feet to head every 7.7 mm but where these say else.
    """
    rng = np.random.default_rng(seed)
    rows, scans = [], []
    for number in range(n):
        scan, axes = f"s{number:03d}", ORIENTATIONS[number % len(ORIENTATIONS)]
        order = [next(k for k, pair in enumerate(("LR", "PA", "IS")) if c in pair) for c in axes]
        edges_mm = np.array([1.5, 1.7, 3.0])[rng.permutation(3)]
        if steps_mm is not None:
            edges_mm = np.array([1.5, 1.7, steps_mm.get(scan, 7.7)])[order]
        size = rng.normal(0, 0.1)
        for structure, extents in EXTENTS_MM.items():
            mm = np.array(extents) * np.exp(size + rng.normal(0, 0.06, 3))
            n_voxels = np.rint(mm[order] / edges_mm).astype(int)
            rows.append((scan, structure, "cut" if scan in cut else "ok", *n_voxels))
        scans.append((scan, None, None, axes, *edges_mm))
    texts = ["scan_id", "structure", "status"]
    volumes = pd.DataFrame(rows, columns=[*texts, *BOX]).astype(dict.fromkeys(texts, "category"))
    names = ["scan_id", "site", "sequence", "orientation", *EDGES]
    return volumes, pd.DataFrame(scans, columns=names)


def test_bodies_of_every_size_and_storage_are_on_scale():
    assert off_scale(*cohort()).empty


@pytest.mark.parametrize("axis", range(3))
@pytest.mark.parametrize("factor", [0.65, 1.54])
@pytest.mark.parametrize("scan", range(4))
def test_a_stretched_axis_is_named_with_the_factor_that_makes_it_usual(axis, factor, scan):
    volumes, scans = cohort()
    along = next(k for k, c in enumerate(scans.loc[scan, "orientation"]) if c in
                 ("LR", "PA", "IS")[axis])  # fmt: skip
    scans.loc[scan, f"spacing_{'ijk'[along]}_mm"] *= factor
    found = off_scale(volumes, scans)
    assert list(found.index) == [f"s{scan:03d}"]
    words, _, usual = found.iloc[0].partition(" x ")
    assert words == AXES[axis]
    assert float(usual) == pytest.approx(1 / factor, rel=0.15)


def test_nothing_depends_on_the_order_of_the_rows():
    volumes, scans = cohort()
    shuffled = volumes.take(np.random.default_rng(1).permutation(len(volumes)))
    pd.testing.assert_frame_equal(
        usual_factors(volumes, scans), usual_factors(shuffled, scans.iloc[::-1]), rtol=1e-12
    )


def test_scans_without_whole_structures_and_small_cohorts_are_not_judged():
    volumes, scans = cohort(cut={"s007"})
    assert "s007" not in usual_factors(volumes, scans).index
    assert usual_factors(*cohort(n=MIN_SCANS - 1)).empty
    empty = volumes.iloc[:0]
    assert off_scale(empty, scans).empty
    assert off_scale(empty, scans.iloc[:0]).empty


def as_neighbours(scans, lies=()):
    """Scans of one site and sequence; the header of some says 5 mm where slices are 7.7 apart."""
    edges_mm = scans[EDGES].to_numpy(copy=True)
    edges_mm[scans["scan_id"].isin(lies).to_numpy()[:, None] & (edges_mm == 7.7)] = 5.0
    return scans.assign(site="A", sequence="T1", **dict(zip(EDGES, edges_mm.T, strict=True)))


def test_a_step_that_nearly_all_neighbours_do_not_have_is_odd():
    volumes, scans = cohort(cut={"s001"}, steps_mm={})
    lied = as_neighbours(scans, lies=("s001", "s002"))
    found = steps_of_neighbours(lied)
    assert sorted(found.index) == ["s001", "s002"]
    assert found["axis"].tolist() == [2, 2]
    assert found["factor"].tolist() == pytest.approx([1.54, 1.54])
    assert off_scale(volumes, lied)["s001"] == "feet to head x 1.54"  # no organ lies whole in it
    lied.loc[lied["scan_id"] == "s002", "sequence"] = "T2"
    assert list(steps_of_neighbours(lied).index) == ["s001"]
    two_protocols = as_neighbours(scans, lies=scans["scan_id"][:20])
    assert steps_of_neighbours(two_protocols).empty
    assert steps_of_neighbours(lied.iloc[: MIN_SCANS - 1]).empty


def test_organs_speak_for_an_odd_step_or_against_it():
    """s001 is cut into other slices, and the header of s002 says so without being so."""
    volumes, scans = cohort(steps_mm={"s001": 5.0})
    scans = as_neighbours(scans, lies=("s002",))
    assert sorted(steps_of_neighbours(scans).index) == ["s001", "s002"]
    assert list(off_scale(volumes, scans).index) == ["s002"]


def test_the_scan_is_marked_and_keeps_its_other_codes():
    scans = pd.DataFrame({"scan_id": ["a", "b", "c"], "warnings": ["W_X", None, None]})
    off = pd.Series(["feet to head x 1.54", "feet to head x 0.60"], index=["a", "b"], dtype=object)
    marked = marked_off_scale(scans, off)
    assert marked["warnings"].fillna("").tolist() == ["W_X;QC_SCALE", "QC_SCALE", ""]
    assert marked["usual_scale"].fillna("").tolist() == [*off, ""]

"""Intervals in the table of volumes: one spread, none, or those of a sum."""

from __future__ import annotations

import nibabel as nib
import pandas as pd
import pytest

from cohortvol.models.intervals import (
    EXPERT,
    SIMULATED,
    UNCALIBRATED,
    Calibration,
    Factor,
    interval,
    weaker,
)
from cohortvol.stages.measure import judge, measure_scan, pair_sums, read_scan
from cohortvol.stages.measure.interval import with_intervals
from phantoms import ANISOTROPIC, STRUCTURES, VOXEL_ML, abdomen, ramp

SOFTMAX = {1: (1.1, 0.05), 2: (0.9, 0.1), 3: (1.0, 0.2), 4: (1.0, 0.3)}


def phantom_volumes(tmp_path, softmax=SOFTMAX, calibration=None):
    for name, data in (("image", ramp()), ("labels", abdomen())):
        nib.save(nib.Nifti1Image(data, ANISOTROPIC), tmp_path / f"{name}.nii.gz")
    volumes = measure_scan(
        read_scan(tmp_path / "labels.nii.gz", tmp_path / "image.nii.gz", n_layers=1),
        [STRUCTURES],
        softmax=softmax,
        calibration=calibration,
        plausible_ml={},
    )
    return volumes.set_index("structure")


def test_without_a_calibration_an_interval_is_one_spread_to_either_side(tmp_path):
    volumes = phantom_volumes(tmp_path)
    liver = volumes.loc["liver"]
    assert liver["interval"] == UNCALIBRATED
    assert liver["status"] == "cut"  # and the interval is that of the part inside
    ends = liver[["volume_expected_ml", "volume_low_ml", "volume_high_ml"]].tolist()
    assert ends == pytest.approx([110 * VOXEL_ML, 95 * VOXEL_ML, 105 * VOXEL_ML])


def test_what_is_absent_or_has_no_softmax_has_no_interval(tmp_path):
    volumes = phantom_volumes(tmp_path, {**SOFTMAX, 7: (1.0, 0.1)})
    columns = ["volume_expected_ml", "volume_low_ml", "volume_high_ml", "interval"]
    assert volumes.loc["pancreas", columns].isna().all()
    assert volumes.drop("pancreas")[columns].notna().all(axis=None)
    assert phantom_volumes(tmp_path, {})[columns].isna().all(axis=None)


def test_the_interval_of_a_sum_adds_both_ends_and_claims_no_more_than_either(tmp_path):
    factors = {"kidney_left": Factor(2.0, 40, 0.95), "kidney_right": Factor(1.0, 16, 0.9412)}
    calibration = Calibration(SIMULATED, "nnunet", factors)
    both = phantom_volumes(tmp_path, calibration=calibration).loc["kidneys"]
    assert both["interval"] == "calibrated 94 % on simulated scans"
    reach = 12 * 0.2 * 2.0 + 14 * 0.3 * 1.0
    assert both["volume_low_ml"] == pytest.approx((26 - reach) * VOXEL_ML)
    assert both["volume_high_ml"] == pytest.approx((26 + reach) * VOXEL_ML)
    del factors["kidney_right"]
    assert phantom_volumes(tmp_path, calibration=calibration).loc["kidneys", "interval"] == (
        UNCALIBRATED
    )


def test_a_sum_with_one_side_in_doubt_of_nothing_has_no_interval():
    sides = pd.DataFrame({"structure": ["kidney_left", "kidney_right"], "label": [3, 4]})
    sides = sides.assign(volume_ml=[150.0, 160.0], n_voxels=[15, 16], cut_by_fov=False)
    sides = sides.assign(cut_faces="", cut_area_mm2=0.0, n_components=1)
    sides = sides.assign(largest_component_fraction=1.0, mean_intensity=1.0, sd_intensity=1.0)
    sides = sides.assign(centroid_ras_mm=[[-50.0, 0, 0], [50.0, 0, 0]])
    judged = judge(with_intervals(sides, {3: (1.0, 0.1)}, None))
    assert pair_sums(judged)["volume_ml"].tolist() == [310.0]
    assert pair_sums(judged)[["volume_low_ml", "interval"]].isna().all(axis=None)


def test_an_interval_ends_at_nothing():
    one = interval(10.0, 1.0, 0.5, Factor(3.0, 20, 0.95), EXPERT)
    assert (one.low_ml, one.high_ml) == (0.0, 25.0)


def test_the_weaker_claim_is_the_one_of_the_sum():
    low, high = (f"calibrated {level} % on {EXPERT}" for level in (80, 95))
    assert weaker([high, low]) == low
    assert weaker([high, UNCALIBRATED]) == UNCALIBRATED

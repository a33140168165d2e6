"""How sure a volume is: sums over the softmax on phantoms, intervals, and what they are worth."""

from __future__ import annotations

import dataclasses
import json
import shutil
from math import pi
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import torch
from scipy.special import softmax as softmax_in_double

import nnunet_fixture
from cohortvol.cli import run as cohortvol
from cohortvol.errors import ConfigError, ModelError
from cohortvol.models.card import choose_profile, load_card, segmentation_key
from cohortvol.models.intervals import (
    EXPERT,
    OUT_OF_FOLD,
    SIMULATED,
    UNCALIBRATED,
    Calibration,
    Case,
    Factor,
    calibrate,
    interval,
    softmax_by_label,
    weaker,
)
from cohortvol.models.networks import Source, import_nnunet
from cohortvol.models.networks.regions import Regions
from cohortvol.models.networks.softness import Softness, ratios
from cohortvol.stages.measure import judge, measure_scan, pair_sums, read_scan
from cohortvol.stages.measure import run_shard as measure_shard
from cohortvol.stages.measure.interval import with_intervals
from cohortvol.stages.segment import Segmenter, run_shard
from cohortvol.stages.segment.tiles import label_of_greatest
from cohortvol.store import schemas, tables
from cohortvol.tools.judge import calibrate as calibration_of_models
from phantoms import ANISOTROPIC, STRUCTURES, VOXEL_ML, abdomen, ramp
from segment_cohort import AFFINE, Shard, scan, write_scan

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


# --- in a scan -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    torch.set_num_threads(1)
    return nnunet_fixture.results_folder(tmp_path_factory.mktemp("nnUNet_results"))


@pytest.fixture(scope="module")
def model(trained, tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "tiny"
    return import_nnunet([Source(trained)], folder, model_id="tiny", licence="test").folder


def with_card(model, folder, **changes):
    shutil.copytree(model, folder)
    card = json.loads((folder / "card.json").read_text()) | changes
    (folder / "card.json").write_text(json.dumps(card))
    return folder


@pytest.mark.parametrize("profile", ["nnunet", "fast", "nnunet+body", "ts218", "paper+body"])
def test_keeping_the_softmax_changes_no_label(model, tmp_path, profile):
    zooming = {"profiles": ["nnunet", "fast", "ts218", "paper"], "spacing_mm": [2.0, 2.0, 4.0]}
    folder = with_card(model, tmp_path / "tiny", **zooming)
    data = 100 * scan(4)
    plain, keeping = (
        Segmenter.load(folder, name, device="cpu") for name in (profile, f"{profile}+softmax")
    )
    nothing = plain.predict(plain.prepare(data, AFFINE))
    kept = keeping.predict(keeping.prepare(data, AFFINE))
    labels = plain.finish(nothing)
    np.testing.assert_array_equal(keeping.finish(kept), labels)
    assert nothing.softmax is None
    found = softmax_by_label(kept.softmax)
    assert set(np.unique(labels)) - {0} <= set(found)
    assert all(expected > 0 and spread > 0 for expected, spread in found.values())


def test_ratios_of_a_scan_are_those_of_nnunets_own_logits(trained, model):
    """nnU-Net's predictor on its own preprocessing, softmax in double precision."""
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
    from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor

    data, affine = scan(3), np.diag([2.5, 2.0, 5.0, 1.0])
    predictor = nnUNetPredictor(use_mirroring=False, device=torch.device("cpu"), allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(str(trained), (0,))
    image, _, _ = DefaultPreprocessor(verbose=False).run_case_npy(
        data.transpose(2, 1, 0)[None],
        None,
        {"spacing": [5.0, 2.0, 2.5]},
        predictor.plans_manager,
        predictor.configuration_manager,
        predictor.dataset_json,
    )
    theirs = predictor.predict_logits_from_preprocessed_data(torch.from_numpy(np.asarray(image)))
    share = softmax_in_double(theirs.double().numpy().reshape(len(theirs), -1), axis=0)
    counts = np.bincount(share.argmax(0), minlength=len(share))
    segmenter = Segmenter.load(model, "nnunet+softmax", device="cpu")
    found = softmax_by_label(segmenter.predict(segmenter.prepare(data, affine)).softmax)
    assert sorted(found) == [label for label in (1, 2, 3) if counts[label]]
    for label, (expected, spread) in found.items():
        p = share[label]
        assert expected == pytest.approx(p.sum() / counts[label], rel=2e-3)
        assert spread == pytest.approx((p * (1 - p)).sum() / counts[label], rel=2e-3)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    found = {f"s{n}": folder / f"s{n}.nii.gz" for n in range(3)}
    for n, path in enumerate(found.values()):
        write_scan(path, scan(n), AFFINE)
    return found


@pytest.fixture
def shard(model, images, tmp_path):
    return Shard(tmp_path / "results", model, images)


def receipts(shard):
    return {
        path.stem: json.loads(path.read_text())
        for path in shard.folder.glob("*.json")
        if not path.name.endswith(".started.json")
    }


def test_switching_it_on_segments_once_more_and_switching_it_off_does_not(shard):
    run_shard(**shard.arguments(), device="cpu")
    without, labels = receipts(shard), shard.label_maps()
    assert shard.table()["softmax_labels"].isna().all()
    run_shard(**shard.arguments(), device="cpu", profile="nnunet+softmax")
    kept = receipts(shard)
    assert shard.label_maps() == labels
    for scan_id, receipt in kept.items():
        assert receipt["started_utc"] > without[scan_id]["started_utc"]
        assert receipt["segmentation_key"] == without[scan_id]["segmentation_key"]
        row = shard.table().loc[scan_id]
        assert row["expected_ratio"].tolist() == receipt["expected_ratio"]
    run_shard(**shard.arguments(), device="cpu", profile="nnunet+softmax")
    run_shard(**shard.arguments(), device="cpu")
    assert receipts(shard) == kept
    assert shard.table()["spread_ratio"].notna().all()


def test_volumes_of_a_shard_get_intervals_from_receipt_to_table(shard, model, tmp_path):
    run_shard(**shard.arguments(), device="cpu", profile="nnunet+softmax")
    calibration = Calibration(EXPERT, "nnunet", {"liver": Factor(2.5, 16, 0.9412)})
    calibrated = with_card(model, tmp_path / "tiny", volume_interval=calibration.to_card())
    fast = dataclasses.replace(calibration, profile="fast").to_card()
    for_another = with_card(model, tmp_path / "fast" / "tiny", volume_interval=fast)
    tables_of = {}
    for name, folder in (("own", calibrated), ("other", for_another), ("none", model)):
        out = shard.results / "measure" / f"{name}.parquet"
        measure_shard(shard.out, shard.ingest, folder, shard.results, out)
        tables_of[name] = tables.read_table(out, schemas.VOLUMES).set_index(
            ["scan_id", "structure"]
        )
    for scan_id, row in shard.table().iterrows():
        expected, spread = softmax_by_label(row.to_dict())[1]
        liver = tables_of["own"].loc[(scan_id, "liver")]
        volume_ml = liver["volume_ml"]
        assert liver["interval"] == "calibrated 94 % on expert labels"
        assert liver["volume_expected_ml"] == pytest.approx(volume_ml * expected)
        assert liver["volume_low_ml"] == pytest.approx(max(0, volume_ml * (1 - 2.5 * spread)))
        assert liver["volume_high_ml"] == pytest.approx(volume_ml * (1 + 2.5 * spread))
        for name in ("other", "none"):
            assert tables_of[name].loc[(scan_id, "liver"), "interval"] == UNCALIBRATED
    found = tables_of["own"]["volume_ml"].notna()
    assert tables_of["own"]["interval"].notna().tolist() == found.tolist()


# --- in a table ------------------------------------------------------------------------------

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


# --- calibration -----------------------------------------------------------------------------


def cases_of(scores, structure="liver"):
    return [Case(structure, 100.0, 100.0 + 10.0 * one, 0.1) for one in scores]


def test_the_factor_is_the_conformal_quantile():
    """Of 40 scores the 39th, ceil(41 x 0.95); of 19 the greatest, ceil(20 x 0.95) = 19."""
    assert calibrate(cases_of(range(1, 41)))["liver"] == Factor(39.0, 40, 0.95)
    assert calibrate(cases_of(range(1, 20)))["liver"] == Factor(19.0, 19, 0.95)


def test_few_scans_give_the_level_they_can_tell():
    assert calibrate(cases_of(range(1, 17)))["liver"] == Factor(16.0, 16, 0.9412)
    assert calibrate(cases_of([-2.0]))["liver"] == Factor(2.0, 1, 0.5)


def test_an_error_without_any_doubt_leaves_a_structure_uncalibrated():
    sure = Case("spleen", 100.0, 90.0, 0.0)
    found = calibrate([*cases_of([1.0, 2.0]), sure])
    assert set(found) == {"liver"}


def test_intervals_cover_new_scans_as_often_as_they_say():
    """Heavy tails, spreads that vary: over 400 calibrations of 50 scans, on a new scan each."""
    rng = np.random.default_rng(1)
    covered = []
    for _ in range(400):
        spread = rng.uniform(0.02, 0.2, 51)
        true_ml = 1000 * (1 + spread * rng.standard_t(2, 51))
        cases = [Case("liver", 1000.0, *pair) for pair in zip(true_ml, spread, strict=True)]
        factor = calibrate(cases[:50])["liver"]
        one = interval(1000.0, 1.0, spread[50], factor, EXPERT)
        covered.append(max(one.low_ml, 0) <= max(true_ml[50], 0) <= one.high_ml)
    assert np.mean(covered) == pytest.approx(0.96, abs=0.025)  # 49 of 51


@pytest.fixture
def labelled(model, tmp_path):
    """Three scans whose expert draws the left kidney 0, 10 and 20 voxels smaller than the model."""
    segmenter = Segmenter.load(model, "nnunet", device="cpu")
    folder = tmp_path / "labelled"
    for n in range(3):
        write_scan(folder / "images" / f"image_{n}.nii.gz", scan(n), AFFINE)
        labels, _ = segmenter.segment(scan(n), AFFINE)
        labels.flat[np.flatnonzero(labels == 3)[: 10 * n]] = 0
        write_scan(folder / "labels" / f"label_{n}.nii.gz", labels, AFFINE)
    return folder


@pytest.mark.slow
def test_a_model_is_calibrated_on_a_labelled_folder(model, labelled, tmp_path, capsys):
    folder = with_card(model, tmp_path / "mine")
    before = json.loads((folder / "card.json").read_text())
    command = ["models", "calibrate", str(folder), "--labelled", str(labelled), "--device", "cpu"]
    assert cohortvol([*command, "--check"]) == 0
    assert json.loads((folder / "card.json").read_text()) == before
    assert "not calibrated" in capsys.readouterr().out
    assert cohortvol([*command, "--note", "3 phantoms"]) == 0
    after = json.loads((folder / "card.json").read_text())
    kept = after.pop("volume_interval")
    assert after | {"volume_interval": {}} == before
    assert (kept["source"], kept["profile"], kept["note"]) == (EXPERT, "nnunet", "3 phantoms")
    found = calibration_of_models.measured(folder, labelled, device="cpu")
    kidney = found[(found["structure"] == "kidney_left") & (found["scan"] == "2")].iloc[0]
    removed_ml = 20 * 2.0 * 4.0 * 2.5 / 1000
    assert kidney["volume_ml"] - kidney["true_ml"] == pytest.approx(removed_ml)
    q = removed_ml / (kidney["volume_ml"] * kidney["spread_ratio"])
    assert kept["structures"]["kidney_left"] == {
        "q": pytest.approx(q, abs=1e-4), "n": 3, "level": 0.75
    }  # fmt: skip
    assert cohortvol([*command, "--check"]) == 0
    out = capsys.readouterr().out
    assert "calibrated on expert labels" in out
    assert "100.00" in out


def test_simulated_scans_are_called_so_and_bring_their_own_truth(model, labelled):
    rows = [
        {"scan_id": str(n), "structure": "kidney_left", "volume_ml": 500.0, "in_view": 0.5}
        for n in range(3)
    ]
    schema = calibration_of_models.TRUTH
    tables.write_table(labelled / "truth.parquet", pd.DataFrame(rows), schema)
    found = calibration_of_models.measured(model, labelled, device="cpu")
    assert found.loc[found["structure"] == "kidney_left", "true_ml"].tolist() == [250.0] * 3
    made = calibration_of_models.calibration_of(found, labelled, "nnunet+softmax")
    assert (made.source, made.profile, made.note) == (SIMULATED, "nnunet", "3 scans")


def test_labels_of_another_map_are_joined_by_name(model, labelled):
    (labelled / "dseg.tsv").write_text("index\tname\n9\tliver\n2\tspleen\n")
    found = calibration_of_models.measured(model, labelled, device="cpu")
    assert set(found["structure"]) == {"spleen"}  # no voxel has the 9
    (labelled / "dseg.tsv").write_text("index\tname\n1\tliver_of_an_ox\n")
    with pytest.raises(ConfigError, match="names nothing that model tiny knows"):
        calibration_of_models.measured(model, labelled, device="cpu")


def test_scans_to_train_on_and_scans_without_labels_calibrate_nothing(model, labelled):
    (labelled / "labels" / "label_1.nii.gz").unlink()
    with pytest.raises(ConfigError, match=r"no label map in labels/ for image_1\.nii\.gz"):
        calibration_of_models.measured(model, labelled, device="cpu")
    (labelled / "cases.csv").write_text("case,subject,source\n")
    with pytest.raises(ConfigError, match="folder to train on"):
        calibration_of_models.measured(model, labelled, device="cpu")


# --- on a card -------------------------------------------------------------------------------


def test_the_suffix_stands_last_and_decides_about_no_label(model):
    card = load_card(model)
    for name in ("nnunet", "nnunet+body", "fast", "fast+body"):
        profile = choose_profile(card, f"{name}+softmax")
        plain = choose_profile(card, name)
        assert (profile.keeps_softmax, plain.keeps_softmax) == (True, False)
        assert (profile.crops_to_body, profile.on_device) == (plain.crops_to_body, plain.on_device)
        assert segmentation_key(card, f"{name}+softmax") == segmentation_key(card, name)
    with pytest.raises(ModelError, match=r"\+body, \+softmax or \+body\+softmax"):
        choose_profile(card, "nnunet+softmax+body")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"source": "hearsay"}, "the source 'hearsay'"),
        ({"structures": {"liver": {"q": -1.0, "n": 9, "level": 0.9}}}, "volume_interval of liver"),
        ({"structures": {"liver": {"q": 1.0, "n": 9, "level": 1.0}}}, "volume_interval of liver"),
        ({"structures": {"liver": {"q": 1.0}}}, "KeyError"),
    ],
)
def test_a_calibration_that_cannot_be_used_is_no_card(model, tmp_path, change, message):
    good = Calibration(EXPERT, "nnunet", {"liver": Factor(1.0, 9, 0.9)}).to_card()
    folder = with_card(model, tmp_path / "tiny", volume_interval=good)
    assert load_card(folder).calibration("nnunet+softmax") == Calibration.from_card(good)
    with_card(model, tmp_path / "other", volume_interval=good | change)
    with pytest.raises(ModelError, match=message):
        load_card(tmp_path / "other")


def test_the_embedded_model_is_calibrated_by_folds_that_had_not_seen_the_scans():
    """The final network saw all scans of the experts: intervals on these would be too narrow."""
    card = load_card(Path(__file__).parents[1] / "models" / "embedded-v2")
    calibration = card.calibration(card.default_profile)
    assert choose_profile(card).keeps_softmax
    assert calibration.source == OUT_OF_FOLD
    assert set(calibration.structures) == set(card.labels.values())
    assert {(factor.n, factor.level) for factor in calibration.structures.values()} == {
        (16, 0.9412)
    }

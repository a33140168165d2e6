"""How sure a volume is: ratios of a scan, intervals by a calibration, and what they are worth."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

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
)
from cohortvol.models.networks import Source, import_nnunet
from cohortvol.stages.measure import run_shard as measure_shard
from cohortvol.stages.segment import Segmenter, run_shard
from cohortvol.store import schemas, tables
from cohortvol.tools.judge import calibrate as calibration_of_models
from segment_cohort import AFFINE, Shard, scan, write_scan

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

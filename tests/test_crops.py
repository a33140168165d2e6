"""Parts that see a box around what an earlier part found: labels, absence, refusals, keys."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

import crop_steps
import nnunet_fixture
from cohortvol.anatomy import structures
from cohortvol.errors import ModelError
from cohortvol.models import catalogue
from cohortvol.models.card import card_json, load_card, segmentation_key
from cohortvol.models.networks import import_known
from cohortvol.models.weights import locate
from cohortvol.stages import measure
from cohortvol.stages.segment import Segmenter, pipeline, run_shard
from crop_steps import MARGIN_MM, OBLIQUE
from published_fixture import weights_folder
from segment_cohort import Shard, scan, write_scan


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    torch.set_num_threads(1)
    return nnunet_fixture.results_folder(tmp_path_factory.mktemp("nnUNet_results"), folds=2)


@pytest.fixture(scope="module")
def model(trained, tmp_path_factory):
    """The spleen, of which one network finds little; of another two structures in a box around."""
    return crop_steps.model_of(trained, tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def data():
    return 5 * scan(3, (34, 25, 28))


def with_card(model, folder, change):
    """A copy of a model folder with another card."""
    shutil.copytree(model, folder)
    card = json.loads((folder / "card.json").read_text())
    change(card)
    (folder / "card.json").write_text(json.dumps(card))
    return folder


@pytest.mark.slow
def test_labels_are_those_of_totalsegmentators_steps_on_a_crop(trained, model, data):
    labels, _ = Segmenter.load(model, "ts218", device="cpu").segment(data, OBLIQUE)
    expected, box = crop_steps.by_its_steps(trained, [data], OBLIQUE)
    n_inside = [ends.stop - ends.start for ends in box]
    assert sum(n < whole for n, whole in zip(n_inside, data.shape, strict=True)) >= 2
    assert 30 < (expected[..., 0] > 0).sum() < 300
    assert 0 < (expected[..., 1] > 0).sum() < data[box].size
    np.testing.assert_array_equal(labels, expected)


@pytest.fixture(scope="module")
def exact(model):
    return Segmenter.load(model, "ts218", device="cpu")


@pytest.mark.slow
def test_fast_sees_the_same_box_and_nearly_the_same_labels(model, exact, data):
    whole = np.round(data)
    expected, _ = exact.segment(whole, OBLIQUE)
    labels, _ = Segmenter.load(model, "fast", device="cpu").segment(whole, OBLIQUE)
    assert np.mean(labels[..., 0] != expected[..., 0]) < 0.002
    assert np.mean(labels[..., 1] != expected[..., 1]) < 0.01


@pytest.mark.slow
def test_where_nnunet_resamples_itself_it_is_given_the_box_as_it_is(trained, model, data):
    affine = np.diag([2.5, 2.0, 5.0, 1.0])
    labels, _ = Segmenter.load(model, "nnunet-nomirror", device="cpu").segment(data, affine)
    where = np.nonzero(labels[..., 0])
    box = tuple(
        slice(
            max(0, places.min() - int(MARGIN_MM / edge)), places.max() + 1 + int(MARGIN_MM / edge)
        )
        for places, edge in zip(where, (2.5, 2.0, 5.0), strict=True)
    )
    predictor = nnUNetPredictor(
        use_mirroring=False, device=torch.device("cpu"), allow_tqdm=False, tile_step_size=0.5
    )
    predictor.initialize_from_trained_model_folder(str(trained), (1,))
    image = np.ascontiguousarray(data[box].transpose(2, 1, 0)[None])
    there = predictor.predict_single_npy_array(image, {"spacing": [5.0, 2.0, 2.5]})
    expected = np.zeros(data.shape, np.uint8)
    expected[box] = np.array([0, 2, 0, 3])[there.transpose(2, 1, 0)]
    np.testing.assert_array_equal(labels[..., 1], expected)


@pytest.mark.slow
def test_the_box_is_of_the_whole_scan_where_the_rest_is_given_the_body(model, exact):
    """Air around a body: the box may reach into it, as it does without ``+body``."""
    data = np.random.default_rng(3).uniform(0, 20, (60, 50, 16)).astype(np.float32)
    data[22:40, 20:34, 2:14] += 500 + 10 * scan(3, (18, 14, 12))
    affine = np.diag([-5.0, 5.0, 10.0, 1.0])
    labels, _ = Segmenter.load(model, "ts218+body", device="cpu").segment(data, affine)
    found = labels[..., 0] > 0
    assert found.any()
    layers = {0: labels[..., 0].transpose(2, 1, 0)[:, :, ::-1]}  # the first axis runs to the left
    prepared = exact.prepare(data, affine)
    with torch.inference_mode():
        (crop,) = exact._crops(prepared, layers)
    whole = {1: np.zeros(layers[0].shape, np.uint8)}
    crop.put_into(whole)
    np.testing.assert_array_equal(labels[..., 1], whole[1][:, :, ::-1].transpose(2, 1, 0))


@pytest.mark.slow
def test_the_softmax_of_the_box_is_kept_too(model, exact, data):
    soft = Segmenter.load(model, "ts218+softmax", device="cpu")
    predicted = soft.predict(soft.prepare(data, OBLIQUE))
    labels, _ = exact.segment(data, OBLIQUE)
    np.testing.assert_array_equal(soft.finish(predicted), labels)
    ratios = dict(
        zip(predicted.softmax["softmax_labels"], predicted.softmax["expected_ratio"], strict=True)
    )
    assert 0.1 < ratios[1] < 10  # of the network that sees the scan
    assert 0.1 < ratios[2] < 10  # of the one that sees the box


@pytest.mark.slow
def test_without_what_the_box_is_around_nothing_is_found_in_it(model, exact, data, tmp_path):
    """In an image that the profile cuts to nothing there is no spleen: null, and no 0."""
    images = {"none": tmp_path / "none.nii.gz", "some": tmp_path / "some.nii.gz"}
    write_scan(images["none"], data / (10 * np.abs(data).max()), OBLIQUE)
    write_scan(images["some"], data, OBLIQUE)
    shard = Shard(tmp_path / "results", model, images)
    run_shard(**shard.arguments(), device="cpu", profile="ts218")
    assert not np.asarray(nib.load(shard.folder / "none_dseg.nii.gz").dataobj).any()
    out = tmp_path / "measure.parquet"
    measure.run_shard(shard.out, shard.ingest, model, shard.results, out)
    rows = measure_rows(out)
    assert set(rows.loc["none", "reason"]) == {"QC_ABSENT"}
    assert rows.loc["none", "volume_ml"].isna().all()
    assert (
        rows.loc["some"].set_index("structure").loc[["spleen", "pancreas"], "volume_ml"] > 0
    ).all()


def measure_rows(path):
    return pd.read_parquet(path).set_index("scan_id")


@pytest.mark.slow
def test_a_shard_is_gone_on_with_and_does_not_depend_on_how_many_read_ahead(
    model, exact, data, tmp_path, monkeypatch
):
    images = {f"s{n}": tmp_path / f"s{n}.nii.gz" for n in range(3)}
    for n, path in enumerate(images.values()):
        write_scan(path, 5 * scan(n + 3, (34, 25, 28)), OBLIQUE)
    shard = Shard(tmp_path / "a", model, images)
    run_shard(**shard.arguments(), device="cpu", profile="ts218")
    labels = shard.label_maps()
    expected, _ = exact.segment(5 * scan(3, (34, 25, 28)), OBLIQUE)
    np.testing.assert_array_equal(nib.load(shard.folder / "s0_dseg.nii.gz").dataobj, expected)
    (shard.folder / "s1.json").unlink()
    receipts = shard.receipts()
    run_shard(**shard.arguments(), device="cpu", profile="ts218")
    assert shard.label_maps() == labels
    assert {name: shard.receipts()[name] for name in receipts} == receipts
    ahead = Shard(tmp_path / "b", model, images)
    monkeypatch.setattr(pipeline, "workers_for", lambda _: 3)
    run_shard(**ahead.arguments(), device="cpu", profile="ts218")
    assert ahead.label_maps() == labels


@pytest.mark.slow
def test_a_roi_in_the_box_takes_what_the_box_is_around_with_it(model, exact, data):
    whole, _ = exact.segment(data, OBLIQUE)
    inside = Segmenter.load(model, "ts218", device="cpu", roi=["pancreas"])
    assert [part.name for part in inside.card.parts] == ["whole", "box"]
    assert set(inside.card.labels.values()) == {"spleen", "pancreas"}
    labels, _ = inside.segment(data, OBLIQUE)
    np.testing.assert_array_equal(labels, np.where(whole == 3, 0, whole))
    around = Segmenter.load(model, "ts218", device="cpu", roi=["spleen"])
    assert [part.name for part in around.card.parts] == ["whole"]
    labels, _ = around.segment(data, OBLIQUE)
    np.testing.assert_array_equal(labels, whole[..., 0])


def of_the_box(**changes):
    return lambda card: card["parts"][1].update(changes)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (of_the_box(crop=["liver"]), "sees a box around liver, which no part before it finds"),
        (lambda card: card["parts"].reverse(), "sees a box around spleen, which no part before"),
        (of_the_box(margin_mm=None), "part box has a crop and no margin_mm"),
        (of_the_box(margin_mm=-1), r"parts.1.margin_mm is -1; it must be a number of mm"),
        (of_the_box(spacing_mm=[1, 0, 1]), r"spacing_mm.1 is 0; it must be"),
        (of_the_box(folds=[], files={}, canary={}), "part box has a crop and no network"),
        (of_the_box(crop=[]), "part box has margin_mm or spacing_mm, and no crop"),
        (lambda card: card.update(spacing_mm=None), "to which no scan of this model is brought"),
    ],
)
def test_a_card_whose_boxes_cannot_be_found_is_refused(model, tmp_path, change, said):
    with pytest.raises(ModelError, match=said):
        load_card(with_card(model, tmp_path / "wrong", change))


def test_the_key_knows_the_box_and_cards_without_one_are_as_before(model):
    card = load_card(model)
    whole, box = card.parts
    assert not {"crop", "margin_mm", "spacing_mm"} & set(card_json(card)["parts"][0])
    assert card_json(card)["parts"][1]["crop"] == ("spleen",)
    keys = {
        segmentation_key(replace(card, parts=(whole, replace(box, **change))))
        for change in (
            {},
            {"margin_mm": 20.0},
            {"spacing_mm": None},
            {"crop": ()},
        )
    }
    assert len(keys) == 4


@pytest.mark.slow
def test_both_tasks_of_the_liver_are_found_where_totalsegmentator_keeps_them(tmp_path, monkeypatch):
    for name in ("TOTALSEG_WEIGHTS_PATH", "TOTALSEG_HOME_DIR", "COHORTVOL_WEIGHTS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    results = tmp_path / ".totalsegmentator" / "nnunet" / "results"
    models = [catalogue.find(name) for name in ("liver_segments_mr", "liver_lesions_mr")]
    for weights in {part.folders[0]: part for model in models for part in model.parts}.values():
        weights_folder(results, weights.folders[0], weights.labels, 3.0, mirror_axes=(0, 1, 2))
    segments, lesions = (
        import_known(model, locate(model, []), tmp_path / model.id) for model in models
    )
    assert [*segments.labels.values()] == ["liver", *(f"liver_segment_{n}" for n in range(1, 9))]
    assert lesions.labels == {1: "liver", 2: "liver_lesions"}
    for card in (segments, lesions):
        liver, task = card.parts
        assert liver.labels == {5: "liver"}
        assert (task.crop, task.margin_mm, task.layer, task.tile_step) == (("liver",), 20.0, 1, 0.5)
        assert (task.mirror_axes, card.default_profile) == ((), "ts218")
    assert segments.parts[1].spacing_mm == (1.1250001788139343, 1.1875, 3.0)
    assert lesions.parts[1].spacing_mm == (0.8603515625, 0.857421875, 1.0)
    for name in catalogue.find("liver_segments_mr").parts[1].structures.values():
        assert structures.load()[name].snomed_code

"""Training through nnU-Net's own stages, at a size that takes seconds."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import yaml

from cohortvol.errors import ConfigError
from cohortvol.models.card import load_card
from cohortvol.models.intervals import OUT_OF_FOLD
from cohortvol.tools.train.cases import cases_of, read_cases, split_by_subject
from cohortvol.tools.train.recipe import read_recipe

BIN = Path(sys.executable).parent
RECIPE = """
id: tiny
title: A model for tests
licence: CC0-1.0
labels: {1: liver, 2: spleen}
spacing_mm: [12.0, 12.0, 12.0]
base_features: 4
max_features: 8
planning_memory_gb: 0.2
batch_size: 2
learning_rate: 0.01
pretrain: {iterations: 50, source_weights: {simulated: 1.0}}
phases:
  - {iterations: 50, source_weights: {real: 0.7, simulated: 0.3}}
  - {iterations: 50, source_weights: {real: 1.0}}
final: {iterations: 50, source_weights: {simulated: 1.0}}
n_folds: 2
"""


def write_pairs(folder, n_real=4, n_simulated=2):
    """Two bright boxes of different grey, stored in LAS."""
    rng = np.random.default_rng(0)
    affine = np.diag([-6.0, 6.0, 8.0, 1.0])
    rows = []
    for index in range(n_real + n_simulated):
        labels = np.zeros((40, 36, 30), np.uint8)
        i, j, k = rng.integers(0, 5, 3)
        labels[4 + i : 16 + i, 8 + j : 26 + j, 6 + k : 20 + k] = 1
        labels[24 + i : 34 + i, 10 + j : 22 + j, 8 + k : 18 + k] = 2
        image = np.array([20.0, 110.0, 190.0])[labels] + rng.normal(0, 12, labels.shape)
        case = f"case_{index}"
        for kind, data in (("images", image.astype(np.int16)), ("labels", labels)):
            (folder / kind).mkdir(parents=True, exist_ok=True)
            nib.save(nib.Nifti1Image(data, affine), folder / kind / f"{case}.nii.gz")
        rows.append((case, f"s{index}", "real" if index < n_real else "simulated"))
    pd.DataFrame(rows, columns=["case", "subject", "source"]).to_csv(
        folder / "cases.csv", index=False
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    from cohortvol.tools.train import run as train

    folder = tmp_path_factory.mktemp("train")
    write_pairs(folder / "pairs")
    (folder / "recipe.yaml").write_text(RECIPE)
    for step in ("prepare", "pretrain", "0"):
        train.run(
            folder / "recipe.yaml", folder / "pairs", folder / "work", folder / "tiny", only=step
        )
    return folder


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_recipe_of_two_channels_prepares_two_images_of_each_case(tmp_path):
    from cohortvol.tools.train import run as train

    write_pairs(tmp_path / "pairs")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(RECIPE + "channels: [water, fat]\n")
    places = recipe, tmp_path / "pairs", tmp_path / "work", tmp_path / "tiny"
    with pytest.raises(ConfigError, match=r"missing images_2/case_0\.nii\.gz"):
        train.run(*places, only="prepare")
    second = tmp_path / "pairs/images_2"
    second.mkdir()
    for path in (tmp_path / "pairs/images").iterdir():
        image = nib.load(path)
        nib.save(nib.Nifti1Image(500 - np.asarray(image.dataobj), image.affine), second / path.name)
    train.run(*places, only="prepare")
    raw = next(tmp_path.glob("work/main/raw/*"))
    named = json.loads((raw / "dataset.json").read_text())["channel_names"]
    assert named == {"0": "water", "1": "fat"}
    first, other = (
        np.asarray(nib.load(raw / f"imagesTr/case_3_{n:04}.nii.gz").dataobj) for n in (0, 1)
    )
    np.testing.assert_array_equal(first + other, 500)
    plans = json.loads(next(tmp_path.glob("work/main/preprocessed/*/nnUNetPlans.json")).read_text())
    schemes = plans["configurations"]["3d_fullres"]["normalization_schemes"]
    assert schemes == ["ZScoreNormalization"] * 2


def test_a_held_out_case_of_two_channels_has_both_where_a_judge_looks_for_them(tmp_path):
    from cohortvol.tools.judge.labelled import labelled_scans
    from cohortvol.tools.train.held_out import write_case

    write_pairs(tmp_path / "pairs", n_real=1, n_simulated=1)
    second = shutil.copytree(tmp_path / "pairs/images", tmp_path / "pairs/images_2")
    (tmp_path / "recipe.yaml").write_text(RECIPE + "channels: [water, fat]\n")
    recipe = read_recipe(tmp_path / "recipe.yaml")
    case, _ = cases_of(recipe, tmp_path / "pairs").itertuples()
    card = SimpleNamespace(id="tiny", labels=recipe.labels_of("main"), channels=recipe.channels)
    write_case(recipe, card, tmp_path / "fold", case)
    images, label_map = labelled_scans(tmp_path / "fold", card)["case_0"]
    assert [path.resolve().parent for path in images] == [second.with_name("images"), second]
    assert set(np.unique(nib.load(label_map).dataobj)) == {0, 1, 2}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_training_goes_on_and_ends_in_a_model_folder_with_out_of_fold_accuracy(trained):
    from cohortvol.tools.train import run as train
    from cohortvol.tools.train.nnunet import load_checkpoint

    checkpoint = next(trained.glob("work/main/results/*/*/fold_0/checkpoint_final.pth"))
    before = checkpoint.stat().st_mtime_ns
    train.run(trained / "recipe.yaml", trained / "pairs", trained / "work", trained / "tiny")
    assert checkpoint.stat().st_mtime_ns == before
    final = next(trained.glob("work/main/results/*/*/fold_all/checkpoint_final.pth"))
    assert [load_checkpoint(path)["current_epoch"] for path in (checkpoint, final)] == [2, 3]
    card = load_card(trained / "tiny")
    assert card.labels == {1: "liver", 2: "spleen"}
    accuracy = json.loads((trained / "tiny" / "card.json").read_text())["accuracy"]["out_of_fold"]
    assert accuracy["liver"]["n"] == accuracy["spleen"]["n"] == 4
    assert accuracy["liver"]["dice_mean"] > 0.5
    calibration = card.calibration(card.default_profile)
    assert (card.default_profile, calibration.source) == ("nnunet+softmax", OUT_OF_FOLD)
    liver = calibration.structures["liver"]
    assert (liver.n, liver.level) == (4, 0.8)
    assert 0 < liver.q < 50
    check_held_out(trained)


def check_held_out(trained):
    """Each fold's network as a model, beside the cases that it has not seen."""
    from cohortvol.tools.judge.consistency import fold_folders
    from cohortvol.tools.judge.labelled import labelled_scans

    splits = json.loads(
        next(trained.glob("work/main/preprocessed/*/splits_final.json")).read_text()
    )
    folders = fold_folders(trained / "work" / "held_out")
    assert len(folders) == len(splits) == 2
    for number, (folder, split) in enumerate(zip(folders, splits, strict=True)):
        card = load_card(folder / "model")
        assert (card.id, card.labels) == (f"tiny-fold-{number}", {1: "liver", 2: "spleen"})
        scans = labelled_scans(folder, card)
        assert sorted(scans) == sorted(split["val"])
        for case, ((image,), label_map) in scans.items():
            pairs = trained / "pairs"
            assert image.samefile(pairs / "images" / f"{case}.nii.gz")
            ours, theirs = (nib.load(p) for p in (label_map, pairs / "labels" / label_map.name))
            assert (np.asarray(ours.dataobj) == np.asarray(theirs.dataobj)).all()
            assert np.allclose(ours.affine, theirs.affine)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_doubt_of_a_held_out_case_is_what_segmenting_it_keeps(trained, tmp_path):
    """The network of fold 0 as a model of its own, on the very scans that it was validated on."""
    import torch

    from cohortvol.models.networks import Source, import_nnunet
    from cohortvol.stages.segment import Segmenter

    fold = next(trained.glob("work/main/results/*/*/fold_0"))
    model = import_nnunet(
        [Source(fold.parent, folds=["0"])],
        tmp_path / "fold0",
        model_id="fold0",
        licence="test",
        orientation="RAS",
    )
    torch.set_num_threads(1)
    segmenter = Segmenter.load(model.folder, "nnunet+softmax", device="cpu")
    kept = json.loads((fold / "validation" / "softmax.json").read_text())
    assert len(kept) == 2
    for case, ratios in kept.items():
        image = nib.load(trained / "pairs" / "images" / f"{case}.nii.gz")
        data = image.get_fdata(dtype=np.float32)
        found = segmenter.predict(segmenter.prepare(data, image.affine)).softmax
        assert found["softmax_labels"] == ratios["softmax_labels"]
        for name in ("expected_ratio", "spread_ratio"):
            assert found[name] == pytest.approx(ratios[name], rel=1e-2)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_killed_training_resumes_from_its_last_epoch(trained, monkeypatch):
    from cohortvol.tools.train.folds import train_fold
    from cohortvol.tools.train.nnunet import ShortTrainer
    from cohortvol.tools.train.prepare import nnunet_folders

    epochs = []
    finish_epoch = ShortTrainer.on_epoch_end

    def killed_after_one(self):
        finish_epoch(self)
        epochs.append(self.current_epoch)
        if len(epochs) == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(ShortTrainer, "on_epoch_end", killed_after_one)
    recipe = read_recipe(trained / "recipe.yaml")
    cases = cases_of(recipe, trained / "pairs")
    (work := trained / "work" / "main" / "results").mkdir(exist_ok=True)
    for old in work.glob("*/*/fold_1/*.pth"):
        old.unlink()
    with nnunet_folders(part := trained / "work" / "main"):
        with pytest.raises(KeyboardInterrupt):
            train_fold(recipe, cases, part, "1", "cpu")
        train_fold(recipe, cases, part, "1", "cpu")
    assert epochs == [1, 2]


def test_a_checkpoint_that_is_cut_short_leaves_the_one_before(tmp_path, monkeypatch):
    import torch

    from cohortvol.tools.train.nnunet import ShortTrainer

    def fails_half_way(_self, stream):
        stream.write(b"half")
        raise KeyboardInterrupt

    kept = tmp_path / "checkpoint_latest.pth"
    torch.save({"current_epoch": 3}, kept)
    before = kept.read_bytes()
    monkeypatch.setattr(ShortTrainer.__base__, "save_checkpoint", fails_half_way)
    with pytest.raises(KeyboardInterrupt):
        ShortTrainer.save_checkpoint(ShortTrainer.__new__(ShortTrainer), str(kept))
    assert kept.read_bytes() == before


def start(trained, work, recipe, fold):
    """`cohortvol train` of one fold, in a process of its own and on one thread."""
    words = ["--recipe", recipe, "--pairs", trained / "pairs", "--work", work, "--only", fold]
    return subprocess.Popen(
        [BIN / "cohortvol", "train", "--out", work / "model", *map(str, words)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_training_killed_at_random_moments_ends_with_the_weights_of_one_that_was_not(
    trained, tmp_path
):
    import torch

    from cohortvol.tools.train.nnunet import load_checkpoint

    recipe = tmp_path / "recipe.yaml"
    settings = yaml.safe_load(RECIPE)
    settings["phases"][1]["iterations"] = 150
    recipe.write_text(yaml.safe_dump(settings))
    works = [tmp_path / "calm", tmp_path / "killed"]
    for work in works:
        for kept in ("preprocessed", "pretrain"):
            shutil.copytree(trained / "work/main" / kept, work / "main" / kept)
        shutil.copy(trained / "work/main/prepared.json", work / "main")
    calm, killed = works
    assert start(trained, calm, recipe, "1").wait() == 0
    fold = next(calm.glob("main/results/*/*/fold_1")).relative_to(calm)
    begun = (calm / fold / "schedule.json").stat().st_mtime
    lasted_s = (calm / fold / "trained.json").stat().st_mtime - begun
    chance, kills = random.Random(), 0  # noqa: S311
    while kills < 2:
        process = start(trained, killed, recipe, "1")
        while not (killed / fold / "schedule.json").is_file() and process.poll() is None:
            time.sleep(0.05)
        time.sleep(chance.uniform(0, 0.6 * lasted_s))
        process.send_signal(signal.SIGKILL)
        if process.wait() == 0:
            break  # faster than the one before: it had ended
        kills += 1
    assert start(trained, killed, recipe, "1").wait() == 0
    assert kills >= 1
    states = [load_checkpoint(work / fold / "checkpoint_final.pth") for work in works]
    assert [state["current_epoch"] for state in states] == [4, 4]
    iterations = json.loads((killed / fold / "trained.json").read_text())["iterations"]
    assert iterations == 200
    first, second = (state["network_weights"] for state in states)
    differ = [name for name in first if not torch.equal(first[name], second[name])]
    assert differ == []
    assert not list((killed / fold).glob(".*.tmp"))
    assert (killed / fold / "validation" / "summary.json").is_file()


def test_no_warped_copy_of_a_held_out_subject_is_trained_on():
    cases = pd.DataFrame(
        [(f"real_{s}", s, "real") for s in "abcdef"]
        + [(f"synth_{s}_{i}", s, "synthetic") for s in "abcdef" for i in range(3)]
        + [("sim_0", "sim_0", "simulated")],
        columns=["case", "subject", "source"],
    )
    splits = split_by_subject(cases, n_folds=3, seed=0)
    subject = cases.set_index("case")["subject"]
    held_out = []
    for split in splits:
        assert not set(subject[split["train"]]) & set(subject[split["val"]])
        assert "sim_0" in split["train"]
        held_out += split["val"]
    assert sorted(held_out) == [f"real_{s}" for s in "abcdef"]


def test_a_misspelt_recipe_setting_names_the_right_one(tmp_path):
    (tmp_path / "recipe.yaml").write_text(RECIPE.replace("iterations: 50", "iteratons: 50", 1))
    with pytest.raises(ConfigError, match="did you mean 'iterations'"):
        read_recipe(tmp_path / "recipe.yaml")


def test_pretraining_on_subjects_of_a_fold_is_refused(tmp_path):
    (tmp_path / "recipe.yaml").write_text(RECIPE.replace("{simulated: 1.0}", "{real: 1.0}", 1))
    with pytest.raises(ConfigError, match="subjects of a fold"):
        read_recipe(tmp_path / "recipe.yaml")


def test_a_fold_before_its_pretraining_names_the_missing_step(tmp_path):
    from cohortvol.tools.train.folds import train_fold

    (tmp_path / "recipe.yaml").write_text(RECIPE)
    recipe = read_recipe(tmp_path / "recipe.yaml")
    with pytest.raises(ConfigError, match="--only pretrain"):
        train_fold(recipe, pd.DataFrame(), tmp_path, "0", "cpu")


def test_a_missing_label_map_is_named(tmp_path):
    write_pairs(tmp_path)
    (tmp_path / "labels" / "case_1.nii.gz").unlink()
    with pytest.raises(ConfigError, match=r"labels/case_1\.nii\.gz"):
        read_cases(tmp_path)


def test_a_work_folder_of_before_channels_is_the_same_for_a_recipe_of_one(tmp_path):
    from cohortvol.tools.train.prepare import _content

    write_pairs(tmp_path / "pairs")
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    recipe = read_recipe(tmp_path / "recipe.yaml")
    assert "channels" not in _content(recipe, "main", cases_of(recipe, tmp_path / "pairs"))


def test_recipe_has_defaults_for_all_but_its_name_and_labels(tmp_path):
    (tmp_path / "recipe.yaml").write_text("{id: x, title: x, licence: CC0-1.0, labels: {1: liver}}")
    recipe = read_recipe(tmp_path / "recipe.yaml")
    assert (recipe.n_folds, recipe.parts) == (3, {"main": ["liver"]})

"""Training through its own workflow, to a model of two parts that segments and measures scans."""

import json
import os
import re
import shutil

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

import warm
from cohortvol.models.card import load_card
from cohortvol.store.locks import claim
from workflow_run import REPOSITORY

AFFINE = np.diag([-6.0, 6.0, 8.0, 1.0])  # mm; stored in LAS
VOXEL_ML = 0.288
RECIPE = """
id: pair
title: Boxes in MRI and CT
licence: CC0-1.0
datasets:
  mr: {folder: MR, modality: MR, labels: {1: liver, 2: spleen, 3: kidney_left}}
  ct: {folder: CT, modality: CT, labels: {7: spleen, 9: liver}, weight: 0.5}
parts:
  large: [liver, spleen]
  small: [kidney_left]
spacing_mm: [8.0, 8.0, 8.0]
base_features: 4
max_features: 8
planning_memory_gb: 0.2
learning_rate: 0.02
phases:
  - {iterations: 100, source_weights: {real: 1.0}}
n_folds: 2
"""
GREYS = {"MR": [20.0, 110.0, 190.0, 60.0], "CT": [-900.0, 60.0, 20.0, 300.0]}
INDEX = {"MR": np.array([0, 1, 2, 3], np.uint8), "CT": np.array([0, 9, 7, 0], np.uint8)}

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def boxes(seed, modality):
    """Image and its structures: 1 liver, 2 spleen, 3 left kidney."""
    rng = np.random.default_rng(seed)
    structures = np.zeros((40, 36, 30), np.uint8)
    i, j, k = rng.integers(0, 4, 3)
    structures[4 + i : 16 + i, 8 + j : 26 + j, 6 + k : 20 + k] = 1
    structures[24 + i : 34 + i, 10 + j : 22 + j, 14 + k : 24 + k] = 2
    structures[24 + i : 34 + i, 8 + j : 20 + j, 2 + k : 10 + k] = 3
    image = np.array(GREYS[modality])[structures] + rng.normal(0, 10, structures.shape)
    return image.astype(np.int16), structures


def save(path, data):
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(data, AFFINE), path)


def snakemake(*words):
    threads = {"OMP_NUM_THREADS": "1"}
    return warm.run("snakemake", "--cores", "2", *words, cwd=REPOSITORY, environment=threads)


def train(folder, *words):
    settings = [f"{name}={folder / name}" for name in ("work", "models_dir")]
    return snakemake(
        "--snakefile", "workflow/training.smk", *words,
        "--config", f"recipe={folder / 'recipe.yaml'}", "device=cpu", "threads=1", *settings,
    )  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Four people with an MRI, one of whom has a CT, and two more with a CT."""
    folder = tmp_path_factory.mktemp("training")
    for modality, people in (("MR", "abcd"), ("CT", "dxy")):
        for person in people:
            image, structures = boxes(ord(person), modality)
            save(folder / modality / "images" / f"{person}.nii.gz", image)
            save(folder / modality / "labels" / f"{person}.nii.gz", INDEX[modality][structures])
    recipe = re.sub(r"folder: (\w+)", rf"folder: {folder}/\1", RECIPE)
    (folder / "recipe.yaml").write_text(recipe)
    done = train(folder)
    assert done.returncode == 0, done.stderr[-5000:]
    return folder


def test_the_card_says_what_each_part_was_trained_on(trained):
    card = load_card(trained / "models_dir" / "pair")
    assert [part.name for part in card.parts] == ["large", "small"]
    assert card.labels == {1: "liver", 2: "spleen", 3: "kidney_left"}
    assert card.training["cases_by_modality"] == {"MR": 4, "CT": 3}
    assert card.training["subjects"] == 6
    large, small = (card.training["parts"][name] for name in ("large", "small"))
    assert (large["cases_by_modality"], large["left_out"]) == ({"MR": 4, "CT": 3}, {})
    assert small["cases_by_modality"] == {"MR": 4}
    assert small["left_out"] == {"ct": ["kidney_left"]}
    assert large["iterations"] == {"0": 100, "1": 100, "all": 100}
    assert set(large["versions"]) == {"cohortvol", "nnunetv2", "numpy", "python", "torch"}
    found = card.accuracy
    assert {name: one["n"] for name, one in found["out_of_fold"].items()} == {
        "liver": 4,
        "spleen": 4,
        "kidney_left": 4,
    }
    assert {name: one["n"] for name, one in found["out_of_fold_ct"].items()} == {
        "liver": 3,
        "spleen": 3,
    }
    assert found["out_of_fold"]["liver"]["dice_mean"] > 0.5


def test_the_trained_model_measures_scans_that_it_has_not_seen_and_is_evaluated(trained, tmp_path):
    for seed in (1, 2):
        image, structures = boxes(seed, "MR")
        save(tmp_path / "images" / f"scan{seed}.nii.gz", image)
        save(tmp_path / "labels" / f"scan{seed}.nii.gz", structures)
    words = "manifest-from-folder", tmp_path / "images", "--out", tmp_path / "scans.csv"
    done = warm.run("cohortvol", *words, cwd=REPOSITORY)
    assert done.returncode == 0
    results = tmp_path / "results"
    done = snakemake(
        results / "measure/pair/0000.parquet", "--config", f"manifest={tmp_path / 'scans.csv'}",
        f"results={results}", f"model={trained / 'models_dir' / 'pair'}",
        "segment={threads: 1, device: cpu}",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-5000:]
    table = pd.concat(map(pd.read_parquet, results.glob("measure/pair/*.parquet")))
    volumes = table.pivot(index="scan_id", columns="structure", values="volume_ml")
    for seed in (1, 2):
        structures = boxes(seed, "MR")[1]
        for index, name in enumerate(("liver", "spleen", "kidney_left"), start=1):
            true_ml = (structures == index).sum() * VOXEL_ML
            assert volumes.loc[f"scan{seed}", name] == pytest.approx(true_ml, rel=0.4)
    card = trained / "models_dir" / "pair" / "card.json"
    done = warm.run(
        "cohortvol", "evaluate", "--expert", tmp_path, "--expert-labels", card,
        "--model", f"pair={results / 'segment/pair'}", "--model-labels", f"pair={card}",
        "--out", tmp_path / "evaluation", cwd=REPOSITORY,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    pairs = pd.read_parquet(tmp_path / "evaluation" / "pairs.parquet")
    assert len(pairs) == 6
    assert pairs["dice"].between(0.6, 1).all()
    expert_ml = pairs.pivot(index="scan_id", columns="structure", values="expert_ml")
    assert expert_ml.loc["scan1", "liver"] == pytest.approx(
        (boxes(1, "MR")[1] == 1).sum() * VOXEL_ML
    )
    assert (tmp_path / "evaluation" / "index.html").exists()


def test_a_run_after_the_end_does_nothing_and_a_lost_step_is_made_up(trained):
    assert "Nothing to be done" in train(trained).stderr
    (trained / "work/pair/large/done/0.json").unlink()
    (trained / "work/pair/done/import.json").unlink()
    checkpoint = next(trained.glob("work/pair/large/results/*/*/fold_0/checkpoint_final.pth"))
    before = checkpoint.stat().st_mtime_ns
    shutil.rmtree(trained / "models_dir" / "pair")
    done = train(trained)
    assert done.returncode == 0, done.stderr[-5000:]
    assert checkpoint.stat().st_mtime_ns == before
    assert load_card(trained / "models_dir" / "pair").id == "pair"


def test_a_recipe_that_was_changed_after_training_is_not_mixed_with_it(trained, tmp_path):
    copy = shutil.copytree(trained / "work", tmp_path / "work")
    recipe = (trained / "recipe.yaml").read_text().replace("iterations: 100", "iterations: 150")
    (tmp_path / "recipe.yaml").write_text(recipe)
    done = train(tmp_path)
    assert done.returncode != 0
    assert "train_fold" not in done.stdout
    logs = "".join(path.read_text() for path in copy.glob("logs/prepare_part/*.log"))
    assert "was begun with other phases than the recipe has now" in logs


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["recipe=none.yaml"], "none.yaml: no such recipe"),
        (["recpe=x"], "no such setting; did you mean 'recipe'?"),
        ([], "recipe=FILE: name the recipe to train"),
    ],
)
def test_a_run_that_cannot_start_says_why_in_a_line(settings, message):
    done = snakemake(
        "--snakefile", "workflow/training.smk", "-n", "--config", "threads=1", *settings
    )
    assert done.returncode != 0
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_the_card_can_be_read_as_json(trained):
    card = json.loads((trained / "models_dir" / "pair" / "card.json").read_text())
    assert card["training"]["spacing_mm"] == [8.0, 8.0, 8.0]


def test_a_second_training_in_a_folder_ends_with_73(tmp_path):
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    with claim(tmp_path / "work"):
        ended = train(tmp_path)
    assert ended.returncode == 73, ended.stderr
    assert re.search(rf"process {os.getpid()} on .+ is training in this folder", ended.stderr)

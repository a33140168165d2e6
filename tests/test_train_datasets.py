"""Several datasets and parts in one recipe: what is refused, what is learnt, which folds."""

from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import yaml

from cohortvol.errors import ConfigError
from cohortvol.tools.train.cases import (
    cases_of,
    cases_of_part,
    harmonised,
    index_of_part,
    split_by_subject,
    splits_of_part,
)
from cohortvol.tools.train.recipe import Phase, read_recipe, variants_of

MODELS = Path(__file__).resolve().parents[1] / "models"
AFFINE = np.diag([2.0, 2.0, 3.0, 1.0])
NAMED = {1: "liver", 2: "spleen", 3: "kidney_left"}


def recipe(**changes):
    """Settings of a valid recipe: MRI with three structures, CT with the liver alone."""
    return {
        "id": "two",
        "title": "Two datasets",
        "licence": "CC0-1.0",
        "datasets": {
            "mr": {"folder": "mr", "modality": "MR", "labels": NAMED},
            "ct": {"folder": "ct", "modality": "CT", "labels": {5: "liver", 7: "gallbladder"}},
        },
        "parts": {"large": ["liver"], "small": ["kidney_left", "spleen"]},
        "n_folds": 2,
    } | changes


def read(folder, settings, variant=None):
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(settings, sort_keys=False))
    return read_recipe(path, variant)


def write_case(folder, case, labels, affine=AFFINE, image=None):
    for kind, data, place in (
        ("images", np.zeros(labels.shape, np.int16) if image is None else image, AFFINE),
        ("labels", labels, affine),
    ):
        (folder / kind).mkdir(parents=True, exist_ok=True)
        nib.save(nib.Nifti1Image(data, place), folder / kind / f"{case}.nii.gz")


def boxes(*indices):
    labels = np.zeros((6, 5, 4), np.uint8)
    for place, index in enumerate(indices):
        labels[place, 1:4, 1:3] = index
    return labels


def test_every_mistake_of_a_recipe_is_named_at_once(tmp_path):
    wrong = recipe(
        n_fold=2,
        spacing_mm=[1.5, 1.5],
        batch_size=0,
        phases=[{"iterations": 10, "source_weight": {"real": 1}}],
    )
    wrong["datasets"]["ct"] = {"folder": "ct", "modality": "PET", "vocabulary": "amos22"}
    wrong["datasets"]["mr"]["vocabulary"] = "amos22"
    with pytest.raises(ConfigError) as error:
        read(tmp_path, wrong)
    for text in (
        "unknown setting 'n_fold'; did you mean 'n_folds'?",
        "spacing_mm: [1.5, 1.5] must be three lengths in mm",
        "batch_size: 0 must be a whole number, 1 or more",
        "'phases.0.source_weights' is missing",
        "datasets.ct.modality: 'PET' must be MR or CT",
        "datasets.mr: give either labels or vocabulary",
    ):
        assert text in str(error.value)


def test_every_structure_that_no_dataset_labels_is_named(tmp_path):
    parts = {"large": ["lever", "liver"], "small": ["aorta"]}
    with pytest.raises(ConfigError) as error:
        read(tmp_path, recipe(parts=parts))
    assert "parts.large: no dataset labels 'lever'; did you mean 'liver'?" in str(error.value)
    assert "parts.small: no dataset labels 'aorta'" in str(error.value)


def test_a_part_that_no_dataset_labels_as_a_whole_says_what_each_lacks(tmp_path):
    with pytest.raises(ConfigError) as error:
        read(tmp_path, recipe(parts={"one": ["spleen", "gallbladder"]}))
    assert "mr lacks gallbladder" in str(error.value)
    assert "ct lacks spleen" in str(error.value)


def test_a_structure_belongs_to_one_part(tmp_path):
    with pytest.raises(ConfigError, match="liver is in two parts, a and b"):
        read(tmp_path, recipe(parts={"a": ["liver"], "b": ["spleen", "liver"]}))


def test_labels_stand_for_one_dataset_and_one_part(tmp_path):
    with pytest.raises(ConfigError, match="give it, or datasets and parts"):
        read(tmp_path, recipe(labels={1: "liver"}))


def test_a_vocabulary_is_read_from_the_label_maps(tmp_path):
    settings = recipe(parts={"main": ["kidney_right", "liver"]})
    settings["datasets"] = {"amos": {"folder": "a", "modality": "MR", "vocabulary": "amos22"}}
    labels = read(tmp_path, settings).datasets["amos"].labels
    assert (labels[1], labels[2], labels[6], len(labels)) == ("spleen", "kidney_right", "liver", 15)
    settings["datasets"]["amos"]["vocabulary"] = "amos"
    with pytest.raises(ConfigError, match="did you mean 'amos22'"):
        read(tmp_path, settings)


def test_a_variant_replaces_settings_and_names_the_model(tmp_path):
    settings = recipe(
        parts={"large": ["liver"]},
        variants={"mri": {"train_on": ["mr"]}, "both": {"spacing_mm": [3, 3, 3]}},
    )
    assert list(read(tmp_path, settings, "mri").datasets) == ["mr"]
    both = read(tmp_path, settings, "both")
    assert (both.id, both.spacing_mm, list(both.datasets)) == ("two-both", [3, 3, 3], ["mr", "ct"])
    assert variants_of(tmp_path / "recipe.yaml") == ["mri", "both"]
    with pytest.raises(ConfigError, match="choose one of its variants: mri, both"):
        read(tmp_path, settings)
    with pytest.raises(ConfigError, match="no variant 'mr'; did you mean 'mri'"):
        read(tmp_path, settings, "mr")


def test_what_a_part_leaves_to_others_is_background_in_it(tmp_path):
    settings = read(tmp_path, recipe())
    assert index_of_part(settings, "small", "mr") == {1: 0, 2: 2, 3: 1}
    assert index_of_part(settings, "large", "ct") == {5: 1, 7: 0}


def test_indices_of_a_dataset_become_those_of_the_part():
    labels = np.array([0, 5, 7, 9, 5], np.int32).reshape(5, 1, 1)
    found = harmonised(labels, {5: 2, 7: 0, 9: 2, 4: 1})
    assert found.ravel().tolist() == [0, 2, 0, 2, 2]
    assert found.dtype == np.uint8


@pytest.mark.parametrize(
    ("values", "message"),
    [([0, 1, 3, 8], r"does not name: \[3, 8\]"), ([0, 1.5], "1.5, no whole number")],
)
def test_an_index_that_is_not_named_is_refused(values, message):
    with pytest.raises(ConfigError, match=message):
        harmonised(np.array(values).reshape(-1, 1, 1), {1: 1})


@pytest.fixture
def two_datasets(tmp_path, monkeypatch):
    """MRI of s0 to s4, CT of s1, s3, c0 and c1."""
    monkeypatch.chdir(tmp_path)
    for subject in range(5):
        write_case(tmp_path / "mr", f"s{subject}", boxes(1, 2, 3))
    for subject in ("s1", "s3", "c0", "c1"):
        write_case(tmp_path / "ct", subject, boxes(5, 7))
    return tmp_path


def test_a_dataset_that_lacks_a_structure_is_left_out_of_its_part(two_datasets):
    """Its voxels would be taught as background there."""
    settings = read(two_datasets, recipe())
    cases = cases_of(settings)
    used = {
        part: sorted(cases_of_part(settings, part, cases)["case"]) for part in ("large", "small")
    }
    mri = [f"mr-s{subject}" for subject in range(5)]
    assert used == {"large": ["ct-c0", "ct-c1", "ct-s1", "ct-s3", *mri], "small": mri}


def test_the_ct_of_a_person_is_held_out_with_the_mri(two_datasets):
    cases = cases_of(read(two_datasets, recipe()))
    subject = cases.set_index("case")["subject"]
    held_out = []
    for split in split_by_subject(cases, n_folds=2, seed=0):
        assert not set(subject[split["train"]]) & set(subject[split["val"]])
        assert {name[:2] for name in split["val"]} == {"mr", "ct"}
        held_out += split["val"]
    assert sorted(held_out) == sorted(cases["case"])


def test_ct_in_training_changes_no_fold_of_the_mri(two_datasets):
    """What makes a model with CT and one without comparable."""
    cases = cases_of(read(two_datasets, recipe()))
    for seed in range(5):
        with_ct, without = (
            [
                {case for case in split["val"] if case.startswith("mr")}
                for split in split_by_subject(some, n_folds=2, seed=seed)
            ]
            for some in (cases, cases[cases["modality"] == "MR"])
        )
        assert with_ct == without


def test_every_case_that_cannot_be_trained_on_is_named(two_datasets):
    from cohortvol.tools.train.prepare import nnunet_folders, prepare

    write_case(two_datasets / "mr", "s0", boxes(1, 9))
    write_case(two_datasets / "mr", "s2", boxes(1), affine=np.diag([2.0, 2.0, 2.5, 1.0]))
    write_case(two_datasets / "ct", "c1", boxes(5), image=np.zeros((3, 5, 4), np.int16))
    (two_datasets / "ct" / "images" / "c0.nii.gz").write_bytes(b"no image")
    settings = read(two_datasets, recipe())
    with nnunet_folders(two_datasets / "work"), pytest.raises(ConfigError) as error:
        prepare(settings, "large", cases_of(settings), two_datasets / "work", 1)
    lines = str(error.value).splitlines()
    assert lines[0] == "4 of 9 cases cannot be trained on"
    for line, (case, problem) in zip(
        lines[1:],
        [
            ("mr-s0", "does not name: [9]"),
            ("mr-s2", "same shape, other place or spacing"),
            ("ct-c0", "cannot be read"),
            ("ct-c1", "(3, 5, 4) and (6, 5, 4) voxels"),
        ],
        strict=True,
    ):
        assert case in line
        assert problem in line


def test_a_source_that_no_case_has_is_named(two_datasets):
    phases = [{"iterations": 10, "source_weights": {"real": 1, "simulatd": 1}}]
    with pytest.raises(ConfigError, match="'simulatd'; the sources of the cases are real"):
        cases_of(read(two_datasets, recipe(phases=phases)))


def test_a_fold_without_a_case_to_hold_out_is_refused(two_datasets):
    settings = read(two_datasets, recipe(n_folds=6))
    with pytest.raises(ConfigError, match="part small: fold 5 has nothing to hold out"):
        splits_of_part(settings, "small", cases_of(settings))


def test_a_case_is_drawn_as_often_as_its_dataset_and_source_say():
    from cohortvol.tools.train.nnunet import ShortTrainer

    trainer = ShortTrainer.__new__(ShortTrainer)
    groups = {
        "a": ("mr", "real"),
        "b": ("mr", "real"),
        "c": ("mr", "simulated"),
        "d": ("ct", "real"),
    }
    trainer.configure(
        [Phase(50, {"real": 3.0, "simulated": 1.0})], 0.1, 2, groups, {"mr": 1.0, "ct": 2.0}
    )
    trainer.current_epoch = 0
    assert trainer._probabilities(list("abcd")) == pytest.approx([0.15, 0.15, 0.1, 0.6])


def test_pairs_go_with_a_recipe_that_names_no_dataset(two_datasets):
    with pytest.raises(ConfigError, match="leave --pairs out"):
        cases_of(read(two_datasets, recipe()), two_datasets / "mr")
    short = {"id": "x", "title": "x", "licence": "CC0-1.0", "labels": NAMED}
    with pytest.raises(ConfigError, match="with --pairs"):
        cases_of(read(two_datasets, short))
    cases = cases_of(read(two_datasets, short), two_datasets / "mr")
    assert list(cases["case"]) == [f"s{subject}" for subject in range(5)]
    assert set(cases["dataset"]) == {"main"}


@pytest.mark.parametrize("path", sorted(MODELS.glob("*.yaml")), ids=lambda path: path.name)
def test_every_recipe_here_can_be_read(path):
    for variant in variants_of(path) or [None]:
        chosen = read_recipe(path, variant)
        assert all(chosen.labels_of(part) for part in chosen.parts)


@pytest.mark.parametrize("name", ["ablation", "ablation-simulated", "ablation-sts"])
def test_the_variants_of_an_ablation_differ_in_the_data_alone(name):
    mri, both = (read_recipe(MODELS / f"{name}.yaml", variant) for variant in ("mri", "mri-ct"))
    modalities = [[one.modality for one in each.datasets.values()] for each in (mri, both)]
    assert modalities == [["MR"], ["MR", "CT"]]
    assert replace(mri, id="", datasets={}) == replace(both, id="", datasets={})


def test_the_recipe_of_the_documentation_can_be_read(tmp_path):
    page = (MODELS.parent / "docs" / "training.md").read_text(encoding="utf-8")
    _, datasets, whole = (block.split("```")[0] for block in page.split("```yaml\n"))
    (tmp_path / "recipe.yaml").write_text(whole)
    coarse = read_recipe(tmp_path / "recipe.yaml", "3mm")
    assert coarse.spacing_mm == [3.0, 3.0, 3.0]
    assert coarse.lacking("small") == {"ct": ["kidney_left"]}
    mixed = read(tmp_path, recipe(parts={"all": ["lung_left", "liver"]}) | yaml.safe_load(datasets))
    assert [one.layout for one in mixed.datasets.values()] == ["totalsegmentator"] * 2
    assert mixed.lacking("all") == {}

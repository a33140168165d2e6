"""Data sets with one file per structure: whom they let be trained on, and what their masks say."""

import json
import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

from cohortvol.anatomy.geometry import to_ras
from cohortvol.anatomy.subject_folders import MaskError, merge_masks
from cohortvol.errors import CohortvolError, ConfigError, TableError
from cohortvol.models import catalogue
from cohortvol.tools.train.cases import cases_of, cases_of_part, read_pair, split_by_subject
from cohortvol.tools.train.recipe import read_recipe
from subject_folders import AFFINE, write_meta, write_subject

MODELS = Path(__file__).resolve().parents[1] / "models"
TOTAL_MR = ("total-mr-1.5mm", "total-mr-3mm")


def box(low, high):
    mask = np.zeros((8, 7, 6), bool)
    mask[low:high, 2:5, 1:4] = True
    return mask


EMPTY = box(0, 0)
MASKS = {"liver": box(0, 3), "spleen": box(3, 5), "kidney_left": box(5, 7)}


def settings(**changes):
    """MRI of three structures; CT whose liver is in two files and which has no kidney."""
    return {
        "id": "one",
        "title": "One file per structure",
        "licence": "CC0-1.0",
        "datasets": {
            "mri": {
                "folder": "mri", "layout": "totalsegmentator", "modality": "MR",
                "labels": {name: name for name in MASKS},
            },
            "ct": {
                "folder": "ct", "layout": "totalsegmentator", "modality": "CT",
                "labels": {"liver_lobe_1": "liver", "liver_lobe_2": "liver", "spleen": "spleen"},
            },
        },
        "parts": {"large": ["spleen", "liver"], "small": ["kidney_left"]},
        "n_folds": 2,
    } | changes  # fmt: skip


def read(folder, **changes):
    (folder / "recipe.yaml").write_text(yaml.safe_dump(settings(**changes), sort_keys=False))
    return read_recipe(folder / "recipe.yaml")


@pytest.fixture
def datasets(tmp_path, monkeypatch):
    """MRI of s0 to s5, the last for testing; CT of s0 to s2, one of each part of the split."""
    monkeypatch.chdir(tmp_path)
    image = np.arange(8 * 7 * 6, dtype=np.int16).reshape(8, 7, 6)
    for number in range(6):
        write_subject(tmp_path / "mri" / f"s{number}", image, MASKS)
    write_meta(tmp_path / "mri", {f"s{n}": "test" if n == 5 else "train" for n in range(6)})
    lobes = {"liver_lobe_1": box(0, 1), "liver_lobe_2": box(1, 3), "spleen": MASKS["spleen"]}
    for number in range(3):
        write_subject(tmp_path / "ct" / f"s{number}", image, lobes, name="ct.nii.gz")
    write_meta(tmp_path / "ct", {"s0": "train", "s1": "val", "s2": "test"})
    return tmp_path


def test_nobody_whom_a_dataset_keeps_for_its_test_is_trained_on(datasets, caplog):
    caplog.set_level(logging.INFO)
    cases = cases_of(read(datasets))
    mri = [f"mri-s{number}" for number in range(5)]
    assert sorted(cases["case"]) == ["ct-s0", "ct-s1", *mri]
    assert "mri: 5 subjects to train on, 1 kept for its test, 0 left out" in caplog.text


def test_the_numbers_of_two_datasets_are_of_different_people_unless_meta_says_who(datasets):
    """Else a person of the CT's test would be nobody's, and s0 of both one person."""
    assert cases_of(read(datasets))["subject"].nunique() == 7
    people = [f"p{number}" for number in range(6)]
    write_meta(datasets / "mri", {f"s{n}": "train" for n in range(6)}, subject_id=people)
    write_meta(datasets / "ct", {"s0": "train", "s1": "val", "s2": "test"}, subject_id=people[3:])
    cases = cases_of(read(datasets))
    assert "p5" not in set(cases["subject"])  # for testing in the CT, for training in the MRI
    assert sorted(cases.loc[cases["subject"] == "p3", "case"]) == ["ct-s0", "mri-s3"]
    for split in split_by_subject(cases, n_folds=2, seed=0):
        assert ("ct-s0" in split["val"]) == ("mri-s3" in split["val"])


def test_without_a_split_nobody_is_trained_on(datasets):
    (datasets / "mri" / "meta.csv").unlink()
    with pytest.raises(ConfigError, match=r"meta\.csv: no such file(.|\n)*who is for testing"):
        cases_of(read(datasets))


def test_a_split_with_commas_is_read_too(datasets):
    (datasets / "ct" / "meta.csv").write_text("image_id,split\ns0,test\ns1,train\ns2,train\n")
    cases = cases_of(read(datasets))
    assert sorted(cases.loc[cases["dataset"] == "ct", "case"]) == ["ct-s1", "ct-s2"]


@pytest.mark.parametrize(
    ("splits", "said"),
    [
        ({"s0": "train", "s1": "Test", "s2": ""}, r"2 rows.*\n.*line 3: s1, split 'Test'"),
        ({"s0": "train", "s1": "train"}, r"1 subjects without a row in meta\.csv.*: s2"),
        ({f"s{n}": "train" for n in range(4)}, r"1 subjects in meta\.csv, but without.*: s3"),
        ({f"s{n}": "test" for n in range(3)}, "3 subjects, all for testing or left out"),
    ],
)
def test_a_split_that_leaves_somebody_open_is_refused(datasets, splits, said):
    write_meta(datasets / "ct", splits)
    with pytest.raises((ConfigError, TableError), match=said):
        cases_of(read(datasets))


def test_a_file_that_is_missing_is_not_taken_for_a_structure_that_is_absent(datasets):
    for number in range(6):
        (datasets / "mri" / f"s{number}" / "segmentations" / "spleen.nii.gz").unlink()
    (datasets / "mri" / "s2" / "segmentations" / "liver.nii.gz").unlink()
    (datasets / "ct" / "s1" / "ct.nii.gz").unlink()
    with pytest.raises(ConfigError) as error:
        cases_of(read(datasets))
    for said in (
        "all 5 subjects are without segmentations/spleen.nii.gz",
        "1 subjects without segmentations/liver.nii.gz: s2",
        "1 subjects without ct.nii.gz: s1",
    ):
        assert said in str(error.value)


def test_a_file_of_a_part_that_the_dataset_does_not_teach_may_be_missing(datasets):
    """The CT lacks kidney_left, so that its spleen is not asked for where only `small` has it."""
    for number in range(3):
        (datasets / "ct" / f"s{number}" / "segmentations" / "spleen.nii.gz").unlink()
    parts = {"large": ["liver"], "small": ["kidney_left", "spleen"]}
    recipe = read(datasets, parts=parts)
    assert "ct" not in set(cases_of_part(recipe, "small", cases_of(recipe))["dataset"])


def test_cases_to_leave_out_are_left_out_and_must_be_known(datasets):
    changed = settings()["datasets"]
    changed["mri"]["leave_out"] = ["s1", "s4"]
    (datasets / "mri" / "s4" / "segmentations" / "liver.nii.gz").unlink()  # why it is left out
    mri = [case for case in cases_of(read(datasets, datasets=changed))["case"] if "mri" in case]
    assert mri == ["mri-s0", "mri-s2", "mri-s3"]
    changed["mri"]["leave_out"] = ["s44"]
    with pytest.raises(ConfigError, match=r"mri\.leave_out: no case 's44'; did you mean 's4'"):
        cases_of(read(datasets, datasets=changed))


def test_labels_are_files_in_this_layout_and_indices_in_the_other(datasets):
    changed = settings()["datasets"]
    changed["mri"]["labels"] = {1: "liver"}
    changed["ct"] = {"folder": "ct", "modality": "CT", "labels": {"liver": "liver"}}
    with pytest.raises(ConfigError) as error:
        read(datasets, datasets=changed)
    assert "'1' must be the name of a file without .nii.gz" in str(error.value)
    assert "'liver' must be a label index, 1 to 65535" in str(error.value)


def test_masks_become_one_label_map_in_which_the_later_structure_wins(tmp_path):
    masks = {"liver": box(0, 4), "spleen": box(3, 6), "tail": box(6, 7), "kidney_left": EMPTY}
    write_subject(tmp_path / "s0", np.zeros((8, 7, 6), np.int16), masks)
    merged = merge_masks(
        tmp_path / "s0" / "segmentations", {"spleen": 1, "tail": 1, "liver": 2, "kidney_left": 3}
    )
    expected = np.where(masks["liver"], 2, np.where(masks["spleen"] | masks["tail"], 1, 0))
    assert np.array_equal(merged.voxels, expected)
    assert merged.n_overlapping == (masks["liver"] & masks["spleen"]).sum() == 9
    assert np.array_equal(merged.affine, AFFINE)


def test_two_masks_of_one_structure_do_not_overlap(tmp_path):
    write_subject(tmp_path / "s0", EMPTY.astype(np.int16), {"a": box(0, 4), "b": box(2, 5)})
    merged = merge_masks(tmp_path / "s0" / "segmentations", {"a": 1, "b": 1})
    assert (merged.voxels.sum(), merged.n_overlapping) == (box(0, 5).sum(), 0)


def test_what_is_no_mask_or_on_another_grid_is_refused(tmp_path):
    image = EMPTY.astype(np.int16)
    write_subject(tmp_path / "s0", image, {"a": box(0, 4), "b": 2 * box(2, 5) + box(0, 1)})
    write_subject(tmp_path / "s1", image, {"a": box(0, 4)})
    write_subject(tmp_path / "s2", image, {"b": box(0, 4)}, np.diag([3.0, 3.0, 5.0, 1.0]))
    (tmp_path / "s2" / "segmentations" / "b.nii.gz").rename(
        tmp_path / "s1" / "segmentations" / "b.nii.gz"
    )
    with pytest.raises(MaskError, match=r"b\.nii\.gz: is no mask; beside 0 it holds 1, 2"):
        merge_masks(tmp_path / "s0" / "segmentations", {"a": 1, "b": 2})
    with pytest.raises(CohortvolError, match=r"the a\.nii\.gz and the b\.nii\.gz are on different"):
        merge_masks(tmp_path / "s1" / "segmentations", {"a": 1, "b": 2})


def test_a_pair_is_the_image_with_its_masks_in_ras(datasets):
    place = datasets / "mri" / "s0"
    voxels, labels, affine, n_overlapping = read_pair(
        place / "mri.nii.gz", place / "segmentations", {"liver": 2, "spleen": 1, "kidney_left": 0}
    )
    expected = np.where(MASKS["liver"], 2, np.where(MASKS["spleen"], 1, 0))
    assert np.array_equal(labels, to_ras(expected, AFFINE)[0])
    assert np.array_equal(affine, to_ras(expected, AFFINE)[1])
    assert (voxels[0, 0, 0], n_overlapping) == (8 * 7 * 6 - 6, 0)


@pytest.mark.parametrize("name", TOTAL_MR)
def test_the_recipes_of_total_mr_have_its_structures_in_its_order(name):
    mri, both = (read_recipe(MODELS / f"{name}.yaml", variant) for variant in ("mri", "with-ct"))
    published = [structure for _, structure in catalogue.label_map("852").values()]
    assert len(published) == 50
    for structures in mri.parts.values():
        assert structures == [one for one in published if one in structures]
    assert sorted(one for part in mri.parts.values() for one in part) == sorted(published)
    assert replace(mri, id="", datasets={}) == replace(both, id="", datasets={})
    assert mri.datasets == {"mri": both.datasets["mri"]}
    spine = ["vertebrae", "intervertebral_discs"]
    assert [both.lacking(part) for part in both.parts if both.lacking(part)] == [{"ct": spine}]
    ct = both.datasets["ct"].labels
    assert {one for one in ct if ct[one] == "lung_right"} == {
        f"lung_{lobe}_lobe_right" for lobe in ("upper", "middle", "lower")
    }


@pytest.fixture(scope="module")
def cubes(tmp_path_factory):
    """MRI and CT in which each structure of the recipe at 3 mm is a cube of its own grey."""
    folder = tmp_path_factory.mktemp("cubes")
    recipe = read_recipe(MODELS / "total-mr-3mm.yaml", "with-ct")
    rng = np.random.default_rng(0)
    for name, dataset in recipe.datasets.items():
        splits = {"s0": "train", "s1": "train", "s2": "train", "s3": "val", "s4": "test"}
        for subject in splits:
            image = rng.normal(0, 5, (36, 36, 24)).astype(np.float32)
            masks = {}
            for place, file in enumerate(dataset.labels):
                i, j, k = 8 * (place % 4), 8 * (place // 4 % 4), 6 * (place // 16)
                masks[file] = np.zeros(image.shape, bool)
                masks[file][i + 1 : i + 7, j + 1 : j + 7, k + 1 : k + 6] = True
                image[masks[file]] += 20 + 4 * place
            if subject == "s1":  # nothing of the second part is in this scan
                masks |= {part: np.zeros(image.shape, bool) for part in recipe.parts["spine"]}
            write_subject(
                folder / name / subject, image, masks, AFFINE * [2, 2, 1.5, 1],
                {"MR": "mri.nii.gz", "CT": "ct.nii.gz"}[dataset.modality],
            )  # fmt: skip
        write_meta(folder / name, splits)
    return folder


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("name", "part", "n_cases"), [("total-mr-1.5mm", "spine", 4), ("total-mr-3mm", "total", 8)]
)
def test_a_recipe_of_total_mr_is_planned_and_trains(
    cubes, tmp_path, monkeypatch, caplog, name, part, n_cases
):
    """As it is shipped, but for where the data lie and how large and how long the training is."""
    from cohortvol.tools.train import run as train
    from cohortvol.tools.train.nnunet import ShortTrainer

    caplog.set_level(logging.INFO)
    shipped = yaml.safe_load((MODELS / f"{name}.yaml").read_text())
    for dataset, values in shipped["datasets"].items():
        values["folder"] = str(cubes / dataset)
    tiny = {
        "base_features": 4, "max_features": 8, "convolutions_at_full_resolution": 1,
        "planning_memory_gb": 0.3, "n_folds": 2, "spacing_mm": [9.0, 9.0, 9.0],
        "phases": [{"iterations": 4, "source_weights": {"real": 1.0}}],
    }  # fmt: skip
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(shipped | tiny, sort_keys=False))
    monkeypatch.setattr(ShortTrainer, "EPOCH_ITERATIONS", 2)
    for step in ("prepare", "0"):
        train.run(
            tmp_path / "recipe.yaml", None, tmp_path / "work", tmp_path / "model",
            only=step, part=part, variant="with-ct",
        )  # fmt: skip
    raw = next((tmp_path / "work" / part / "raw").iterdir())
    dataset = json.loads((raw / "dataset.json").read_text())
    labels = sorted(dataset["labels"], key=dataset["labels"].get)
    assert labels == ["background", *shipped["parts"][part]]
    assert dataset["numTraining"] == n_cases
    assert not list(raw.glob("*/*s4*"))  # the test subjects
    fold = next((tmp_path / "work" / part / "results").glob("*/*/fold_0"))
    assert json.loads((fold / "trained.json").read_text())["iterations"] == 4
    plans = json.loads((fold.parent / "plans.json").read_text())
    assert plans["configurations"]["3d_fullres"]["spacing"] == [9.0, 9.0, 9.0]
    held_out = {path.name.split(".")[0] for path in (fold / "validation").glob("*.nii.gz")}
    splits = next(raw.parents[1].glob("preprocessed/*/splits_final.json"))
    assert held_out == set(json.loads(splits.read_text())[0]["val"])
    teaches_background = "part spine: 1 of 4 cases hold none of its structures" in caplog.text
    assert teaches_background == (part == "spine")

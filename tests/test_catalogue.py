"""Known models: their label maps, and their weights imported from the publishers' own layout."""

from __future__ import annotations

import csv
import warnings
from urllib.error import URLError

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

import published_fixture
from cohortvol.anatomy import structures
from cohortvol.anatomy.nifti import nifti_gz
from cohortvol.cli import run
from cohortvol.errors import ModelError
from cohortvol.models import catalogue, weights
from cohortvol.models.card import choose_profile, load_card
from cohortvol.models.weights import locate
from cohortvol.stages.measure import measure_scan, read_scan
from cohortvol.stages.segment import Segmenter
from segment_cohort import AFFINE, scan

PAPER = (
    "total_mr",
    "tissue_types_mr",
    "thigh_shoulder_muscles_mr",
    "appendicular_bones_mr",
    "face_mr",
)
"""The models that make up the 80 structures of the paper."""


@pytest.fixture(scope="module")
def open_weights(tmp_path_factory):
    """A folder of weights as TotalSegmentator keeps them, without the licensed ones."""
    return written(tmp_path_factory.mktemp("open"), "total_mr")


@pytest.fixture(scope="module")
def totalsegmentator(tmp_path_factory):
    """A folder of all weights of the paper."""
    return written(tmp_path_factory.mktemp("results"), *PAPER)


def written(home, *models):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "Detected old nnU-Net plans format"
        for model in models:
            for part in catalogue.find(model).parts:
                published_fixture.weights_folder(home, part.folders[0], dict(part.labels))
    return home


def test_every_structure_of_every_label_map_is_known():
    for model in catalogue.load().values():
        for part in model.parts:
            assert set(part.structures.values()) <= set(structures.load())


def test_the_models_of_the_paper_hold_its_80_structures():
    parts = [part for model in PAPER for part in catalogue.find(model).parts]
    names = [name for part in parts for name in part.structures.values()]
    assert len(names) == len(set(names)) == 80
    assert [len(part.structures) for part in parts] == [29, 21, 3, 18, 8, 1]
    assert catalogue.find("total_mr_80").parts == tuple(parts)


def test_the_two_parts_count_on_as_the_one_part_models_do():
    parts = catalogue.find("total_mr").parts
    together = [name for part in parts for name in part.labels.values()]
    for one_part in ("total_mr_3mm", "total_mr_6mm"):
        assert together == list(catalogue.find(one_part).parts[0].labels.values())


def test_label_maps_are_those_of_the_reference(shared_data):
    reference = shared_data.parent / "reference" / "structures.tsv"
    if not reference.is_file():
        pytest.skip(f"no {reference}")
    names = {"1.2": "mrsegmentator", "global": catalogue.OUTDATED}
    with open(reference, newline="") as stream:
        rows = [
            (names.get(row["part"], row["part"]), row["label"], row["name_upstream"])
            for row in csv.DictReader(stream, delimiter="\t")
            if row["model"] not in ("chaos_mr",)
            and (row["part"] != "global" or row["model"] == "totalseg_mr_pre_2.5")
        ]
    ours = [
        (weights, str(label), upstream)
        for weights in dict.fromkeys(row[0] for row in rows)
        for label, (upstream, _) in catalogue.label_map(weights).items()
    ]
    assert sorted(ours) == sorted(rows)


def test_an_unknown_name_is_answered_with_the_nearest():
    with pytest.raises(ModelError, match="did you mean 'total_mr'"):
        catalogue.find("totalmr")


@pytest.mark.filterwarnings("ignore:Detected old nnU-Net plans")
def test_total_mr_is_imported_from_where_totalsegmentator_keeps_it(
    totalsegmentator, tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("TOTALSEG_WEIGHTS_PATH", str(totalsegmentator))
    arguments = ["models", "import", "--known", "total_mr", "--models-dir", str(tmp_path)]
    assert run(arguments) == 0
    assert "50 structures: spleen, kidney_right" in capsys.readouterr().out
    card = load_card(tmp_path / "total_mr")
    assert (card.labels[1], card.labels[30], card.labels[50]) == (
        "spleen",
        "humerus_left",
        "brain",
    )
    assert [part.name for part in card.parts] == ["850", "851"]
    assert (card.default_profile, choose_profile(card).tile_step) == ("ts218", 0.8)
    segmenter = Segmenter.load(card.folder, device="cpu", threads=1)
    labels, _ = segmenter.segment(10 * scan(1), AFFINE)
    found = set(np.unique(labels))
    assert found & set(range(1, 30))
    assert found & set(range(30, 51))


@pytest.mark.filterwarnings("ignore:Detected old nnU-Net plans")
def test_labels_that_only_helped_the_training_are_no_result(totalsegmentator, tmp_path):
    arguments = ["models", "import", str(totalsegmentator), "--known", "face_mr"]
    assert run([*arguments, "--models-dir", str(tmp_path)]) == 0
    card = load_card(tmp_path / "face_mr")
    assert dict(card.labels) == {1: "face"}
    assert card.parts[0].tile_step == 0.5
    labels, _ = Segmenter.load(card.folder, device="cpu").segment(10 * scan(1), AFFINE)
    assert set(np.unique(labels)) <= {0, 1}


@pytest.mark.filterwarnings("ignore:Detected old nnU-Net plans")
def test_weights_from_before_release_2_5_are_refused(tmp_path, capsys):
    old = {label: name for label, (name, _) in catalogue.label_map(catalogue.OUTDATED).items()}
    folder = published_fixture.weights_folder(tmp_path, "Dataset850_old", old)
    arguments = ["models", "import", str(folder), "--known", "total_mr_3mm"]
    assert run([*arguments, "--models-dir", str(tmp_path / "models")]) == 64
    told = capsys.readouterr().err
    assert "before its release 2.5.0" in told
    assert "(MOD_LABELMAP)" in told
    assert not (tmp_path / "models" / "total_mr_3mm").exists()


@pytest.mark.filterwarnings("ignore:Detected old nnU-Net plans")
def test_mrsegmentator_has_five_folds_and_wants_lps(tmp_path):
    part = catalogue.find("mrsegmentator").parts[0]
    folder = published_fixture.weights_folder(
        tmp_path, "weights", dict(part.labels), spacing_mm=3.0, folds=5
    )
    trained = next(folder.iterdir())  # MRSegmentator's folder is the trained model itself
    arguments = ["models", "import", str(trained), "--known", "mrsegmentator"]
    assert run([*arguments, "--models-dir", str(tmp_path / "models")]) == 0
    card = load_card(tmp_path / "models" / "mrsegmentator")
    assert (card.orientation, card.parts[0].folds) == ("LPS", ("0", "1", "2", "3", "4"))
    assert (card.labels[2], card.labels[12]) == ("kidney_right", "heart")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Detected old nnU-Net plans")
def test_the_80_structures_are_those_of_the_five_tasks_each_by_itself(totalsegmentator, tmp_path):
    for model in ("total_mr_80", *PAPER):
        arguments = ["models", "import", str(totalsegmentator), "--known", model]
        assert run([*arguments, "--models-dir", str(tmp_path)]) == 0
    image = 10 * scan(1)

    def segmented(model, roi=()):
        segmenter = Segmenter.load(tmp_path / model, device="cpu", roi=roi)
        return segmenter.card, segmenter.segment(image, AFFINE)[0]

    card, labels = segmented("total_mr_80")
    assert labels.shape == (*image.shape, 5)
    for layer, task in enumerate(PAPER):
        alone, expected = segmented(task)
        ours = {name: label for label, name in card.labels_by_layer[layer].items()}
        assert set(ours) == set(alone.labels.values())
        for label, name in alone.labels.items():
            np.testing.assert_array_equal(labels[..., layer] == ours[name], expected == label)
    few = ["liver", "spleen"]
    np.testing.assert_array_equal(
        segmented("total_mr_80", roi=few)[1], segmented("total_mr", roi=few)[1]
    )

    with_both = tmp_path / "labels.nii.gz"
    with_both.write_bytes(nifti_gz(labels, AFFINE))
    nib.save(nib.Nifti1Image(image, AFFINE), tmp_path / "image.nii.gz")
    layers = card.labels_by_layer
    volumes = measure_scan(read_scan(with_both, tmp_path / "image.nii.gz", len(layers)), layers)
    volumes = volumes.set_index("structure")
    for structure in ("skeletal_muscle", "iliopsoas_left", "face", "liver"):
        counted = int((labels == volumes.loc[structure, "label"]).sum())
        found = volumes.loc[structure, "n_voxels"]
        assert (0 if pd.isna(found) else found) == counted
    assert volumes["label"].dropna().is_monotonic_increasing


def test_a_known_model_is_imported_as_it_is(open_weights, tmp_path, capsys):
    arguments = ["models", "import", str(open_weights), "--known", "total_mr"]
    more = ["--licence", "mine", "--fold", "1", "--rename", "liver=spleen"]
    assert run([*arguments, *more, "--models-dir", str(tmp_path)]) == 64
    assert "--licence, --fold, --rename" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_parts_that_are_not_there_are_all_named(open_weights, tmp_path):
    with pytest.raises(ModelError, match=r"weights not found in .* \(MOD_MISSING\)") as error:
        locate(catalogue.find("total_mr"), [tmp_path])
    assert "Dataset850_" in str(error.value)
    assert "Dataset851_" in str(error.value)
    with pytest.raises(ModelError, match="asks for a licence"):
        locate(catalogue.find("tissue_types_mr"), [open_weights, tmp_path])


def test_weights_under_licence_are_not_fetched_but_the_way_to_import_them_is_told(tmp_path, capsys):
    assert run(["models", "fetch", "face_mr", "--models-dir", str(tmp_path)]) == 64
    assert "models import FOLDER --known face_mr" in capsys.readouterr().err
    assert run(["models", "fetch", "total_mr_80", "--models-dir", str(tmp_path)]) == 64
    told = capsys.readouterr().err
    assert "925, 857, 855, 856 cannot be fetched: 850 and 851 are open, each of the others" in told


def test_without_internet_the_way_by_another_machine_is_told(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(weights, "urlopen", no_internet)
    downloads = ["--downloads", str(tmp_path / "zips")]
    assert run(["models", "fetch", "total_mr", "--models-dir", str(tmp_path), *downloads]) == 75
    told = capsys.readouterr().err
    assert "There: cohortvol models fetch total_mr\n" in told
    assert f"copy its folder models/total_mr to {tmp_path}/total_mr" in told


def no_internet(*_, **__):
    raise URLError("Name or service not known")


def test_the_list_shows_what_is_here_and_what_could_be(tmp_path, capsys):
    assert run(["models", "list", "--models-dir", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert "holds no model" in shown
    assert "cohortvol models fetch total_mr\n" in shown
    assert "release: 2.5.0, 2025-01\n  licence: Apache-2.0\n  weights: open\n" in shown
    assert "licence: of TotalSegmentator's licence server\n  weights: asks for a licence\n" in shown
    assert "cohortvol models import --known face_mr\n" in shown

"""Weights as publishers' programs leave them on a machine: found, and held to what is said."""

from __future__ import annotations

import json
import shutil
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

import published_fixture
from cohortvol.cli import run
from cohortvol.errors import ModelError
from cohortvol.models import catalogue, weights
from cohortvol.models.card import choose_profile, load_card
from cohortvol.models.networks import import_known
from cohortvol.models.weights import locate
from cohortvol.store.files import sha256_of

pytestmark = pytest.mark.filterwarnings("ignore:Detected old nnU-Net plans")

VARIABLES = ("COHORTVOL_WEIGHTS", "TOTALSEG_WEIGHTS_PATH", "TOTALSEG_HOME_DIR",
             "MRSEG_WEIGHTS_PATH", "VIBESEG_WEIGHTS_PATH", "TOTALVIBE_WEIGHTS_PATH")  # fmt: skip


@pytest.fixture
def home(tmp_path, monkeypatch):
    """An account that names no weights by variables."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Trained-model folders of four known models, with random weights."""
    made = {}
    for model, folds, mirror_axes in (
        ("mrsegmentator", 5, None),
        ("mrsegmentator_body_comp", 5, (0, 1, 2)),
        ("total_mr_3mm", 1, None),
        ("vibesegmentator", 1, None),
    ):
        (part,) = catalogue.find(model).parts
        names = dict(part.labels)
        if model == "mrsegmentator_body_comp":
            names = {index: f"structure_{index}" for index in names}  # are not published
        place = published_fixture.weights_folder(
            tmp_path_factory.mktemp(model), part.folders[0], names, 3.0, folds,
            mirror_axes=mirror_axes,
        )  # fmt: skip
        (made[model],) = place.iterdir()
    return made


def put(trained: Path, place: Path, version: float | None = None) -> Path:
    shutil.copytree(trained, place)
    if version is not None:
        (place / "version.json").write_text(json.dumps({"weights_version": version}))
    return place


def imported(model: str, folder: Path) -> int:
    return run(["models", "import", "--known", model, "--models-dir", str(folder)])


def test_both_models_are_found_where_mrsegmentator_2_keeps_them(home, trained, tmp_path):
    put(trained["mrsegmentator"], home / ".mrsegmentator" / "base", 1.2)
    put(trained["mrsegmentator_body_comp"], home / ".mrsegmentator" / "body_comp", 1.0)
    for model, n_labels in (("mrsegmentator", 40), ("mrsegmentator_body_comp", 10)):
        assert imported(model, tmp_path) == 0
        card = load_card(tmp_path / model)
        assert (card.orientation, len(card.labels)) == ("LPS", n_labels)
        assert card.parts[0].folds == ("0", "1", "2", "3", "4")
    assert imported("mrsegmentator_fast", tmp_path) == 0
    card = load_card(tmp_path / "mrsegmentator_fast")
    assert card.parts[0].folds == ("0",)
    assert (choose_profile(card).tile_step, choose_profile(card).mirrors) == (0.8, False)
    assert choose_profile(card, "fast").tile_step == 0.8


def test_a_variable_may_name_the_root_or_the_weights_themselves(
    home, trained, tmp_path, monkeypatch
):
    root = tmp_path / "root"
    put(trained["mrsegmentator"], root / "base", 1.2)
    put(trained["mrsegmentator_body_comp"], root / "body_comp", 1.0)
    monkeypatch.setenv("TOTALSEG_WEIGHTS_PATH", str(tmp_path))
    for named in (root, root / "base"):
        monkeypatch.setenv("MRSEG_WEIGHTS_PATH", str(named))
        assert locate(catalogue.find("mrsegmentator"), []) == [root / "base"]
    any_name = put(trained["mrsegmentator"], tmp_path / "mine")
    monkeypatch.setenv("MRSEG_WEIGHTS_PATH", str(any_name))
    assert locate(catalogue.find("mrsegmentator"), []) == [any_name]
    assert imported("mrsegmentator", tmp_path / "models") == 0


def test_weights_are_found_beside_the_code_of_mrsegmentator_1_3(
    home, trained, tmp_path, monkeypatch
):
    package = tmp_path / "site-packages" / "mrsegmentator"
    put(trained["mrsegmentator"], package / "weights", 1.2)
    (package / "__init__.py").touch()
    monkeypatch.syspath_prepend(str(package.parent))
    assert locate(catalogue.find("mrsegmentator"), []) == [package / "weights"]
    assert imported("mrsegmentator", tmp_path / "models") == 0


def test_weights_are_found_where_totalsegmentator_and_tptbox_keep_them(
    home, trained, tmp_path, monkeypatch
):
    (part,) = catalogue.find("total_mr_3mm").parts
    folder = home / ".totalsegmentator" / "nnunet" / "results" / part.folders[0]
    put(trained["total_mr_3mm"], folder / trained["total_mr_3mm"].name)
    assert imported("total_mr_3mm", tmp_path) == 0
    results = tmp_path / "nnUNet_results"
    put(trained["vibesegmentator"], results / "Dataset100" / trained["vibesegmentator"].name)
    monkeypatch.setenv("VIBESEG_WEIGHTS_PATH", str(results))
    assert imported("vibesegmentator", tmp_path) == 0
    card = load_card(tmp_path / "vibesegmentator")
    assert len(card.labels) == 71
    assert card.parts[0].labels[21] == "urinary_bladder"
    assert 20 not in card.parts[0].labels  # unused


def test_axes_beside_the_weights_are_taken(trained, tmp_path):
    place = put(trained["vibesegmentator"], tmp_path / "Dataset100" / "t__nnUNetPlans__3d_fullres")
    dataset = json.loads((place / "dataset.json").read_text())
    known = catalogue.find("vibesegmentator")
    for said, axes in ((["L", "P", "S"], "LPS"), ("RAS", "RAS"), (["P", "I", "R"], None)):
        (place / "dataset.json").write_text(json.dumps({**dataset, "orientation": said}))
        if axes is None:
            with pytest.raises(ModelError, match="names the axes PIR"):
                import_known(known, [place], tmp_path / "none")
        else:
            assert import_known(known, [place], tmp_path / axes).orientation == axes


def test_weights_of_another_version_are_refused(home, trained, tmp_path, capsys):
    put(trained["mrsegmentator"], home / ".mrsegmentator" / "base", 1.1)
    assert imported("mrsegmentator", tmp_path) == 64
    assert "weights of version 1.1; 1.2 expected" in capsys.readouterr().err


def zipped(trained: Path, path: Path) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(trained.rglob("*")):
            archive.write(file, file.relative_to(trained))
    return path


def test_a_zip_must_be_the_one_that_was_published(trained, tmp_path, capsys):
    path = zipped(trained["mrsegmentator"], tmp_path / "weights.zip")
    arguments = ["models", "import", str(path), "--known", "mrsegmentator_fast"]
    assert run([*arguments, "--models-dir", str(tmp_path)]) == 64
    told = capsys.readouterr().err
    assert f"sha256 {sha256_of(path)} (MOD_CHECKSUM)" in told
    assert "expected dd26c1b511908a1f" in told
    assert not (tmp_path / "mrsegmentator_fast").exists()
    known = catalogue.find("mrsegmentator_fast")
    (part,) = known.parts
    known = replace(known, layers=((replace(part, sha256=sha256_of(path)),),))
    assert len(import_known(known, [path], tmp_path / "mine").labels) == 40


def test_fetch_holds_a_zip_to_the_published_checksum(tmp_path, capsys, monkeypatch):
    asked = []

    def fetched(url, _folder, sha256=None, _tell=None):
        asked.append((url, sha256))
        raise ModelError("enough")

    monkeypatch.setattr(weights, "fetch", fetched)
    here = ["--models-dir", str(tmp_path), "--downloads", str(tmp_path)]
    assert run(["models", "fetch", "mrsegmentator_body_comp", *here]) == 64
    ((url, sha256),) = asked
    assert url.startswith("https://zenodo.org/")
    assert sha256 == "3ec490f641dd1aebdd4d2f497e69f8c9f2e4060a45c7d0d69c3ea0e74daf1550"
    assert run(["models", "fetch", "mrsegmentator", *here, "--sha256", "0" * 64]) == 64
    assert "the publisher says dd26c1b5" in capsys.readouterr().err
    assert len(asked) == 1


def test_names_that_are_numbers_are_taken_by_index_and_a_contradiction_is_not(tmp_path):
    known = catalogue.find("mrsegmentator_fast")
    names = {index: str(index) for index in range(1, 41)}
    numbers = published_fixture.weights_folder(tmp_path, "weights", names)
    card = import_known(known, [numbers], tmp_path / "numbers")
    assert (card.labels[2], card.labels[12]) == ("kidney_right", "heart")
    wrong = {**names, 2: "kidney_left", 3: "kidney_right"}
    exchanged = published_fixture.weights_folder(tmp_path / "x", "weights", wrong)
    with pytest.raises(ModelError, match="MOD_LABELMAP"):
        import_known(known, [exchanged], tmp_path / "exchanged")
    few = published_fixture.weights_folder(tmp_path / "y", "weights", {1: "1", 2: "2"})
    with pytest.raises(ModelError, match="MOD_LABELMAP"):
        import_known(known, [few], tmp_path / "few")


def test_mirrored_passes_are_those_of_the_publisher(trained, tmp_path):
    known = catalogue.find("mrsegmentator_body_comp")
    card = import_known(known, [trained["mrsegmentator_body_comp"]], tmp_path / "body_comp")
    assert card.profiles == ("nnunet", "nnunet-nomirror", "fast")
    assert card.parts[0].mirror_axes == (0, 1, 2)
    assert any("subcutaneous_fat_other" in note for note in card.notes)
    (part,) = catalogue.find("body_mr").parts
    place = published_fixture.weights_folder(
        tmp_path, part.folders[0], dict(part.labels), mirror_axes=(0, 1, 2)
    )
    card = import_known(catalogue.find("body_mr"), [place], tmp_path / "body_mr")
    assert card.parts[0].mirror_axes == ()  # TotalSegmentator never mirrors
    assert (choose_profile(card).name, card.parts[0].tile_step) == ("ts218", 0.5)

"""Model folders: what a card says, what is checked of it, and the key of a segmentation."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from cohortvol.errors import ModelError
from cohortvol.models.card import card_json, choose_profile, load_card, segmentation_key
from cohortvol.models.folders import embedded, find_model, ids, list_models, verify
from cohortvol.models.inference import PROFILES
from cohortvol.models.networks import load_part
from nnunet_fixture import imported

ROOT = Path(__file__).resolve().parents[2]


def test_an_existing_model_is_never_overwritten(trained, card):
    with pytest.raises(ModelError, match="exists already"):
        imported(trained, card.folder)
    verify(card)


def test_verify_names_the_file_that_changed(card):
    path = card.folder / "parts/main/fold_1.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ModelError, match=r"\(MOD_CHECKSUM\)\n.*fold_1\.safetensors: sha256"):
        verify(card)
    path.unlink()
    with pytest.raises(ModelError, match=r"fold_1\.safetensors: cannot be read"):
        verify(card)


def test_weights_on_disk_that_are_not_finite_are_refused_at_load(card):
    path = card.folder / "parts/main/fold_0.safetensors"
    weights = load_file(path)
    next(iter(weights.values())).view(-1)[0] = float("inf")
    save_file(weights, path)
    with pytest.raises(ModelError, match=r"fold_0\.safetensors.*NaN or infinite.*\(MOD_CORRUPT\)"):
        load_part(card, card.parts[0])


def test_truncated_weights_are_refused_at_load(card):
    path = card.folder / "parts/main/fold_0.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ModelError, match=r"fold_0\.safetensors: damaged weights \(MOD_CORRUPT\)"):
        load_part(card, card.parts[0])


def test_a_card_with_labels_that_the_network_has_not_is_refused_at_load(card):
    part = dataclasses.replace(card.parts[0], labels={**card.parts[0].labels, 7: "pancreas"})
    with pytest.raises(ModelError, match=r"labels \[7\], dataset.json has not \(MOD_LABELMAP\)"):
        load_part(card, part)


def test_a_missing_model_is_answered_with_the_ones_there_are(card):
    models = card.folder.parent
    assert find_model("tiny", models) == card.folder
    assert find_model(str(card.folder), Path("elsewhere")) == card.folder
    assert list_models(models) == ["tiny"]
    assert ids(models) == ["embedded-v2", "tiny"]
    with pytest.raises(ModelError, match="did you mean 'tiny'"):
        find_model("tinny", models)
    with pytest.raises(ModelError, match=r"nowhere \(MOD_MISSING\); known: embedded-v2"):
        find_model("tiny", models / "nowhere")


def test_the_model_of_the_package_is_found_from_everywhere_but_not_before_ones_own(card):
    models = card.folder.parent
    assert find_model("embedded-v2", models) == embedded() == ROOT / "models" / "embedded-v2"
    own = card.folder.rename(models / "embedded-v2")
    assert find_model("embedded-v2", models) == own


def test_a_known_model_that_is_missing_comes_with_the_command_that_gets_it(tmp_path):
    with pytest.raises(ModelError, match="MOD_MISSING") as error:
        find_model("total_mr", tmp_path)
    lines = [line.strip() for line in str(error.value).splitlines()]
    assert f"cohortvol models fetch total_mr --models-dir {tmp_path}" in lines
    assert "bundle with it: cohortvol bundle --out DIR --model total_mr" in lines
    with pytest.raises(ModelError, match="import FOLDER --known face_mr --models-dir"):
        find_model("face_mr", tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"orientation": "PIL"}, "knows RAS, LPS"),
        ({"labels": {"1": "liver"}}, "structures the model lacks"),
        ({"labels": {"0": "a", "1": "liver", "2": "spleen", "3": "kidney_left"}}, "outside 1"),
        ({"default_profile": "quick"}, "not among its profiles"),
        ({"parts": []}, "no parts"),
        ({"parts": [{"name": "main"}]}, "not a card of this format"),
    ],
)
def test_a_card_that_contradicts_itself_is_refused(card, change, message):
    path = card.folder / "card.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(ModelError, match=message):
        load_card(card.folder)


def test_the_key_changes_with_what_decides_about_labels_and_with_nothing_else(card):
    key = segmentation_key(card, "nnunet")
    assert len(key) == 16
    assert segmentation_key(card) == key
    told_otherwise = dataclasses.replace(
        card, title="t", notes=("n",), accuracy={"dice": 1}, folder=Path("/elsewhere"), id="x"
    )
    assert segmentation_key(told_otherwise) == key
    part = card.parts[0]
    file = "parts/main/fold_0.safetensors"
    for other in (
        dataclasses.replace(part, files={**part.files, file: "0" * 64}),
        dataclasses.replace(part, folds=("0",)),
        dataclasses.replace(part, labels={1: "spleen", 2: "liver", 3: "kidney_left"}),
    ):
        assert segmentation_key(dataclasses.replace(card, parts=(other,))) != key
    assert segmentation_key(card, "nnunet", "another") != key


def test_the_embedded_model_keeps_its_key():
    """With a new key every scan is segmented again: only new weights are worth one."""
    card = load_card(Path(__file__).parents[2] / "models" / "embedded-v2")
    assert segmentation_key(card, "nnunet") == "07db8b08b64f7349"
    assert card.labels_by_layer == [dict(card.labels)]


def test_a_step_that_came_later_is_in_the_key_of_the_profile_that_takes_it_alone():
    assert PROFILES["fast"].steps["clear_rim"]
    assert "clear_rim" not in PROFILES["ts218"].steps


def test_the_key_holds_the_layer_of_a_part_and_its_own_tile_step(card):
    part = card.parts[0]
    keys = {
        segmentation_key(dataclasses.replace(card, parts=(dataclasses.replace(part, **own),)))
        for own in ({}, {"layer": 1}, {"layer": 2}, {"tile_step": 0.3})
    }
    assert len(keys) == 4


def test_a_structure_in_two_layers_or_in_none_is_refused(card):
    raw = json.loads(json.dumps(card_json(card)))

    def with_changes(**changes):
        (card.folder / "card.json").write_text(json.dumps(raw | changes))
        return load_card(card.folder)

    with pytest.raises(ModelError, match="structure liver is in 2 layers"):
        with_changes(parts=[raw["parts"][0], {**raw["parts"][0], "layer": 1}])
    with pytest.raises(ModelError, match="structure aorta is in 0 layers"):
        with_changes(labels={**raw["labels"], "9": "aorta"})


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        ({}, {"previous": "other"}, "needs other, which is no part before it"),
        ({}, {"averaged_with": ["second"]}, "needs second, which is no part before it"),
        ({}, {"averaged_with": ["main", "main"]}, "averaged with a part twice"),
        ({}, {"previous": "main", "crop": ["liver"], "margin_mm": 5}, "one of them sees a box"),
        ({"labels": {}}, {}, "part main has no labels, and no part needs it"),
        ({}, {"keep_largest": [[]]}, r"keep_largest.0 is \[\]; it must be a list of label"),
    ],
)
def test_parts_that_cannot_go_together_are_refused(card, first, second, message):
    raw = card_json(card)
    files = {
        name.replace("parts/main", "parts/second"): digest
        for name, digest in card.parts[0].files.items()
    }
    raw["parts"] = [
        {**raw["parts"][0], **first},
        {**raw["parts"][0], "name": "second", "files": files, **second},
    ]
    (card.folder / "card.json").write_text(json.dumps(raw))
    with pytest.raises(ModelError, match=message):
        load_card(card.folder)


def test_fields_of_parts_that_go_together_stand_on_no_other_card(card):
    written = (card.folder / "card.json").read_text()
    assert not {"previous", "averaged_with", "keep_largest", "crop"} & set(
        json.loads(written)["parts"][0]
    )


def test_a_profile_may_leave_out_the_air_around_the_body(card):
    profile = choose_profile(card, "nnunet+body")
    assert (profile.name, profile.tile_step, profile.crops_to_body) == ("nnunet+body", 0.5, True)
    assert choose_profile(card, "fast+body").on_device
    assert segmentation_key(card, "nnunet+body") != segmentation_key(card, "nnunet")


def test_a_profile_the_model_does_not_offer_is_refused(card):
    assert choose_profile(card).name == "nnunet"
    with pytest.raises(ModelError, match="did you mean 'nnunet'"):
        choose_profile(card, "nnuet")

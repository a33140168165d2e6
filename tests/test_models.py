"""Model folders: import from nnU-Net, cards, checks, keys."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import pickle
import shutil
import stat
import tarfile
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import nnunet_fixture
import published_fixture
from cohortvol import cli
from cohortvol.errors import ModelError
from cohortvol.models.card import card_json, choose_profile, load_card, segmentation_key
from cohortvol.models.files import local_labels, regions_of
from cohortvol.models.folders import find_model, list_models, verify
from cohortvol.models.inference import PROFILES
from cohortvol.models.networks import Source, build, import_nnunet, load_part, unpacking
from cohortvol.models.part import Part
from cohortvol.store.files import sha256_of

CHECKPOINT = "fold_0/checkpoint_final.pth"


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture
def trained(tmp_path):
    return nnunet_fixture.results_folder(tmp_path / "nnUNet_results", folds=2)


def imported(trained: Path, out: Path, **options):
    source = Source(trained, **options)
    return import_nnunet([source], out, model_id=out.name, licence="CC-BY-SA-4.0")


@pytest.fixture
def card(trained, tmp_path):
    return imported(trained, tmp_path / "models" / "tiny")


def test_an_imported_model_gives_the_logits_of_the_checkpoint(card):
    patch = torch.randn(1, 1, 16, 24, 24, generator=torch.Generator().manual_seed(7))
    original = nnunet_fixture.network(seed=99)
    original.decoder.deep_supervision = False
    original.eval()
    loaded = load_part(card, card.parts[0])
    for fold, module in enumerate(loaded.modules):
        original.load_state_dict(nnunet_fixture.network(seed=fold).state_dict())
        with torch.inference_mode():
            assert torch.equal(original(patch), module(patch))


def test_each_weight_is_stored_once_although_nnunet_names_it_several_times(card):
    stored = load_file(card.folder / "parts/main/fold_0.safetensors")
    parameters = sum(p.numel() for p in nnunet_fixture.network().parameters())
    assert sum(tensor.numel() for tensor in stored.values()) == parameters


def test_the_card_names_labels_folds_and_the_sha256_of_every_file(card):
    assert dict(card.labels) == {1: "liver", 2: "spleen", 3: "kidney_left"}
    part = card.parts[0]
    assert part.folds == ("0", "1")
    assert (part.configuration, part.trainer) == ("3d_fullres", "nnUNetTrainer")
    on_disk = {
        path.relative_to(card.folder).as_posix(): sha256_of(path)
        for path in card.folder.glob("parts/**/*")
        if path.is_file()
    }
    assert dict(part.files) == on_disk
    assert load_card(card.folder) == card
    verify(card)


def test_a_zip_gives_the_same_model_as_its_folder(trained, card, tmp_path):
    archive = Path(shutil.make_archive(str(tmp_path / "weights"), "zip", trained.parent.parent))
    from_zip = imported(archive, tmp_path / "zip" / "tiny", sha256=sha256_of(archive))
    assert from_zip.parts == card.parts
    with pytest.raises(ModelError, match="expected 0000"):
        imported(archive, tmp_path / "zip" / "other", sha256="0" * 64)


def test_names_can_be_translated_and_are_checked_against_what_is_expected(trained, tmp_path):
    expected = {1: "liver", 2: "spleen", 3: "kidney_left"}
    card = imported(
        trained, tmp_path / "a", expected_labels=expected, rename={"kidney_left": "kidney_right"}
    )
    assert card.labels[3] == "kidney_right"
    for wrong in ({3: "pancreas"}, {1: "spleen", 2: "liver"}):
        with pytest.raises(ModelError, match=r"labels expected \(MOD_LABELMAP\)"):
            imported(trained, tmp_path / "b", expected_labels={**expected, **wrong})
        assert not (tmp_path / "b").exists()


class Malicious:
    """Unpickles into a call, as a hostile checkpoint would."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


def test_a_checkpoint_that_would_run_code_is_refused_and_does_not_run(trained, tmp_path):
    marker = tmp_path / "code_ran"
    content = nnunet_fixture.checkpoint(nnunet_fixture.network())
    content["logging"] = Malicious(marker)
    torch.save(content, trained / CHECKPOINT)
    with pytest.raises(ModelError, match="more than tensors"):
        imported(trained, tmp_path / "models" / "bad", folds=["0"])
    assert not marker.exists()
    assert list_models(tmp_path / "models") == []


def broken_weights(kind: str) -> dict:
    content = nnunet_fixture.checkpoint(nnunet_fixture.network())
    weights = {name: tensor.clone() for name, tensor in content["network_weights"].items()}
    name = "decoder.seg_layers.1.weight"
    if kind == "not finite":
        weights[name][0, 0, 0, 0, 0] = float("nan")
    elif kind == "missing":
        del weights[name]
    elif kind == "unknown":
        weights["extra.weight"] = torch.zeros(1)
    elif kind == "has shape":
        weights[name] = weights[name][:2]
    elif kind == "one tensor and differ":
        weights["encoder.stages.0.0.convs.0.conv.weight"] += 1
    content["network_weights"] = weights
    return content


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("not finite", r"NaN or infinite values \(MOD_CORRUPT\)"),
        ("missing", "weights missing"),
        ("unknown", "weights unknown"),
        ("has shape", "has shape"),
        ("one tensor and differ", "one tensor and differ"),
    ],
)
def test_weights_that_do_not_fit_leave_no_model_folder(trained, tmp_path, kind, message):
    torch.save(broken_weights(kind), trained / CHECKPOINT)
    with pytest.raises(ModelError, match=message):
        imported(trained, tmp_path / "models" / "bad", folds=["0"])
    assert not list((tmp_path / "models").glob("*"))


def test_a_truncated_checkpoint_is_a_damaged_one(trained, tmp_path):
    path = trained / CHECKPOINT
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(ModelError, match=r"damaged checkpoint \(MOD_CORRUPT\)"):
        imported(trained, tmp_path / "bad", folds=["0"])


ARCHITECTURES = "dynamic_network_architectures.architectures"


@pytest.mark.parametrize(
    ("where", "value"),
    [
        (("architecture", "network_class_name"), "os.system"),
        (("architecture", "network_class_name"), f"{ARCHITECTURES}.unet.ResidualUNet"),
        (("architecture", "network_class_name"), f"{ARCHITECTURES}.residual_unet.PlainConvUNet"),
        (("architecture", "arch_kwargs", "conv_op"), "subprocess.run"),
        (("architecture", "_kw_requires_import"), ["norm_op_kwargs"]),
        (("preprocessor_name",), "SomebodysPreprocessor"),
        (("resampling_fn_data",), "np"),
        (("normalization_schemes",), ["Mystery"]),
    ],
)
def test_plans_that_name_anything_outside_the_allow_list_are_refused(where, value):
    plans = json.loads(json.dumps(nnunet_fixture.PLANS))
    place = plans["configurations"]["3d_fullres"]
    for key in where[:-1]:
        place = place[key]
    place[where[-1]] = value
    with pytest.raises(ModelError, match="not allowed"):
        build(plans, "3d_fullres", nnunet_fixture.DATASET)


def residual_plans() -> dict:
    """Plans of a residual encoder as nnU-Net writes them now."""
    plans = json.loads(json.dumps(nnunet_fixture.PLANS))
    architecture = plans["configurations"]["3d_fullres"]["architecture"]
    architecture["network_class_name"] = f"{ARCHITECTURES}.unet.ResidualEncoderUNet"
    kwargs = architecture["arch_kwargs"]
    kwargs["n_blocks_per_stage"] = kwargs.pop("n_conv_per_stage")
    return plans


@pytest.mark.parametrize(
    "plans",
    [
        residual_plans(),
        published_fixture.old_plans("Old", 2.0, {"UNet_class_name": "ResidualEncoderUNet"}),
    ],
    ids=["plans of now", "plans from before nnU-Net 2.4"],
)
@pytest.mark.filterwarnings("ignore:Detected old nnU-Net plans")
@pytest.mark.filterwarnings("error:Network class")  # nnU-Net would load every architecture it has
def test_a_residual_encoder_gives_the_logits_of_nnunets_own_network(plans, tmp_path):
    trained = nnunet_fixture.results_folder(tmp_path / "results", plans=plans)
    card = imported(trained, tmp_path / "models" / "residual")
    original = nnunet_fixture.network(0, plans)
    original.decoder.deep_supervision = False
    original.eval()
    loaded = load_part(card, card.parts[0])
    patch = torch.randn(1, 1, 16, 24, 24, generator=torch.Generator().manual_seed(7))
    with torch.inference_mode():
        assert torch.equal(original(patch), loaded.modules[0](patch))
    assert type(loaded.modules[0]).__name__ == "ResidualEncoderUNet"


REGIONS = {"background": 0, "liver": [1, 2], "tumour": 2}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": {"background": 0, "liver": [1, 2], "tumour": 2}}, "2 regions and 0 labels"),
        ({"labels": REGIONS, "regions_class_order": [3, 2]}, "writes it as 3, which is none of"),
        ({"labels": REGIONS | {"all": [0, 1]}, "regions_class_order": [1, 2, 1]}, "background in"),
        ({"labels": {"background": 0, "liver": []}}, "no label for 'liver'"),
        ({"labels": {"background": 0, "liver": 1, "spleen": 3}}, "must be 1, 2"),
        (
            {"channel_names": {"0": "in", "1": "out"}},
            "2 channels, plans.json normalization_schemes",
        ),
        ({"channel_names": {"1": "in", "2": "out"}}, "they must be 0, 1"),
        ({"channel_names": {"0": "T 1", "1": "T_1"}}, "does not tell its channels apart"),
    ],
)
def test_datasets_that_do_not_make_a_label_map_are_refused(change, message):
    with pytest.raises(ModelError, match=message):
        build(nnunet_fixture.PLANS, "3d_fullres", {**nnunet_fixture.DATASET, **change})


def test_lists_of_one_label_are_labels_as_for_nnunet():
    dataset = {"labels": {"background": 0, "liver": [1], "spleen": 2}}
    assert (regions_of(dataset), local_labels(dataset)) == ({}, {1: "liver", 2: "spleen"})


def test_regions_without_a_label_in_common_share_a_layer():
    labels = {"left": [1, 2], "all": [1, 2, 3, 4], "right": (3, 4), "cyst": [2]}
    part = Part("p", "3d", "t", ("0",), dict(enumerate(labels, 1)), {}, layer=3,
                regions=tuple(map(tuple, labels.values())))  # fmt: skip
    assert part.layer_of == {1: 3, 2: 4, 3: 3, 4: 5}
    assert replace(part, labels={4: "cyst"}).layer_of == {4: 3}


def member(name: str, mode: int = 0o644) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo("x")
    info.filename = name  # as it is: the constructor would put a backslash right
    info.external_attr = mode << 16
    return info


@pytest.mark.parametrize(
    "unsafe",
    [
        member("../plans.json"),
        member("model/../../plans.json"),
        member("/elsewhere/plans.json"),
        member("a\\b/plans.json"),
        member("model/plans.json", stat.S_IFLNK | 0o777),
        member("model/fold_0/checkpoint_final.pth", stat.S_IFLNK | 0o777),
    ],
    ids=lambda info: info.filename,
)
def test_a_zip_that_reaches_out_of_its_folder_is_refused(tmp_path, unsafe):
    archive = tmp_path / "slip.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr(unsafe, "/etc/passwd")
    with pytest.raises(ModelError, match="unsafe member"):
        imported(archive, tmp_path / "models" / "bad")
    assert {path.name for path in tmp_path.rglob("*")} == {"slip.zip"}


def zipped(trained: Path, archive: Path) -> Path:
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        for path in sorted(trained.rglob("*.*")):
            file.write(path, path.relative_to(trained.parent))
    return archive


def test_a_zip_that_would_fill_the_disk_is_refused_before_it_is_unpacked(
    trained, tmp_path, monkeypatch
):
    archive = zipped(trained, tmp_path / "bomb.zip")
    monkeypatch.setattr(unpacking, "MAX_UNZIPPED_BYTES", 1000)
    monkeypatch.setattr(zipfile.ZipFile, "open", None)
    with pytest.raises(ModelError, match="more than 1000 bytes when unzipped"):
        imported(archive, tmp_path / "bad")


def test_a_member_is_never_longer_than_the_zip_says(tmp_path):
    with pytest.raises(ModelError, match="larger than the zip says"):
        unpacking._copy_at_most(io.BytesIO(bytes(100)), io.BytesIO(), 99, tmp_path)


@pytest.mark.parametrize("share", [0.2, 0.5, 0.8])
def test_a_zip_that_came_damaged_is_told_so(trained, tmp_path, share):
    archive = zipped(trained, tmp_path / "damaged.zip")
    content = bytearray(archive.read_bytes())
    content[int(share * len(content))] ^= 0xFF
    archive.write_bytes(content)
    with pytest.raises(ModelError, match=r"damaged zip \(MOD_CORRUPT\)"):
        imported(archive, tmp_path / "bad")
    archive.write_bytes(content[: len(content) // 2])
    with pytest.raises(ModelError, match="neither a folder nor a zip"):
        imported(archive, tmp_path / "bad")


def test_a_tar_is_not_unpacked(trained, tmp_path):
    archive = tmp_path / "model.tar"
    with tarfile.open(archive, "w") as file:
        file.add(trained / "plans.json", "plans.json")
    with pytest.raises(ModelError, match="neither a folder nor a zip"):
        imported(archive, tmp_path / "bad")


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
    with pytest.raises(ModelError, match="did you mean 'tiny'"):
        find_model("tinny", models)
    with pytest.raises(ModelError, match=r"\(MOD_MISSING\); .*nowhere holds no model"):
        find_model("tiny", models / "nowhere")


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
    card = load_card(Path(__file__).parents[1] / "models" / "embedded-v2")
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


def test_a_profile_may_leave_out_the_air_around_the_body(card):
    profile = choose_profile(card, "nnunet+body")
    assert (profile.name, profile.tile_step, profile.crops_to_body) == ("nnunet+body", 0.5, True)
    assert choose_profile(card, "fast+body").on_device
    assert segmentation_key(card, "nnunet+body") != segmentation_key(card, "nnunet")


def test_a_profile_the_model_does_not_offer_is_refused(card):
    assert choose_profile(card).name == "nnunet"
    with pytest.raises(ModelError, match="did you mean 'nnunet'"):
        choose_profile(card, "nnuet")


def test_the_fixture_holds_numpy_scalars_that_a_bare_safe_load_refuses(trained):
    with pytest.raises(pickle.UnpicklingError, match="numpy"):
        torch.load(trained / CHECKPOINT, weights_only=True)


def test_folds_that_would_be_mirrored_along_other_axes_are_refused(tmp_path):
    how = {"model_id": "m", "licence": "x", "orientation": "RAS"}
    results = nnunet_fixture.results_folder(tmp_path / "trained", folds=2)
    for fold, axes in (("0", (0, 1)), ("1", (0, 1, 2))):
        path = results / f"fold_{fold}" / "checkpoint_final.pth"
        content = torch.load(path, weights_only=False)
        torch.save(content | {"inference_allowed_mirroring_axes": axes}, path)
    with pytest.raises(ModelError, match="mirroring along other axes"):
        import_nnunet([Source(results)], tmp_path / "m", **how)
    one = import_nnunet([Source(results, folds=["0"])], tmp_path / "m", **how)
    assert one.parts[0].mirror_axes == (0, 1)
    assert one.profiles == ("nnunet", "nnunet-nomirror", "fast")
    plain = import_nnunet([Source(results, folds=["0"], mirrors=False)], tmp_path / "p", **how)
    assert plain.parts[0].mirror_axes == ()
    assert segmentation_key(plain) != segmentation_key(one)
    path = results / "fold_0" / "checkpoint_final.pth"
    content = torch.load(path, weights_only=False)
    torch.save(content | {"inference_allowed_mirroring_axes": (0, 3)}, path)
    with pytest.raises(ModelError, match=r"allows mirroring along \(0, 3\)"):
        import_nnunet([Source(results, folds=["0"])], tmp_path / "q", **how)


def two_trainings(folder):
    """A 2D and a 3D training of one data set, as ``nnUNetv2_export_model_to_zip`` packs them."""
    for name in ("2d", "3d_fullres"):
        nnunet_fixture.write_results(
            folder / "Dataset001_Tiny" / f"nnUNetTrainer__nnUNetPlans__{name}",
            nnunet_fixture.PLANS, nnunet_fixture.DATASET, 1,
        )  # fmt: skip
    return folder


@pytest.mark.parametrize("is_zip", [False, True])
def test_of_several_trainings_one_is_chosen_by_name(tmp_path, is_zip, capsys):
    place = two_trainings(tmp_path / "exported")
    if is_zip:
        place = Path(shutil.make_archive(str(tmp_path / "model"), "zip", place))
    words = ["models", "import", str(place), "--id", "m", "--licence", "x", "--orientation", "RAS",
             "--models-dir", str(tmp_path / "models")]  # fmt: skip
    assert cli.run(words) == 64
    said = capsys.readouterr().err
    assert "2 trained nnU-Nets in it, need exactly one" in said
    assert "Dataset001_Tiny/nnUNetTrainer__nnUNetPlans__2d" in said
    assert "Say which with --training, such as --training 3d_fullres" in said
    assert "cohortvol-import" not in said
    assert cli.run([*words, "--training", "3d_lowres"]) == 64
    assert "0 of them '3d_lowres'" in capsys.readouterr().err
    assert cli.run([*words, "--training", "3d_fullres"]) == 0
    assert load_card(tmp_path / "models" / "m").parts[0].configuration == "3d_fullres"


def test_a_training_that_has_not_ended_names_the_option_that_takes_it(tmp_path):
    results = nnunet_fixture.results_folder(tmp_path / "trained")
    final = results / "fold_0" / "checkpoint_final.pth"
    final.rename(final.with_name("checkpoint_best.pth"))
    how = {"model_id": "m", "licence": "x", "orientation": "RAS"}
    with pytest.raises(ModelError, match=r"--checkpoint checkpoint_best\.pth takes what there is"):
        import_nnunet([Source(results)], tmp_path / "m", **how)
    card = import_nnunet([Source(results)], tmp_path / "m", **how, checkpoint="checkpoint_best.pth")
    assert card.parts[0].folds == ("0",)


def test_a_configuration_that_inherits_its_patch_is_mirrored_as_its_parent(tmp_path):
    configurations = nnunet_fixture.PLANS["configurations"]
    inherits = {"3d_bs4": {"inherits_from": "3d_fullres", "batch_size": 4}}
    plans = nnunet_fixture.PLANS | {"configurations": configurations | inherits}
    results = nnunet_fixture.results_folder(tmp_path / "trained", plans=plans)
    path = results / "fold_0" / "checkpoint_final.pth"
    content = torch.load(path, weights_only=False)
    content["init_args"]["configuration"] = "3d_bs4"
    torch.save(content | {"inference_allowed_mirroring_axes": (0, 1, 2)}, path)
    how = {"model_id": "m", "licence": "x", "orientation": "RAS"}
    card = import_nnunet([Source(results)], tmp_path / "m", **how)
    assert card.parts[0].mirror_axes == (0, 1, 2)
    verify(card)

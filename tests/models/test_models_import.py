"""Models imported from nnU-Net: the same logits, or a refusal that leaves no folder."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import nnunet_fixture
import published_fixture
from cohortvol.errors import ModelError
from cohortvol.models.card import load_card, segmentation_key
from cohortvol.models.files import local_labels, regions_of
from cohortvol.models.folders import list_models, verify
from cohortvol.models.networks import Source, build, import_nnunet, load_part
from cohortvol.models.part import Part
from cohortvol.store.files import sha256_of
from nnunet_fixture import imported

CHECKPOINT = "fold_0/checkpoint_final.pth"


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

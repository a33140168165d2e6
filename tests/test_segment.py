"""segment: labels as nnU-Net gives them, on the scan's own grid; a worker that can be killed."""

from __future__ import annotations

import errno
import json
import os
import random
import re
import shutil
import signal
import sys
import threading
import time
from itertools import permutations, product
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from scipy import ndimage

import nnunet_fixture
from cohortvol.anatomy.nifti import nifti_gz
from cohortvol.errors import ConfigError, InstallationError, ModelError, ScanError, TemporaryError
from cohortvol.models.networks import Source, devices, import_nnunet
from cohortvol.stages import measure
from cohortvol.stages.segment import Segmenter, pipeline, run_shard
from cohortvol.stages.segment.body import body_box
from cohortvol.stages.segment.images import read_image
from cohortvol.stages.segment.machine import Memory
from cohortvol.stages.segment.receipts import ShardFolder
from cohortvol.store.files import sha256_of
from segment_cohort import AFFINE, Shard, scan, write_ingest, write_scan

pytestmark = pytest.mark.slow

N_SCANS = 6


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    torch.set_num_threads(1)
    return nnunet_fixture.results_folder(tmp_path_factory.mktemp("nnUNet_results"))


@pytest.fixture(scope="module")
def model(trained, tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "tiny"
    return import_nnunet(
        [Source(trained)], folder, model_id="tiny", licence="test", orientation="RAS"
    ).folder


@pytest.fixture(scope="module")
def segmenter(model):
    return Segmenter.load(model, device="cpu", threads=1)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    found = {f"s{n}": folder / f"s{n}.nii.gz" for n in range(N_SCANS)}
    for n, path in enumerate(found.values()):
        write_scan(path, scan(n), AFFINE)
    return found


@pytest.fixture(scope="module")
def undisturbed(model, images, tmp_path_factory):
    shard = Shard(tmp_path_factory.mktemp("undisturbed"), model, images)
    run_shard(**shard.arguments(), device="cpu")
    return shard


@pytest.fixture
def shard(model, images, tmp_path):
    return Shard(tmp_path / "results", model, images)


def copy_of(finished: Shard, results: Path) -> Shard:
    shutil.copytree(finished.results, results)
    return Shard(results, finished.model, finished.images)


# --- labels


def nnunet_predictor(trained, step):
    """nnU-Net's own, started its own way."""
    predictor = nnUNetPredictor(
        use_mirroring=False, device=torch.device("cpu"), allow_tqdm=False, tile_step_size=step
    )
    predictor.initialize_from_trained_model_folder(str(trained), (0,))
    return predictor


def test_labels_are_those_of_nnunet_itself(trained, segmenter):
    """nnU-Net's own predictor, started its own way, on the same voxels in its own layout."""
    data, affine = scan(3), np.diag([2.5, 2.0, 5.0, 1.0])
    predictor = nnunet_predictor(trained, 0.5)
    expected = predictor.predict_single_npy_array(
        data.transpose(2, 1, 0)[None], {"spacing": [5.0, 2.0, 2.5]}
    )
    labels, _ = segmenter.segment(data, affine)
    assert len(np.unique(labels)) > 1
    np.testing.assert_array_equal(labels, expected.transpose(2, 1, 0))


def with_card(model, folder, **changes):
    """A copy of a model folder whose card says something else."""
    shutil.copytree(model, folder)
    card = json.loads((folder / "card.json").read_text()) | changes
    (folder / "card.json").write_text(json.dumps(card))
    return folder


OBLIQUE = nib.affines.from_matvec([[-1.9, 0.2, 0.1], [0.2, 0.3, 3.8], [0.1, -2.2, 0.3]], [3, 4, 5])


@pytest.mark.parametrize(("profile", "order", "step"), [("paper", 3, 0.5), ("ts218", 1, 0.8)])
def test_labels_are_those_of_totalsegmentators_steps(
    trained, model, tmp_path, profile, order, step
):
    """Its steps by the libraries it uses: canonical axes, zoom, int32, nnU-Net, zoom of order 0."""
    spacing = [2.0, 2.0, 4.0]
    profiles = {"profiles": ["paper", "ts218"], "default_profile": "paper", "spacing_mm": spacing}
    segmenter = Segmenter.load(with_card(model, tmp_path / "ts", **profiles), profile, device="cpu")
    data = 5 * scan(3, (34, 25, 28))
    labels, _ = segmenter.segment(data, OBLIQUE)

    canonical = nib.as_closest_canonical(nib.Nifti1Image(data.astype(float), OBLIQUE))
    zooms = np.array(canonical.header.get_zooms()) / spacing
    zoomed = ndimage.zoom(canonical.get_fdata(), zooms, order=order, mode="nearest")
    image = zoomed.astype(np.int32).transpose(2, 1, 0)[None].astype(np.float32)
    predictor = nnunet_predictor(trained, step)
    there = predictor.predict_single_npy_array(image, {"spacing": spacing[::-1]}).transpose(2, 1, 0)
    factors = np.array(canonical.shape) / there.shape
    back = ndimage.zoom(there, factors, order=0, mode="nearest")
    turn = nib.orientations.ornt_transform(
        nib.io_orientation(canonical.affine), nib.io_orientation(OBLIQUE)
    )
    assert len(np.unique(labels)) > 1
    np.testing.assert_array_equal(labels, nib.apply_orientation(back, turn))


ZOOMING = {"spacing_mm": [2.6, 2.1, 3.7], "profiles": ["ts218", "fast"], "default_profile": "fast"}


@pytest.mark.parametrize("parent", ["nnunet", "ts218"])
def test_fast_prepares_and_labels_a_scan_as_its_parent_does(model, tmp_path, parent):
    """Also where the rim of the padding is cut to 0 by the parent, so that its box is smaller."""
    folder = with_card(model, tmp_path / "ts", **ZOOMING) if parent == "ts218" else model
    slow, fast = (Segmenter.load(folder, name, device="cpu") for name in (parent, "fast"))
    data = np.zeros((36, 33, 24))
    data[4:-5, 6:-3] = 1  # fractions of it are what the parent cuts
    data[5:-6, 7:-4] = 100 * scan(3, (25, 22, 24))
    data = np.round(data)
    expected = slow.prepare(data, AFFINE)
    found = fast.prepare(data.astype(np.float32), AFFINE)
    for mine, theirs in zip(found.inputs, expected.inputs, strict=True):
        assert (mine.box, mine.shape) == (theirs.box, theirs.shape)
        assert mine.cropped < mine.shape
        np.testing.assert_allclose(mine.data, theirs.data, atol=2 / data.std())
    labels, theirs = fast.segment(data, AFFINE)[0], slow.segment(data, AFFINE)[0]
    assert len(np.unique(theirs)) > 2
    assert np.mean(labels != theirs) < 0.002


def test_fast_keeps_the_fractions_that_its_parent_cuts(model, tmp_path):
    fast = Segmenter.load(with_card(model, tmp_path / "ts", **ZOOMING), device="cpu")
    data = scan(3)
    whole, parts = (fast.prepare(values, AFFINE).inputs[0] for values in (data, data / data.max()))
    assert whole.box == parts.box
    np.testing.assert_allclose(whole.data, parts.data, atol=1e-4)


def test_a_profile_that_zooms_needs_a_spacing_on_the_card(model, tmp_path):
    folder = with_card(model, tmp_path / "ts", profiles=["ts218"], default_profile="ts218")
    with pytest.raises(ModelError, match="spacing that the card does not name"):
        Segmenter.load(folder, device="cpu")


def test_a_model_may_want_its_scans_in_lps(model, segmenter, tmp_path):
    lps = Segmenter.load(with_card(model, tmp_path / "lps", orientation="LPS"), device="cpu")
    data, affine = scan(4, (22, 20, 12)), np.diag([-2.0, -2.5, 4.0, 1.0])
    labels, _ = lps.segment(data, affine)
    as_if_ras, _ = segmenter.segment(data, np.diag([2.0, 2.5, 4.0, 1.0]))
    np.testing.assert_array_equal(labels, as_if_ras)


def test_a_label_the_card_leaves_out_is_background(model, segmenter, tmp_path):
    card = json.loads((model / "card.json").read_text())
    card["parts"][0]["labels"] = {"1": "liver", "3": "kidney_left"}
    less = with_card(
        model, tmp_path / "less", parts=card["parts"], labels={"1": "liver", "3": "kidney_left"}
    )
    labels, _ = Segmenter.load(less, device="cpu").segment(scan(3), AFFINE)
    whole, _ = segmenter.segment(scan(3), AFFINE)
    np.testing.assert_array_equal(labels, np.where(whole == 2, 0, whole))


AXES = list(permutations(range(3)))
FLIPS = list(product([1, -1], repeat=3))


@pytest.mark.parametrize(("axes", "flips"), list(zip(AXES, FLIPS[1:7], strict=True)))
def test_labels_do_not_depend_on_the_order_the_voxels_are_stored_in(segmenter, axes, flips):
    data, spacing = scan(4, (22, 20, 12)), np.array([2.0, 2.5, 4.0])
    reference, _ = segmenter.segment(data, np.diag([*spacing, 1.0]))
    affine = np.eye(4)
    affine[:3, :3] = np.diag(spacing)[:, axes] * flips
    stored = data.transpose(axes)[:: flips[0], :: flips[1], :: flips[2]]
    labels, _ = segmenter.segment(stored, affine)
    expected = reference.transpose(axes)[:: flips[0], :: flips[1], :: flips[2]]
    np.testing.assert_array_equal(labels, expected)


def test_later_parts_win_and_labels_are_the_models(model, tmp_path):
    folder = tmp_path / "two"
    shutil.copytree(model, folder)
    card = json.loads((folder / "card.json").read_text())
    first = card["parts"][0]
    shutil.copytree(folder / "parts" / "main", folder / "parts" / "second")
    second = json.loads(json.dumps(first).replace("parts/main", "parts/second"))
    second |= {"name": "second", "labels": {"1": "aorta", "2": "pancreas", "3": "kidney_left"}}
    card |= {"parts": [first, second]}
    card["labels"] = {
        "7": "liver",
        "8": "spleen",
        "3": "kidney_left",
        "300": "aorta",
        "5": "pancreas",
    }
    (folder / "card.json").write_text(json.dumps(card))
    data, affine = scan(3), np.diag([2.5, 2.0, 5.0, 1.0])
    local, _ = Segmenter.load(model, device="cpu").segment(data, affine)
    labels, _ = Segmenter.load(folder, device="cpu").segment(data, affine)
    assert labels.dtype == np.uint16
    np.testing.assert_array_equal(labels, np.array([0, 300, 5, 3])[local])


@pytest.fixture(scope="module")
def layered(model, tmp_path_factory):
    """The model twice, the second time as other structures in a layer of their own."""
    card = json.loads((model / "card.json").read_text())
    first = card["parts"][0]
    second = json.loads(json.dumps(first).replace("parts/main", "parts/second"))
    second |= {"name": "second", "layer": 1, "labels": {"1": "aorta", "2": "face"}}
    labels = card["labels"] | {"4": "face", "5": "aorta"}
    folder = tmp_path_factory.mktemp("models") / "layered"
    with_card(model, folder, parts=[first, second], labels=labels)
    shutil.copytree(model / "parts" / "main", folder / "parts" / "second")
    return folder


def test_layers_do_not_touch_each_other(layered, segmenter):
    labels, _ = Segmenter.load(layered, device="cpu").segment(scan(3), AFFINE)
    one, _ = segmenter.segment(scan(3), AFFINE)
    expected = np.stack([one, np.array([0, 5, 4, 0], np.uint8)[one]], axis=-1)
    np.testing.assert_array_equal(labels, expected)


def test_a_roi_of_one_layer_gives_a_3d_label_map(layered, segmenter):
    labels, _ = Segmenter.load(layered, device="cpu", roi=["aorta"]).segment(scan(3), AFFINE)
    one, _ = segmenter.segment(scan(3), AFFINE)
    np.testing.assert_array_equal(labels, np.array([0, 5, 0, 0])[one])


def body_in_air(shape=(60, 50, 16)):
    """A bright block in dim noise."""
    data = np.random.default_rng(3).uniform(0, 20, shape).astype(np.float32)
    data[22:40, 20:34, 2:14] += 500 + 10 * scan(3, (18, 14, 12))
    return data


def test_the_body_is_found_with_a_margin_whatever_lies_around_it():
    data = body_in_air()
    box = body_box(data, np.array([5.0, 5.0, 10.0]))
    assert [(ends.start, ends.stop) for ends in box] == [(18, 44), (16, 38), (0, 16)]
    fine = body_box(data.repeat(2, axis=0), np.array([2.5, 5.0, 10.0]))
    assert (fine[0].start, fine[0].stop) == (36, 88)


def test_the_body_alone_is_segmented_where_the_profile_says_so(model, segmenter):
    affine = np.diag([-5.0, 5.0, 10.0, 1.0])  # the first axis runs from right to left
    data = body_in_air()
    cropped = Segmenter.load(model, "nnunet+body", device="cpu")
    labels, _ = cropped.segment(data, affine)
    alone, _ = segmenter.segment(data[18:44, 16:38], affine)
    assert labels.shape == data.shape
    np.testing.assert_array_equal(labels[18:44, 16:38], alone)
    assert labels.sum() == alone.sum() > 0


def test_no_organ_lies_outside_the_body(shared_data):
    folder = shared_data / "chaos_mr_t2spir"
    for path in sorted((folder / "images").glob("*.nii.gz")):
        image = nib.load(path)
        labels = np.asarray(nib.load(_labels_of(path)).dataobj) > 0
        box = body_box(image.get_fdata(), np.array(image.header.get_zooms()))
        assert labels.any()
        assert labels[box].sum() == labels.sum(), path.name


def _labels_of(image):
    return image.parents[1] / "labels" / image.name.replace("image", "label")


def test_a_roi_runs_only_the_parts_it_needs(model, segmenter, tmp_path):
    card = json.loads((model / "card.json").read_text())
    first = card["parts"][0]
    shutil.copytree(model, tmp_path / "two")
    shutil.copytree(model / "parts" / "main", tmp_path / "two" / "parts" / "second")
    second = json.loads(json.dumps(first).replace("parts/main", "parts/second"))
    second |= {"name": "second", "labels": {"1": "aorta", "2": "pancreas", "3": "stomach"}}
    card |= {"parts": [second, first]}
    card["labels"] = dict(
        enumerate(["aorta", "pancreas", "stomach", *first["labels"].values()], start=1)
    )
    (tmp_path / "two" / "card.json").write_text(json.dumps(card))
    chosen = Segmenter.load(tmp_path / "two", device="cpu", roi=["liver", "kidney_left"])
    assert [part.name for part in chosen.card.parts] == ["main"]
    labels, _ = chosen.segment(scan(3), AFFINE)
    whole, _ = segmenter.segment(scan(3), AFFINE)
    np.testing.assert_array_equal(labels, np.array([0, 4, 0, 6])[whole])
    with pytest.raises(ConfigError, match="no structure 'livr'; did you mean 'liver'"):
        Segmenter.load(tmp_path / "two", device="cpu", roi=["livr"])


def test_out_of_gpu_memory_it_uses_less_and_gives_the_same_labels(model, segmenter, caplog):
    tight = Segmenter.load(model, device="cpu")
    gpu = torch.device("cpu:0")  # to be told from the host, torch.device("cpu")
    tight._memory = Memory(torch.device("cpu"), tiles_per_batch=4, blend_on=gpu)
    network = tight._parts[0].network
    real = network.networks[0]

    def network_of_a_small_gpu(patches):
        if len(patches) > 1 or tight._memory.blend_on == gpu:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(patches)

    network.networks = [network_of_a_small_gpu]
    labels, _ = tight.segment(scan(3), AFFINE)
    expected, _ = segmenter.segment(scan(3), AFFINE)
    np.testing.assert_array_equal(labels, expected)
    assert [record.message.rpartition(": ")[2] for record in caplog.records] == [
        "2 patches at a time now",
        "1 patches at a time now",
        "patches are added up on the host now",
    ]
    network.networks = [lambda _: (_ for _ in ()).throw(torch.OutOfMemoryError("CUDA"))]
    with pytest.raises(ScanError, match="RUN_GPU_OOM"):
        tight.segment(scan(3), AFFINE)


@pytest.mark.filterwarnings("ignore:All-NaN slice")
def test_logits_that_are_not_finite_are_an_error_and_not_background(segmenter):
    data = scan(1)
    data[3, 4, 5] = np.nan
    with pytest.raises(ScanError, match=r"SEG_NONFINITE.* [1-9]\d* of \d+ logits"):
        segmenter.segment(data, AFFINE)


def test_a_device_that_is_not_there_is_named(model):
    with pytest.raises(ConfigError, match="use auto, cpu"):
        Segmenter.load(model, device="abacus")
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match=r"torch sees 0 GPUs \(ENV_CUDA\)"):
            Segmenter.load(model, device="cuda")


NO_DRIVER, DRIVER = Path("/nowhere"), Path(__file__)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device works here")
@pytest.mark.parametrize(
    ("driver", "cuda", "why"),
    [
        (DRIVER, None, "was built without CUDA"),
        (NO_DRIVER, "12.8", "this node has no NVIDIA driver"),
        (DRIVER, "12.8", "does not see it"),
    ],
)
def test_a_job_does_not_leave_the_gpu_it_was_given_idle(model, monkeypatch, driver, cuda, why):
    monkeypatch.setattr(devices, "DRIVER", driver)
    monkeypatch.setattr(torch.version, "cuda", cuda)
    Segmenter.load(model)
    monkeypatch.setenv("SLURM_JOB_GPUS", "0")
    with pytest.raises(ConfigError, match=rf"\(ENV_CUDA\): .*{why}"):
        Segmenter.load(model)
    assert Segmenter.load(model, device="cpu").device.type == "cpu"


def test_a_cluster_of_tests_may_give_away_gpus_that_are_none(model, monkeypatch):
    monkeypatch.setattr(devices, "DRIVER", NO_DRIVER)
    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv("SLURM_JOB_GPUS", "0")
    assert Segmenter.load(model).device.type == "cpu"


def test_a_network_that_says_something_else_is_caught_before_any_scan(model, tmp_path):
    card = json.loads((model / "card.json").read_text())
    card["parts"][0]["canary"]["0"][1][0] += 1.0
    folder = with_card(model, tmp_path / "sick", parts=card["parts"])
    with pytest.raises(TemporaryError, match=r"on cpu than when it was imported \(ENV_CANARY\)"):
        Segmenter.load(folder, device="cpu")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_the_gpu_gives_nearly_the_labels_of_the_cpu(model, segmenter):
    on_gpu, _ = Segmenter.load(model, device="cuda").segment(scan(2), AFFINE)
    on_cpu, _ = segmenter.segment(scan(2), AFFINE)
    assert np.mean(on_gpu != on_cpu) < 0.01


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("profile", ["nnunet", "fast"])
def test_on_a_gpu_label_maps_do_not_depend_on_how_many_read_ahead(shard, profile):
    """What is prepared beside the network is done before the network reads it."""
    digests = []
    for workers in (0, 4):
        shutil.rmtree(shard.folder, ignore_errors=True)
        run_shard(**shard.arguments(), device="cuda", profile=profile, workers=workers)
        digests.append(shard.table()["label_map_sha256"].tolist())
    assert digests[0] == digests[1]


# --- files


def test_a_label_map_has_the_grid_of_its_scan_and_a_header_of_its_own(tmp_path):
    labels = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    path = tmp_path / "a.nii.gz"
    path.write_bytes(nifti_gz(labels, AFFINE))
    image = nib.load(path)
    np.testing.assert_array_equal(np.asarray(image.dataobj), labels)
    np.testing.assert_allclose(image.affine, AFFINE, atol=1e-5)
    assert (int(image.header["sform_code"]), int(image.header["qform_code"])) == (1, 1)
    assert image.header.get_xyzt_units()[0] == "mm"
    assert nifti_gz(labels, AFFINE) == path.read_bytes()


def test_a_sheared_grid_is_kept_by_the_sform_alone(tmp_path):
    sheared = AFFINE.copy()
    sheared[0, 1] = 0.7
    path = tmp_path / "a.nii.gz"
    path.write_bytes(nifti_gz(np.zeros((2, 3, 4), np.uint8), sheared))
    image = nib.load(path)
    assert int(image.header["qform_code"]) == 0
    np.testing.assert_allclose(image.affine, sheared, atol=1e-5)


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
def test_scans_are_read_with_their_scaling_and_one_volume_is_3d(tmp_path, name, kind):
    path = tmp_path / name
    image = kind(np.arange(24, dtype=np.int16).reshape(2, 3, 4, 1), AFFINE)
    image.header.set_slope_inter(0.5, 10)
    nib.save(image, path)
    found = read_image(path, sha256_of(path))
    expected = np.asarray(nib.load(path).dataobj)[..., 0]
    assert found.data.dtype == np.float32
    np.testing.assert_allclose(found.data, expected)
    np.testing.assert_allclose(found.affine, AFFINE)


# --- the worker


def test_every_ready_scan_gets_a_label_map_a_receipt_and_a_row(undisturbed, images):
    table = undisturbed.table()
    assert list(table.index) == sorted(images)
    assert set(table["state"]) == {"segmented"}
    for scan_id, row in table.iterrows():
        path = undisturbed.results / row["label_map"]
        assert path == undisturbed.folder / f"{scan_id}_dseg.nii.gz"
        assert sha256_of(path) == row["label_map_sha256"]
        assert row["image_sha256"] == sha256_of(images[scan_id])
        assert row["attempts"] == 1
        assert 0 < row["seconds_network"] <= row["seconds"]
        receipt = json.loads(undisturbed.receipts()[scan_id])
        assert receipt["numerics"] == {"device": "cpu", "threads": torch.get_num_threads()}
        label_map = nib.load(path)
        np.testing.assert_allclose(label_map.affine, AFFINE, atol=1e-5)
        assert label_map.shape == scan(0).shape
    assert (undisturbed.folder / "dseg.tsv").read_text() == (
        "index\tname\n1\tliver\n2\tspleen\n3\tkidney_left\n"
    )
    assert not list(undisturbed.folder.glob("*.started.json"))
    assert [path.name for path in undisturbed.folder.glob(".*")] == [".in-use"]


@pytest.fixture
def no_model_needed(monkeypatch):
    monkeypatch.setattr("cohortvol.stages.segment.infer.Segmenter.load", never)


def never(*_args, **_options):
    raise AssertionError("the model was loaded")


def test_a_second_run_loads_no_model_and_writes_no_receipt(undisturbed, tmp_path, no_model_needed):
    again = copy_of(undisturbed, tmp_path / "again")
    before, table = again.receipts(), again.out.read_bytes()
    again.out.unlink()
    assert run_shard(**again.arguments()) == {"segmented": N_SCANS}
    assert again.receipts() == before
    assert again.out.read_bytes() == table


@pytest.mark.parametrize("workers", [0, 3])
def test_label_maps_do_not_depend_on_how_many_read_ahead(undisturbed, shard, workers):
    run_shard(**shard.arguments(), device="cpu", workers=workers)
    name = "label_map_sha256"
    assert shard.table()[name].tolist() == undisturbed.table()[name].tolist()


def test_the_networks_thread_waits_for_no_mark_and_no_receipt(shard, monkeypatch):
    """On a slow disk it would wait between two scans, and the GPU with it."""
    seen = {}
    for name in ("claim", "finish"):
        step = getattr(ShardFolder, name)

        def noted(*given, name=name, step=step):
            seen[name] = threading.current_thread()
            return step(*given)

        monkeypatch.setattr(ShardFolder, name, noted)
    run_shard(**shard.arguments(), device="cpu", workers=1)
    assert set(seen) == {"claim", "finish"}
    assert threading.current_thread() not in seen.values()


def test_without_workers_everything_is_done_in_one_thread(shard, segmenter, monkeypatch):
    seen = set()
    for name in ("prepare", "predict", "finish"):
        step = getattr(Segmenter, name)

        def noted(*scan, step=step):
            seen.add(threading.current_thread())
            return step(*scan)

        monkeypatch.setattr(Segmenter, name, noted)
    run_shard(**shard.arguments(), device="cpu", workers=0)
    assert seen == {threading.current_thread()}


def test_a_model_with_layers_is_segmented_and_measured_file_by_file(
    layered, segmenter, images, tmp_path
):
    shard = Shard(tmp_path / "results", layered, {"s3": images["s3"]})
    run_shard(**shard.arguments(), device="cpu")
    label_map = nib.load(shard.folder / "s3_dseg.nii.gz")
    assert label_map.shape == (*scan(3).shape, 2)
    names = (shard.folder / "dseg.tsv").read_text().splitlines()
    assert names[0] == "index\tname\tlayer"
    assert names[3:] == ["3\tkidney_left\t0", "4\tface\t1", "5\taorta\t1"]
    measured = shard.results / "measure" / "tiny" / "0000.parquet"
    measure.run_shard(
        segment=shard.out, ingest=shard.ingest, model=layered, results=shard.results, out=measured
    )
    found = pd.read_parquet(measured).set_index("structure")["n_voxels"].fillna(0)
    labels, _ = segmenter.segment(scan(3), AFFINE)
    liver, spleen, kidney = np.bincount(labels.ravel(), minlength=4)[1:]
    order = ["liver", "spleen", "kidney_left", "face", "aorta"]
    assert found.loc[order].tolist() == [liver, spleen, kidney, spleen, liver]


def test_only_ready_scans_are_rows_and_a_shard_without_any_is_an_empty_table(
    undisturbed, tmp_path, no_model_needed
):
    again = copy_of(undisturbed, tmp_path / "again")
    write_ingest(again.ingest, again.images, s1="quarantined")
    run_shard(**again.arguments())
    assert list(again.table().index) == ["s0", "s2", "s3", "s4", "s5"]
    assert "s1" in again.receipts()
    write_ingest(again.ingest, {})
    assert run_shard(**again.arguments()) == {}
    assert len(again.table()) == 0


def spoil_label_map(shard):
    (shard.folder / "s2_dseg.nii.gz").write_bytes(b"cut")


def lose_label_map(shard):
    (shard.folder / "s2_dseg.nii.gz").unlink()


def tear_receipt(shard):
    (shard.folder / "s2.json").write_text('{"state": "segm')


def fail_receipt(shard):
    path = shard.folder / "s2.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "state": "failed"}))


@pytest.mark.parametrize("damage", [spoil_label_map, lose_label_map, tear_receipt, fail_receipt])
def test_only_the_scan_whose_receipt_does_not_stand_is_segmented_again(
    undisturbed, tmp_path, damage
):
    again = copy_of(undisturbed, tmp_path / "again")
    before, label_maps = again.receipts(), again.label_maps()
    damage(again)
    run_shard(**again.arguments(), device="cpu")
    after = again.receipts()
    assert {scan_id for scan_id in after if after[scan_id] != before[scan_id]} == {"s2"}
    assert again.label_maps() == label_maps


def test_a_changed_image_or_model_or_nothing_but_the_mtime(undisturbed, model, tmp_path):
    again = copy_of(undisturbed, tmp_path / "again")
    before = again.receipts()
    again.images = dict(again.images) | {"s0": tmp_path / "new.nii.gz"}
    write_scan(again.images["s0"], scan(77), AFFINE)
    again.images["s1"].touch()
    write_ingest(again.ingest, again.images)
    run_shard(**again.arguments(), device="cpu")
    after = again.receipts()
    assert {scan_id for scan_id in after if after[scan_id] != before[scan_id]} == {"s0"}
    other = tmp_path / "other"
    shutil.copytree(model, other)
    card = json.loads((other / "card.json").read_text())
    card["labels"] = {"1": "liver", "2": "spleen", "4": "kidney_left"}
    (other / "card.json").write_text(json.dumps(card))
    again.model = other
    run_shard(**again.arguments(), device="cpu")
    last = again.receipts()
    assert all(last[scan_id] != after[scan_id] for scan_id in last)


def test_a_file_that_is_not_what_ingest_read_is_quarantined_and_looked_at_again(
    undisturbed, tmp_path
):
    again = copy_of(undisturbed, tmp_path / "again")
    again.images = {
        "s0": again.images["s0"], "t1": tmp_path / "t1.nii.gz", "t2": tmp_path / "t2.nii.gz"
    }  # fmt: skip
    write_scan(again.images["t1"], scan(1), AFFINE)
    write_scan(again.images["t2"], scan(2), AFFINE)
    write_ingest(again.ingest, again.images)
    content = again.images["t1"].read_bytes()
    write_scan(again.images["t1"], scan(3), AFFINE)
    again.images["t2"].unlink()
    run_shard(**again.arguments(), device="cpu")
    table = again.table()
    assert list(table["state"]) == ["segmented", "quarantined", "quarantined"]
    assert list(table["reason"][1:]) == ["SRC_CHANGED", "SRC_MISSING"]
    assert table["label_map"].isna().sum() == 2
    again.images["t1"].write_bytes(content)
    run_shard(**again.arguments(), device="cpu")
    assert list(again.table()["state"]) == ["segmented", "segmented", "quarantined"]


class FaultySegmenter:
    """Fails on scans by their place in the order they come in; else calls the real one."""

    def __init__(self, segmenter, faults):
        self.segmenter, self.faults, self.calls = segmenter, dict(faults), 0
        self.dtype, self.device = segmenter.dtype, segmenter.device
        self.numerics = segmenter.numerics

    def prepare(self, data, affine):
        return self.segmenter.prepare(data, affine)

    def predict(self, prepared):
        self.calls += 1
        if self.calls in self.faults:
            raise self.faults[self.calls]
        return self.segmenter.predict(prepared)

    def finish(self, predicted):
        return self.segmenter.finish(predicted)


def with_faults(monkeypatch, segmenter, faults):
    faulty = FaultySegmenter(segmenter, faults)
    monkeypatch.setattr("cohortvol.stages.segment.infer.Segmenter.load", lambda *a, **k: faulty)
    return faulty


def test_a_crash_in_one_scan_is_that_scans_row(shard, segmenter, monkeypatch):
    faults = {2: ZeroDivisionError("boo"), 4: ScanError("SEG_NONFINITE", "3 of 9 logits")}
    with_faults(monkeypatch, segmenter, faults)
    assert run_shard(**shard.arguments()) == {"segmented": 4, "failed": 2}
    table = shard.table()
    assert table.loc["s1", "reason"] == "BUG_UNEXPECTED"
    assert table.loc["s1", "detail"].startswith("ZeroDivisionError ")
    assert tuple(table.loc["s3", ["reason", "detail"]]) == ("SEG_NONFINITE", "3 of 9 logits")
    run_shard(**shard.arguments())  # failed scans are tried again, and only they
    assert list(shard.table()["attempts"]) == [1, 2, 1, 2, 1, 1]


def test_equal_crashes_have_one_hash_and_their_text_is_written_nowhere(
    shard, segmenter, monkeypatch, caplog
):
    caplog.set_level("INFO", "cohortvol")
    crashes = {1: KeyError("Doe"), 3: KeyError("/data/Doe.nii"), 5: ValueError("Doe")}
    with_faults(monkeypatch, segmenter, crashes)
    assert run_shard(**shard.arguments()) == {"segmented": 3, "failed": 3}
    table = shard.table()
    assert (table.loc[["s0", "s2", "s4"], "reason"] == "BUG_UNEXPECTED").all()
    first, second, third = table.loc[["s0", "s2", "s4"], "detail"]
    assert first == second
    assert third.startswith("ValueError ")
    written = b"".join(shard.receipts().values()).decode()
    assert "Doe" not in caplog.text + written + "".join(table["detail"].dropna())


def test_out_of_memory_is_tried_once_more_at_the_end(shard, segmenter, monkeypatch):
    again = ScanError("RUN_GPU_OOM", "")
    faulty = with_faults(monkeypatch, segmenter, {1: again, 2: MemoryError(), N_SCANS + 1: again})
    assert run_shard(**shard.arguments()) == {"segmented": 5, "failed": 1}
    assert faulty.calls == N_SCANS + 2
    table = shard.table()
    assert table.loc["s0", "reason"] == "RUN_GPU_OOM"
    assert list(table["attempts"]) == [2, 2, 1, 1, 1, 1]


def test_a_scan_that_does_not_fit_waits_for_a_job_with_more_memory(shard, segmenter, monkeypatch):
    for_lack_of_memory = {1: MemoryError(), N_SCANS + 1: MemoryError()}
    with_faults(monkeypatch, segmenter, for_lack_of_memory)
    with pytest.raises(TemporaryError, match="not enough memory for s0\n"):
        run_shard(**shard.arguments(), attempts_left=1)
    assert sorted(shard.receipts()) == ["s1", "s2", "s3", "s4", "s5"]
    with_faults(monkeypatch, segmenter, {1: MemoryError(), 2: MemoryError()})
    assert run_shard(**shard.arguments()) == {"segmented": N_SCANS - 1, "failed": 1}
    assert shard.table().loc["s0", "reason"] == "RUN_HOST_OOM"
    with_faults(monkeypatch, segmenter, {})
    assert run_shard(**shard.arguments(), attempts_left=0) == {"segmented": N_SCANS}


def test_out_of_memory_after_the_network_is_tried_once_more_too(shard, segmenter, monkeypatch):
    faulty = with_faults(monkeypatch, segmenter, {})
    whole, errors = faulty.finish, [MemoryError()]
    monkeypatch.setattr(
        faulty, "finish", lambda predicted: raise_(errors.pop()) if errors else whole(predicted)
    )
    assert run_shard(**shard.arguments()) == {"segmented": N_SCANS}
    assert faulty.calls == N_SCANS + 1


def raise_(error):
    raise error


def test_the_log_has_a_line_for_every_scan_and_its_reason(shard, segmenter, monkeypatch, caplog):
    with_faults(monkeypatch, segmenter, {2: ScanError("SEG_NONFINITE", "3 of 9 logits")})
    monkeypatch.setattr("cohortvol.stages.segment.progress.SECONDS_BETWEEN_LINES", 0.0)
    with caplog.at_level("INFO"):
        run_shard(**shard.arguments())
    assert "0000: 6 scans to segment, 0 finished" in caplog.text
    for n in range(N_SCANS):
        how = "failed SEG_NONFINITE 3 of 9 logits" if n == 1 else "segmented"
        assert len(re.findall(rf" s{n}: {how}, \d+\.\d s$", caplog.text, re.M)) == 1
    assert "0000: 1 failed, 5 segmented" in caplog.text
    assert "s per scan, about 0 min left" in caplog.text


def test_a_lost_gpu_ends_the_run_with_what_is_done(shard, segmenter, monkeypatch):
    with_faults(monkeypatch, segmenter, {4: TemporaryError("the GPU is gone")})
    with pytest.raises(TemporaryError, match="GPU is gone"):
        run_shard(**shard.arguments())
    assert sorted(shard.receipts()) == ["s0", "s1", "s2"]
    assert not shard.out.exists()
    run_shard(**shard.arguments())
    assert set(shard.table()["state"]) == {"segmented"}


def test_a_gpu_that_no_repetition_mends_ends_the_run_with_64_and_blames_no_scan(
    shard, segmenter, monkeypatch
):
    with_faults(monkeypatch, segmenter, {4: InstallationError("no kernel image is available")})
    with pytest.raises(InstallationError, match="no kernel image") as told:
        run_shard(**shard.arguments())
    assert told.value.exit_code == 64
    assert sorted(shard.receipts()) == ["s0", "s1", "s2"]
    assert not list(shard.folder.glob("*.started.json"))
    run_shard(**shard.arguments())
    assert set(shard.table()["state"]) == {"segmented"}


def test_a_torch_that_does_not_load_ends_the_run_with_64(shard, monkeypatch):
    monkeypatch.setitem(sys.modules, "cohortvol.stages.segment.infer", None)
    with pytest.raises(ImportError, match="halted"):  # our own module: a bug stays one
        run_shard(**shard.arguments())

    class NoLibrary:
        def find_spec(self, name, path=None, target=None):
            if name == "cohortvol.stages.segment.infer":
                raise ImportError("libcudart.so.13: cannot open shared object file")

    monkeypatch.delitem(sys.modules, "cohortvol.stages.segment.infer")
    monkeypatch.setattr(sys, "meta_path", [NoLibrary(), *sys.meta_path])
    with pytest.raises(InstallationError, match="torch and nnU-Net cannot be loaded"):
        run_shard(**shard.arguments())
    assert shard.receipts() == {}


def test_a_full_disk_pauses_the_run_and_blames_no_scan(shard, segmenter, monkeypatch):
    with_faults(monkeypatch, segmenter, {})

    def full(final, write):
        raise TemporaryError(f"{final}: no space left")

    with monkeypatch.context() as patched:
        patched.setattr(pipeline, "commit_bytes", full)
        with pytest.raises(TemporaryError, match="no space left"):
            run_shard(**shard.arguments())
    assert shard.receipts() == {}
    assert not list(shard.folder.glob("*.started.json"))
    assert run_shard(**shard.arguments()) == {"segmented": N_SCANS}


def test_a_scan_that_cannot_be_claimed_pauses_the_run_once_those_before_it_are_kept(
    shard, segmenter, monkeypatch
):
    with_faults(monkeypatch, segmenter, {})
    claim = ShardFolder.claim

    def full(folder, work):
        if work.scan_id == "s3":
            raise OSError(errno.ENOSPC, "no space left")
        return claim(folder, work)

    with monkeypatch.context() as patched:
        patched.setattr(ShardFolder, "claim", full)
        with pytest.raises(TemporaryError, match="no space left"):
            run_shard(**shard.arguments(), workers=2)
    assert sorted(shard.receipts()) == ["s0", "s1", "s2"]
    assert not list(shard.folder.glob("*.started.json"))
    assert run_shard(**shard.arguments()) == {"segmented": N_SCANS}


class Killed(BaseException):
    """Stands for the death of the process: nothing in the worker may catch it."""


def test_a_receipt_goes_before_its_label_map_is_replaced(
    undisturbed, tmp_path, segmenter, monkeypatch
):
    again = copy_of(undisturbed, tmp_path / "again")
    lose_label_map(again)
    with_faults(monkeypatch, segmenter, {1: Killed()})
    with pytest.raises(Killed):
        run_shard(**again.arguments())
    assert sorted(again.receipts()) == ["s0", "s1", "s3", "s4", "s5"]


def test_a_scan_that_kills_the_worker_comes_last_then_is_given_up(shard, segmenter, monkeypatch):
    done = []
    for run in range(3):
        faulty = with_faults(monkeypatch, segmenter, {})
        deadly = segmenter.prepare(scan(0), AFFINE).inputs[0].data

        def predict(prepared, real=faulty.predict, run=run, deadly=deadly):
            if torch.equal(prepared.inputs[0].data, deadly):
                raise Killed
            done.append(run)
            return real(prepared)

        faulty.predict = predict
        with pytest.raises(Killed):
            run_shard(**shard.arguments())
    # s1 was being read when s0 killed the first run, so it is as suspect as s0 and waits as well.
    assert done == [1] * (N_SCANS - 2) + [2]
    assert run_shard(**shard.arguments()) == {"segmented": N_SCANS - 1, "failed": 1}
    row = shard.table().loc["s0"]
    assert (row["reason"], row["detail"]) == ("RUN_CRASHED", "3 starts without an end")


def test_a_corrupted_model_stops_the_shard_before_any_scan(shard, tmp_path):
    shutil.copytree(shard.model, tmp_path / "model")
    shard.model = tmp_path / "model"
    with open(shard.model / "parts/main/fold_0.safetensors", "ab") as stream:
        stream.write(b"!")
    with pytest.raises(ModelError, match=r"fold_0\.safetensors"):
        run_shard(**shard.arguments())
    assert not shard.folder.exists()


# --- kills


def wait_for(condition, process, seconds=240):
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.stderr.read().decode()
        assert time.monotonic() < end
        time.sleep(0.01)


def same_but_for_the_clock(shard: Shard) -> pd.DataFrame:
    return shard.table().drop(columns=["attempts", "started_utc", "seconds", "seconds_network"])


def test_killed_at_random_moments_it_ends_where_an_undisturbed_run_does(shard, undisturbed):
    moments = random.Random(20260301)  # noqa: S311
    for kill in range(2):
        before, marks = shard.receipts(), shard.marks()
        process = shard.start()
        wait_for(lambda marks=marks: shard.marks() != marks, process)
        if kill == 0:
            wait_for(shard.receipts, process)
        time.sleep(moments.uniform(0, 0.5))
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        after = shard.receipts()
        assert {scan_id: after.get(scan_id) for scan_id in before} == before
    assert before  # something had been finished before the last kill
    process = shard.start()
    _, log = process.communicate(timeout=240)
    assert process.returncode == 0, log.decode()
    last = shard.receipts()
    assert {scan_id: last[scan_id] for scan_id in after} == after
    assert shard.label_maps() == undisturbed.label_maps()
    pd.testing.assert_frame_equal(
        same_but_for_the_clock(shard), same_but_for_the_clock(undisturbed)
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_each_signal_to_stop_is_heard_after_the_scan_in_hand(shard, segmenter, monkeypatch, number):
    faulty = with_faults(monkeypatch, segmenter, {})
    real, before = faulty.predict, signal.getsignal(number)

    def predict(prepared):
        if faulty.calls == 1:
            os.kill(os.getpid(), number)
        return real(prepared)

    faulty.predict = predict
    with pytest.raises(TemporaryError, match=f"stopped by {number.name}, 4 scans left"):
        run_shard(**shard.arguments())
    assert sorted(shard.receipts()) == ["s0", "s1"]
    assert signal.getsignal(number) is before


def test_told_to_stop_it_finishes_the_scan_in_hand_and_exits_75(shard, undisturbed):
    process = shard.start()
    wait_for(shard.receipts, process)
    process.send_signal(signal.SIGTERM)
    _, log = process.communicate(timeout=240)
    assert process.returncode == 75, log.decode()
    assert "stopped by SIGTERM" in log.decode()
    assert not list(shard.folder.glob("*.started.json"))
    assert not shard.out.exists()
    before = shard.receipts()
    assert 0 < len(before) < N_SCANS
    run_shard(**shard.arguments(), device="cpu")
    after = shard.receipts()
    assert {scan_id: after[scan_id] for scan_id in before} == before
    assert shard.label_maps() == undisturbed.label_maps()


def test_a_second_job_on_the_same_shard_waits_and_finds_it_finished(
    shard, undisturbed, monkeypatch, caplog
):
    monkeypatch.setattr("cohortvol.stages.segment.worker.LOOK_AGAIN_SECONDS", 0.1)
    process = shard.start()
    wait_for(shard.receipts, process)
    assert run_shard(**shard.arguments(), device="cpu") == {"segmented": N_SCANS}
    assert "0000: process" in caplog.text
    assert "is working on this shard; waiting for it" in caplog.text
    assert process.wait(timeout=60) == 0
    assert shard.label_maps() == undisturbed.label_maps()
    assert all(json.loads(text)["attempts"] == 1 for text in shard.receipts().values())
    process.stderr.close()

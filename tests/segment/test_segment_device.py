"""Segment: the device that is asked for, what it can hold, and what it must not do in silence."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from cohortvol.errors import ConfigError, ScanError, TemporaryError
from cohortvol.models.networks import devices
from cohortvol.stages.segment import Segmenter, run_shard
from cohortvol.stages.segment.machine import Memory
from segment_cohort import AFFINE, scan
from segment_fixture import with_card

pytestmark = pytest.mark.slow


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

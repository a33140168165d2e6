"""What the tests of the worker share: a tiny model, small scans, and a shard of them."""

from __future__ import annotations

import pytest
import torch

import nnunet_fixture
from cohortvol.stages.segment import Segmenter
from segment_cohort import Shard
from segment_fixture import images_in, tiny_model


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    torch.set_num_threads(1)
    return nnunet_fixture.results_folder(tmp_path_factory.mktemp("nnUNet_results"))


@pytest.fixture(scope="module")
def model(trained, tmp_path_factory):
    return tiny_model(trained, tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def segmenter(model):
    return Segmenter.load(model, device="cpu", threads=1)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return images_in(tmp_path_factory.mktemp("images"))


@pytest.fixture
def shard(model, images, tmp_path):
    return Shard(tmp_path / "results", model, images)

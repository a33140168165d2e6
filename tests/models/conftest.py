"""What the tests of model folders share: a results folder of nnU-Net, and a model made of it."""

from __future__ import annotations

import pytest
import torch

import nnunet_fixture


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture
def trained(tmp_path):
    return nnunet_fixture.results_folder(tmp_path / "nnUNet_results", folds=2)


@pytest.fixture
def card(trained, tmp_path):
    return nnunet_fixture.imported(trained, tmp_path / "models" / "tiny")

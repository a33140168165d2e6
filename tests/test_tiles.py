"""Patches blended as nnU-Net blends them, in a window that moves along z."""

from __future__ import annotations

import json
from copy import deepcopy

import numpy as np
import pytest
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

import nnunet_fixture
from cohortvol.stages.segment.tiles import Slab, Tiling, blend, label_of_greatest

CPU = torch.device("cpu")
N_LABELS = 4


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    torch.set_num_threads(1)
    return nnunet_fixture.results_folder(tmp_path_factory.mktemp("nnUNet_results"), folds=2)


def predictor(trained, folds, step):
    """nnU-Net's own, started its own way."""
    started = nnUNetPredictor(
        use_mirroring=False, device=CPU, allow_tqdm=False, tile_step_size=step
    )
    started.initialize_from_trained_model_folder(str(trained), folds)
    return started


def networks(started):
    found = []
    for weights in started.list_of_parameters:
        network = deepcopy(started.network)
        network.load_state_dict(weights)
        found.append(network.eval())
    return found


def blended(image, folds, tiling, **options) -> list[Slab]:
    with torch.inference_mode():
        return list(blend(image, folds, N_LABELS, tiling, CPU, **options))


@pytest.mark.parametrize("folds", [(0,), (0, 1)])
@pytest.mark.parametrize(
    ("shape", "step"), [((40, 50, 33), 0.5), ((10, 24, 60), 0.8), ((55, 20, 31), 1.0)]
)
def test_logits_are_those_of_nnunet_bit_for_bit(trained, folds, shape, step):
    started = predictor(trained, folds, step)
    image = torch.randn(1, *shape, generator=torch.Generator().manual_seed(0))
    expected = started.predict_logits_from_preprocessed_data(image)
    slabs = blended(image, networks(started), Tiling((16, 24, 24), step))
    assert torch.equal(torch.cat([slab.logits for slab in slabs], dim=1), expected)


def test_slabs_follow_each_other_and_none_is_deeper_than_a_patch(trained):
    image = torch.zeros(1, 200, 24, 24)
    slabs = blended(image, networks(predictor(trained, (0,), 0.5)), Tiling((16, 24, 24), 0.5))
    assert [slab.start for slab in slabs] == [0, *(slab.stop for slab in slabs[:-1])]
    assert slabs[-1].stop == 200
    assert all(slab.logits.shape[1] == slab.stop - slab.start <= 16 for slab in slabs)


def test_several_patches_at_a_time_change_nothing_that_matters(trained):
    image = torch.randn(1, 30, 50, 60, generator=torch.Generator().manual_seed(1))
    folds, tiling = networks(predictor(trained, (0,), 0.5)), Tiling((16, 24, 24), 0.5)
    one, three = (
        torch.cat([slab.logits for slab in blended(image, folds, tiling, tiles_per_batch=n)], 1)
        for n in (1, 3)
    )
    torch.testing.assert_close(one, three, rtol=0, atol=0.01)


def test_a_2d_network_sees_every_plane_once(trained, tmp_path):
    plans = json.loads(json.dumps(nnunet_fixture.PLANS))
    settings = plans["configurations"]["3d_fullres"]
    settings |= {"patch_size": [24, 24], "spacing": [2.0, 2.0]}
    kwargs = settings["architecture"]["arch_kwargs"]
    for name in ("kernel_sizes", "strides"):
        kwargs[name] = [edges[1:] for edges in kwargs[name]]
    kwargs["conv_op"] = kwargs["conv_op"].replace("3d", "2d")
    kwargs["norm_op"] = kwargs["norm_op"].replace("3d", "2d")
    flat = nnunet_fixture.results_folder(tmp_path, plans=plans)
    started = predictor(flat, (0,), 0.5)
    image = torch.randn(1, 5, 40, 33, generator=torch.Generator().manual_seed(2))
    expected = started.predict_logits_from_preprocessed_data(image)
    network = networks(started)[0]
    slabs = blended(
        image, [lambda patches: network(patches[:, :, 0])[:, :, None]], Tiling((1, 24, 24), 0.5)
    )
    assert torch.equal(torch.cat([slab.logits for slab in slabs], dim=1), expected)


@pytest.mark.parametrize("n_labels", [2, 51, 300])
def test_the_label_is_the_first_of_the_greatest(n_labels):
    rng = np.random.default_rng(n_labels)
    logits = rng.integers(-3, 3, (n_labels, 3, 40, 90)).astype(np.float16) / 2
    logits[0] = -0.0
    labels = label_of_greatest(torch.from_numpy(logits))
    assert labels.dtype == (torch.uint8 if n_labels <= 256 else torch.int32)
    np.testing.assert_array_equal(labels, logits.argmax(0))

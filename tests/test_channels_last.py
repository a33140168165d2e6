"""Profile `fast` on a CPU: the module's logits but for rounding, and in which numbers."""

from __future__ import annotations

import json
from copy import deepcopy

import numpy as np
import pytest
import torch
from torch import nn

import nnunet_fixture
from cohortvol.compute.processor import flags, multiplies_bfloat16
from cohortvol.models.card import load_card
from cohortvol.models.networks import ChannelsLastUNet, can_be_channels_last, load_part
from cohortvol.models.networks.winograd import Direct, Planes, convolution, short_convolution
from cohortvol.stages.segment import Segmenter, infer, precision, run_shard
from segment_cohort import AFFINE, Shard, scan
from segment_fixture import images_in, tiny_model
from test_unrolled import unet

WIDE = {"features_per_stage": [16, 16, 20]}
NATIVE, PLAIN = frozenset({"avx2", "avx512_bf16"}), frozenset({"avx2", "avx512f", "fma"})


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("n_out", [2, 4])
def test_a_short_convolution_is_the_convolution(n_out):
    points = (0.0, 1.0, -1.0, 2.0, -2.0)[: n_out + 1]
    out, taps, into = short_convolution(points, n_out)
    weights, values = np.arange(1.0, 4), np.arange(n_out + 2) ** 2.0
    expected = [weights @ values[first : first + 3] for first in range(n_out)]
    np.testing.assert_allclose(out @ ((taps @ weights) * (into @ values)), expected)


@pytest.mark.parametrize("n_planes", [1, 3, 4, 9])
def test_planes_convolve_images_of_any_depth_as_torch_does(n_planes, monkeypatch):
    module = nn.Conv3d(5, 7, 3, padding=1, bias=False)
    image = noise(n_planes, 6, 9, 5)
    for n_bytes in (1, 2**23):  # one step at a time, and all together
        monkeypatch.setattr("cohortvol.models.networks.winograd.CACHED_BYTES", n_bytes)
        with torch.inference_mode():
            expected = module.double()(image.permute(3, 0, 1, 2)[None].double())[0]
            found = Planes(module)(image).permute(3, 0, 1, 2)
        assert float((found - expected).abs().max() / expected.std()) < 1e-5


def test_products_are_saved_in_float32_and_where_a_convolution_moves_by_one_voxel():
    module = nn.Conv3d(5, 7, 3, padding=1)
    assert isinstance(convolution(module, torch.float32), Planes)
    assert isinstance(convolution(module, torch.bfloat16), Direct)
    assert isinstance(convolution(nn.Conv3d(5, 7, 3, 2, 1), torch.float32), Direct)
    assert isinstance(convolution(nn.Conv3d(5, 7, (1, 3, 3), 1, 1), torch.float32), Direct)


@pytest.mark.parametrize("changes", [{}, {"conv_bias": False}, {"input_channels": 2}])
@pytest.mark.parametrize(("dtype", "most"), [(torch.float32, 1e-4), (torch.bfloat16, 0.05)])
def test_logits_are_those_of_the_module_but_for_rounding(changes, dtype, most):
    module = unet(**WIDE | changes)
    patches = noise(2, changes.get("input_channels", 1), 8, 12, 20) + 3
    with torch.inference_mode():
        exact = deepcopy(module).double()(patches.double())
        found = ChannelsLastUNet(module, dtype)(patches)
    assert found.dtype == torch.float32
    share = float((found - exact).square().mean().sqrt() / exact.std())
    assert share < most
    assert dtype == torch.float32 or share > 1e-4  # bfloat16 it was


def test_networks_that_gain_nothing_stay_as_they_are():
    assert can_be_channels_last(unet(**WIDE))
    assert not can_be_channels_last(unet())
    assert not can_be_channels_last(unet(dimensions=2))


# --- the choice


def test_flags_of_a_processor_are_those_that_linux_lists(tmp_path):
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("processor\t: 0\nflags\t\t: fpu avx2 amx_bf16 amx_tile\nbugs\t\t:\n")
    assert flags(cpuinfo) == {"fpu", "avx2", "amx_bf16", "amx_tile"}
    assert flags(tmp_path / "none") == frozenset()
    assert multiplies_bfloat16(flags(cpuinfo))
    assert multiplies_bfloat16(NATIVE)
    assert not multiplies_bfloat16(PLAIN)


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    """A tiny model wide enough for `fast` to run it in its own way."""
    plans = deepcopy(nnunet_fixture.PLANS)
    of_network = plans["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"]
    of_network["features_per_stage"] = [16, 16, 16]
    folder = tmp_path_factory.mktemp("wide")
    return tiny_model(nnunet_fixture.results_folder(folder / "results", plans=plans), folder)


@pytest.fixture
def parts(wide):
    card = load_card(wide)
    return [load_part(card, part) for part in card.parts]


def test_bfloat16_is_chosen_where_the_processor_multiplies_it(parts):
    assert precision.precision_on_cpu(parts, NATIVE) == torch.bfloat16
    assert precision.precision_on_cpu(parts, {"amx_bf16"}) == torch.bfloat16
    assert precision.precision_on_cpu(parts, PLAIN) == torch.float32
    assert precision.precision_on_cpu(parts, ()) == torch.float32


@pytest.mark.parametrize("broken", [lambda x: x + noise(*x.shape), lambda x: x * torch.nan])
def test_where_the_canary_says_otherwise_in_bfloat16_it_is_float32_with_a_line(
    parts, monkeypatch, caplog, broken
):
    real = ChannelsLastUNet.__call__
    monkeypatch.setattr(ChannelsLastUNet, "__call__", lambda *given: broken(real(*given)))
    assert precision.precision_on_cpu(parts, NATIVE) == torch.float32
    (line,) = [record.message for record in caplog.records]
    assert line.endswith("0.05 is allowed: the networks run in float32")


@pytest.mark.parametrize(
    ("profile", "of_processor", "expected"),
    [
        ("fast", NATIVE, "bfloat16"),
        ("fast", PLAIN, "float32"),
        ("nnunet", NATIVE, "float32"),
    ],
)
def test_receipts_and_the_table_say_the_precision(
    wide, tmp_path, monkeypatch, profile, of_processor, expected
):
    monkeypatch.setattr(infer, "flags", lambda: of_processor)
    shard = Shard(tmp_path / "results", wide, images_in(tmp_path))
    run_shard(**shard.arguments(), device="cpu", profile=profile)
    for receipt in shard.receipts().values():
        assert json.loads(receipt)["numerics"] == {
            "device": "cpu",
            "precision": expected,
            "threads": torch.get_num_threads(),
        }
    assert set(shard.table()["precision"]) == {expected}


def test_labels_of_fast_are_those_of_its_parent_but_for_rounding(wide, monkeypatch):
    parent, _ = Segmenter.load(wide, "nnunet").segment(scan(2), AFFINE)
    for of_processor, most in ((PLAIN, 0.002), (NATIVE, 0.05)):
        monkeypatch.setattr(infer, "flags", lambda given=of_processor: given)
        labels, _ = Segmenter.load(wide, "fast", device="cpu").segment(scan(2), AFFINE)
        assert np.mean(labels != parent) < most

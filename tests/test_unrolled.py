"""A U-Net run with less traffic through memory gives the module's logits, bit for bit."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet, ResidualEncoderUNet
from torch import nn

from cohortvol.models.networks import UnrolledUNet, can_unroll, unrolled


def unet(kind: Any = PlainConvUNet, dimensions: int = 3, **changes: Any) -> nn.Module:
    """An nnU-Net of three levels with random weights, affine parameters included."""
    settings: dict[str, Any] = {
        "input_channels": 1,
        "n_stages": 3,
        "features_per_stage": [8, 12, 20],
        "conv_op": (nn.Conv2d, nn.Conv3d)[dimensions - 2],
        "kernel_sizes": [[1, 3, 3][-dimensions:], [3] * dimensions, [3] * dimensions],
        "strides": [[1] * dimensions, [1, 2, 2][-dimensions:], [2] * dimensions],
        "num_classes": 5,
        "n_conv_per_stage_decoder": 1,
        "conv_bias": True,
        "norm_op": (nn.InstanceNorm2d, nn.InstanceNorm3d)[dimensions - 2],
        "norm_op_kwargs": {"eps": 1e-5, "affine": True},
        "nonlin": nn.LeakyReLU,
        "nonlin_kwargs": {"inplace": True},
    }
    settings["n_conv_per_stage" if kind is PlainConvUNet else "n_blocks_per_stage"] = 2
    torch.manual_seed(0)
    network = kind(**settings | changes).eval()
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.3)
    return network


@pytest.mark.parametrize("n_patches", [1, 2])
@pytest.mark.parametrize("shape", [(8, 12, 20), (40, 64, 56)])
def test_logits_are_those_of_the_module_bit_for_bit(n_patches, shape):
    network = unet()
    patches = torch.randn(n_patches, 1, *shape, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected = torch.cat([network(patch[None]) for patch in patches])
        assert torch.equal(UnrolledUNet(network)(patches), expected)


def test_a_network_without_biases_is_the_same_too():
    network = unet(conv_bias=False)
    patch = torch.randn(1, 1, 8, 12, 20, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        assert torch.equal(UnrolledUNet(network)(patch), network(patch))


def test_where_a_product_of_matrices_has_other_bits_the_module_is_asked(monkeypatch):
    product = unrolled._Up._product
    shapes = []

    def rounded_otherwise(self, out, features):
        product(self, out, features)
        shapes.append(tuple(features.shape[2:]))
        if features.shape[2:] == (4, 4, 7):  # one level of one patch only
            out += 2e-7 * out

    monkeypatch.setattr(unrolled._Up, "_product", rounded_otherwise)
    network = unet()
    unrolled_network = UnrolledUNet(network)
    generator = torch.Generator().manual_seed(1)
    with torch.inference_mode():
        for shape in ((8, 16, 28), (8, 16, 28), (8, 12, 20)):
            patch = torch.randn(1, 1, *shape, generator=generator)
            assert torch.equal(unrolled_network(patch), network(patch))
    assert shapes.count((4, 4, 7)) == 1  # not tried again
    assert shapes.count((8, 8, 14)) == 2


@pytest.mark.parametrize(
    "network",
    [
        unet(ResidualEncoderUNet),
        unet(dimensions=2),
        unet(dropout_op=nn.Dropout3d, dropout_op_kwargs={"p": 0.1}),
        unet(nonlin_first=True),
    ],
    ids=["residual encoder", "2D", "dropout", "activation first"],
)
def test_what_it_does_not_know_is_left_to_the_module(network):
    assert can_unroll(unet())
    assert not can_unroll(network)

"""A plain U-Net on a CPU with less traffic through memory, and the same bits.

On a CPU much of the time of an nnU-Net goes into moving large arrays: torch copies the result of
every transposed convolution into another layout, joins it with the encoder's output in a third
array, and normalises into a fourth. Here a transposed convolution is one product of matrices,
written where the decoder will read it, wherever that gives the same bits. Normalisation and
activation work in place, a few channels at a time while these are in the cache. Convolutions are
torch's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

CACHED_BYTES = 4 * 2**20
"""Aim for a group of channels that is normalised at a time, for each thread."""


class UnrolledUNet:
    """Logits of a ``PlainConvUNet`` of nnU-Net, bit for bit those of the module, on a CPU.

    Parameters
    ----------
    module : PlainConvUNet
        One for which `can_unroll` holds; its weights are used, not copied, but for those of the
        transposed convolutions.
    """

    def __init__(self, module: nn.Module) -> None:
        network: Any = module
        self._encoder: list[list[Any]] = [blocks_of(stage) for stage in network.encoder.stages]
        self._ups = [_Up(up) for up in network.decoder.transpconvs]
        self._decoder: list[list[Any]] = [blocks_of(stage) for stage in network.decoder.stages]
        self._head = network.decoder.seg_layers[-1]

    def __call__(self, patches: torch.Tensor) -> torch.Tensor:
        """(N, 1, z, y, x) patches to (N, n_labels, z, y, x) logits."""
        logits = [self._head(self._features(patch[None])) for patch in patches]
        return torch.cat(logits) if len(logits) > 1 else logits[0]

    def _features(self, patch: torch.Tensor) -> torch.Tensor:
        """(1, 1, z, y, x) patch to (1, channels, z, y, x), what the last layer sees."""
        joined: list[torch.Tensor] = []  # what comes up from below, then the encoder's output
        features = patch
        for blocks in self._encoder[:-1]:
            features = _through(blocks[:-1], features)
            convolved = blocks[-1].conv(features)
            n_channels = convolved.shape[1]
            joined.append(convolved.new_empty((1, 2 * n_channels, *convolved.shape[2:])))
            features = joined[-1][:, n_channels:]
            _activate(blocks[-1], convolved, features)
        features = _through(self._encoder[-1], features)
        for up, blocks in zip(self._ups, self._decoder, strict=True):
            both = joined.pop()
            up.into(both[:, : both.shape[1] // 2], features)
            features = _through(blocks, both)
        return features


def can_unroll(module: nn.Module) -> bool:
    """Whether a network is made of what `UnrolledUNet` knows.

    That is 3D convolutions, each followed by an affine InstanceNorm without running statistics
    and a LeakyReLU, and transposed convolutions of which the step is as long as the kernel.
    """
    if type(module).__name__ != "PlainConvUNet":
        return False
    network: Any = module
    stages = [blocks_of(stage) for stage in (*network.encoder.stages, *network.decoder.stages)]
    return (
        all(stages)
        and all(_is_known_block(block) for blocks in stages for block in blocks)
        and all(_is_known_up(up) for up in network.decoder.transpconvs)
    )


def blocks_of(stage: Any) -> list[Any]:
    """Convolution blocks of a stage in order; none where it holds anything else."""
    held: list[Any] = list(stage) if isinstance(stage, nn.Sequential) else [stage]
    if not all(hasattr(stack, "convs") for stack in held):
        return []
    return [block for stack in held for block in stack.convs]


def _is_known_block(block: Any) -> bool:
    kinds = [type(layer) for layer in block.all_modules]
    return (
        kinds == [nn.Conv3d, nn.InstanceNorm3d, nn.LeakyReLU]
        and block.norm.affine
        and not block.norm.track_running_stats
    )


def _is_known_up(up: Any) -> bool:
    return (
        type(up) is nn.ConvTranspose3d
        and up.kernel_size == up.stride
        and up.groups == 1
        and up.padding == up.output_padding == (0, 0, 0)
    )


def _through(blocks: Sequence[Any], features: torch.Tensor) -> torch.Tensor:
    for block in blocks:
        features = block.conv(features)
        _activate(block, features, features)
    return features


def _activate(block: Any, features: torch.Tensor, out: torch.Tensor) -> None:
    """InstanceNorm and LeakyReLU of (1, channels, z, y, x), some channels at a time."""
    norm, negative_slope = block.norm, block.nonlin.negative_slope
    n_bytes = features[0, 0].numel() * features.element_size()
    step = max(1, CACHED_BYTES // n_bytes) * torch.get_num_threads()
    for first in range(0, features.shape[1], step):
        group = slice(first, first + step)
        torch.ops.aten.native_batch_norm.out(
            features[:, group],
            norm.weight[group],
            norm.bias[group],
            None,
            None,
            True,
            0.0,
            norm.eps,
            out=out[:, group],
            save_mean=features.new_empty(0),
            save_invstd=features.new_empty(0),
        )
        nn.functional.leaky_relu_(out[:, group], negative_slope)


class _Up:
    """A transposed convolution whose step is as long as its kernel: every voxel by itself.

    That is a product of matrices. Some processors add up its terms in another order for some
    shapes, so the first result of a shape is held against the module's own, and where a bit
    differs the module does that shape from then on.
    """

    def __init__(self, module: nn.ConvTranspose3d) -> None:
        self._module = module
        self._matrix = module.weight.flatten(1).t().contiguous()  # (out x kernel voxels, in)
        self._has_same_bits: dict[torch.Size, bool] = {}

    def into(self, out: torch.Tensor, features: torch.Tensor) -> None:
        """Write the result for (1, in, z, y, x) into (1, out, ...), `out` being contiguous."""
        same = self._has_same_bits.get(features.shape)
        if same is not False:
            self._product(out, features)
        if same is None:
            same = torch.equal(out, self._module(features))
            self._has_same_bits[features.shape] = same
        if not same:
            out.copy_(self._module(features))

    def _product(self, out: torch.Tensor, features: torch.Tensor) -> None:
        d, h, w = features.shape[2:]
        k, m, n = self._module.kernel_size
        products = self._matrix @ features.reshape(features.shape[1], -1)
        moved = products.view(-1, k, m, n, d, h, w).permute(0, 4, 1, 5, 2, 6, 3)
        place = out.view(-1, d, k, h, m, w, n)
        if self._module.bias is None:
            place.copy_(moved)
        else:
            torch.add(moved, self._module.bias.view(-1, 1, 1, 1, 1, 1, 1), out=place)

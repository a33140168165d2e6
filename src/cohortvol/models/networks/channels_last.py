"""A plain U-Net on a CPU for profile `fast`: channels last in memory, in float32 or bfloat16.

What goes in and comes out is as that of the module; the last bits are not. Sums of normalisation
are added up in float64 from sums of a few planes: torch's own normalisation of images whose
channels lie last adds a million numbers one after the other in float32, which costs three digits.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from cohortvol.models.networks.unrolled import blocks_of, can_unroll
from cohortvol.models.networks.winograd import convolution

LEAST_CHANNELS = 16
"""Of the first stage. Networks with fewer do not wait for products, and lose by another layout."""
CACHED_BYTES = 2 * 2**20
"""Planes are normalised for about as much at a time."""


class ChannelsLastUNet:
    """Logits of a ``PlainConvUNet`` of nnU-Net, for which `can_be_channels_last` holds, on a CPU.

    Parameters
    ----------
    module : PlainConvUNet
    dtype : torch.dtype
        ``float32``, or ``bfloat16`` for what the convolutions see; sums and the last layer are of
        float32 in either case.
    """

    def __init__(self, module: nn.Module, dtype: torch.dtype) -> None:
        network: Any = module
        self._dtype = dtype
        self._encoder = [self._stage(stage) for stage in network.encoder.stages]
        self._decoder = [self._stage(stage) for stage in network.decoder.stages]
        self._ups = [_Up(up, dtype) for up in network.decoder.transpconvs]
        head = network.decoder.seg_layers[-1]
        self._head = head.weight.detach().flatten(1)
        self._bias = None if head.bias is None else head.bias.detach()[:, None]

    def __call__(self, patches: torch.Tensor) -> torch.Tensor:
        """(N, channels, z, y, x) patches to (N, n_labels, z, y, x) float32 logits."""
        return torch.stack([self._logits(patch) for patch in patches])

    def _logits(self, patch: torch.Tensor) -> torch.Tensor:
        features = patch.permute(1, 2, 3, 0).to(self._dtype).contiguous()
        skipped = []
        for stage in self._encoder:
            features = _through(stage, features)
            skipped.append(features)
        skipped.pop()
        for up, stage in zip(self._ups, self._decoder, strict=True):
            features = _through(stage, up.joined(features, skipped.pop()))
        logits: torch.Tensor = self._head @ features.flatten(0, 2).float().t()
        if self._bias is not None:
            logits += self._bias
        return logits.view(-1, *features.shape[:3])

    def _stage(self, stage: Any) -> list[tuple[Any, Any]]:
        """Convolution and what follows it, of every block."""
        return [(convolution(block.conv, self._dtype), block) for block in blocks_of(stage)]


def can_be_channels_last(module: nn.Module) -> bool:
    """Whether a network is one that `ChannelsLastUNet` knows, and gains by it."""
    if not can_unroll(module):
        return False
    network: Any = module
    return all(
        block.conv.out_channels >= LEAST_CHANNELS for block in blocks_of(network.encoder.stages[0])
    )


def _through(stage: Sequence[tuple[Any, Any]], features: torch.Tensor) -> torch.Tensor:
    for convolve, block in stage:
        features = convolve(features)
        _activate(block, features)
    return features


def _activate(block: Any, features: torch.Tensor) -> None:
    """InstanceNorm and LeakyReLU of (z, y, x, channels) in place.

    The bias of the convolution before is left out, as the mean takes it away again.
    """
    norm = block.norm
    rows = features.view(-1, features.shape[-1])
    step = max(1, CACHED_BYTES // (4 * rows.shape[1]))
    pieces = [rows[first : first + step] for first in range(0, len(rows), step)]
    sums = torch.zeros((2, rows.shape[1]), dtype=torch.float64)
    for piece in pieces:
        values = piece.float()
        sums += torch.stack([values.sum(0), values.square().sum(0)])
    mean, mean_square = sums / len(rows)
    scale = norm.weight.double() / (mean_square - mean.square()).clamp(min=0).add(norm.eps).sqrt()
    shift = (norm.bias.double() - mean * scale).float()
    scale = scale.float()
    for piece in pieces:
        values = torch.addcmul(shift, piece.float(), scale)
        piece.copy_(nn.functional.leaky_relu_(values, block.nonlin.negative_slope))


class _Up:
    """A transposed convolution whose step is as long as its kernel: every voxel by itself."""

    def __init__(self, module: nn.ConvTranspose3d, dtype: torch.dtype) -> None:
        self._kernel = module.kernel_size
        weight = module.weight.detach().to(dtype)
        self._matrix = weight.permute(0, 2, 3, 4, 1).flatten(1)  # (in, kernel voxels x out)
        self._bias = None if module.bias is None else module.bias.detach().to(dtype)

    def joined(self, features: torch.Tensor, skipped: torch.Tensor) -> torch.Tensor:
        """What comes up from (z, y, x, in), and behind it the channels of the encoder's output."""
        d, h, w, n_in = features.shape
        k, m, n = self._kernel
        n_out = skipped.shape[-1]
        products = (features.view(-1, n_in) @ self._matrix).view(d, h, w, k, m, n, n_out)
        both = features.new_empty((*skipped.shape[:3], 2 * n_out))
        place = both.view(d, k, h, m, w, n, 2 * n_out)[..., :n_out]
        moved = products.permute(0, 3, 1, 4, 2, 5, 6)
        if self._bias is None:
            place.copy_(moved)
        else:
            torch.add(moved, self._bias, out=place)
        both[..., n_out:] = skipped
        return both

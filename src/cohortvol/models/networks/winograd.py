"""Convolutions of images whose channels lie last in memory, with fewer products where that helps.

Winograd's short algorithm along z: `TILE` planes of a 3 x 3 x 3 convolution come out of `TILE` + 2
convolutions of planes, where taking it apart directly needs three for each. Along one axis alone,
so that planes and not single voxels are combined, and rounding grows little.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

TILE = 4
"""Planes that come out of one step; six products in place of twelve."""
POINTS = (0.0, 2**-0.5, -(2**-0.5), 2**0.5, -(2**0.5))
"""Where polynomials are evaluated, beside infinity; their powers stay near 1, so errors do too."""
CACHED_BYTES = 8 * 2**20
"""Planes are combined for about as much of the image at a time."""


def short_convolution(
    points: Sequence[float], n_out: int, n_taps: int = 3
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Matrices of a convolution with as few products as it has inputs.

    Parameters
    ----------
    points : sequence of float
        ``n_out + n_taps - 2`` different ones.
    n_out, n_taps : int

    Returns
    -------
    out : (n_out, n) float64 array
    taps : (n, n_taps) float64 array
    into : (n, n) float64 array
        ``out @ ((taps @ w) * (into @ x))`` is the sum over t of ``w[t] * x[i + t]``, with
        n = n_out + n_taps - 1.

    Notes
    -----
    Two polynomials are multiplied by their values at `points` and at infinity (Toom and Cook);
    Winograd's convolution is the transpose of it.
    """
    n = n_out + n_taps - 1

    def values(n_terms: int) -> np.ndarray:
        at_infinity = np.eye(n_terms)[-1:]
        return np.concatenate([np.vander(points, n_terms, increasing=True), at_infinity])

    return values(n_out).T, values(n_taps), np.linalg.inv(values(n)).T


class Planes:
    """A 3 x 3 x 3 convolution of step 1, without its bias, in float32; see `short_convolution`."""

    def __init__(self, module: nn.Conv3d) -> None:
        out, taps, into = short_convolution(POINTS, TILE)
        self._out, self._into = torch.from_numpy(out).float(), torch.from_numpy(into).float()
        kernels = torch.einsum(
            "nt,octyx->nocyx", torch.from_numpy(taps), module.weight.detach().double()
        )
        self._kernels = [
            kernel.float().contiguous(memory_format=torch.channels_last) for kernel in kernels
        ]

    def __call__(self, image: torch.Tensor) -> torch.Tensor:
        """(z, y, x, in) to (z, y, x, out)."""
        n_planes, *plane, n_channels = image.shape
        n = len(self._kernels)
        rows = image.reshape(n_planes, -1)
        result = image.new_empty((n_planes, *plane, self._kernels[0].shape[0]))
        result_rows = result.view(n_planes, -1)
        starts = range(0, n_planes, TILE)
        together = max(1, CACHED_BYTES // (n * rows[0].numel() * rows.element_size()))
        for first in range(0, len(starts), together):
            group = starts[first : first + together]
            mixed = rows.new_empty((n, len(group), rows.shape[1]))
            for place, start in enumerate(group):
                low, high = max(0, start - 1), min(n_planes, start - 1 + n)  # outside is zero
                columns = self._into[:, low - start + 1 : high - start + 1]
                torch.mm(columns, rows[low:high], out=mixed[:, place])
            images = mixed.view(n, len(group), *plane, n_channels).permute(0, 1, 4, 2, 3)
            convolved = torch.stack(
                [
                    nn.functional.conv2d(one, kernel, padding=1).permute(0, 2, 3, 1).flatten(1)
                    for one, kernel in zip(images, self._kernels, strict=True)
                ]
            )
            for place, start in enumerate(group):
                planes = result_rows[start : start + TILE]
                torch.mm(self._out[: len(planes)], convolved[:, place], out=planes)
        return result


class Direct:
    """Any 3D convolution, without its bias, by torch."""

    def __init__(self, module: nn.Conv3d, dtype: torch.dtype) -> None:
        weight = module.weight.detach().to(dtype)
        self._weight = weight.contiguous(memory_format=torch.channels_last_3d)
        self._how: dict[str, Any] = {
            name: getattr(module, name) for name in ("stride", "padding", "dilation", "groups")
        }

    def __call__(self, image: torch.Tensor) -> torch.Tensor:
        """(z, y, x, in) to (z, y, x, out)."""
        moved = image.permute(3, 0, 1, 2)[None]
        convolved = nn.functional.conv3d(moved, self._weight, **self._how)
        return convolved[0].permute(1, 2, 3, 0).contiguous()


def convolution(module: nn.Conv3d, dtype: torch.dtype) -> Planes | Direct:
    """The way in which a convolution is done in a precision.

    `Planes` where it saves products: these add numbers of unlike size, for which bfloat16 has too
    few digits, and a processor that multiplies bfloat16 natively is not kept busy by products.
    """
    by_planes = (
        dtype == torch.float32
        and module.kernel_size == (3, 3, 3)
        and module.stride == module.dilation == (1, 1, 1)
        and module.padding == (1, 1, 1)
        and module.groups == 1
        and module.in_channels > 1
    )
    return Planes(module) if by_planes else Direct(module, dtype)

"""Overlapping patches through a network, as nnU-Net blends them, in memory that does not grow.

nnU-Net adds every patch's weighted logits into one array as large as the image times the number
of labels. Patches come in order of their first axis (z), so a plane that no later patch reaches
is final: it is handed on and forgotten. What is held is one patch deep, whatever the scan's size,
and the logits are nnU-Net's bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, groupby, product

import numpy as np
import torch
from acvl_utils.cropping_and_padding.padding import pad_nd_image
from nnunetv2.inference.sliding_window_prediction import (
    compute_gaussian,
    compute_steps_for_sliding_window,
)

Network = Callable[[torch.Tensor], torch.Tensor]
"""(N, channels, z, y, x) patches to (N, n_labels, z, y, x) logits."""

Corner = tuple[int, int, int]


@dataclass(frozen=True)
class Tiling:
    """How an image is cut into patches and put together again.

    Attributes
    ----------
    patch : tuple of three int
        Shape of a patch in voxels, z y x; one plane deep for a 2D network.
    step : float
        Greatest distance of neighbouring patches as a share of the patch.
    """

    patch: tuple[int, int, int]
    step: float

    def corners(self, shape: Sequence[int]) -> list[Corner]:
        """First voxel of every patch of an image at least as large as a patch, by z first."""
        steps = compute_steps_for_sliding_window(tuple(shape), self.patch, self.step)
        if self.patch[0] == 1:
            steps[0] = list(range(shape[0]))  # every plane once
        return list(product(*steps))

    def weight(self, device: torch.device) -> torch.Tensor:
        """Weight of every voxel of a patch, (z, y, x) float16."""
        shape = tuple(self.patch[1:] if self.patch[0] == 1 else self.patch)
        weight: torch.Tensor = compute_gaussian(
            shape, sigma_scale=1 / 8, value_scaling_factor=10, device=device
        )
        return weight.reshape(self.patch)


@dataclass(frozen=True)
class Mirrored:
    """A network that says the mean of what it says of a patch and of its mirror images.

    Order and rounding of ``nnUNetPredictor`` (nnunetv2 2.8).

    Attributes
    ----------
    network : callable
    axes : tuple of int
        Axes of a batch of patches, (N, channels, z, y, x): 2 to 4.
    """

    network: Network
    axes: tuple[int, ...]

    def __call__(self, patches: torch.Tensor) -> torch.Tensor:
        """As that of `network`."""
        logits = self.network(patches)
        together = [
            several
            for count in range(1, len(self.axes) + 1)
            for several in combinations(self.axes, count)
        ]
        for axes in together:
            logits += torch.flip(self.network(torch.flip(patches, axes)), axes)
        logits /= len(together) + 1
        return logits


@dataclass(frozen=True)
class OneHot:
    """A network that sees a label map beside the image, given as the last channel.

    It is taken apart a patch at a time, so that no channel for each label is kept of a scan.

    Attributes
    ----------
    network : callable
        Wants a channel for each of `labels` in place of the label map, 1 where it is the label.
    labels : tuple of int
    """

    network: Network
    labels: tuple[int, ...]

    def __call__(self, patches: torch.Tensor) -> torch.Tensor:
        """As that of `network`, of (N, channels + 1, z, y, x) patches."""
        image, label_map = patches[:, :-1], patches[:, -1:]
        apart = [(label_map == label).to(patches.dtype) for label in self.labels]
        return self.network(torch.cat([image, *apart], dim=1))


@dataclass(frozen=True)
class Slab:
    """Final logits of the planes `start` to `stop` (exclusive) of an image.

    Attributes
    ----------
    logits : (n_labels, stop - start, y, x) float16 tensor
    """

    start: int
    stop: int
    logits: torch.Tensor


def blend(
    image: torch.Tensor,
    networks: Sequence[Network],
    n_labels: int,
    tiling: Tiling,
    device: torch.device,
    tiles_per_batch: int = 1,
    blend_on: torch.device | None = None,
) -> Iterator[Slab]:
    """Logits of an image, a slab of planes at a time, averaged over the networks.

    Parameters
    ----------
    image : (channels, z, y, x) float32 tensor
        Preprocessed image, on the CPU.
    networks : sequence of callables
        The folds of one model; each sees every patch.
    n_labels : int
        Labels with background.
    tiling : Tiling
        Patches and their weights.
    device : torch.device
        Where the networks are.
    tiles_per_batch : int
        Patches in one call of a network.
    blend_on : torch.device, optional
        Where the image is kept and patches are added up; `device` if not given.

    Yields
    ------
    Slab
        In order of z, on `blend_on`; together they cover the image exactly.

    Notes
    -----
    Rule and rounding of ``nnUNetPredictor`` (nnunetv2 2.8): image padded with zeros to a patch at
    least, Gaussian of sigma one eighth of the patch, sums and weights in float16, the sum of a
    float16 and a float32 number rounded to float16 once.
    """
    blend_on = blend_on or device
    padded, inside = pad_nd_image(image, tiling.patch, "constant", {"value": 0}, True, None)
    padded = padded.to(blend_on)
    weight = tiling.weight(blend_on)
    z_inside, *yx_inside = inside[1:]
    blender = _Blender(n_labels, padded.shape[1:], len(networks), weight, blend_on)
    for z, corners in groupby(tiling.corners(padded.shape[1:]), key=lambda corner: corner[0]):
        yield from _cropped(blender.advance(z), z_inside, yx_inside)
        for batch in _batches(list(corners), tiles_per_batch):
            patches = [padded[_place(corner, tiling.patch)] for corner in batch]
            stacked = torch.stack(patches).to(device)
            for fold, network in enumerate(networks):
                logits = network(stacked)
                for corner, one in zip(batch, logits, strict=True):
                    blender.add(fold, corner, one.to(blend_on))
            for corner in batch:
                blender.add_weight(corner)
    yield from _cropped(blender.advance(padded.shape[1]), z_inside, yx_inside)


_PLANES = 16


class _Blender:
    """Weighted sums of logits over a window of planes that moves along z."""

    def __init__(
        self,
        n_labels: int,
        shape: Sequence[int],
        n_networks: int,
        weight: torch.Tensor,
        device: torch.device,
    ) -> None:
        depth = min(weight.shape[0], shape[0])
        window = (depth, shape[1], shape[2])
        self._sums = torch.zeros((n_networks, n_labels, *window), dtype=torch.half, device=device)
        self._weights = torch.zeros(window, dtype=torch.half, device=device)
        self._weight = weight
        self._weight_32 = weight.float()
        self._start = 0

    def add(self, network: int, corner: Corner, logits: torch.Tensor) -> None:
        """Add the (n_labels, z, y, x) logits of one patch."""
        sums = self._sums[(network, slice(None), *self._window(corner))]
        if sums.is_cuda:
            sums.copy_((logits * self._weight_32).add_(sums))
            return
        for of_label, patch in zip(sums, logits, strict=True):  # in pieces that stay in the cache
            pieces = (whole.split(_PLANES) for whole in (of_label, patch, self._weight_32))
            for held, new, weight in zip(*pieces, strict=True):
                held.copy_((new * weight).add_(held.float()))

    def add_weight(self, corner: Corner) -> None:
        """Count a patch once for all networks."""
        self._weights[self._window(corner)] += self._weight

    def advance(self, z: int) -> Iterator[Slab]:
        """Hand on the planes before `z`, which no later patch reaches, and move the window."""
        n_planes = z - self._start
        if n_planes == 0:
            return
        logits = self._sums[0, :, :n_planes] / self._weights[:n_planes]
        for sums in self._sums[1:]:
            logits += sums[:, :n_planes] / self._weights[:n_planes]
        if len(self._sums) > 1:
            logits /= len(self._sums)
        yield Slab(self._start, z, logits)
        for held in (self._sums, self._weights):
            kept = held[..., n_planes:, :, :].clone()
            held.zero_()
            held[..., : kept.shape[-3], :, :] = kept
        self._start = z

    def _window(self, corner: Corner) -> tuple[slice, slice, slice]:
        z, y, x = corner
        return _place((z - self._start, y, x), self._weight.shape)[1:]


def _place(corner: Corner, patch: Sequence[int]) -> tuple[slice, slice, slice, slice]:
    z, y, x = (slice(start, start + size) for start, size in zip(corner, patch, strict=True))
    return slice(None), z, y, x


def _batches(corners: list[Corner], size: int) -> Iterator[list[Corner]]:
    for first in range(0, len(corners), size):
        yield corners[first : first + size]


def _cropped(slabs: Iterator[Slab], z_inside: slice, yx_inside: Sequence[slice]) -> Iterator[Slab]:
    """Slabs without the planes, rows and columns that padding added."""
    for slab in slabs:
        start, stop = max(slab.start, z_inside.start), min(slab.stop, z_inside.stop)
        if start < stop:
            planes = slice(start - slab.start, stop - slab.start)
            logits = slab.logits[(slice(None), planes, *yx_inside)]
            yield Slab(start - z_inside.start, stop - z_inside.start, logits)


def label_of_greatest(logits: torch.Tensor) -> torch.Tensor:
    """Index of the greatest of (n_labels, ...) finite float16 logits; the first where several tie.

    Returns
    -------
    (...) uint8 or int32 tensor
        What ``argmax`` over the first axis gives, on the device of the logits.

    Notes
    -----
    As float32 a float16 number leaves 13 bits at its end free. The label's rank from the end is
    put there, so that the search is a plain maximum, in pieces that fit the cache. Below zero a
    greater rank is not a greater number; voxels without a positive logit are searched once more.
    """
    n_labels = logits.shape[0]
    if logits.is_cuda:
        return logits.argmax(0).to(torch.uint8 if n_labels <= 256 else torch.int32)
    flat = logits.reshape(n_labels, -1)
    rank = np.arange(n_labels, dtype=np.int32)[::-1, np.newaxis]
    labels = np.empty(flat.shape[1], np.uint8 if n_labels <= 256 else np.int32)
    size = max(_PIECE // n_labels, 1)
    for first in range(0, len(labels), size):
        piece = flat[:, first : first + size]
        keys = piece.float().numpy()
        keys.view(np.int32)[...] |= rank
        best = np.maximum.reduce(keys, axis=0)
        found = n_labels - 1 - (best.view(np.int32) & _FREE_BITS)
        (unsure,) = np.nonzero(best < _SMALLEST)
        found[unsure] = piece[:, unsure].numpy().argmax(0)
        labels[first : first + size] = found
    return torch.from_numpy(labels.reshape(logits.shape[1:]))


def n_not_finite(logits: torch.Tensor) -> torch.Tensor:
    """How many logits are NaN or infinite, () int64 on their device."""
    if not logits.is_cuda and torch.isfinite(torch.stack(logits.aminmax())).all():
        return torch.tensor(0)  # both ends are NaN if any logit is
    return torch.count_nonzero(~torch.isfinite(logits))


_PIECE = 2**19
_FREE_BITS = 2**13 - 1
_SMALLEST = 2.0**-24
"""The least positive float16."""

"""nnU-Net's steps before and after the network, on arrays, without what inference does not need.

Left out are the label map that nnU-Net resamples beside every image and, where no mask is used
for normalisation, the filling of holes, which cannot move a bounding box.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import nnunetv2
import numpy as np
import torch
from acvl_utils.cropping_and_padding.bounding_boxes import get_bbox_from_mask
from nnunetv2.preprocessing.cropping.cropping import crop_to_nonzero
from nnunetv2.preprocessing.resampling.default_resampling import compute_new_shape
from nnunetv2.utilities.find_class_by_name import recursive_find_python_class
from torch import nn

from cohortvol.models.networks import LoadedPart, UnrolledUNet, can_unroll
from cohortvol.models.networks.regions import Regions
from cohortvol.stages.segment.tiles import Network, Tiling, label_of_greatest

Box = tuple[slice, slice, slice]

Output = torch.Tensor | np.ndarray
"""Logits that are still to be resampled, or labels."""


@dataclass(frozen=True)
class Preprocessed:
    """What the network sees, and how to come back from it.

    Attributes
    ----------
    data : (channels, z, y, x) float32 tensor
        In the axis order of the plans; of a cascade with the labels of the earlier stage behind.
    shape, cropped : tuple of three int
        Of the image in that order, and of its bounding box, before resampling.
    box : tuple of three slices
        Where in the image something is not zero.
    spacing_mm : list of three float
        Of the image in that order.
    """

    data: torch.Tensor
    shape: tuple[int, ...]
    cropped: tuple[int, ...]
    box: Box
    spacing_mm: list[float]


class PartNetwork:
    """One nnU-Net of a model with what its plans say around it.

    Parameters
    ----------
    loaded : LoadedPart
    device : torch.device
        Where the networks, one for each fold, are put.
    """

    def __init__(self, loaded: LoadedPart, device: torch.device) -> None:
        self._plans = loaded.network.plans_manager
        self._configuration = loaded.network.configuration_manager
        label_manager = self._plans.get_label_manager(loaded.network.dataset)
        self.n_labels: int = label_manager.num_segmentation_heads
        self.labels_in_map = tuple(int(label) for label in label_manager.foreground_labels)
        """Of nnU-Net's map, which a later stage of a cascade sees."""
        self.regions = Regions.of(loaded.network)
        self.networks = [self._network(module.to(device)) for module in loaded.modules]
        self.logits_on = torch.device("cpu")
        """Where `labels` wants logits that are still to be resampled."""

    @cached_property
    def patch(self) -> tuple[int, int, int]:
        """Shape of a patch, z y x; one plane deep for a 2D network."""
        z, y, x = (1, *self._configuration.patch_size)[-3:]
        return int(z), int(y), int(x)

    def tiling(self, step: float) -> Tiling:
        """Patches of this network at a tile step."""
        return Tiling(self.patch, step)

    @property
    def preprocessing(self) -> tuple[Any, ...]:
        """Equal for two parts whose networks see the same data."""
        settings = self._configuration
        by_itself = set(settings.normalization_schemes) == {"ZScoreNormalization"}
        return (
            tuple(self._plans.transpose_forward),
            tuple(settings.spacing),
            tuple(settings.normalization_schemes),
            tuple(settings.use_mask_for_norm),
            None if by_itself else str(self._intensities),
            str(settings.configuration["resampling_fn_data"]),
            str(settings.configuration["resampling_fn_data_kwargs"]),
        )

    def preprocess(
        self,
        image: np.ndarray | torch.Tensor,
        spacing_mm: list[float],
        earlier: np.ndarray | None = None,
    ) -> Preprocessed:
        """Crop to what is not zero, normalise, resample to the spacing of the plans.

        Parameters
        ----------
        image : (z, y, x) or (channels, z, y, x) array or tensor
        spacing_mm : list of three float
            Along z, y, x.
        earlier : (z, y, x) integer array, optional
            nnU-Net's map of the stage before, of a cascade. As nnU-Net has it, a voxel outside
            what is not zero counts as inside where that stage found something.
        """
        order = self._plans.transpose_forward
        # A copy in C order: normalisation works in place, and the last bits of a mean depend on
        # the order of the voxels in memory, so it is that of nnU-Net's readers.
        data = np.array(image, dtype=np.float32, order="C")
        data = data[None] if data.ndim == 3 else data
        data = data.transpose([0, *(axis + 1 for axis in order)])
        spacing = [spacing_mm[axis] for axis in order]
        shape = data.shape[1:]
        found = None if earlier is None else earlier.transpose(order)[None].astype(np.float32)
        mask: np.ndarray | None = None
        if found is not None or any(self._configuration.use_mask_for_norm):
            data, found, box = crop_to_nonzero(data, found)
            mask = found[0]
        else:
            inside = data[0] != 0
            for other in data[1:]:
                inside |= other != 0
            box = get_bbox_from_mask(inside)
            data = data[(slice(None), *_slices(box))]
        cropped = data.shape[1:]
        for channel, normalisation in enumerate(self._normalisations):
            data[channel] = normalisation.run(data[channel], mask)
        target = self._target_spacing(spacing)
        new_shape = compute_new_shape(cropped, spacing, target)
        resampled = self._configuration.resampling_fn_data(data, new_shape, spacing, target)
        if earlier is not None:
            seen = self._configuration.resampling_fn_seg(found, new_shape, spacing, target)
            resampled = np.concatenate([resampled, seen])
        tensor = torch.from_numpy(np.ascontiguousarray(resampled, dtype=np.float32))
        return Preprocessed(tensor, shape, cropped, _slices(box), spacing)

    def labels(self, output: Output, source: Preprocessed) -> np.ndarray:
        """Label index of this part in every voxel of the image that was preprocessed.

        Parameters
        ----------
        output : array or tensor
            (z, y, x) labels on the grid of `source`'s bounding box, or (n_labels, z, y, x) float16
            logits on the network's grid, which are resampled first.

        Returns
        -------
        (z, y, x) uint8 or uint16 array
        """
        if isinstance(output, torch.Tensor):
            resampled = self._resampled(output, source)
            output = (
                self._greatest(resampled, source)
                if self.regions is None
                else self.regions.label_map(map(torch.as_tensor, resampled)).cpu().numpy()
            )
        whole = np.zeros(source.shape, output.dtype)
        whole[source.box] = output
        return whole.transpose(self._plans.transpose_backward)

    def logits(self, output: torch.Tensor, source: Preprocessed) -> torch.Tensor:
        """Logits on the bounding box of `source`, on the CPU.

        They are (n_labels, z, y, x) in the axes of the image.
        """
        each = self._resampled(output, source)
        resampled = torch.stack([torch.as_tensor(one).cpu() for one in each])
        return resampled.permute(0, *(axis + 1 for axis in self._plans.transpose_backward))

    def in_own_axes(self, labels: torch.Tensor) -> torch.Tensor:
        """(z, y, x) labels in the axes of the image, as `labels` wants them."""
        return labels.permute(*self._plans.transpose_forward)

    def label_map(self, logits: torch.Tensor) -> torch.Tensor:
        """Labels of (n_labels, ...) finite float16 logits that need no resampling."""
        return label_of_greatest(logits) if self.regions is None else self.regions.label_map(logits)

    def _resampled(self, logits: torch.Tensor, source: Preprocessed) -> Iterator[Any]:
        """Logits on the grid of `source`'s bounding box, one label at a time to save memory."""
        target = self._target_spacing(source.spacing_mm)
        for label in range(len(logits)):
            yield np.asarray(
                self._configuration.resampling_fn_probabilities(
                    logits[label : label + 1], source.cropped, target, source.spacing_mm
                )
            )[0]

    def _greatest(self, resampled: Iterable[Any], source: Preprocessed) -> np.ndarray:
        """Label of the greatest of the logits of `_resampled`."""
        best: np.ndarray | None = None
        labels = np.zeros(source.cropped, np.uint8 if self.n_labels <= 256 else np.uint16)
        for label, value in enumerate(resampled):
            if best is None:
                best = value
            else:
                labels[value > best] = label
                np.maximum(best, value, out=best)
        return labels

    def _target_spacing(self, spacing_mm: list[float]) -> list[float]:
        """Spacing of the plans; a 2D network leaves the distance of slices as it is."""
        return [*spacing_mm[: 3 - len(self._configuration.spacing)], *self._configuration.spacing]

    def _network(self, module: nn.Module) -> Network:
        """How a network is called that is on its device."""
        first = next(parameter for parameter in module.parameters() if parameter.ndim > 3)
        if first.device.type == "cpu" and can_unroll(module):
            return UnrolledUNet(module)
        if first.ndim == 5:
            return module
        return lambda patches: module(patches[:, :, 0])[:, :, None]

    @cached_property
    def _normalisations(self) -> list[Any]:
        """One for each channel."""
        settings = self._configuration
        return [
            recursive_find_python_class(
                f"{nnunetv2.__path__[0]}/preprocessing/normalization",
                scheme,
                "nnunetv2.preprocessing.normalization",
            )(use_mask_for_norm=with_mask, intensityproperties=intensities)
            for scheme, with_mask, intensities in zip(
                settings.normalization_schemes,
                settings.use_mask_for_norm,
                self._intensities,
                strict=True,
            )
        ]

    @property
    def _intensities(self) -> list[Any]:
        """Grey values of the training scans in each channel, for what normalises by them."""
        known = self._plans.foreground_intensity_properties_per_channel
        return [known[str(n)] for n in range(len(self._configuration.normalization_schemes))]


def _slices(box: list[list[int]]) -> Box:
    z, y, x = (slice(*ends) for ends in box)
    return z, y, x

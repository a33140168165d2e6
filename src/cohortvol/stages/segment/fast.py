"""nnU-Net's steps before and after the network with everything large on the device.

For profile `fast`: the same rules as `cohortvol.stages.segment.nnunet`, in float32 around the
network.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import torch
from nnunetv2.preprocessing.resampling.default_resampling import compute_new_shape
from torch import nn

from cohortvol.models.networks import ChannelsLastUNet, LoadedPart, can_be_channels_last
from cohortvol.stages.segment.nnunet import Box, PartNetwork, Preprocessed
from cohortvol.stages.segment.resample import resize_on_device
from cohortvol.stages.segment.tiles import Network

_RESIZE = "resample_data_or_seg_to_shape"


class FastPart(PartNetwork):
    """A `PartNetwork` whose images and logits stay on the device.

    Parameters
    ----------
    loaded, device
        As of `PartNetwork`.
    dtype : torch.dtype
        What its networks work in on a CPU, where they can.
    """

    def __init__(self, loaded: LoadedPart, device: torch.device, dtype: torch.dtype) -> None:
        self._dtype = dtype
        super().__init__(loaded, device)
        self.logits_on = device

    def _network(self, module: nn.Module) -> Network:
        on_cpu = next(module.parameters()).device.type == "cpu"
        if on_cpu and can_be_channels_last(module):
            return ChannelsLastUNet(module, self._dtype)
        return super()._network(module)

    def preprocess(
        self,
        image: np.ndarray | torch.Tensor,
        spacing_mm: list[float],
        earlier: np.ndarray | None = None,
    ) -> Preprocessed:
        """As `PartNetwork.preprocess`; `image` is a (z, y, x) float32 tensor on the device."""
        settings = self._configuration
        if (
            earlier is not None
            or len(settings.normalization_schemes) > 1
            or settings.normalization_schemes[0] != "ZScoreNormalization"
            or settings.use_mask_for_norm[0]
            or settings.configuration["resampling_fn_data"] != _RESIZE
        ):
            return super().preprocess(torch.as_tensor(image).cpu().numpy(), spacing_mm, earlier)
        order = self._plans.transpose_forward
        data = torch.as_tensor(image).permute(*order)
        spacing = [spacing_mm[axis] for axis in order]
        box = _box(data != 0)
        cropped = data[box]
        centred = cropped - cropped.mean()
        normalised = centred / centred.square().mean().sqrt().clamp(min=1e-8)
        target = self._target_spacing(spacing)
        shape = compute_new_shape(cropped.shape, spacing, target)
        rule = settings.configuration["resampling_fn_data_kwargs"]
        resized = resize_on_device(normalised, shape, spacing, target, rule)
        return Preprocessed(
            resized[None].contiguous(), tuple(data.shape), tuple(cropped.shape), box, spacing
        )

    def _resampled(self, logits: torch.Tensor, source: Preprocessed) -> Iterator[torch.Tensor]:
        if self._configuration.configuration["resampling_fn_probabilities"] != _RESIZE:
            for value in super()._resampled(logits.cpu(), source):
                yield torch.as_tensor(value).to(self.logits_on)
            return
        rule = self._configuration.configuration["resampling_fn_probabilities_kwargs"]
        target = self._target_spacing(source.spacing_mm)
        for one in logits:
            yield resize_on_device(one.float(), source.cropped, target, source.spacing_mm, rule)

    def _greatest(self, resampled: Iterable[torch.Tensor], source: Preprocessed) -> np.ndarray:
        best = torch.full(source.cropped, -torch.inf, device=self.logits_on)
        dtype = torch.uint8 if self.n_labels <= 256 else torch.int32
        labels = torch.zeros(source.cropped, dtype=dtype, device=self.logits_on)
        for label, value in enumerate(resampled):
            labels.masked_fill_(value > best, label)
            torch.maximum(best, value, out=best)
        return labels.cpu().numpy()


def _box(inside: torch.Tensor) -> Box:
    """Bounding box of a mask; the whole grid where nothing is inside."""
    by_axis = [inside.movedim(axis, 0).flatten(1).any(1) for axis in range(3)]
    together = torch.cat(by_axis).cpu()  # the device is waited for once
    z, y, x = torch.split(together, list(inside.shape))
    return _ends(z), _ends(y), _ends(x)


def _ends(planes: torch.Tensor) -> slice:
    """From the first plane with something inside to the last; all where there is none."""
    found = planes.nonzero()
    return slice(int(found[0]), int(found[-1]) + 1) if len(found) else slice(0, len(planes))

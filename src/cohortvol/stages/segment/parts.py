"""The parts of a model over one scan: one network after another, and what they said together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy import ndimage

from cohortvol.errors import ModelError, ScanError
from cohortvol.models.card import Card
from cohortvol.models.inference import Profile
from cohortvol.models.networks import LoadedPart
from cohortvol.models.networks.softness import Softness
from cohortvol.stages.segment.machine import Memory
from cohortvol.stages.segment.nnunet import Output, PartNetwork, Preprocessed
from cohortvol.stages.segment.tiles import Mirrored, OneHot, blend, n_not_finite
from cohortvol.stages.segment.zoom import zoom, zoom_fast


@dataclass(frozen=True)
class Said:
    """What one part said of a scan; a GPU may still be working on it.

    Attributes
    ----------
    output : tensor
        (z, y, x) labels, or (n_labels, z, y, x) float16 logits that are still to be resampled.
    n_not_finite : () int64 tensor
        Logits that are NaN or infinite.
    n_logits : int
        All of them.
    softness : Softness
        Sums over the softmax on the network's grid, where it is kept.
    """

    output: torch.Tensor
    n_not_finite: torch.Tensor
    n_logits: int
    softness: Softness

    def on_host(self) -> Output:
        """Labels, or logits where `PartNetwork.labels` wants them; waits for the GPU."""
        if self.n_not_finite:
            raise ScanError("SEG_NONFINITE", f"{int(self.n_not_finite)} of {self.n_logits} logits")
        return self.output if self.output.ndim == 4 else self.output.cpu().numpy()


class PartRunner:
    """One nnU-Net of a model, and its labels among the model's."""

    def __init__(self, card: Card, loaded: LoadedPart, network: PartNetwork) -> None:
        self.network = network
        self.name = loaded.part.name
        self.previous = loaded.part.previous
        self.averaged_with = loaded.part.averaged_with
        self._keep_largest = loaded.part.keep_largest
        self._in_ensemble = any(
            loaded.part.name in (part.name, *part.averaged_with)
            for part in card.parts
            if part.averaged_with
        )
        self._greatest_tile_step = loaded.part.tile_step or 1.0
        is_flat = network.tiling(1.0).patch[0] == 1
        self._mirror_axes = tuple(axis + (3 if is_flat else 2) for axis in loaded.part.mirror_axes)
        part, regions = loaded.part, network.regions
        first = 0 if regions is None else 1  # label of the first output
        labels_in_map = network.n_labels if regions is None else regions.greatest + 1
        self.to_global = np.zeros(network.n_labels, dtype=np.uint16)
        """The model's label for each output of the network."""
        self.to_layers: dict[int, np.ndarray] = {}
        """For each layer the model's label for each label of the network's label map."""
        for local, label in card.local_to_global(part).items():
            self.to_global[local - first] = label
            table = self.to_layers.setdefault(
                part.layer_of[local], np.zeros(labels_in_map, dtype=np.uint16)
            )
            table[[one for one in part.in_map(local) if one < labels_in_map]] = label
        self.around: dict[int, list[int]] = {}
        """For each layer the model's labels around which this part sees a box; empty for all."""
        for layer, structures in zip(card.layers, card.labels_by_layer, strict=True):
            labels = [label for label, name in structures.items() if name in part.crop]
            if labels:
                self.around[layer] = labels
        self.margin_mm = part.margin_mm or 0.0
        self.spacing_mm = None if part.spacing_mm is None else np.asarray(part.spacing_mm)

    def predict(self, source: Preprocessed, profile: Profile, memory: Memory) -> Said:
        """Labels of a preprocessed image, or its logits where they are still to be resampled."""
        networks = self.network.networks
        if profile.mirrors and self._mirror_axes:
            networks = [Mirrored(network, self._mirror_axes) for network in networks]
        if self.previous is not None:
            networks = [OneHot(network, self.network.labels_in_map) for network in networks]
        resampled = self._in_ensemble or tuple(source.data.shape[1:]) != source.cropped
        outputs, not_finite = [], []
        softness = Softness(self.network.n_labels, self.network.regions)
        with torch.autocast("cuda", enabled=memory.device.type == "cuda"):
            for slab in blend(
                source.data,
                networks,
                self.network.n_labels,
                self.network.tiling(min(profile.tile_step, self._greatest_tile_step)),
                memory.device,
                memory.tiles_per_batch,
                memory.blend_on,
            ):
                not_finite.append(n_not_finite(slab.logits))
                if profile.keeps_softmax:
                    softness.add(slab.logits)
                outputs.append(
                    slab.logits.to(self.network.logits_on)
                    if resampled
                    else self.network.label_map(slab.logits)
                )
        output = torch.cat(outputs, dim=1 if resampled else 0)
        n_logits = self.network.n_labels * source.data[0].numel()
        return Said(output, torch.stack(not_finite).sum(), n_logits, softness)

    def labels(self, output: Output, source: Preprocessed) -> np.ndarray:
        """nnU-Net's map of the image that was preprocessed, with its postprocessing, (z, y, x)."""
        found = self.network.labels(output, source)
        for labels in self._keep_largest:
            found = with_largest(found, labels)
        return found


def with_largest(label_map: np.ndarray, labels: Sequence[int]) -> np.ndarray:
    """A label map with no voxels of these labels but those in the largest piece of them together.

    Rule of nnU-Net's postprocessing (nnunetv2 2.8): voxels that share a corner are connected, and
    of pieces that are as large as the largest all stay.
    """
    inside = np.isin(label_map, labels)
    pieces, n_pieces = ndimage.label(inside, np.ones((3, 3, 3)))
    sizes = np.bincount(pieces.ravel(), minlength=n_pieces + 1)
    sizes[0] = 0
    kept = sizes == sizes.max()
    return np.where(inside & ~kept[pieces], 0, label_map).astype(label_map.dtype)


def on_grid(
    data: np.ndarray,
    spacing_mm: np.ndarray,
    target_mm: np.ndarray | None,
    profile: Profile,
    device: torch.device,
) -> tuple[np.ndarray | torch.Tensor, np.ndarray]:
    """A scan, or a box of it, on the grid that parts are given, and its x y z spacing.

    Parameters
    ----------
    data : (x, y, z) or (x, y, z, channels) array
        In the model's axis order.
    spacing_mm : (3,) array
        Voxel edges of `data`.
    target_mm : (3,) array or None
        Those of the grid; None where nnU-Net resamples by itself.
    profile : Profile
    device : torch.device
        Where the network is.

    Returns
    -------
    image : (z, y, x) or (channels, z, y, x) array or tensor
    spacing_mm : (3,) array
    """
    if target_mm is None:
        image = data.T
        if profile.on_device:
            return torch.from_numpy(image.astype(np.float32)).to(device), spacing_mm
        return image, spacing_mm
    channels = [data] if data.ndim == 3 else [*np.moveaxis(data, -1, 0)]
    zoomed = [_zoomed(one, spacing_mm, target_mm, profile, device) for one in channels]
    images = [image for image, _ in zoomed]
    stack: Any = torch.stack if profile.on_device else np.stack
    return images[0] if data.ndim == 3 else stack(images), zoomed[0][1]


def _zoomed(
    data: np.ndarray,
    spacing_mm: np.ndarray,
    target_mm: np.ndarray,
    profile: Profile,
    device: torch.device,
) -> tuple[np.ndarray | torch.Tensor, np.ndarray]:
    """One channel of `on_grid`, zoomed as a scan by itself."""
    order = int(profile.zoom_order or 0)
    if profile.on_device:
        fast, spacing_mm = zoom_fast(data, spacing_mm, target_mm, order, profile.clear_rim, device)
        return fast.permute(2, 1, 0), spacing_mm
    exact = np.float64 if profile.truncate else np.float32
    zoomed = zoom(
        np.asarray(data, dtype=exact), spacing_mm, target_mm, order=order, truncate=profile.truncate
    )
    return zoomed.data.transpose(2, 1, 0), zoomed.spacing_mm


def zoom_spacing(card: Card, profile: Profile) -> np.ndarray | None:
    """Spacing of the grid that the scan is zoomed to; None where nnU-Net resamples by itself."""
    if profile.zoom_order is None:
        return None
    if card.spacing_mm is None:
        raise ModelError(
            f"model {card.id}: profile {profile.name!r} resamples to a spacing that the card "
            "does not name"
        )
    return np.asarray(card.spacing_mm, dtype=float)

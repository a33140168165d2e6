"""One scan to one label map: prepare, predict, finish.

The three steps are apart so that the worker can prepare the next scan and finish the last one
while the network is busy. `Segmenter.segment` does all three.
"""

from __future__ import annotations

import io
import time
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cohortvol.anatomy.geometry import from_axes, orientation, spacing_mm, to_axes
from cohortvol.compute.processor import flags
from cohortvol.errors import ScanError
from cohortvol.models.card import AS_STORED, Card, choose_profile, load_card, restrict
from cohortvol.models.elsewhere import refuse_elsewhere
from cohortvol.models.inference import Profile
from cohortvol.models.networks import LoadedPart, load_part
from cohortvol.models.networks.softness import Ratios, ratios
from cohortvol.stages.segment.body import Box, body_box
from cohortvol.stages.segment.canary import check_canary
from cohortvol.stages.segment.crops import Crop, box_around, kept_for_boxes
from cohortvol.stages.segment.fast import FastPart
from cohortvol.stages.segment.heap import keep_large_blocks, return_free_pages
from cohortvol.stages.segment.machine import (
    CPU,
    Memory,
    SideStream,
    device_of,
    machine_errors,
    numerics_on,
)
from cohortvol.stages.segment.nnunet import PartNetwork, Preprocessed
from cohortvol.stages.segment.parts import PartRunner, Said, on_grid, zoom_spacing
from cohortvol.stages.segment.precision import precision_on_cpu
from cohortvol.stages.segment.together import Heard, Spoken, average
from cohortvol.stages.segment.zoom import nearest

SCANS_BETWEEN_TRIMS = 10


@dataclass(frozen=True)
class Prepared:
    """A scan ready for the network.

    Attributes
    ----------
    affine : (4, 4) float array
        Of the scan as stored.
    shape, axes_shape : tuple of three int
        Of the scan as stored, and in the model's axis order.
    edges_mm : (3,) array
        Of a voxel, in the model's axis order.
    body : tuple of three slices or None
        What of it, in the model's axis order, the parts were given; None if all.
    grid : tuple of three int
        Of what the parts were given, z y x.
    inputs : dict of str to Preprocessed
        For every part that sees the whole scan and nothing else; parts that see the same data
        share it.
    scan : array or None
        Grey values in the model's axis order, where a part is to see a box of them.
    seen : tuple
        What the parts are given, z y x, and its spacing, where a part sees a label map beside it.
    """

    affine: np.ndarray
    shape: tuple[int, ...]
    axes_shape: tuple[int, ...]
    edges_mm: np.ndarray
    body: Box | None
    grid: tuple[int, ...]
    inputs: dict[str, Preprocessed]
    scan: np.ndarray | None = None
    seen: tuple[Any, ...] = ()


@dataclass(frozen=True)
class Predicted:
    """What the networks said about a scan.

    Attributes
    ----------
    outputs : list of Spoken
        Of every part that sees the whole scan and gives labels.
    seconds_network : float
        Wall time of `Segmenter.predict`, s.
    softmax : Ratios or None
        How sure they were, where the profile keeps it.
    layers : dict of int to array, or None
        What `outputs` give, where boxes were to be found in it; see `Segmenter._layers`.
    crops : list of Crop
        Of every part that sees a box, where there is one.
    """

    prepared: Prepared
    outputs: list[Spoken]
    seconds_network: float
    softmax: Ratios | None = None
    layers: dict[int, np.ndarray] | None = None
    crops: Sequence[Crop] = ()


class Segmenter:
    """A model in memory. Load it once, segment many scans.

    Use `Segmenter.load`. `prepare` and `finish` may run in other threads than `predict`, for
    other scans.
    """

    def __init__(
        self,
        card: Card,
        profile: Profile,
        parts: list[LoadedPart],
        device: torch.device,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.card = card
        self.profile = profile
        self._zoom_mm = zoom_spacing(card, profile)
        self.device = device
        self._dtype_on_cpu = dtype
        runners = [
            PartRunner(
                card,
                part,
                FastPart(part, device, dtype) if profile.on_device else PartNetwork(part, device),
            )
            for part in parts
        ]
        self._parts = [runner for runner in runners if not runner.around]
        self._on_boxes = [runner for runner in runners if runner.around]
        self._memory = Memory.of(device)
        self._side_stream = SideStream(device)
        self._n_predicted = 0
        self._dtype = np.uint8 if max(card.labels, default=0) < 256 else np.uint16

    @classmethod
    def load(
        cls,
        folder: Path | str,
        profile: str | None = None,
        device: str = "auto",
        threads: int = 0,
        roi: Sequence[str] = (),
    ) -> Segmenter:
        """Build the networks of a model folder and read their weights.

        Parameters
        ----------
        folder : Path or str
            A model folder with ``card.json``.
        profile : str, optional
            Inference profile; the card's default if not given.
        device : str
            ``cpu``, ``cuda``, ``cuda:1``, or ``auto``: the first GPU if there is one.
        threads : int
            CPU threads for torch; 0 leaves the choice to torch, which takes the cores given.
        roi : sequence of str
            Structures wanted; parts of the model without any of them are not loaded. All if empty.

        Raises
        ------
        ModelError
            If the folder is no model, or its weights do not fit its plans.
        ConfigError
            If the device is not there.
        TemporaryError
            If the networks do not say here what they said when they were imported.
        """
        card = restrict(load_card(Path(folder)), roi)
        refuse_elsewhere(card.id, card.elsewhere, "to load")
        recipe = choose_profile(card, profile)
        if threads > 0:
            torch.set_num_threads(threads)
        chosen = device_of(device)
        if chosen == CPU:
            keep_large_blocks()
        if chosen.type == "cuda":
            # The same kernels every time, so that a resumed run gives the same labels.
            torch.backends.cudnn.deterministic = True
            torch.backends.cudnn.benchmark = False
        with redirect_stdout(io.StringIO()):  # nnU-Net prints
            parts = [load_part(card, part) for part in card.parts]
            on_cpu = recipe.on_device and chosen == CPU
            dtype = precision_on_cpu(parts, flags()) if on_cpu else torch.float32
            segmenter = cls(card, recipe, parts, chosen, dtype)
        with machine_errors(), torch.inference_mode():
            for loaded in parts:
                check_canary(loaded, chosen)
        return segmenter

    @property
    def dtype(self) -> type[np.floating[Any]]:
        """Type to read grey values in; where fractions are cut off, every bit counts."""
        return np.float64 if self.profile.truncate else np.float32

    @property
    def numerics(self) -> dict[str, Any]:
        """What labels may hang on in their last digits, for the receipt."""
        return numerics_on(self.device, self._dtype_on_cpu)

    def segment(self, data: np.ndarray, affine: np.ndarray) -> tuple[np.ndarray, float]:
        """Label map of one scan, on its own grid.

        Parameters
        ----------
        data : (I, J, K) or (I, J, K, channel) array
            The scan, in any axis order; its channels in the order of the model's card.
        affine : (4, 4) float array
            Voxel indices to RAS+ millimetres.

        Returns
        -------
        label_map : (I, J, K) or (I, J, K, layer) uint8 or uint16 array
            Label index of the model's card; 0 is background. Where two parts of a layer claim a
            voxel, the later part of the card wins, as upstream. The last axis is there where the
            model has several layers.
        seconds_network : float
            Wall time in the networks, s.

        Raises
        ------
        ScanError
            ``IMG_CHANNEL_MISSING``, ``SEG_NONFINITE``, ``RUN_GPU_OOM``, ``RUN_HOST_OOM`` or
            ``BUG_GRID``.
        TemporaryError
            If the GPU reported an error that leaves this process unusable.
        """
        predicted = self.predict(self.prepare(data, affine))
        return self.finish(predicted), predicted.seconds_network

    def prepare(self, data: np.ndarray, affine: np.ndarray) -> Prepared:
        """Everything before the network. See `segment`."""
        self._check_channels(data)
        with machine_errors(), self._side_stream.entered():
            moved, moved_affine = to_axes(data, affine, self._axes(affine))
            edges_mm = spacing_mm(moved_affine)
            body = None
            if self.profile.crops_to_body:
                body = body_box(moved if moved.ndim == 3 else moved[..., 0], edges_mm)
            seen = moved if body is None else moved[body]
            image, spacing = on_grid(seen, edges_mm, self._zoom_mm, self.profile, self.device)
            spacing_zyx_mm = [float(edge) for edge in spacing[::-1]]
            shared: dict[Any, Preprocessed] = {}
            inputs = {}
            for part in self._parts:
                if part.previous is not None:
                    continue
                like = part.network.preprocessing
                if like not in shared:
                    shared[like] = part.network.preprocess(image, spacing_zyx_mm)
                inputs[part.name] = shared[like]
            return Prepared(
                affine,
                data.shape[:3],
                moved.shape[:3],
                edges_mm,
                body,
                tuple(image.shape[-3:]),
                inputs,
                kept_for_boxes(moved, self.profile) if self._on_boxes else None,
                (image, spacing_zyx_mm) if len(inputs) < len(self._parts) else (),
            )

    def _check_channels(self, data: np.ndarray) -> None:
        """Raise ScanError unless a scan has as many channels as the networks see."""
        n_channels = data.shape[3] if data.ndim == 4 else 1
        names = self.card.channels
        if n_channels != max(1, len(names)):
            wanted = f"{len(names)}: {', '.join(names)}" if names else "one"
            raise ScanError("IMG_CHANNEL_MISSING", f"{n_channels} channels, not {wanted}")

    def _axes(self, affine: np.ndarray) -> str:
        """Axes on which the networks are given a scan."""
        wanted = self.card.orientation
        return orientation(affine) if wanted == AS_STORED else wanted

    def predict(self, prepared: Prepared) -> Predicted:
        """The networks' part of `segment`; one call at a time.

        A GPU is given all that there is to do before it is waited for.
        """
        start = time.perf_counter()
        with machine_errors(), torch.inference_mode():
            heard = self._hear(prepared)
            outputs = [
                Spoken(one.part, one.source, one.said.on_host())
                for one in heard
                if one.part.to_layers
            ]
            layers = self._layers(prepared, outputs) if self._on_boxes else None
            crops = self._crops(prepared, layers) if layers else []
        self._n_predicted += 1
        if self._n_predicted % SCANS_BETWEEN_TRIMS == 0:
            return_free_pages()
        softmax = None
        if self.profile.keeps_softmax:
            sums = [(one.said.softness, one.part.to_global) for one in heard]
            softmax = ratios([*sums, *((crop.softness, crop.part.to_global) for crop in crops)])
        seconds = time.perf_counter() - start
        # The scan is not kept until the labels are written.
        shapes = replace(prepared, inputs={}, scan=None, seen=())
        return Predicted(shapes, outputs, seconds, softmax, layers, crops)

    def _hear(self, prepared: Prepared) -> list[Heard]:
        """What the parts that see the whole scan say, in their order."""
        heard: dict[str, Heard] = {}
        for part in self._parts:
            if part.previous is None:
                source = prepared.inputs[part.name]
            else:
                image, spacing_zyx_mm = prepared.seen
                earlier = heard[part.previous].label_map()
                source = part.network.preprocess(image, spacing_zyx_mm, earlier)
            one = Heard(part, source, self._predict(part, source))
            if part.averaged_with:
                members = [*(heard[name] for name in part.averaged_with), one]
                one = replace(one, said=average(members, self.profile.keeps_softmax))
            heard[part.name] = one
        return list(heard.values())

    def _predict(self, part: PartRunner, source: Preprocessed) -> Said:
        """One part; tried again with less memory for as long as less can be used."""
        while True:
            try:
                return part.predict(source, self.profile, self._memory)
            except torch.OutOfMemoryError:
                if not self._memory.step_down():
                    raise
            torch.cuda.empty_cache()

    def _crops(self, prepared: Prepared, layers: dict[int, np.ndarray]) -> list[Crop]:
        """What the parts that see a box say of it; none of those whose structures are absent."""
        crops = []
        for part in self._on_boxes:
            box = box_around(part, layers, prepared.edges_mm[::-1])
            if box is None or prepared.scan is None:
                continue
            target_mm = self._zoom_mm if part.spacing_mm is None else part.spacing_mm
            image, spacing = on_grid(
                prepared.scan[box[::-1]],
                prepared.edges_mm,
                None if self._zoom_mm is None else target_mm,
                self.profile,
                self.device,
            )
            source = part.network.preprocess(image, [float(edge) for edge in spacing[::-1]])
            said = self._predict(part, source)
            crops.append(Crop(part, box, source, said.on_host(), said.softness))
        return crops

    def finish(self, predicted: Predicted) -> np.ndarray:
        """Everything after the network, on the CPU: the label map of `segment`."""
        prepared = predicted.prepared
        with machine_errors():
            layers = dict(predicted.layers or self._layers(prepared, predicted.outputs))
            for crop in predicted.crops:
                crop.put_into(layers)
            native = [self._as_stored(layers.pop(layer), prepared) for layer in self.card.layers]
        return native[0] if len(native) == 1 else np.stack(native, axis=-1)

    def _layers(self, prepared: Prepared, outputs: Sequence[Spoken]) -> dict[int, np.ndarray]:
        """What the parts that see the whole scan say, z y x on its grid in the model's axes."""
        layers = {layer: np.zeros(prepared.grid, self._dtype) for layer in self.card.layers}
        for one in outputs:
            found = one.part.labels(one.output, one.source)
            for layer, table in one.part.to_layers.items():
                labels = table[found]
                np.copyto(layers[layer], labels, where=labels != 0, casting="same_kind")
        return {layer: self._on_the_scan(merged, prepared) for layer, merged in layers.items()}

    def _on_the_scan(self, merged: np.ndarray, prepared: Prepared) -> np.ndarray:
        """Labels from the grid of the parts to that of the scan, both z y x in the model's axes."""
        inside = prepared.body[::-1] if prepared.body else (slice(None),) * 3
        whole = np.zeros(prepared.axes_shape[::-1], merged.dtype)
        if self._zoom_mm is not None:
            merged = nearest(merged, whole[inside].shape)
        whole[inside] = merged
        return whole

    def _as_stored(self, whole: np.ndarray, prepared: Prepared) -> np.ndarray:
        """Labels from the model's axes to those of the scan as stored."""
        # x first in memory, as NIfTI files have it
        native = np.asfortranarray(
            from_axes(whole.transpose(2, 1, 0), prepared.affine, self._axes(prepared.affine))
        )
        if native.shape != prepared.shape:
            raise ScanError("BUG_GRID", f"{native.shape} labels for {prepared.shape} voxels")
        return native

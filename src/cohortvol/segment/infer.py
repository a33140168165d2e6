"""One scan to one label map, with nnU-Net's own preprocessing, sliding window and resampling."""

from __future__ import annotations

import io
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path

import numpy as np
import torch
from nnunetv2.inference.export_prediction import (
    convert_predicted_logits_to_segmentation_with_correct_shape,
)
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor

from cohortvol.errors import ConfigError, ModelError, ScanError, TemporaryError
from cohortvol.geometry import from_ras, spacing_mm, to_ras
from cohortvol.models import Card, Profile, choose_profile, load_card
from cohortvol.networks import LoadedPart, load_part


class Segmenter:
    """A model in memory. Load it once, segment many scans, one at a time.

    Use `Segmenter.load`.
    """

    def __init__(
        self, card: Card, profile: Profile, parts: list[LoadedPart], device: torch.device
    ) -> None:
        self.card = card
        self.profile = profile
        self.device = device
        self._parts = [_PartRunner(card, part, profile, device) for part in parts]
        self._dtype = np.uint8 if max(card.labels, default=0) < 256 else np.uint16

    @classmethod
    def load(
        cls, folder: Path, profile: str | None = None, device: str = "auto", threads: int = 0
    ) -> Segmenter:
        """Build the networks of a model folder and read their weights.

        Parameters
        ----------
        folder : Path
            A model folder with ``card.json``.
        profile : str, optional
            Inference profile; the card's default if not given.
        device : str
            ``cpu``, ``cuda``, ``cuda:1``, or ``auto``: the first GPU if there is one.
        threads : int
            CPU threads for torch; 0 leaves the choice to torch, which takes the cores given.

        Raises
        ------
        ModelError
            If the folder is no model, or its weights do not fit its plans.
        ConfigError
            If the device is not there.
        """
        card = load_card(folder)
        recipe = choose_profile(card, profile)
        if threads > 0:
            torch.set_num_threads(threads)
        chosen = _device(device)
        if chosen.type == "cuda":
            # The same kernels every time, so that a resumed run gives the same labels.
            torch.backends.cudnn.deterministic = True
        with _quiet():
            parts = [load_part(card, part) for part in card.parts]
            return cls(card, recipe, parts, chosen)

    def segment(self, data: np.ndarray, affine: np.ndarray) -> tuple[np.ndarray, float]:
        """Label map of one scan, on its own grid.

        Parameters
        ----------
        data : (I, J, K) array
            The scan, in any axis order.
        affine : (4, 4) float array
            Voxel indices to RAS+ millimetres.

        Returns
        -------
        label_map : (I, J, K) uint8 or uint16 array
            Label index of the model's card; 0 is background. Where two parts claim a voxel,
            the later part of the card wins, as upstream.
        seconds_network : float
            Wall time in the networks, s.

        Raises
        ------
        ScanError
            ``SEG_NONFINITE``, ``RUN_GPU_OOM``, ``RUN_HOST_OOM`` or ``BUG_GRID``.
        TemporaryError
            If the GPU reported an error that leaves this process unusable.
        """
        ras, ras_affine = to_ras(data, affine)
        image = np.ascontiguousarray(ras.transpose(2, 1, 0)[None], dtype=np.float32)
        spacing_zyx_mm = [float(edge) for edge in spacing_mm(ras_affine)[::-1]]
        merged = np.zeros(image.shape[1:], dtype=self._dtype)
        seconds_network = 0.0
        with _quiet(), _machine_errors():
            for part in self._parts:
                labels, seconds = part.run(image, spacing_zyx_mm)
                if labels.shape != merged.shape:
                    raise ScanError("BUG_GRID", f"{labels.shape} labels for {merged.shape} voxels")
                np.copyto(merged, labels, where=labels != 0)
                seconds_network += seconds
        native = np.ascontiguousarray(from_ras(merged.transpose(2, 1, 0), affine))
        if native.shape != data.shape:
            raise ScanError("BUG_GRID", f"{native.shape} labels for {data.shape} voxels")
        return native, seconds_network


class _PartRunner:
    """One nnU-Net with nnU-Net's predictor around it."""

    def __init__(
        self, card: Card, loaded: LoadedPart, profile: Profile, device: torch.device
    ) -> None:
        if profile.preprocessing != "nnunet":
            raise ModelError(f"profile {profile.name!r}: no such preprocessing here")
        self._network = loaded.network
        self._predictor = nnUNetPredictor(
            tile_step_size=profile.tile_step,
            use_gaussian=profile.gaussian,
            use_mirroring=profile.mirroring,
            perform_everything_on_device=device.type == "cuda",
            device=device,
            allow_tqdm=False,
        )
        if device.type == "cuda":
            torch.backends.cudnn.benchmark = False
        self._predictor.manual_initialization(
            network=loaded.network.module,
            plans_manager=loaded.network.plans_manager,
            configuration_manager=loaded.network.configuration_manager,
            parameters=loaded.folds,
            dataset_json=loaded.network.dataset,
            trainer_name=loaded.part.trainer,
            inference_allowed_mirroring_axes=None,
        )
        mapping = card.local_to_global(loaded.part)
        self._to_global = np.zeros(max(mapping) + 1, dtype=np.uint16)
        for local, label in mapping.items():
            self._to_global[local] = label

    def run(self, image: np.ndarray, spacing_zyx_mm: list[float]) -> tuple[np.ndarray, float]:
        """Labels of the model's card on the grid of a (1, z, y, x) image, and network seconds."""
        network = self._network
        data, _, properties = DefaultPreprocessor(verbose=False).run_case_npy(
            image,
            None,
            {"spacing": spacing_zyx_mm},
            network.plans_manager,
            network.configuration_manager,
            network.dataset,
        )
        start = time.perf_counter()
        logits = self._logits(torch.from_numpy(np.ascontiguousarray(data)))
        seconds = time.perf_counter() - start
        labels = convert_predicted_logits_to_segmentation_with_correct_shape(
            logits,
            network.plans_manager,
            network.configuration_manager,
            self._predictor.label_manager,
            properties,
            num_threads_torch=torch.get_num_threads(),
        )
        return self._to_global[labels], seconds

    def _logits(self, data: torch.Tensor) -> torch.Tensor:
        try:
            logits: torch.Tensor = self._predictor.predict_logits_from_preprocessed_data(data)
        except RuntimeError as error:
            if "Encountered inf" in str(error):
                raise ScanError("SEG_NONFINITE", "infinite logits") from error
            raise
        unusable = int(torch.count_nonzero(~torch.isfinite(logits)))
        if unusable:
            raise ScanError("SEG_NONFINITE", f"{unusable} of {logits.numel()} logits")
        return logits


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"device {name!r}: use auto, cpu, cuda or cuda:1") from error
    if device.type not in ("cpu", "cuda"):
        raise ConfigError(f"device {name!r}: use auto, cpu, cuda or cuda:1")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(
            f"device {name!r}: torch sees {torch.cuda.device_count()} GPUs\n"
            "  Check the driver with nvidia-smi, ask the cluster for a GPU, or use --device cpu."
        )
    return device


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep nnU-Net's prints off the standard output."""
    with redirect_stdout(io.StringIO()):
        yield


@contextmanager
def _machine_errors() -> Iterator[None]:
    """Tell a scan too large for the machine from a machine that has to be left."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        torch.cuda.empty_cache()
        raise ScanError("RUN_GPU_OOM", "") from error
    except MemoryError as error:
        raise ScanError("RUN_HOST_OOM", "") from error
    except RuntimeError as error:
        text = str(error)
        if "can't allocate memory" in text or "not enough memory" in text:
            raise ScanError("RUN_HOST_OOM", "") from error
        if any(word in text for word in ("CUDA error", "cuDNN error", "CUBLAS_STATUS")):
            raise TemporaryError(
                f"the GPU reported an error and this process can no longer use it ({error})\n"
                "  Finished scans are kept. Run the same command again, on another node if it "
                "comes back."
            ) from error
        raise

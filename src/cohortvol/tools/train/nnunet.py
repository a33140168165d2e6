"""nnU-Net's planner and trainer with the settings a small model on few cores needs."""

from __future__ import annotations

import logging
import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from batchgenerators.dataloading.nondet_multi_threaded_augmenter import (
    NonDetMultiThreadedAugmenter,
)
from batchgenerators.dataloading.single_threaded_augmenter import SingleThreadedAugmenter
from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import (
    ExperimentPlanner,
)
from nnunetv2.preprocessing.resampling.resample_torch import resample_torch_fornnunet
from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from torch.optim.lr_scheduler import LambdaLR

from cohortvol.models.networks.checkpoints import SAFE_GLOBALS
from cohortvol.store.files import commit
from cohortvol.tools.train.precision import half_precision_where_native
from cohortvol.tools.train.recipe import Phase

logger = logging.getLogger(__name__)

Group = tuple[str, str]
"""Dataset and source of a case; the cases of one group are drawn equally often."""

MOST_CHECKPOINTS = 1000
"""Written in one training: every epoch in a short one, every tenth of ten thousand."""

SECONDS_BETWEEN_PLOTS = 60.0
"""nnU-Net draws its progress after every epoch, for longer than a short epoch takes on a GPU."""

_RESAMPLING = {
    "is_seg": False,
    "force_separate_z": False,
    "memefficient_seg_resampling": False,
}


class SmallPlanner(ExperimentPlanner):
    """nnU-Net's planner with a narrow network and resampling by torch.

    Everything else (topology, patch, normalisation) follows from the fingerprint and from
    `gpu_memory_target_in_gb`, as nnU-Net plans it.
    """

    def __init__(
        self,
        *args: Any,
        base_features: int,
        max_features: int,
        full_resolution: int,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.UNet_base_num_features = base_features
        self.UNet_max_features_3d = max_features
        # Convolutions at full resolution, where most of the time goes: nnU-Net has two.
        self.full_resolution = full_resolution
        self.UNet_blocks_per_stage_encoder = (full_resolution, *[2] * 13)

    def get_plans_for_configuration(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """nnU-Net's plan of one configuration, with our convolutions in the last decoder stage."""
        plan: dict[str, Any] = super().get_plans_for_configuration(*args, **kwargs)
        network = plan["architecture"]["arch_kwargs"]
        decoder = network["n_conv_per_stage_decoder"]
        network["n_conv_per_stage_decoder"] = (*decoder[:-1], self.full_resolution)
        return plan

    def determine_resampling(self, *_args: Any, **_kwargs: Any) -> tuple[Any, Any, Any, Any]:
        """Trilinear resampling by torch for images and label maps."""
        as_labels = {**_RESAMPLING, "is_seg": True}
        return resample_torch_fornnunet, _RESAMPLING, resample_torch_fornnunet, as_labels

    def determine_segmentation_softmax_export_fn(
        self, *_args: Any, **_kwargs: Any
    ) -> tuple[Any, Any]:
        """Trilinear resampling by torch for logits."""
        return resample_torch_fornnunet, _RESAMPLING


class ShortTrainer(nnUNetTrainer):
    """nnU-Net's trainer with a settable number of iterations, on CPU or CUDA.

    AdamW with warm-up and polynomial decay in place of SGD, which needs a thousand epochs, unless
    SGD is asked for; no mirroring, since left and right must not be exchanged; bfloat16 on a CPU
    that has it; data loading in this process, unless there is a GPU to be fed.

    A checkpoint is written at the end of an epoch (see `MOST_CHECKPOINTS`), whole or not at all,
    and `resume` goes on from it. What is drawn at random in an epoch follows from the seed and the
    number of the epoch, so that on a CPU a training that was killed ends with the weights of one
    that was not.
    """

    EPOCH_ITERATIONS = 50

    def configure(
        self,
        phases: list[Phase],
        learning_rate: float,
        batch_size: int,
        groups: dict[str, Group],
        dataset_weights: dict[str, float],
        optimizer: str = "adamw",
        seed: int = 0,
        loaders: int = 0,
    ) -> None:
        """Set the schedule and how often each group of cases is drawn.

        Parameters
        ----------
        phases : list of Phase
            One after the other; each is rounded up to whole epochs of `EPOCH_ITERATIONS`.
        learning_rate : float
            Peak learning rate, reached again in each phase.
        batch_size : int
            Patches per batch, in place of the planned number.
        groups : dict
            Dataset and source of every case.
        dataset_weights : dict
            Of every dataset.
        optimizer : str
            ``adamw`` or ``sgd``.
        seed : int
            Of all that is drawn at random.
        loaders : int
            Processes that load and augment cases; 0 for this one. With them the order of the
            cases, and so the result, differs from run to run.
        """
        self.num_iterations_per_epoch = self.EPOCH_ITERATIONS
        self.num_val_iterations_per_epoch = 4
        self.epoch_phase = [
            (phase, place, n_epochs)
            for phase in phases
            for n_epochs in [int(np.ceil(phase.iterations / self.EPOCH_ITERATIONS))]
            for place in range(n_epochs)
        ]
        self.num_epochs = len(self.epoch_phase)
        self.initial_lr = learning_rate
        self.save_every = max(1, self.num_epochs // MOST_CHECKPOINTS)
        self.wanted_batch_size = batch_size
        self.groups = groups
        self.dataset_weights = dataset_weights
        self.wanted_optimizer = optimizer
        self.seed = seed
        self.loaders = loaders
        self.loaded_phase: Phase | None = None

    def _set_batch_size_and_oversample(self) -> None:
        super()._set_batch_size_and_oversample()
        self.batch_size = self.wanted_batch_size

    def configure_optimizers(self) -> tuple[Any, Any]:
        """The optimizer; its schedule is stepped per epoch, and restarts in each phase."""
        weights = self.network.parameters()
        optimizer: torch.optim.Optimizer
        if self.wanted_optimizer == "sgd":  # as nnU-Net trains
            optimizer = torch.optim.SGD(
                weights, lr=self.initial_lr, weight_decay=3e-5, momentum=0.99, nesterov=True
            )
        else:
            optimizer = torch.optim.AdamW(weights, lr=self.initial_lr, weight_decay=1e-4)
        warm = 2 if self.wanted_optimizer == "adamw" else 1

        def factor(epoch: int) -> float:
            _, place, n_epochs = self.epoch_phase[min(epoch, self.num_epochs - 1)]
            warm_up = min(1.0, (place + 1) / warm)
            return float(warm_up * (1 - place / n_epochs) ** 0.9)

        return optimizer, LambdaLR(optimizer, factor)

    def configure_rotation_dummyDA_mirroring_and_inital_patch_size(
        self,
    ) -> tuple[Any, Any, Any, Any]:
        """nnU-Net's augmentation without mirroring, and rotations up to 15 degrees."""
        _, flat, _, _ = super().configure_rotation_dummyDA_mirroring_and_inital_patch_size()
        self.inference_allowed_mirroring_axes = None
        patch = np.array(self.configuration_manager.patch_size)
        turn = 15 / 180 * np.pi
        return (-turn, turn), flat, np.ceil(patch * 1.25).astype(int), None

    def get_dataloaders(self) -> tuple[Any, Any]:
        """Loaders of training and validation for the phase of the present epoch."""
        patch = self.configuration_manager.patch_size
        scales = self._get_deep_supervision_scales()
        turn, flat, initial, mirror = (
            self.configure_rotation_dummyDA_mirroring_and_inital_patch_size()
        )
        masks = self.configuration_manager.use_mask_for_norm
        augment = self.get_training_transforms(
            patch, turn, scales, mirror, flat, use_mask_for_norm=masks
        )
        plain = self.get_validation_transforms(scales)
        training, validation = self.get_tr_and_val_datasets()
        self.loaded_phase, _, _ = self.epoch_phase[self.current_epoch]
        loaders = []
        for data, size, transforms, probabilities in (
            (training, initial, augment, self._probabilities(training.identifiers)),
            (validation, patch, plain, None),
        ):
            loader = nnUNetDataLoader(
                data,
                self.batch_size,
                size,
                patch,
                self.label_manager,
                oversample_foreground_percent=0.33,
                sampling_probabilities=probabilities,
                probabilistic_oversampling=True,
                transforms=transforms,
            )
            loaders.append(self._started(loader))
        return loaders[0], loaders[1]

    def _started(self, loader: Any) -> Any:
        """A loader in this process, or in as many others as asked for."""
        if not self.loaders:
            return SingleThreadedAugmenter(loader, None)
        return NonDetMultiThreadedAugmenter(
            data_loader=loader,
            transform=None,
            num_processes=self.loaders,
            num_cached=max(6, self.loaders // 2),
            seeds=None,
            pin_memory=self.device.type == "cuda",
            wait_time=0.002,
        )

    def _probabilities(self, cases: Sequence[str]) -> np.ndarray:
        """How often each case is drawn in the phase of the present epoch; they sum up to 1."""
        phase, _, _ = self.epoch_phase[self.current_epoch]
        groups = [self.groups[case] for case in cases]
        sizes = Counter(groups)
        weights = np.array(
            [
                self.dataset_weights[group[0]] * phase.source_weights.get(group[1], 0.0)
                for group in groups
            ]
        )
        weights /= np.array([sizes[group] for group in groups])
        return np.asarray(weights / weights.sum())

    def on_train_epoch_start(self) -> None:
        """nnU-Net's start of an epoch, with the loaders of its phase and a seed of its own."""
        super().on_train_epoch_start()
        phase, _, _ = self.epoch_phase[self.current_epoch]
        if phase is not self.loaded_phase:
            self._stop_loaders()
            self.dataloader_train, self.dataloader_val = self.get_dataloaders()
        state = np.random.SeedSequence([self.seed, self.current_epoch]).generate_state(3)
        np.random.seed(state[0])  # nnU-Net draws from the global generators
        torch.manual_seed(int(state[1]))
        random.seed(int(state[2]))

    def _stop_loaders(self) -> None:
        for loader in (self.dataloader_train, self.dataloader_val):
            if isinstance(loader, NonDetMultiThreadedAugmenter):
                loader._finish()

    def on_train_start(self) -> None:
        """nnU-Net's start of a training, which then draws its progress now and then only."""
        super().on_train_start()
        self.plot_progress = self.logger.plot_progress_png
        self.logger.plot_progress_png = _seldom(self.plot_progress)

    def on_train_end(self) -> None:
        """nnU-Net's end of a training, and its progress to the end as a plot."""
        super().on_train_end()
        self.plot_progress(self.output_folder)

    def save_checkpoint(self, filename: str) -> None:
        """nnU-Net's checkpoint, whole or not at all; none of the best epoch, which nobody reads."""
        final = Path(filename)
        if final.name == "checkpoint_best.pth":
            return
        commit(final, super().save_checkpoint)

    def train_step(self, batch: dict[str, Any]) -> dict[str, Any]:
        """nnU-Net's step, in bfloat16 where the processor has it."""
        with half_precision_where_native(self.device.type):
            return dict(super().train_step(batch))

    def validation_step(self, batch: dict[str, Any]) -> dict[str, Any]:
        """nnU-Net's step, in bfloat16 where the processor has it."""
        with half_precision_where_native(self.device.type):
            return dict(super().validation_step(batch))

    def plot_network_architecture(self) -> None:
        """Nothing: nnU-Net's plot needs a package that no longer works."""

    def start_from(self, weights: Path) -> None:
        """Initialise the network with the weights of another training's checkpoint."""
        self.initialize()
        self.network.load_state_dict(load_checkpoint(weights)["network_weights"])

    def resume(self, checkpoint: Path) -> None:
        """Go on from a checkpoint of this very training."""
        self.initialize()
        state = load_checkpoint(checkpoint)
        self.network.load_state_dict(state["network_weights"])
        self.optimizer.load_state_dict(state["optimizer_state"])
        self.lr_scheduler.last_epoch = state["current_epoch"]
        self.current_epoch = state["current_epoch"]
        self.logger.load_checkpoint(state["logging"])
        self._best_ema = state["_best_ema"]
        if self.grad_scaler is not None and state["grad_scaler_state"] is not None:
            self.grad_scaler.load_state_dict(state["grad_scaler_state"])
        logger.info("fold %s: going on from epoch %d", self.fold, self.current_epoch)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """An nnU-Net checkpoint without unpickling anything but tensors, numbers and text."""
    with torch.serialization.safe_globals(SAFE_GLOBALS):
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    return dict(loaded)


def _seldom(plot: Callable[[str], None]) -> Callable[[str], None]:
    """The same, but for calls that come too soon after the last."""
    last = time.monotonic()

    def plot_now_and_then(folder: str) -> None:
        nonlocal last
        if time.monotonic() - last >= SECONDS_BETWEEN_PLOTS:
            plot(folder)
            last = time.monotonic()

    return plot_now_and_then

"""The machine under the networks: its device, its memory, and which errors are its own."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from cohortvol.compute.cuda import Problem, comes_back
from cohortvol.errors import ConfigError, InstallationError, ScanError, TemporaryError
from cohortvol.models.networks.devices import given_by_slurm, unusable, why_no_gpu

LOG = logging.getLogger(__name__)

CPU = torch.device("cpu")
TILES_PER_BATCH = 4


@dataclass
class Memory:
    """How much of a GPU's memory is used at a time; less after every time it did not suffice.

    The labels do not depend on it, but for the last bits of a GPU's arithmetic.
    """

    device: torch.device
    tiles_per_batch: int
    blend_on: torch.device

    @classmethod
    def of(cls, device: torch.device) -> Memory:
        """Several patches at a time on a GPU, one on a CPU, where more gain nothing."""
        return cls(device, TILES_PER_BATCH if device.type == "cuda" else 1, device)

    def step_down(self) -> bool:
        """Use less from now on; False where less cannot be used."""
        if self.tiles_per_batch > 1:
            self.tiles_per_batch //= 2
            LOG.warning("out of GPU memory: %d patches at a time now", self.tiles_per_batch)
        elif self.blend_on != CPU:
            self.blend_on = CPU
            LOG.warning("out of GPU memory: patches are added up on the host now")
        else:
            return False
        return True


class SideStream:
    """A GPU's stream for what is done beside the network; nothing on a CPU.

    In the network's own stream each step would wait for all that the network still has to do.
    """

    def __init__(self, device: torch.device) -> None:
        self._stream: torch.cuda.Stream | None = None
        if device.type == "cuda":
            self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Do what the block asks of the GPU in this stream, and wait for it at the block's end."""
        if self._stream is None:
            yield
            return
        with torch.cuda.stream(self._stream):
            yield
            self._stream.synchronize()


def device_of(name: str) -> torch.device:
    """The device of ``auto``, ``cpu``, ``cuda`` or ``cuda:1``.

    Raises
    ------
    ConfigError
        If it is not there.
    InstallationError
        If this torch has no code for it, or its driver is too old: seen before anything is run on
        it. A GPU that nobody asked for, as ``auto`` on a machine of one's own, is left alone then.
    """
    if name == "auto":
        if torch.cuda.is_available():
            with machine_errors():
                problem = unusable()
            if problem is None:
                return torch.device("cuda")
            if not given_by_slurm():
                LOG.warning("%s; the processors are used. %s", problem.says, problem.what_to_do)
                return torch.device("cpu")
            raise _cannot_be_used(problem)
        if why := why_no_gpu():
            raise ConfigError(
                f"this job was given a GPU that cannot be used (ENV_CUDA): {why}\n"
                "  `cohortvol doctor` in such a job says more. Run it on another node, or set\n"
                "  segment.device to cpu and ask for no GPU."
            )
        return torch.device("cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"device {name!r}: use auto, cpu, cuda or cuda:1") from error
    if device.type not in ("cpu", "cuda"):
        raise ConfigError(f"device {name!r}: use auto, cpu, cuda or cuda:1")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(
            f"device {name!r}: torch sees {torch.cuda.device_count()} GPUs (ENV_CUDA)\n"
            "  Check the driver with nvidia-smi, ask the cluster for a GPU, or use --device cpu."
        )
    if device.type == "cuda":
        with machine_errors():
            problem = unusable(device.index or 0)
        if problem is not None:
            raise _cannot_be_used(problem)
    return device


def _cannot_be_used(problem: Problem) -> InstallationError:
    return InstallationError(
        f"{problem.says} (ENV_CUDA)\n"
        f"  {problem.what_to_do}\n"
        "  Running it again does not help. With segment.device: cpu it runs on the processors."
    )


def numerics_on(device: torch.device, dtype_on_cpu: torch.dtype) -> dict[str, Any]:
    """What labels may hang on in their last digits: see `Segmenter.numerics`."""
    on_gpu = device.type == "cuda"
    precision = torch.get_autocast_dtype("cuda") if on_gpu else dtype_on_cpu
    found: dict[str, Any] = {
        "device": device.type,
        "precision": str(precision).removeprefix("torch."),
        "threads": torch.get_num_threads(),
    }
    if on_gpu:
        found |= {
            "cuda": torch.version.cuda,
            "cudnn_deterministic": torch.backends.cudnn.deterministic,
            "cudnn_tf32": torch.backends.cudnn.allow_tf32,
            "gpu_name": torch.cuda.get_device_name(device),
            "matmul_tf32": torch.backends.cuda.matmul.allow_tf32,
        }
    return found


@contextmanager
def machine_errors() -> Iterator[None]:
    """Tell a scan too large for the machine from a machine that has to be left, or mended.

    Raises
    ------
    ScanError
        ``RUN_GPU_OOM`` or ``RUN_HOST_OOM``.
    TemporaryError
        If the GPU is lost to this process.
    InstallationError
        If torch, its libraries, the GPU and the driver do not go together.
    """
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
        if comes_back(text):
            raise InstallationError(
                f"the GPU cannot be used as torch {torch.__version__} is installed (ENV_CUDA): "
                f"{' '.join(text.split())[:300]}\n"
                "  Running it again does not help. `cohortvol doctor` in such a job says what\n"
                "  does not go together; with segment.device: cpu it runs on the processors."
            ) from error
        if any(word in text for word in ("CUDA error", "cuDNN error", "CUBLAS_STATUS")):
            raise TemporaryError(
                f"the GPU reported an error and this process can no longer use it ({error})\n"
                "  Finished scans are kept. Run the same command again, on another node if it "
                "comes back."
            ) from error
        raise

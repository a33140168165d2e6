"""The GPUs that torch sees, and why it sees none where there should be one."""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass
from pathlib import Path

import torch

DRIVER = Path("/proc/driver/nvidia/version")
GIVEN_BY_SLURM = ("SLURM_JOB_GPUS", "SLURM_STEP_GPUS")


@dataclass(frozen=True)
class Gpu:
    """One GPU as torch sees it."""

    name: str
    free_bytes: int
    total_bytes: int


@dataclass(frozen=True)
class Torch:
    """A torch and its GPUs.

    Attributes
    ----------
    build : str
        ``cuda 12.8``, ``rocm 6.4``, or ``cpu``.
    gpus : tuple of Gpu
        Those it can use.
    problem : str
        What it says where it can use none, else empty.
    """

    version: str
    build: str
    gpus: tuple[Gpu, ...]
    problem: str


def look() -> Torch:
    """What torch says of itself and of the GPUs of this machine."""
    problem = ""
    gpus: list[Gpu] = []
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            if torch.cuda.is_available():
                for index in range(torch.cuda.device_count()):
                    free, total = torch.cuda.mem_get_info(index)
                    gpus.append(Gpu(torch.cuda.get_device_name(index), free, total))
        except RuntimeError as error:
            gpus, problem = [], str(error)
    if not gpus and not problem and said:
        problem = str(said[-1].message)
    return Torch(torch.__version__, _build(), tuple(gpus), " ".join(problem.split())[:300])


def _build() -> str:
    if torch.version.hip is not None:
        return f"rocm {torch.version.hip}"
    return "cpu" if torch.version.cuda is None else f"cuda {torch.version.cuda}"


def given_by_slurm() -> bool:
    """Whether Slurm gave this job a GPU."""
    return any(os.environ.get(name) for name in GIVEN_BY_SLURM)


def why_no_gpu() -> str:
    """What keeps torch from the GPU that this job was given; empty where it was given none.

    A cluster of a test, which gives away GPUs that are none, has neither a driver nor a torch that
    could use one: there a job runs on its processors.
    """
    if not given_by_slurm():
        return ""
    if not DRIVER.exists():
        return "" if _build() == "cpu" else "this node has no NVIDIA driver"
    if _build() == "cpu":
        return f"torch {torch.__version__} was built without CUDA"
    return look().problem or f"torch {torch.__version__} ({_build()}) does not see it"

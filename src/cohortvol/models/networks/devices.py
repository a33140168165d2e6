"""The GPUs that torch sees, and why it sees none where there should be one."""

from __future__ import annotations

import os
import re
import warnings
from dataclasses import dataclass
from pathlib import Path

import torch

from cohortvol.compute.cuda import Build, Card, Driver, Problem, judge, version_of

DRIVER = Path("/proc/driver/nvidia/version")
GIVEN_BY_SLURM = ("SLURM_JOB_GPUS", "SLURM_STEP_GPUS")


@dataclass(frozen=True)
class Gpu:
    """One GPU as torch sees it; its compute capability is such as (7, 0)."""

    name: str
    free_bytes: int
    total_bytes: int
    capability: tuple[int, int] | None = None


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
    architectures : tuple of str
        What it has code for, such as ``sm_80``.
    driver_cuda : tuple of int or None
        The newest CUDA of the driver that it uses.
    """

    version: str
    build: str
    gpus: tuple[Gpu, ...]
    problem: str
    architectures: tuple[str, ...] = ()
    driver_cuda: tuple[int, int] | None = None


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
                    name = torch.cuda.get_device_name(index)
                    capability = torch.cuda.get_device_capability(index)
                    gpus.append(Gpu(name, free, total, capability))
        except RuntimeError as error:
            gpus, problem = [], str(error)
    if not gpus and not problem and said:
        problem = str(said[-1].message)
    return Torch(
        version=torch.__version__,
        build=_build(),
        gpus=tuple(gpus),
        problem=" ".join(problem.split())[:300],
        architectures=_architectures(),
        driver_cuda=_driver_cuda() if gpus else None,
    )


def _architectures() -> tuple[str, ...]:
    return () if torch.version.cuda is None else tuple(torch.cuda.get_arch_list())


def driver() -> Driver:
    """The driver, by what the kernel says of it; nothing is known where there is none."""
    try:
        text = DRIVER.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return Driver()
    found = re.search(r"Kernel Module.*?\s(\d+(?:\.\d+)+)", text)
    return Driver(version_of(found[1]) if found else None)


def unusable(index: int = 0) -> Problem | None:
    """Why torch cannot use a GPU that it sees; None where nothing speaks against it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns of what is judged here
        name = torch.cuda.get_device_name(index)
        capability = torch.cuda.get_device_capability(index)
    card = Card(name, capability if torch.version.cuda is not None else None)
    return judge(_build_of_torch(), card, Driver(newest_cuda=_driver_cuda()))


def _build_of_torch() -> Build:
    return Build(torch.__version__, version_of(torch.version.cuda), _architectures())


def _driver_cuda() -> tuple[int, int] | None:
    """The newest CUDA of the driver that is loaded, which may be newer than the kernel's."""
    ask = getattr(torch._C, "_cuda_getDriverVersion", None)
    number = ask() if ask is not None else 0  # such as 13000
    return (number // 1000, number % 1000 // 10) if number else None


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
    if problem := judge(_build_of_torch(), Card("the GPU", None), driver()):
        return problem.says
    return look().problem or f"torch {torch.__version__} ({_build()}) does not see it"

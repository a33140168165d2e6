"""torch, the driver, and the memory of the GPUs."""

from __future__ import annotations

import re
from typing import Protocol

from cohortvol.doctor.commands import ask, there
from cohortvol.doctor.findings import Finding, failed, passed, skipped, warned

SMALL_BYTES = 4 * 2**30
"""Free memory below which patches are added up on the host. ASSUME: not measured on a GPU."""

_CUDA_OF_DRIVER = re.compile(r"CUDA Version:\s*(\d+)\.(\d+)")
_DRIVER = re.compile(r"Driver Version:\s*([\d.]+)")


class Gpu(Protocol):
    """See `cohortvol.networks.devices.Gpu`."""

    @property
    def name(self) -> str: ...
    @property
    def free_bytes(self) -> int: ...
    @property
    def total_bytes(self) -> int: ...


class Torch(Protocol):
    """See `cohortvol.networks.devices.Torch`."""

    @property
    def version(self) -> str: ...
    @property
    def build(self) -> str: ...
    @property
    def gpus(self) -> tuple[Gpu, ...]: ...
    @property
    def problem(self) -> str: ...


def nvidia_smi() -> str | None:
    """What nvidia-smi prints: nothing where it fails; None where there is none."""
    return (ask("nvidia-smi") or "") if there("nvidia-smi") else None


def cuda(torch: Torch, smi: str | None, given: bool) -> Finding:
    """Whether this torch can use the GPUs of this machine.

    Parameters
    ----------
    torch : Torch
        What torch says.
    smi : str or None
        See `nvidia_smi`.
    given : bool
        Whether Slurm gave this job a GPU.
    """
    says = f"torch {torch.version}, {torch.build}"
    driver = _driver(smi)
    if torch.gpus:
        return passed(f"{says}; {driver}" if driver else says)
    if smi is None and not given:
        return skipped(
            f"{says}; no GPU here, scans are segmented on the processors",
            "On a cluster, run it where the GPUs are: `srun --gres=gpu:1 cohortvol doctor`.",
        )
    if smi is None and torch.build == "cpu":
        return warned(
            f"{says}; Slurm gave a GPU, but there is no driver: scans are segmented on the "
            "processors",
            "Nothing where the cluster is one for tests; else ask for another node.",
        )
    if driver is None:
        return failed(
            f"{says}: no NVIDIA driver answers (ENV_CUDA){_after(torch.problem)}",
            "Ask for another node, or have its driver looked at; nvidia-smi must list the GPU.",
        )
    if torch.build == "cpu":
        return failed(
            f"{says}: built without CUDA, but there is a GPU (ENV_CUDA); {driver}",
            "Install the CUDA build of the same version of torch.",
        )
    if _too_old(smi or "", torch.build):
        return failed(
            f"{says}: newer than the driver allows (ENV_CUDA); {driver}",
            "Have the driver updated, or install torch built for the CUDA version that nvidia-smi "
            "shows.",
        )
    return failed(
        f"{says}: torch sees no GPU (ENV_CUDA); {driver}{_after(torch.problem)}",
        "Ask the cluster for a GPU (`--gres=gpu:1`), and look at CUDA_VISIBLE_DEVICES.",
    )


def _after(more: str | None) -> str:
    return f"; {more}" if more else ""


def _driver(smi: str | None) -> str | None:
    driver, newest = _DRIVER.search(smi or ""), _CUDA_OF_DRIVER.search(smi or "")
    if driver is None:
        return None
    return f"driver {driver[1]}" + (f" for CUDA {newest[1]}.{newest[2]}" if newest else "")


def _too_old(smi: str, build: str) -> bool:
    """Whether the driver is of an older major version of CUDA; within one, all go together."""
    newest = _CUDA_OF_DRIVER.search(smi)
    wanted = re.fullmatch(r"cuda (\d+)\..*", build)
    return newest is not None and wanted is not None and int(newest[1]) < int(wanted[1])


def memory(torch: Torch) -> Finding:
    """Whether the memory of every GPU is large enough, and free."""
    if not torch.gpus:
        return skipped("no GPU that torch can use", "Nothing, unless the line before asks for one.")
    says = "; ".join(
        f"{gpu.name}: {gpu.free_bytes / 2**30:.1f} of {gpu.total_bytes / 2**30:.1f} GiB free"
        for gpu in torch.gpus
    )
    if any(gpu.total_bytes < SMALL_BYTES for gpu in torch.gpus):
        return warned(says, "A small GPU segments slowly; ask for one with 8 GiB or more.")
    if any(gpu.free_bytes < SMALL_BYTES for gpu in torch.gpus):
        return warned(says, "Something else uses this GPU: nvidia-smi names it. Take one for you.")
    return passed(says)

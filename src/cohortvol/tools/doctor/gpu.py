"""torch, the driver, and the memory of the GPUs."""

from __future__ import annotations

import re
from typing import Protocol

from cohortvol.compute.cuda import Build, Card, Driver, judge, version_of
from cohortvol.tools.doctor.commands import ask, there
from cohortvol.tools.doctor.findings import Finding, failed, passed, skipped, warned

SMALL_BYTES = 4 * 2**30
"""Free memory below which patches are added up on the host. ASSUME: not measured on a GPU."""

_CUDA_OF_DRIVER = re.compile(r"CUDA Version:\s*([\d.]+)")
_DRIVER = re.compile(r"Driver Version:\s*([\d.]+)")


class Gpu(Protocol):
    """See `cohortvol.models.networks.devices.Gpu`."""

    @property
    def name(self) -> str: ...
    @property
    def free_bytes(self) -> int: ...
    @property
    def total_bytes(self) -> int: ...
    @property
    def capability(self) -> tuple[int, int] | None: ...


class Torch(Protocol):
    """See `cohortvol.models.networks.devices.Torch`."""

    @property
    def version(self) -> str: ...
    @property
    def build(self) -> str: ...
    @property
    def gpus(self) -> tuple[Gpu, ...]: ...
    @property
    def problem(self) -> str: ...
    @property
    def architectures(self) -> tuple[str, ...]: ...
    @property
    def driver_cuda(self) -> tuple[int, int] | None: ...


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
    build = Build(torch.version, version_of(torch.build.removeprefix("cuda ")), torch.architectures)
    driver = _driver(smi)
    if torch.gpus:
        return _seen(torch, build, f"{says}; {driver}" if driver else says)
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
    newest = _CUDA_OF_DRIVER.search(smi or "")
    if problem := judge(
        build, Card("the GPU", None), Driver(None, version_of(newest[1] if newest else None))
    ):
        return failed(f"{problem.says} (ENV_CUDA); {driver}", problem.what_to_do)
    return failed(
        f"{says}: torch sees no GPU (ENV_CUDA); {driver}{_after(torch.problem)}",
        "Ask the cluster for a GPU (`--gres=gpu:1`), and look at CUDA_VISIBLE_DEVICES.",
    )


def _seen(torch: Torch, build: Build, says: str) -> Finding:
    """Whether torch has code for the GPUs that it sees: it sees those too that it has none for."""
    cards = [Card(gpu.name, gpu.capability) for gpu in torch.gpus]
    found = [judge(build, card, Driver(newest_cuda=torch.driver_cuda)) for card in cards]
    problems = {problem.says: problem for problem in found if problem is not None}
    if not problems:
        return passed(says)
    told = f"{'; '.join(problems)} (ENV_CUDA)"
    what = next(iter(problems.values())).what_to_do
    return warned(told, what) if None in found else failed(told, what)


def _after(more: str | None) -> str:
    return f"; {more}" if more else ""


def _driver(smi: str | None) -> str | None:
    driver, newest = _DRIVER.search(smi or ""), _CUDA_OF_DRIVER.search(smi or "")
    if driver is None:
        return None
    return f"driver {driver[1]}" + (f" for CUDA {newest[1]}" if newest else "")


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

"""Whether a build of torch, a GPU and its driver go together, by what they say of themselves.

Nothing here asks a machine: `cohortvol.models.networks.devices` and `cohortvol.tools.doctor` read,
and this says what it means, so that cards which nobody here has can be judged in a test.

Rules: the CUDA programming guide (code for sm_XY runs on cards X.Z with Z of Y or more, PTX of
compute_XY on every card of X.Y or more, where the driver knows that PTX), NVIDIA's table of drivers
for minor version compatibility, and the table of published builds in torch 2.13, torch.cuda.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

Version = tuple[int, ...]

OLDEST_DRIVER = {11: (450, 80), 12: (525, 60), 13: (580, 65)}
"""First driver on Linux for each major version of CUDA."""
NEWEST_CUDA = {
    450: (11, 0), 455: (11, 1), 460: (11, 2), 465: (11, 3), 470: (11, 4), 495: (11, 5),
    510: (11, 6), 515: (11, 7), 520: (11, 8), 525: (12, 0), 530: (12, 1), 535: (12, 2),
    545: (12, 3), 550: (12, 4), 555: (12, 5), 560: (12, 6), 565: (12, 7), 570: (12, 8),
    575: (12, 9), 580: (13, 0), 590: (13, 1),
}  # fmt: skip
"""Branch of a driver to the newest CUDA that it has."""
PUBLISHED = {
    (12, 6): ("sm_50", "sm_60", "sm_70", "sm_75", "sm_80", "sm_86", "sm_90"),
    (12, 9): ("sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120"),
    (13, 0): ("sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120"),
    (13, 2): ("sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120"),
}
"""CUDA of the builds of torch 2.13 for x86-64 to what they are compiled for."""
TEGRA = {(5, 3), (6, 2), (7, 2), (8, 7), (10, 1), (11, 0)}
"""Cards of boards, which share no code with others of their generation."""

_ARCHITECTURE = re.compile(r"(sm|compute)_(\d+)(\d)([af]?)")


@dataclass(frozen=True)
class Build:
    """A build of torch.

    Attributes
    ----------
    version : str
        Such as ``2.13.0+cu130``.
    cuda : tuple of int or None
        Such as (13, 0); None for one without CUDA.
    architectures : tuple of str
        What it has code for, as `torch.cuda.get_arch_list` says; empty where that is not known.
    """

    version: str
    cuda: Version | None
    architectures: tuple[str, ...] = ()


@dataclass(frozen=True)
class Card:
    """A GPU: its name, and its compute capability, such as (7, 0); None where not known."""

    name: str
    capability: Version | None


@dataclass(frozen=True)
class Driver:
    """A driver: its version, such as (580, 65, 6), and the newest CUDA it has, as far as known."""

    version: Version | None = None
    newest_cuda: Version | None = None

    @property
    def cuda(self) -> Version | None:
        """The newest CUDA; by the branch of the driver where it does not say itself."""
        if self.newest_cuda is not None or self.version is None:
            return self.newest_cuda
        branches = [branch for branch in NEWEST_CUDA if branch <= self.version[0]]
        return NEWEST_CUDA[max(branches)] if branches else None

    @property
    def said(self) -> str | None:
        """Its version as it is written; None where it is not known."""
        return shown(self.version) if self.version else None


@dataclass(frozen=True)
class Problem:
    """Why a GPU cannot be used, and what to do."""

    says: str
    what_to_do: str


def judge(build: Build, card: Card, driver: Driver) -> Problem | None:
    """Why this torch cannot use this card with this driver; None where nothing speaks against it.

    What is not known speaks against nothing.
    """
    if build.cuda is None:
        return None
    return _old_driver(build, driver) or _no_code(build, card, driver)


def _old_driver(build: Build, driver: Driver) -> Problem | None:
    if build.cuda is None:
        return None
    oldest = OLDEST_DRIVER.get(build.cuda[0])
    too_old = driver.newest_cuda is not None and driver.newest_cuda[0] < build.cuda[0]
    if oldest is not None and driver.version is not None:
        too_old = too_old or (driver.newest_cuda is None and driver.version[:2] < oldest)
    if not too_old:
        return None
    newest = driver.cuda
    older = [cuda for cuda in PUBLISHED if newest is not None and cuda[0] <= newest[0]]
    instead = f", or install torch built for CUDA {shown(max(older))}" if older else ""
    wanted = f" to {shown(oldest)} or newer" if oldest is not None else ""
    return Problem(
        f"torch {build.version} for CUDA {shown(build.cuda)} is newer than the driver allows "
        f"({_describe(driver)})",
        f"Have the driver updated{wanted}{instead}.",
    )


def _no_code(build: Build, card: Card, driver: Driver) -> Problem | None:
    if card.capability is None or not build.architectures:
        return None
    if has_code(build.architectures, card.capability):
        return None
    compute = f"{card.name} has compute capability {shown(card.capability)}"
    if has_ptx(build.architectures, card.capability):
        newest = driver.cuda
        if newest is None or build.cuda is None or newest >= build.cuda[:2]:
            return None
        return Problem(
            f"{compute}: torch {build.version} has only PTX for it, of CUDA {shown(build.cuda)}, "
            f"which the driver does not know ({_describe(driver)})",
            f"Have the driver updated to one for CUDA {shown(build.cuda)}, or install a torch that "
            "has code for this card.",
        )
    fits = [
        cuda
        for cuda, architectures in PUBLISHED.items()
        if has_code(architectures, card.capability)
        and (driver.cuda is None or cuda[0] <= driver.cuda[0])
    ]
    instead = (
        f"Install torch built for CUDA {shown(max(fits))} (its builds are called "
        f"cu{max(fits)[0]}{max(fits)[1]}), or ask for another card."
        if fits
        else "No build of torch that this version of cohortvol uses has it: ask for another card."
    )
    return Problem(
        f"{compute}: torch {build.version} has no code for it, but for "
        f"{', '.join(build.architectures)}",
        instead,
    )


def has_code(architectures: Sequence[str], capability: Version) -> bool:
    """Whether code was compiled that a card of this compute capability runs."""
    major, minor = capability[:2]
    for kind, of_major, of_minor, only in _parsed(architectures):
        if kind != "sm" or of_major != major:
            continue
        if of_minor == minor:
            return True
        on_board = {(major, minor), (of_major, of_minor)} & TEGRA
        if of_minor < minor and only != "a" and not on_board:
            return True
    return False


def has_ptx(architectures: Sequence[str], capability: Version) -> bool:
    """Whether there is PTX that a driver can compile for a card of this compute capability."""
    return any(
        kind == "compute" and not only and (of_major, of_minor) <= tuple(capability[:2])
        for kind, of_major, of_minor, only in _parsed(architectures)
    )


def _parsed(architectures: Sequence[str]) -> list[tuple[str, int, int, str]]:
    found = (_ARCHITECTURE.fullmatch(one) for one in architectures)
    return [(one[1], int(one[2]), int(one[3]), one[4]) for one in found if one]


def version_of(text: str | None) -> Version | None:
    """``580.65.06`` or ``13.0`` as numbers; None where it is none."""
    found = re.match(r"\d+(\.\d+)*", text or "")
    return tuple(int(one) for one in found[0].split(".")) if found else None


def shown(version: Version) -> str:
    """A version as it is written."""
    return ".".join(map(str, version))


def _describe(driver: Driver) -> str:
    known = [
        f"driver {shown(driver.version)}" if driver.version else "",
        f"for CUDA {shown(driver.cuda)}" if driver.cuda else "",
    ]
    return " ".join(word for word in known if word) or "driver not known"


FOR_GOOD = (
    "no kernel image is available",
    "kernel image is invalid",
    "driver version is insufficient",
    "driver on your system is too old",
    "unsupported toolchain",
    "PTX JIT compiler library was not found",
    "PTX JIT compilation was disabled",
    "forward compatibility was attempted",
    "unsupported display driver",
    "not supported in the installed CUDA driver",
    "CUDA driver is a stub library",
    "ARCH_MISMATCH",
    "VERSION_MISMATCH",
    "version incompatibility",
    "RUNTIME_PREREQUISITE_MISSING",
    "SUBLIBRARY_LOADING_FAILED",
    "Could not load library",
    "cannot open shared object file",
    "undefined symbol",
    "invalid value for --gpu-architecture",
    "not compiled with CUDA",
)
"""Texts of errors of CUDA, cuDNN and the loader that come back however often a job is repeated."""

_FOR_GOOD = re.compile("|".join(map(re.escape, FOR_GOOD)), re.IGNORECASE)


def comes_back(text: str) -> bool:
    """Whether an error, by its text, would meet every repetition on a machine like this one."""
    return _FOR_GOOD.search(text) is not None

"""What is installed here: versions for the records of jobs, the C library, and torch that loads."""

from __future__ import annotations

import platform
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from importlib import metadata

from cohortvol import __version__
from cohortvol.errors import InstallationError, TemporaryError
from cohortvol.store.machine import lacking

DECIDING = ("nibabel", "nnunetv2", "numpy", "pandas", "pyarrow", "scipy", "statsmodels", "torch")
"""Packages whose versions may move a number or a byte of the results."""

_MANYLINUX = re.compile(r"manylinux_(\d+)_(\d+)_|manylinux(1|2010|2014)_")
_OLD_NAMES = {"1": (2, 5), "2010": (2, 12), "2014": (2, 17)}


@cache
def versions() -> dict[str, str]:
    """Name to version of what a number may depend on; a package that is not installed is left out.

    ``python``, ``cohortvol`` and ``libc`` beside `DECIDING`.
    """
    found = {"cohortvol": __version__, "python": platform.python_version()}
    name, number = platform.libc_ver()
    if number:
        found["libc"] = f"{name} {number}"
    for package in DECIDING:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def differences(here: Mapping[str, str], there: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """Name to both versions of what is installed in both places and differs."""
    return {
        name: (version, there[name])
        for name, version in here.items()
        if name in there and there[name] != version
    }


def libc_needed(tags: Iterable[str]) -> tuple[int, int] | None:
    """The oldest glibc that a wheel with these tags runs with; None where they name none.

    A wheel with several tags runs with the oldest that any of them names.
    """
    found = []
    for tag in tags:
        if named := _MANYLINUX.search(tag):
            old = named[3]
            found.append(_OLD_NAMES[old] if old else (int(named[1]), int(named[2])))
    return min(found, default=None)


def wheels() -> dict[str, tuple[int, int]]:
    """Installed packages to the oldest glibc that they run with, of those that say."""
    needed = {}
    for one in metadata.distributions():
        lines = (one.read_text("WHEEL") or "").splitlines()
        tags = [line.removeprefix("Tag:").strip() for line in lines if line.startswith("Tag:")]
        if (libc := libc_needed(tags)) is not None:
            needed[str(one.metadata["Name"])] = libc
    return needed


@contextmanager
def loading(what: str) -> Iterator[None]:
    """Say of a package that cannot be loaded what it is: never a bug, seldom worth a repetition.

    Raises
    ------
    InstallationError
        If a library is missing, or was made for another machine, Python or C library.
    TemporaryError
        If there is too little memory to load it.
    """
    try:
        yield
    except (ImportError, OSError) as error:
        if (getattr(error, "name", None) or "").startswith("cohortvol"):
            raise
        why = " ".join(str(error).split())[:300]
        if lacking(error) == "memory":
            raise TemporaryError(
                f"{what} cannot be loaded: too little memory for this process ({why})\n"
                "  Ask for more memory, or lift the limit (`ulimit -v`), and run again."
            ) from error
        raise InstallationError(
            f"{what} cannot be loaded on {platform.node()}: {why}\n"
            "  Running it again does not help. `cohortvol doctor` on that machine says more: its\n"
            "  C library may be too old for the packages, or a library of theirs may be missing."
        ) from error

"""Python, and the packages installed against those that the tests ran in."""

from __future__ import annotations

import platform
import re
import sys
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from cohortvol.compute.cuda import shown, version_of
from cohortvol.shipped import path_of
from cohortvol.tools.doctor.findings import Finding, failed, passed, warned

OLDEST = (3, 11)
TESTED = (3, 11)
NAMED = 5
"""Packages named in a finding at most."""

_PIN = re.compile(r"^([A-Za-z0-9][A-Za-z0-9._-]*)==([^\s;#]+)", re.M)


def constraints_file() -> Path:
    """``constraints.txt``."""
    return path_of("constraints.txt")


def pins(text: str) -> dict[str, str]:
    """Normalized name to version of the lines ``name==version``."""
    return {str(canonicalize_name(name)): version for name, version in _PIN.findall(text)}


def python_version(version: tuple[int, ...] = sys.version_info[:3]) -> Finding:
    """Whether the interpreter is new enough and of 64 bits."""
    says = f"{'.'.join(map(str, version))} on {platform.system()} {platform.machine()}"
    if version < OLDEST or sys.maxsize < 2**32:
        return failed(says, "Install cohortvol with a 64-bit Python 3.11 or newer.")
    if version[:2] != TESTED:
        return warned(says, "The tests ran in Python 3.11; use that if something behaves oddly.")
    return passed(says)


def packages(
    pinned: Mapping[str, str], root: str = "cohortvol", installed: Mapping[str, str] | None = None
) -> Finding:
    """Whether all that a package depends on is there, fits, and is what the tests ran in.

    Parameters
    ----------
    pinned : mapping of str to str
        Normalized names to versions, see `pins`.
    root : str
        The package whose requirements are followed.
    installed : mapping of str to str, optional
        Normalized name to version; what Python finds if not given.
    """
    there = _installed() if installed is None else installed
    missing, unfit, other = [], [], []
    seen = set()
    for name, requirement in required(root):
        seen.add(name)
        if name not in there:
            missing.append(name)
        elif not requirement.specifier.contains(there[name], prereleases=True):
            unfit.append(f"{name} {there[name]} (needs {requirement.specifier})")
    for name in sorted(seen & set(there) & set(pinned)):
        if Version(there[name]).public != Version(pinned[name]).public:
            other.append(f"{name} {there[name]} (tested {pinned[name]})")
    if missing or unfit:
        return failed(
            "; ".join(
                f"{word}: {_some(sorted(set(names)))}"
                for word, names in (("missing", missing), ("unfit", unfit))
                if names
            ),
            "Install again: `pip install -c constraints.txt .` in the repository, or as the "
            "README of the bundle says.",
        )
    if other:
        return warned(
            f"{len(other)} of {len(seen)} packages are not those the tests ran in: {_some(other)}",
            "Install with `-c constraints.txt` to get the same numbers as the tests.",
        )
    return passed(f"{len(seen)} packages, as in constraints.txt")


def libc(needed: Mapping[str, tuple[int, int]], name: str, number: str) -> Finding:
    """Whether the C library is new enough for the packages: nodes may have an older system.

    Parameters
    ----------
    needed : mapping of str to tuple of int
        Package to the oldest glibc that it runs with, see `cohortvol.compute.installation.wheels`.
    name, number : str
        What `platform.libc_ver` says.
    """
    here = version_of(number)
    if name != "glibc" or here is None:
        return passed("not glibc: the packages are built for this system, or would not be here")
    too_new = sorted(package for package, oldest in needed.items() if oldest > here[:2])
    wanted = max(needed.values(), default=None)
    if too_new:
        return failed(
            f"glibc {number} is too old for {_some(too_new)} (up to {shown(wanted or here)})",
            "Use nodes with a newer system (`constraint:` in the profile), or a container that "
            "brings its own.",
        )
    return passed(f"glibc {number}" + (f"; packages ask for {shown(wanted)}" if wanted else ""))


def _some(names: list[str]) -> str:
    more = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {more} more" if more > 0 else "")


def _installed() -> dict[str, str]:
    return {
        str(canonicalize_name(found.metadata["Name"])): found.version
        for found in metadata.distributions()
        if found.metadata["Name"]
    }


def required(root: str) -> Iterator[tuple[str, Requirement]]:
    """Every package that `root` needs here, with who needs what of it."""
    waiting: list[tuple[str, frozenset[str]]] = [(root, frozenset())]
    done = set(waiting)
    while waiting:
        name, extras = waiting.pop()
        try:
            lines = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            continue
        for line in lines:
            requirement = Requirement(line)
            if not _applies(requirement, extras):
                continue
            needed = str(canonicalize_name(requirement.name))
            yield needed, requirement
            further = (needed, frozenset(requirement.extras))
            if further not in done:
                done.add(further)
                waiting.append(further)


def _applies(requirement: Requirement, extras: frozenset[str]) -> bool:
    marker = requirement.marker
    if marker is None:
        return True
    return any(marker.evaluate({"extra": extra}) for extra in extras or {""})

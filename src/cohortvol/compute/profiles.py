"""Snakemake's profiles as it reads them: found by their names, and put together."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from cohortvol.config import read_yaml
from cohortvol.errors import ConfigError
from cohortvol.shipped import path_of

WORKFLOW_PROFILE = "profiles/default"
"""Read by every run where the Snakefile is; its keys win over those of all others."""

SLURM = "slurm"

_FILE = re.compile(r"(?:profile|config)(?:\.v(\d+)\+)?\.yaml")
_NEWEST = 9
"""Major version of Snakemake, where it is not installed."""


def find(name: str) -> Path | None:
    """The file of a profile given by name or path, where Snakemake looks for it; None if nowhere.

    A folder's file is the one for the newest version of Snakemake that is not newer than it.
    """
    home = os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
    sites = os.environ.get("XDG_CONFIG_DIRS") or "/etc/xdg"
    folders = [Path(), *(Path(place) / "snakemake" for place in (home, sites.split(":")[0]))]
    for place in [Path(name)] if os.path.exists(name) else [folder / name for folder in folders]:
        if place.is_file():
            return place
        if place.is_dir():
            files = {
                path: int(match[1] or 0)
                for path in sorted(place.iterdir())
                if (match := _FILE.fullmatch(path.name)) and int(match[1] or 0) <= _major()
            }
            if files:
                return max(files, key=lambda path: files[path])
    return None


def _major() -> int:
    try:
        return int(metadata.version("snakemake").partition(".")[0])
    except metadata.PackageNotFoundError:
        return _NEWEST


def together(
    names: Sequence[str], workflow_profile: str | None = WORKFLOW_PROFILE
) -> dict[str, Any]:
    """The settings that several profiles make together: a later one replaces a key as a whole.

    Parameters
    ----------
    names : sequence of str
        As they are given to ``snakemake --profile``, in that order.
    workflow_profile : str, optional
        The one that is read after all others.

    Raises
    ------
    ConfigError
        If there is no profile of a name.
    """
    settings: dict[str, Any] = {}
    for name in names:
        path = find(name)
        if path is None:
            raise ConfigError(
                f"no profile {name!r}: Snakemake looks here, in ~/.config/snakemake and in "
                "/etc/xdg/snakemake\n  Name it as `snakemake --profile` is given it."
            )
        settings |= read_yaml(path)
    last = find(workflow_profile) if workflow_profile else None
    return settings | (read_yaml(last) if last else {})


def shipped() -> list[str]:
    """The profile for Slurm that is found by its name, else the one that comes with the package."""
    return [SLURM if find(SLURM) else str(path_of("profiles/slurm"))]


def defaults_of(settings: Mapping[str, Any]) -> dict[str, Any]:
    """``default-resources`` of a profile by name, written as a mapping or as a list of texts."""
    given = settings.get("default-resources") or {}
    if isinstance(given, Mapping):
        return dict(given)
    pairs = (str(word).partition("=") for word in given)
    return {name: value for name, _, value in pairs}


def by_rule(settings: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """``set-resources`` of a profile by rule and name, written in either way."""
    given = settings.get("set-resources") or {}
    if isinstance(given, Mapping):
        return {rule: dict(own) for rule, own in given.items() if isinstance(own, Mapping)}
    found: dict[str, dict[str, Any]] = {}
    for word in given:
        rule, _, rest = str(word).partition(":")
        name, _, value = rest.partition("=")
        found.setdefault(rule, {})[name] = value
    return found


def asks_for_gpu(resources: Mapping[str, Any]) -> bool:
    """Whether resources of a rule ask for a GPU."""
    number = str(resources.get("gpu", "0")).strip("'\" ")
    return (number not in ("", "0", "None")) or "gpu" in str(resources.get("gres", ""))

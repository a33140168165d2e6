"""The folder of a study: made of what comes with the package, and run by Snakemake."""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from cohortvol.errors import ConfigError
from cohortvol.shipped import path_of
from cohortvol.store.files import commit_text

FILES = {
    "Snakefile": "study/Snakefile",
    "config.yaml": "study/config.yaml",
    "README.md": "study/README.md",
    ".gitignore": "study/gitignore",
    "profiles/default/config.yaml": "profiles/default/config.yaml",
    "local/config.yaml": "profiles/local/config.yaml",
}
"""Files of a study, and what of the package they are copies of."""

SCHEDULERS = {"slurm": "sbatch"}
"""Profiles of the package by the program that submits a job where they fit."""

SNAKEFILES = ("Snakefile", "snakefile", "workflow/Snakefile", "workflow/snakefile")
"""Where Snakemake looks for a workflow, when it is told of none."""


def schedulers_here() -> list[str]:
    """Profiles that fit the schedulers of this machine."""
    return [name for name, program in SCHEDULERS.items() if shutil.which(program)]


def write(folder: Path, schedulers: Iterable[str]) -> list[str]:
    """Make the folder of a study, with a profile for each scheduler; names of its files.

    Raises
    ------
    ConfigError
        If a file of a study is there already, which may have been edited; nothing is written then.
    """
    profiles = {f"{name}/config.yaml": f"profiles/{name}/config.yaml" for name in schedulers}
    files = FILES | profiles
    there = [name for name in files if (folder / name).exists()]
    if there:
        raise ConfigError(
            f"{folder}: holds a study already, or part of one: {', '.join(there)}\n"
            "  Nothing was written. Name another folder, or go on with this one."
        )
    for name, source in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        commit_text(folder / name, path_of(source).read_text(encoding="utf-8"))
    return list(files)


def snakemake_words(given: Mapping[str, Path | None], words: Sequence[str]) -> list[str]:
    """Options of Snakemake that run a study here.

    Without a Snakefile where one stands they take that of the package, on its defaults.

    Parameters
    ----------
    given : mapping of str to Path
        Settings, such as ``{"manifest": Path("scans.csv")}``; None leaves one to the config.
    words : sequence of str
        Options of Snakemake, passed on as they are. All cores are taken if they say nothing of
        cores, jobs or a profile; settings in them are joined to those of `given`, and win.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    # Snakemake takes the last --config alone.
    parser.add_argument("--config", "-C", nargs="*", action="extend", default=[])
    settings, rest = parser.parse_known_args(words)
    pairs = [f"{name}={value}" for name, value in given.items() if value is not None]
    before: list[str] = []
    if not any(Path(name).is_file() for name in SNAKEFILES):
        before += ["--snakefile", str(path_of("study/Snakefile"))]
        before += ["--configfile", str(path_of("config/config.yaml"))]
        before += ["--workflow-profile", str(path_of("profiles/default"))]
    if not _says_how_many(rest):
        before += ["--cores", "all"]
    config = [*pairs, *settings.config]
    return [*before, *rest, *(["--config", *config] if config else [])]


def _says_how_many(words: Iterable[str]) -> bool:
    """Whether options of Snakemake say how many cores or jobs it may use, or name a profile."""
    long = ("--cores", "--jobs", "--profile")
    return any(word.partition("=")[0] in long or word.startswith(("-c", "-j")) for word in words)

"""Make a bundle: wheels, models, licences and the workflow in one folder."""

from __future__ import annotations

import logging
import os
import platform
import shutil
import sys
from collections.abc import Iterator, Sequence
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import BinaryIO

from cohortvol import __version__
from cohortvol.config import defaults
from cohortvol.errors import ConfigError
from cohortvol.models.card import CARD, Card, load_card
from cohortvol.models.folders import verify
from cohortvol.store.files import commit, commit_bytes, commit_text, make_folder, sha256_of
from cohortvol.store.locks import claim
from cohortvol.tools.bundle import licences, wheels
from cohortvol.tools.bundle.check import (
    REPOSITORY,
    REQUIREMENTS,
    SUMS,
    WHEELS,
    Checked,
    check,
    sums,
)
from cohortvol.tools.bundle.wheels import Wheel

log = logging.getLogger(__name__)

DOWNLOADS = ".downloads"
"""Folder of wheels while they come; what an interrupted call leaves is used by the next."""
EXTRAS = "[slurm,dicom-seg]"

WORKFLOW = ("Snakefile", "workflow", "config", "profiles", "reports", "envs")
BESIDE = ("constraints.txt", "pyproject.toml", "LICENSE", "CITATION.cff", "README.md")
KINDS = {"", ".smk", ".yaml", ".json", ".md", ".txt", ".html", ".css", ".def"}
"""Ends of the files of the workflow. Tables are not among them: one may name people."""
SLURM = ("slurm", "profiles/slurm")
"""A link, so that `snakemake --profile slurm` finds the profile, and where it leads."""


def make(repository: Path, out: Path, models: Sequence[Path]) -> Checked:
    """Make a bundle, or go on with one, and check it.

    It is for the Python and the kind of machine that this runs on. ``SHA256SUMS`` is written
    last: a folder without it is not complete.

    Parameters
    ----------
    repository : Path
        Checkout of cohortvol, with its ``Snakefile``.
    out : Path
        Folder to make.
    models : sequence of Path
        Model folders to bring along.

    Raises
    ------
    ConfigError
        If `repository` is no checkout.
    ModelError
        If a model is not what its card says.
    InstallationError, TemporaryError
        See `cohortvol.tools.bundle.wheels.gather`.
    InUseError
        If another process is making it.
    """
    missing = [name for name in (*WORKFLOW, *BESIDE) if not (repository / name).exists()]
    if missing:
        raise ConfigError(
            f"{repository}: no checkout of cohortvol, it lacks {', '.join(missing)}\n"
            "  Name one with --repository, or start this in it."
        )
    cards = [load_card(folder) for folder in models]
    for card in cards:
        verify(card)
    held = claim(out)
    with held:
        (out / SUMS).unlink(missing_ok=True)
        _put_workflow(repository, out / REPOSITORY)
        for card in cards:
            _put_model(card, out / REPOSITORY / "models" / card.id)
        _drop_other_models(out / REPOSITORY / "models", {card.id for card in cards})
        log.info("workflow and %d models are in; now the wheels", len(cards))
        packages = _put_wheels(repository, out)
        commit_text(out / REQUIREMENTS, wheels.requirements(packages, made_for()))
        _put_licences(packages, cards, out)
        commit_text(out / "README.md", readme(packages, cards))
        commit_text(out / SUMS, sums(out))
        Path(held.name).unlink()
    shutil.rmtree(out / DOWNLOADS)
    return check(out)


def made_for() -> str:
    """The Python and the kind of machine that this process runs on."""
    version = ".".join(map(str, sys.version_info[:2]))
    return f"Python {version} on {platform.system()} {platform.machine()}"


def _put_workflow(repository: Path, folder: Path) -> None:
    wanted = {*_workflow_files(repository)}
    for name in sorted(wanted):
        _put(repository / name, folder / name)
    link, target = folder / SLURM[0], SLURM[1]
    if not link.exists():
        link.symlink_to(target)
    models = folder / "models"
    for path in sorted(folder.rglob("*")):
        if not path.is_file() or path.is_relative_to(models) or path.is_relative_to(link):
            continue
        if path.relative_to(folder).as_posix() not in wanted:
            path.unlink()


def _workflow_files(repository: Path) -> Iterator[str]:
    yield from BESIDE
    for top in WORKFLOW:
        for path in (repository / top).rglob("*") if (repository / top).is_dir() else ():
            name = path.relative_to(repository)
            hidden = any(part.startswith((".", "__")) for part in name.parts)
            if path.is_file() and path.suffix in KINDS and not hidden:
                yield name.as_posix()
    yield WORKFLOW[0]


def _put(source: Path, final: Path) -> None:
    """Copy a file where it is not there yet, whole."""
    if final.is_file() and sha256_of(final) == sha256_of(source):
        return

    def write(copy: BinaryIO) -> None:
        with open(source, "rb") as stream:
            shutil.copyfileobj(stream, copy, 2**20)

    commit(final, write)


def _put_model(card: Card, folder: Path) -> None:
    for name in (CARD, *(name for part in card.parts for name in part.files)):
        _put(card.folder / name, folder / name)


def _drop_other_models(folder: Path, wanted: set[str]) -> None:
    for path in folder.iterdir() if folder.is_dir() else ():
        if path.name not in wanted:
            shutil.rmtree(path)


def _put_wheels(repository: Path, out: Path) -> list[Wheel]:
    """Gather the wheels, with those of an earlier call; keep those that are needed."""
    downloads, final = make_folder(out / DOWNLOADS), make_folder(out / WHEELS)
    for path in final.glob("*.whl"):
        os.replace(path, downloads / path.name)
    needed = wheels.gather(repository, downloads, repository / "constraints.txt", EXTRAS)
    for wheel in needed:
        os.replace(wheel.path, final / wheel.path.name)
    return [
        Wheel(final / wheel.path.name, wheel.name, wheel.version, wheel.sha256) for wheel in needed
    ]


def _put_licences(packages: Sequence[Wheel], cards: Sequence[Card], out: Path) -> None:
    shutil.rmtree(out / "licences", ignore_errors=True)
    rows = []
    for row, texts in licences.of_wheels(packages):
        rows.append(row)
        for name, content in texts.items():
            commit_bytes(out / licences.place_of(row[1], name), content)
    rows += licences.of_models(cards)
    commit_text(out / "licences" / "licences.tsv", licences.table(rows))


def readme(packages: Sequence[Wheel], cards: Sequence[Card]) -> str:
    """The page that tells how the bundle is installed."""
    template = Template(files("cohortvol.tools.bundle").joinpath("README.md").read_text("utf-8"))
    torch = next((wheel.version for wheel in packages if wheel.name == "torch"), "none")
    on_gpu = any(wheel.name.startswith(("nvidia-", "triton")) for wheel in packages)
    return template.substitute(
        version=__version__,
        made_for=made_for(),
        python=".".join(map(str, sys.version_info[:2])),
        torch=f"{torch} ({'with CUDA' if on_gpu else 'for processors only'})",
        model=cards[0].id if cards else defaults()["model"],
        models=", ".join(f"`{REPOSITORY}/models/{card.id}`" for card in cards) or "none",
        n_wheels=len(packages),
    )

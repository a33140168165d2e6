"""Is a bundle what it was when it was made."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from cohortvol.errors import InstallationError, ModelError
from cohortvol.models.card import load_card
from cohortvol.models.folders import list_models, verify
from cohortvol.store.files import sha256_of
from cohortvol.tools.bundle.wheels import hashes

SUMS = "SHA256SUMS"
REQUIREMENTS = "requirements.txt"
WHEELS = "wheels"
REPOSITORY = "repository"
LISTED = 10
"""Faults that a message names at most."""


@dataclass(frozen=True)
class Checked:
    """What a bundle that is whole holds."""

    n_files: int
    n_wheels: int
    models: tuple[str, ...]


def files_of(bundle: Path) -> list[str]:
    """Every file of a bundle but hidden ones and `SUMS`, as POSIX paths in it, sorted."""
    found = []
    for folder, names, files in os.walk(bundle, followlinks=True):
        names[:] = [name for name in names if not name.startswith(".")]
        found += [(Path(folder) / name).relative_to(bundle).as_posix() for name in files]
    return sorted(
        name for name in found if name != SUMS and not PurePosixPath(name).name.startswith(".")
    )


def sums(bundle: Path) -> str:
    """``SHA256SUMS`` of a bundle, as ``sha256sum --check`` reads it."""
    return "".join(f"{sha256_of(bundle / name)}  {name}\n" for name in files_of(bundle))


def check(bundle: Path) -> Checked:
    """Compare every file, wheel and model of a bundle with what was written down of it.

    Raises
    ------
    InstallationError
        Naming what is missing, changed, or was added.
    """
    try:
        lines = (bundle / SUMS).read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise InstallationError(
            f"{bundle}: no complete bundle, it has no {SUMS}\n"
            "  Run `cohortvol bundle --out` for this folder again: it goes on where it stopped."
        ) from error
    named = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
    wrong = [
        f"{name}: {fault}"
        for name, digest in named.items()
        if (fault := _fault_of(bundle / name, digest))
    ]
    wrong += _wheels_at_fault(bundle)
    models, faults = _models(bundle)
    wrong += faults
    if wrong:
        more = len(wrong) - LISTED
        raise InstallationError(
            f"{bundle}: {len(wrong)} faults\n"
            + "\n".join(f"  {line}" for line in wrong[:LISTED])
            + (f"\n  and {more} more" if more > 0 else "")
            + "\n  Copy the bundle again, or make it again with `cohortvol bundle --out`."
        )
    return Checked(len(named), len(list((bundle / WHEELS).glob("*.whl"))), models)


def _fault_of(path: Path, digest: str) -> str:
    try:
        return "" if sha256_of(path) == digest else "changed"
    except OSError as error:
        return f"cannot be read ({error.strerror})"


def _wheels_at_fault(bundle: Path) -> list[str]:
    """Wheels that the requirements do not name, and requirements without a wheel."""
    try:
        wanted = hashes((bundle / REQUIREMENTS).read_text(encoding="utf-8"))
    except OSError:
        return []  # told of already
    there = {sha256_of(path): path.name for path in sorted((bundle / WHEELS).glob("*.whl"))}
    strangers = [
        f"{WHEELS}/{name}: not in {REQUIREMENTS}"
        for digest, name in there.items()
        if digest not in wanted.values()
    ]
    missing = [
        f"{REQUIREMENTS}: no wheel of {name} with its hash"
        for name, digest in wanted.items()
        if digest not in there
    ]
    return strangers + missing


def _models(bundle: Path) -> tuple[tuple[str, ...], list[str]]:
    folder = bundle / REPOSITORY / "models"
    names, wrong = list_models(folder), []
    for name in names:
        try:
            verify(load_card(folder / name))
        except ModelError as error:
            wrong.append(str(error).splitlines()[0])
    return tuple(names), wrong

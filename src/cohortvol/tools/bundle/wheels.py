"""Wheels of cohortvol and of all it needs, with their hashes, as pip resolves them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from packaging.utils import canonicalize_name, parse_wheel_filename

from cohortvol.errors import InstallationError, TemporaryError
from cohortvol.store.files import make_folder, sha256_of

EARLIEST_ZIP_TIME = "315532800"
"""1980-01-01, s: the time of every file in a wheel built here, so that equal sources are equal."""


@dataclass(frozen=True)
class Wheel:
    """A wheel file and what is in it."""

    path: Path
    name: str
    version: str
    sha256: str


def gather(source: Path, folder: Path, constraints: Path, extras: str = "") -> list[Wheel]:
    """Every wheel that a package needs, and its own, in a folder.

    What is there from an earlier, interrupted call is used again; damaged wheels are not.

    Parameters
    ----------
    source : Path
        Folder of the package's ``pyproject.toml``.
    folder : Path
        Where wheels are put.
    constraints : Path
        Versions to take, as of ``pip install -c``.
    extras : str
        Such as ``[slurm]``.

    Returns
    -------
    list of Wheel
        Those that pip would install from this folder alone, sorted by name.

    Raises
    ------
    InstallationError
        If this Python has no pip, or the wheels do not make an installation.
    TemporaryError
        If pip cannot get or build a wheel.
    """
    make_folder(folder)
    _drop_damaged(folder)
    own = _own_wheel(source, folder)
    places = ("--find-links", str(folder), "--wheel-dir", str(folder))
    _pip("wheel", "--constraint", constraints, *places, f"{own}{extras}")
    return resolve(f"{own}{extras}", folder)


def _drop_damaged(folder: Path) -> None:
    for path in folder.glob("*.whl"):
        try:
            with zipfile.ZipFile(path) as archive:
                damaged = archive.testzip() is not None
        except (OSError, zipfile.BadZipFile):
            damaged = True
        if damaged:
            path.unlink()


def _own_wheel(source: Path, folder: Path) -> Path:
    """The wheel of the package itself, built anew: its version may be that of other sources."""
    building = make_folder(folder / "own")
    for old in building.glob("*.whl"):
        old.unlink()
    _pip("wheel", "--no-deps", "--no-cache-dir", "--wheel-dir", building, source)
    built = next(building.glob("*.whl"))
    name = parse_wheel_filename(built.name)[0]
    for old in folder.glob("*.whl"):
        if parse_wheel_filename(old.name)[0] == name:
            old.unlink()
    own = folder / built.name
    os.replace(built, own)
    building.rmdir()
    return own


def _pip(*words: str | Path) -> None:
    """Run pip with its own settings; what it prints goes to the standard error."""
    command = [sys.executable, "-m", "pip", *map(str, words)]
    environment = {**os.environ, "SOURCE_DATE_EPOCH": EARLIEST_ZIP_TIME}
    if subprocess.run([*command[:3], "--version"], capture_output=True).returncode != 0:  # noqa: S603
        raise InstallationError(
            "this Python has no pip, which fetches the wheels\n"
            "  Make an environment with `python3 -m venv`, which has one, and install there."
        )
    if subprocess.run(command, stdout=sys.stderr, env=environment).returncode != 0:  # noqa: S603
        raise TemporaryError(
            f"pip {words[0]} failed; its message is above\n"
            "  Run the same command again: wheels that are here already are not fetched again."
        )


def resolve(wanted: str, folder: Path) -> list[Wheel]:
    """What pip would install of `wanted` with the wheels of a folder and nothing else.

    Raises
    ------
    InstallationError
        If something is missing.
    """
    report = folder / "report.json"
    asked = subprocess.run(  # noqa: S603
        [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--quiet",
         "--no-index", "--find-links", str(folder), "--report", str(report), wanted],
        env={**_without_pip_settings(os.environ), "PIP_CONFIG_FILE": os.devnull},
        capture_output=True,
        text=True,
    )  # fmt: skip
    try:
        if asked.returncode != 0:
            raise InstallationError(
                "the wheels do not make an installation\n  "
                + "\n  ".join(asked.stderr.strip().splitlines()[-5:])
            )
        installed = json.loads(report.read_text(encoding="utf-8"))["install"]
    finally:
        report.unlink(missing_ok=True)
    # By the file's name: pip before 23.1, which Debian 12 has, reports no digest of a local wheel.
    needed = [unquote(urlsplit(entry["download_info"]["url"]).path) for entry in installed]
    wheels = (_wheel(folder / Path(path).name) for path in needed)
    return sorted(wheels, key=lambda wheel: wheel.name)


def _wheel(path: Path) -> Wheel:
    name, version, _, _ = parse_wheel_filename(path.name)
    return Wheel(path, str(name), str(version), sha256_of(path))


def _without_pip_settings(environment: os._Environ[str]) -> dict[str, str]:
    return {name: value for name, value in environment.items() if not name.startswith("PIP_")}


def requirements(wheels: Sequence[Wheel], made_for: str) -> str:
    """A requirements file in which every wheel stands with its version and its hash."""
    lines = [
        f"# Every package of cohortvol for {made_for}. To be installed with:",
        "#   pip install --no-index --find-links wheels --require-hashes -r requirements.txt",
    ]
    for wheel in wheels:
        lines += [f"{wheel.name}=={wheel.version} \\", f"    --hash=sha256:{wheel.sha256}"]
    return "\n".join(lines) + "\n"


def hashes(text: str) -> dict[str, str]:
    """Name of a package to its sha256, of a file that `requirements` made."""
    found, name = {}, ""
    for line in text.splitlines():
        word = line.strip().removesuffix("\\").strip()
        if word.startswith("--hash=sha256:"):
            found[name] = word.removeprefix("--hash=sha256:")
        elif word and not word.startswith("#"):
            name = str(canonicalize_name(word.partition("==")[0]))
    return found

"""What stands at the top of the repository and comes with the package: rules, templates, models."""

from __future__ import annotations

from pathlib import Path

PACKAGED = "share"
"""Folder of an installed package that holds it, laid out as the repository is."""


def path_of(name: str) -> Path:
    """A file or folder of the repository: in the installed package, or in the checkout."""
    package = Path(__file__).resolve().parent
    packaged = package / PACKAGED
    return (packaged if packaged.is_dir() else package.parents[1]) / name

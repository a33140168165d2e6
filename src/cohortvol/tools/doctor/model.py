"""The model on disk, the model in memory, and the decoders of its images."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cohortvol.errors import InstallationError
from cohortvol.models.card import Card
from cohortvol.models.folders import verify
from cohortvol.tools.doctor.findings import Finding, passed, skipped, warned


def files(card: Card) -> Finding:
    """Whether every file is what the card says; raises ModelError where one is not."""
    verify(card)
    n_files = sum(len(part.files) for part in card.parts)
    return passed(f"{card.id}: {n_files} files are what the card says")


def canary(card: Card, load: Callable[[], Any]) -> Finding:
    """Whether the networks say here what they said when they were imported.

    `load` brings the model into memory, which compares the two, and returns what has a `device` and
    `numerics`.
    """
    if card.elsewhere:
        return skipped(f"{card.id} has no network: its label maps were made elsewhere", "Nothing.")
    loaded = load()
    where = f"{loaded.device} in {loaded.numerics['precision']}"
    without = [part.name for part in card.parts if set(part.folds) - set(part.canary)]
    if without:
        return warned(
            f"{card.id} runs on {where}; part {', '.join(without)} holds nothing to compare with",
            "Import the model again: the card then says what its networks must answer.",
        )
    return passed(f"{card.id} answers on {where} as it did when it was imported")


def decoders(check: Callable[[], None]) -> Finding:
    """Whether DICOM can be read; `check` raises InstallationError where it cannot."""
    try:
        check()
    except InstallationError as error:
        first, _, rest = str(error).partition("\n")
        return warned(f"{first}; NIfTI images are read", " ".join(rest.split()))
    return passed("dcm2niix, and a decoder for every kind of pixels it is compared with")

"""What the file system of a results folder must keep: the trials of `cohortvol.store.storage`."""

from __future__ import annotations

from pathlib import Path

from cohortvol.store.storage import ELSEWHERE, GUARANTEES, place_for_trials
from cohortvol.tools.doctor.findings import Check, Finding, failed, passed, skipped, warned

_WITHOUT = {
    "flock": "Two runs in this folder would not notice each other: start one at a time.",
    "hard link": "Only `hash_ids: true` needs hard links; for it, put the results on another file "
    "system.",
}
"""What cohortvol can do without, with what follows."""


def checks(folder: Path | None) -> dict[str, Check]:
    """A check for every guarantee; SKIP without a folder."""
    return {name: _check_of(name, folder) for name in GUARANTEES}


def _check_of(name: str, folder: Path | None) -> Check:

    def check() -> Finding:
        if folder is None:
            return skipped("no results folder named", "Name it with --results.")
        try:
            with place_for_trials(folder) as place:
                return _outcome_of(name, place, folder)
        except PermissionError as error:
            return failed(f"{folder}: {error.strerror}", "Make the folder writable.")
        except OSError as error:
            return failed(f"{folder}: {error.strerror or error}", ELSEWHERE)

    return check


def _outcome_of(name: str, place: Path, folder: Path) -> Finding:
    """Of a trial in a place that was just made: what is refused there, the file system refuses."""
    trial, shown = GUARANTEES[name]
    try:
        trial(place)
    except OSError as error:
        says = f"{folder}: {error.strerror or error}"
        return warned(says, _WITHOUT[name]) if name in _WITHOUT else failed(says, ELSEWHERE)
    return passed(shown)

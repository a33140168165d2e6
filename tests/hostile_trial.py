"""A trial of a model that means harm: what a command made of it, and what is wrong with that."""

from __future__ import annotations

import contextlib
import io
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cohortvol.cli import run
from hostile_changes import EMBEDDED, Case
from hostile_imports import ZIP


@dataclass(frozen=True)
class Outcome:
    """What a trial came to; `wrong` is empty where all is as it should be."""

    case: str
    way: str
    code: int
    said: str
    wrong: str


def verify(case: Case, place: Path) -> Outcome:
    """``cohortvol models verify`` of a changed copy of the embedded model, in an empty folder."""
    folder = shutil.copytree(EMBEDDED, place / "models" / "mine")
    case.change(folder)
    return _tried(case, place, ["models", "verify", str(folder)], "verify")


def imported(case: Case, place: Path, trained: Path) -> Outcome:
    """``cohortvol models import`` of a changed copy of a trained folder, or of the zip of it."""
    source = shutil.copytree(trained, place / "trained")
    case.change(source)
    given = place / ZIP if (place / ZIP).exists() else source
    words = ["models", "import", str(given), "--id", "mine", "--licence", "CC0-1.0"]
    return _tried(case, place, [*words, "--models-dir", str(place / "models")], "import")


def imported_as(model_id: str, place: Path, trained: Path) -> Outcome:
    """The same of a sound folder under an odd id."""
    source = shutil.copytree(trained, place / "trained")
    words = ["models", "import", str(source), f"--id={model_id}", "--licence", "CC0-1.0"]
    case = Case(f"option/--id {model_id!r:.40}", lambda folder: None)
    return _tried(case, place, [*words, "--models-dir", str(place / "models")], "import")


def _tried(case: Case, place: Path, words: list[str], way: str) -> Outcome:
    before = contents(place)
    spare = place / "spare"
    spare.mkdir()
    said = io.StringIO()
    with (
        _temporary_folder(spare),
        contextlib.redirect_stderr(said),
        contextlib.redirect_stdout(said),
    ):
        try:
            code = run(words)
        except BaseException as error:  # what the command line lets through
            code, _ = 70, said.write(f"{type(error).__name__}: {error}")
    left = sorted(contents(place) - before - {"spare", *(_made(place) if case.sound else ())})
    return Outcome(
        case.name, way, code, said.getvalue(), judged(case.sound, code, said.getvalue(), left)
    )


def _made(place: Path) -> set[str]:
    return {name for name in contents(place) if name.startswith("models")}


@contextlib.contextmanager
def _temporary_folder(folder: Path) -> Iterator[None]:
    before = tempfile.tempdir
    tempfile.tempdir = str(folder)
    try:
        yield
    finally:
        tempfile.tempdir = before


def contents(place: Path) -> set[str]:
    """Every name below a folder."""
    return {path.relative_to(place).as_posix() for path in place.rglob("*")}


MOST_LINES, LONGEST_LINE = 12, 500


def judged(sound: bool, code: int, said: str, left: list[str]) -> str:
    """What is wrong with how a command ended, or nothing."""
    lines = said.strip().splitlines()
    if left:
        return f"left behind: {', '.join(left[:5])}"
    if "Traceback" in said or "this is a bug" in said or "Exception" in said:
        return f"an exception: {lines[-1][:200] if lines else ''}"
    if sound != (code == 0):
        return f"ended with {code}"
    if code not in (0, 64):
        return f"ended with {code}"
    if not sound and (not lines or len(lines) > MOST_LINES or max(map(len, lines)) > LONGEST_LINE):
        return f"{len(lines)} lines, the longest of {max(map(len, lines), default=0)} characters"
    if any(not (one.isprintable() or one == "\n") for one in said):
        return "control characters in the message"
    return ""

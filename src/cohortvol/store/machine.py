"""Errors that speak of the machine and not of us: what it lacks or refuses, and what to do."""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path

from cohortvol.errors import CohortvolError, InstallationError, OutputError, TemporaryError
from cohortvol.store.storage import FAULTS, FULL, at_fault, no_space, refused

_LACKING = {
    errno.ENOMEM: "memory",
    errno.EAGAIN: "threads, processes or memory",
    errno.EMFILE: "open files",
    errno.ENFILE: "open files",
}
"""Error to what the machine has too little of."""

_WORDS = {
    **{os.strerror(number): what for number, what in _LACKING.items()},
    "failed to map segment": "memory",
    "std::bad_alloc": "memory",
    "can't start new thread": "threads, processes or memory",
    "failed to launch worker thread": "threads, processes or memory",
    "can't allocate memory": "memory",
}
"""How libraries that raise other errors say the same."""


def lacking(error: BaseException) -> str | None:
    """What the machine has too little of, as an error says; None where it says no such thing."""
    if isinstance(error, MemoryError):
        return "memory"
    if isinstance(error, OSError) and error.errno in _LACKING:
        return _LACKING[error.errno]
    said = str(error).lower()
    return next((what for words, what in _WORDS.items() if words.lower() in said), None)


def raise_if_lacking(path: Path, error: BaseException) -> None:
    """Let nobody take a file for damaged that could not be read for want of something else.

    Raises
    ------
    TemporaryError
        If the error says what the machine lacks.
    """
    if what := lacking(error):
        raise TemporaryError(f"{path}: cannot be read, {_too_little(what)}") from error


def error_to_act_on(error: BaseException, *, named: bool = True) -> CohortvolError | None:
    """What an error that nobody foresaw asks of the user, or None where it may be our bug.

    Files that this account may not touch, a disk that is full, read-only or at fault, and too
    little memory are no bugs, wherever they are met.

    Parameters
    ----------
    error : BaseException
        Its own words are not passed on.
    named : bool
        Name the file; not in the log of a job, as the path of an image may name a person.
    """
    link: BaseException | None = error
    while link is not None:
        if isinstance(link, CohortvolError):
            return link
        if (found := _of(link, named=named)) is not None:
            return found
        link = link.__cause__
    return None


def _of(error: BaseException, *, named: bool) -> CohortvolError | None:
    if what := lacking(error):
        return TemporaryError(_too_little(what))
    if not isinstance(error, OSError) or error.errno is None:
        return None
    is_path = named and isinstance(error.filename, str | bytes)
    path = Path(os.fsdecode(error.filename)) if is_path else None
    error = OSError(error.errno, os.strerror(error.errno))
    if error.errno in FULL:
        return no_space(path, error)
    if error.errno in FAULTS:
        return at_fault(path, error)
    if error.errno == errno.EROFS:
        return refused(path, error)
    if error.errno in (errno.EACCES, errno.EPERM):
        return OutputError(
            f"{path or 'a file'}: this account may not use it ({error.strerror})\n"
            "  Run as the account that made it, or have it opened to this one."
        )
    if error.errno == errno.ENAMETOOLONG:
        return OutputError(f"{path or 'a file'}: too long for this file system")
    return None


def _too_little(what: str) -> str:
    return (
        f"this machine gives too little: {what}\n"
        "  Nothing finished was lost. Run again with more, or where less else is running; "
        "`ulimit -a` shows the limits."
    )


def check_interpreter() -> None:
    """Refuse a Python that was told to forget docstrings, which packages below us read.

    Raises
    ------
    InstallationError
        Under ``python -OO`` or ``PYTHONOPTIMIZE=2``.
    """
    if sys.flags.optimize > 1:
        raise InstallationError(
            "Python runs without docstrings (-OO, PYTHONOPTIMIZE=2), which scikit-image needs\n"
            "  Unset PYTHONOPTIMIZE, or set it to 1 at most."
        )

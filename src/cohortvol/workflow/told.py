"""Errors that a user can act on, told without a traceback."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from cohortvol.store.machine import error_to_act_on


@contextmanager
def told_without_traceback() -> Iterator[None]:
    """Print an error that the user can act on, and end with its exit code."""
    try:
        yield
    except Exception as error:
        told = error_to_act_on(error)
        if told is None:
            raise
        print(f"cohortvol: {told}", file=sys.stderr)
        sys.exit(told.exit_code)

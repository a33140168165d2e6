"""What commands print: a result as text or as JSON, and how far long work has come."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Mapping
from typing import Any

import typer

SECONDS_BETWEEN_LINES = 60


def show(value: Mapping[str, Any], text: str | None) -> None:
    """Print the text, or the value as JSON where there is none."""
    typer.echo(json.dumps(value, indent=1) if text is None else text.rstrip("\n"))


def width() -> int:
    """Columns of the terminal; 100 where there is none."""
    return shutil.get_terminal_size((100, 24)).columns


def line_a_minute(what: str) -> Callable[[int, int], None]:
    """A function that is told how many are done, of how many, and says so once a minute."""
    said = time.monotonic()

    def told(done: int, total: int) -> None:
        nonlocal said
        if time.monotonic() - said >= SECONDS_BETWEEN_LINES:
            said = time.monotonic()
            typer.echo(f"{done:,} of {total:,} {what}", err=True)

    return told

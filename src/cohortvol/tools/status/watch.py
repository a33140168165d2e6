"""Status again and again: in place on a terminal, a line each time elsewhere."""

from __future__ import annotations

import json
import sys
import time
from contextlib import nullcontext
from datetime import datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.text import Text

from cohortvol.errors import TEMPORARY
from cohortvol.tools.status.render import render_summary
from cohortvol.tools.status.summary import summary
from cohortvol.tools.status.words import digest


def watch(
    results: Path, model: str | None, interval_s: float, form: str = "text"
) -> dict[str, Any]:
    """Show how far a cohort is until nothing is left to do, or until Ctrl-C.

    Parameters
    ----------
    results, model
        See `summary`.
    interval_s : float
        Seconds between two looks.
    form : str
        ``text``: in place on a terminal, and elsewhere as ``digest``: a line with the time of
        day; ``json``: a line of JSON.

    Returns
    -------
    dict
        What was seen last; see `summary`.
    """
    console = Console()
    live = Live(console=console, auto_refresh=False, transient=True)
    in_place = form == "text" and console.is_terminal
    found: dict[str, Any] = {}
    try:
        with live if in_place else nullcontext():
            while True:
                found = summary(results, model)
                if in_place:
                    live.update(_picture(found, console.width, interval_s), refresh=True)
                else:
                    _print_line(found, form)
                if found["exit_code"] != TEMPORARY:
                    break
                time.sleep(interval_s)
    except KeyboardInterrupt:
        if not found:
            raise
    return found


def _picture(found: dict[str, Any], width: int, interval_s: float) -> Text:
    """The clock stands first, as the end is left out where the terminal is too low."""
    clock = f"{datetime.now().astimezone():%H:%M:%S}, every {interval_s:g} s; Ctrl-C ends this"
    return Text(f"{clock}\n\n{render_summary(found, width)}", no_wrap=True, overflow="crop")


def _print_line(found: dict[str, Any], form: str) -> None:
    if form == "json":
        line = json.dumps(found)
    else:
        line = f"{datetime.now().astimezone():%Y-%m-%d %H:%M:%S} {digest(found)}"
    print(line, file=sys.stdout, flush=True)

"""Programs of a cluster or a driver that say what a test wants."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest


def programs_in(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Put programs that print a text, or fail where it is None, before all others of the PATH."""
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))

    def put(**texts: str | None) -> None:
        for name, text in texts.items():
            told = folder / f"{name}.txt"
            told.write_text(text or "")
            command = "exit 1" if text is None else f"exec /bin/cat {told}"
            (folder / name).write_text(f"#!/bin/sh\n{command}\n")
            (folder / name).chmod(0o755)

    return put

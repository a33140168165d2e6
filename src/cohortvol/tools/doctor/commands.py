"""Programs of the machine that are asked what they know."""

from __future__ import annotations

import shutil
import subprocess

SECONDS = 20.0
"""After which a program that does not answer is given up."""


def there(name: str) -> bool:
    """Whether a program can be started by its name."""
    return shutil.which(name) is not None


def ask(*words: str, seconds: float = SECONDS) -> str | None:
    """What a program prints; None where it is missing, fails, or does not answer in time."""
    program = shutil.which(words[0])
    if program is None:
        return None
    try:
        done = subprocess.run(  # noqa: S603
            [program, *words[1:]],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=seconds,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()

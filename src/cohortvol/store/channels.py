"""Further images of a scan: in tables JSON in the column ``more_images``, in folders others beside.

A folder ``images`` has the first channel of every scan, ``images_2``, ``images_3``, ... the others
under the same names.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from cohortvol.store import companions as companion_cells


def as_json(paths: Sequence[str]) -> str | None:
    """For the column ``more_images``; None where there are none."""
    return json.dumps(list(paths), ensure_ascii=False) if paths else None


def from_json(more: object) -> list[str]:
    """Paths in a cell of the column ``more_images``; "" where a channel is missing."""
    paths: list[str] = json.loads(more) if isinstance(more, str) else []
    return paths


def further_images(more: object, companions: object) -> list[str]:
    """Paths of all images of a row but the first: of `from_json`, then of companions.

    Both are cells of a table of the manifest.
    """
    return [*from_json(more), *companion_cells.from_json(companions).values()]


def in_folders(image: Path, n_channels: int) -> list[Path]:
    """The image of a scan and those of its further channels, whether they are there or not."""
    first = image.parent
    further = (first.with_name(f"{first.name}_{n}") for n in range(2, n_channels + 1))
    return [image, *(folder / image.name for folder in further)]

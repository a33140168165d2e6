"""Further images of a scan, as tables hold them: JSON in the column ``more_images``."""

from __future__ import annotations

import json
from collections.abc import Sequence


def as_json(paths: Sequence[str]) -> str | None:
    """For the column ``more_images``; None where there are none."""
    return json.dumps(list(paths), ensure_ascii=False) if paths else None


def from_json(more: object) -> list[str]:
    """Paths in a cell of the column ``more_images``; "" where a channel is missing."""
    paths: list[str] = json.loads(more) if isinstance(more, str) else []
    return paths

"""Further channels of a scan in the manifest: columns ``image_2``, ``image_3``, ..."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence

import pandas as pd

from cohortvol.store.channels import from_json

_COLUMN = re.compile(r"image_([2-9]|[1-5][0-9]|6[0-4])")


def column_of(channel: int) -> str:
    """The column of a channel, from 1."""
    return "image" if channel == 1 else f"image_{channel}"


def channel_columns(columns: Sequence[str]) -> list[str]:
    """Those of the columns of a table that hold further channels, in their order."""
    return sorted(filter(_COLUMN.fullmatch, columns), key=lambda name: int(name[6:]))


def further_channels(raw: Mapping[str, str], folder: str) -> list[str]:
    """Absolute paths of the further channels of a row, from ``image_2``; "" where there is none."""
    columns = channel_columns([name for name, value in raw.items() if value.strip()])
    last = int(columns[-1][6:]) if columns else 1
    cells = [raw.get(column_of(n), "") for n in range(2, last + 1)]
    return [os.path.normpath(os.path.join(folder, cell)) if cell.strip() else "" for cell in cells]


def all_images(rows: pd.DataFrame) -> list[str]:
    """Every image that rows of the manifest name."""
    firsts: list[str] = rows["image"].dropna().tolist()
    return firsts + [path for more in rows["more_images"] for path in from_json(more) if path]

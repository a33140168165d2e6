"""Further images of a scan in the manifest: columns ``image_2``, ..., ``companion_<name>``."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence

import pandas as pd

from cohortvol.store.channels import further_images
from cohortvol.store.companions import COLUMN

_COLUMN = re.compile(r"image_([2-9]|[1-5][0-9]|6[0-4])")
_COMPANION = re.compile(rf"{COLUMN}[a-z][a-z0-9_]*")


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


def companion_columns(columns: Iterable[str]) -> list[str]:
    """Those of the columns of a table that hold companions."""
    return sorted(filter(_COMPANION.fullmatch, columns))


def companions(raw: Mapping[str, str], folder: str) -> dict[str, str]:
    """Absolute paths of the companions of a row, by name."""
    return {
        column.removeprefix(COLUMN): os.path.normpath(os.path.join(folder, raw[column]))
        for column in companion_columns(raw)
        if raw[column].strip()
    }


def all_images(rows: pd.DataFrame) -> list[str]:
    """Every image that rows of the manifest name."""
    firsts: list[str] = rows["image"].dropna().tolist()
    cells = zip(rows["more_images"], rows["companions"], strict=True)
    return firsts + [path for both in cells for path in further_images(*both) if path]

"""Channels: the images of one scan that a network sees together, and what their names say."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from cohortvol.errors import ModelError
from cohortvol.models.files import shown

_DIXON = {
    "fat_fraction": ("fat_fraction", "fatfraction", "ff", "pdff"),
    "water": ("water", "w", "water_only", "dixon_water", "wat"),
    "fat": ("fat", "f", "fat_only", "dixon_fat"),
    "in_phase": ("in_phase", "inphase", "in", "ip", "dixon_in_phase", "dixon_in"),
    "opposed_phase": (
        *("opposed_phase", "opposedphase", "opposed", "opp", "op", "out_of_phase", "out_phase"),
        *("outphase", "out", "dixon_opposed_phase", "dixon_opp", "dixon_out"),
    ),
}  # fmt: skip


def channels_of(dataset: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of the channels of ``dataset.json`` in their order; empty where there is one.

    Signs that a name of ours may not have become ``_``.

    Raises
    ------
    ModelError
        If they are not numbered 0, 1, ..., or two have one name.
    """
    found = dataset.get("channel_names", dataset.get("modality", {}))
    if sorted(found) != sorted(map(str, range(len(found)))) or not found:
        raise ModelError(
            f"dataset.json numbers its channels {shown(', '.join(sorted(found))) or 'not at all'}; "
            "they must be 0, 1, ..."
        )
    if len(found) == 1:
        return ()
    names = [re.sub(r"[^A-Za-z0-9_.+-]", "_", found[str(n)])[:64] for n in range(len(found))]
    if len(set(names)) < len(names) or not all(names):
        raise ModelError(f"dataset.json does not tell its channels apart: {', '.join(names)}")
    return tuple(names)


def dixon_part(channel: str) -> str | None:
    """Part of a Dixon acquisition that a channel is called, or None: water, fat, in_phase,
    opposed_phase or fat_fraction.
    """
    plain = re.sub(r"[^a-z]+", "_", channel.lower()).strip("_")
    return next((part for part, names in _DIXON.items() if plain in names), None)

"""Companions: other images of a scan on its grid, such as its fat fraction, measured in structures.

In tables they are JSON by name, in a column ``companions``: of the manifest the path of each, of
ingest what was found of it, of measure its values in a structure.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

COLUMN = "companion_"
"""Begins the names of their columns in a manifest."""

KINDS: dict[str, dict[str, Any]] = {"fat_fraction": {"unit": "%", "range": [0, 100], "above": 1}}
"""What is known of images of these names; a map of percents of which no voxel is above 1 holds
shares of 1."""


@dataclass(frozen=True)
class Companion:
    """One of the setting ``companions``.

    Attributes
    ----------
    name : str
    unit : str or None
        Of its values; None of grey values, which have none.
    factor : float
        Value in this unit, of one that is stored.
    low, high : float or None
        Values beyond are impossible.
    above : float or None
        The largest must lie above.
    """

    name: str
    unit: str | None = None
    factor: float = 1.0
    low: float | None = None
    high: float | None = None
    above: float | None = None


def from_config(section: Mapping[str, Mapping[str, Any] | None]) -> tuple[Companion, ...]:
    """A checked ``companions`` of the config, in order of names.

    What it does not say is as `KINDS` has it.
    """
    found = []
    for name in sorted(section):
        said = {key: value for key, value in (section[name] or {}).items() if value is not None}
        known = KINDS.get(name, {}) | said
        low, high = known.pop("range", (None, None))
        found.append(Companion(name, low=low, high=high, **known))
    return tuple(found)


def as_json(by_name: Mapping[str, Any]) -> str | None:
    """For a column ``companions``; None where there are none."""
    return json.dumps(by_name, ensure_ascii=False, sort_keys=True) if by_name else None


def from_json(cell: object) -> dict[str, Any]:
    """What a cell of a column ``companions`` has, by name."""
    found: dict[str, Any] = json.loads(cell) if isinstance(cell, str) else {}
    return found


def stands_for(cell: object) -> set[str]:
    """Paths of the images in a cell of the manifest; of ingest also their digests."""
    known = (of if isinstance(of, dict) else {"image": of} for of in from_json(cell).values())
    return {of[name] for of in known for name in ("image", "image_sha256") if of.get(name)}


def without_places(cell: object) -> str | None:
    """A cell of ingest without the paths of images, which may have been moved."""
    facts = from_json(cell).items()
    return as_json({name: {k: v for k, v in of.items() if k != "image"} for name, of in facts})

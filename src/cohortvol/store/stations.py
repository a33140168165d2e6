"""Which slices of an image came from which table position: JSON in the column ``stations``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import pairwise
from typing import Any


def as_json(stations: Sequence[dict[str, Any]]) -> str:
    """For the column ``stations``, of mappings that have ``first`` and ``last`` slice, from 0."""
    return json.dumps(list(stations), allow_nan=False)


def gaps_of(stations: object) -> list[tuple[int, int]]:
    """First and last slice of every part that no station shows, of a cell of ``stations``."""
    spans = json.loads(stations) if isinstance(stations, str) else []
    ends = pairwise((one["first"], one["last"]) for one in spans)
    return [(low[1] + 1, high[0] - 1) for low, high in ends if high[0] > low[1] + 1]

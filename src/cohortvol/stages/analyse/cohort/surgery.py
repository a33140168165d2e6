"""Structures that surgery took: neither missing at random nor a small organ."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from cohortvol.anatomy import structures as known


def taken(absent: pd.Series, structures: Sequence[str]) -> tuple[np.ndarray, list[str]]:
    """Which structures surgery took of whom, and what is said of names that are none.

    Of a pair of which it took one the sum is taken too: it is another measure than of two.

    Parameters
    ----------
    absent : pandas.Series
        Names joined by ``;``, one row per scan; None where surgery took nothing.
    structures : sequence of str
        Of the cohort.

    Returns
    -------
    tuple
        (scans, structures) of bool, and sentences.
    """
    found = np.zeros((len(absent), len(structures)), dtype=bool)
    column = {name: place for place, name in enumerate(structures)}
    with_it: dict[str, tuple[str, ...]] = {}
    for total, sides in known.pairs().items():
        with_it |= {total: (total, *sides), **{side: (side, total) for side in sides}}
    strange: set[str] = set()
    given = absent.dropna()
    for row, text in zip(np.flatnonzero(absent.notna()), given, strict=True):
        for name in filter(None, (one.strip() for one in text.replace(",", ";").split(";"))):
            places = [column[one] for one in with_it.get(name, (name,)) if one in column]
            found[row, places] = True
            if not places:
                strange.add(name)
    if not strange:
        return found, []
    names = ", ".join(sorted(strange)[:5]) + (" and others" if len(strange) > 5 else "")
    return found, [f"The column absent names what was not measured here: {names}."]

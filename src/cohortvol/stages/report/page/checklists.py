"""STROBE and CLAIM: where on the page, or in which file, each item is answered."""

from __future__ import annotations

import csv
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

FOR_AUTHORS = "for the authors"
"""What stands at an item of which the tables know nothing."""
CHECKLISTS = {
    "strobe": "STROBE, cross-sectional studies (von Elm et al., Lancet 2007;370:1453)",
    "claim": "CLAIM (Mongan, Moy and Kahn, Radiol Artif Intell 2020;2:e200029)",
}
_FILES = {"figure": "figures/{name}.pdf", "table": "tables/{name}.csv"}


@dataclass(frozen=True)
class Item:
    """One item: its number, what it asks for, and (words, link) of where it is answered."""

    number: str
    topic: str
    places: list[tuple[str, str]]


def read(folder: Path, name: str, present: Collection[str]) -> list[Item]:
    """The items of a checklist.

    Parameters
    ----------
    folder : Path
        Templates of the report; the lists lie in ``checklists/``.
    name : str
        ``strobe`` or ``claim``.
    present : collection of str
        ``section scans``, ``figure flow``, ``table slopes``: what this report has. Places that
        it has not are left out; an item without a place is for the authors.
    """
    with (folder / "checklists" / f"{name}.tsv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream, delimiter="\t"))
    items = []
    for row in rows:
        places = [place for place in row["where"].split("; ") if place in present]
        items.append(Item(row["item"], row["topic"], [_place(place) for place in places]))
    return items


def _place(place: str) -> tuple[str, str]:
    kind, name = place.split(" ", 1)
    if kind == "section":
        return f"page, {name.replace('-', ' ')}", f"#{name}"
    file = _FILES[kind].format(name=name)
    return file, f"#{name}" if kind == "figure" else f"#table-{name}"


def as_table(items: list[Item]) -> pd.DataFrame:
    """A checklist to hand in: item, what it asks for, where it is answered."""
    rows = [
        (
            item.number,
            item.topic,
            "; ".join(f"index.html{link} ({words})" for words, link in item.places) or FOR_AUTHORS,
        )
        for item in items
    ]
    return pd.DataFrame(rows, columns=["item", "topic", "where"])

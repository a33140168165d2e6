"""Anatomical structures: name, SNOMED CT code, side, and the volumes a body can hold.

Names are TotalSegmentator's spelling. Two structures of different models are the same when
SNOMED code and laterality are the same, so join on those and print the name.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cache
from pathlib import Path

STRUCTURES = Path(__file__).with_name("structures.tsv")
PLAUSIBLE = Path(__file__).with_name("plausible_ml.tsv")


@dataclass(frozen=True)
class Structure:
    """One row of ``structures.tsv``.

    Attributes
    ----------
    name : str
        TotalSegmentator spelling, such as ``kidney_left``.
    snomed_code : str
        SNOMED CT code of the structure, empty where the source of the names gives none.
    laterality : str
        ``left``, ``right``, ``both`` (one label holds both sides) or ``none``.
    group : str
        ``organ``, ``vessel``, ``bone``, ``muscle`` or ``tissue``.
    pair_sum : str
        Name of the sum of left and right, such as ``kidneys``; empty where there is none.
    """

    name: str
    snomed_code: str
    laterality: str
    group: str
    pair_sum: str


@cache
def load() -> dict[str, Structure]:
    """Every known structure by name. A model may hold others; they are measured all the same."""
    return {
        row["structure"]: Structure(
            name=row["structure"],
            snomed_code=row["snomed_code"],
            laterality=row["laterality"],
            group=row["group"],
            pair_sum=row["pair_sum"],
        )
        for row in _rows(STRUCTURES)
    }


@cache
def pairs() -> dict[str, tuple[str, str]]:
    """Name of a sum to its (left, right) structures: ``kidneys`` to the two kidneys."""
    sides: dict[str, dict[str, str]] = {}
    for structure in load().values():
        if structure.pair_sum:
            sides.setdefault(structure.pair_sum, {})[structure.laterality] = structure.name
    return {name: (side["left"], side["right"]) for name, side in sides.items()}


@cache
def plausible_ml() -> dict[str, tuple[float, float]]:
    """Smallest and largest plausible volume in mL of the structures that have a stated range.

    The ranges are cohortvol's own design, wide on purpose: a quarter of the lowest to four
    times the highest published mean (``reference_volumes.csv``), a twentieth for a hollow
    organ, which may be empty. Published log standard deviations reach about 0.36, so a factor
    of 4 lies more than 3 of them beyond every published mean. Each row names its two sources.
    """
    return {
        row["structure"]: (float(row["min_ml"]), float(row["max_ml"])) for row in _rows(PLAUSIBLE)
    }


def _rows(path: Path) -> list[dict[str, str]]:
    with open(path, encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream, delimiter="\t", quoting=csv.QUOTE_NONE))

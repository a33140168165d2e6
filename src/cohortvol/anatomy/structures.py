"""Anatomical structures: name, SNOMED CT code, side, and the volumes a body can hold.

Names are TotalSegmentator's spelling. Two structures of different models are the same when
SNOMED code and laterality are the same, so join on those and print the name.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from cohortvol.errors import ConfigError
from cohortvol.store.text_table import read_text_table

STRUCTURES = Path(__file__).with_name("structures.tsv")
PLAUSIBLE = Path(__file__).with_name("plausible_ml.tsv")

EXPECTED = ("liver", "spleen", "kidney_left", "kidney_right")
"""Structures that every scan of an abdomen shows, unless a setting names others."""

WHOLES = {"liver": tuple(f"liver_segment_{number}" for number in range(1, 9))}
"""Structures that others make up: the liver and the eight segments of Couinaud."""


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
    one_piece : bool
        Whether anatomy makes it one connected body: not so of vertebrae and discs, of loops of
        bowel, of fat, and of a label that holds both sides.
    """

    name: str
    snomed_code: str
    laterality: str
    group: str
    pair_sum: str
    one_piece: bool


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
            one_piece=row["one_piece"] == "yes",
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
    of 4 lies more than 3 of them beyond every published mean. Each row names its two sources;
    a structure without a published mean has no range.
    """
    return {
        row["structure"]: (float(row["min_ml"]), float(row["max_ml"])) for row in _rows(PLAUSIBLE)
    }


def plausible_ml_with(own: Path) -> dict[str, tuple[float, float]]:
    """`plausible_ml` with the rows of a table of the user's in place of ours.

    Parameters
    ----------
    own : Path
        CSV, TSV or Parquet with the columns ``structure, min_ml, max_ml, source``; others are
        free. A structure may be one that only the user's model knows. Empty bounds take our range
        away.

    Raises
    ------
    ConfigError
        Naming every line that cannot be used.
    TableError
        If the table cannot be read with certainty.
    """
    table = read_text_table(own, "It is named by the setting measure.plausible_ml.")
    rows = table.rows
    needed = ("structure", "min_ml", "max_ml", "source")
    missing = [name for name in needed if rows and name not in table.columns]
    if missing or not rows:
        raise ConfigError(
            f"{own}: {'no rows' if not rows else 'columns missing: ' + ', '.join(missing)}\n"
            f"  A table of plausible volumes has {', '.join(needed)}."
        )
    ranges, wrong = dict(plausible_ml()), []
    for line, row in zip(table.lines, rows, strict=True):
        name, bounds = row["structure"] or "", (row["min_ml"], row["max_ml"])
        try:
            if not name or not row["source"]:
                raise ValueError("structure and source must be given")
            if not any(bounds):
                ranges.pop(name, None)
                continue
            low, high = float(bounds[0] or "nan"), float(bounds[1] or "nan")
            if not 0 <= low < high < float("inf"):
                raise ValueError(f"{bounds[0]} to {bounds[1]} is no range of volumes in mL")
            ranges[name] = low, high
        except ValueError as error:
            wrong.append(f"  line {line}, {name or 'no structure'}: {error}")
    if wrong:
        raise ConfigError("\n".join([f"{own}: cannot be used", *wrong]))
    return ranges


def _rows(path: Path) -> list[dict[str, str]]:
    with open(path, encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream, delimiter="\t", quoting=csv.QUOTE_NONE))

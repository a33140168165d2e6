"""Contact sheets: which scans are shown, in which order, and what is written under each."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from cohortvol.drawing import style
from cohortvol.drawing.pages import png_uri
from cohortvol.reasons import Reason
from cohortvol.store.schemas import CONTACT_SHEET

MOST_NAMES = 6
"""Structures named in one line; of more, the others are counted."""


@dataclass(frozen=True)
class SheetSettings:
    """How many scans are shown, and the seed of the random order."""

    flagged: int = 24
    random: int = 24
    seed: int = 1


@dataclass(frozen=True)
class Tile:
    """One scan on a sheet: everything is text already.

    `lines` are the reasons for a look: the structures, and the sentence of the code.
    """

    number: str
    verdict: str
    lines: list[tuple[str, str]]
    source: str
    width: int
    height: int
    alt: str
    second_row: str
    scan_id: str


@dataclass(frozen=True)
class Sheet:
    """The scans shown of a kind, and of how many."""

    tiles: list[Tile]
    n_of_kind: int


def choose(scans: pd.DataFrame, volumes: pd.DataFrame, settings: SheetSettings) -> pd.DataFrame:
    """The scans to show, in order, with the number of each tile.

    Flagged: excluded scans before flagged ones, then by how many of their structures are
    excluded, then by how many are flagged, the worst first. Random: scans that passed. Whatever
    that leaves open is decided by a hash of seed and scan_id, so that it depends neither on the
    order of the table nor on the other scans in it.

    Parameters
    ----------
    scans : pandas.DataFrame
        Columns ``scan_id, state, qc``; others are kept.
    volumes : pandas.DataFrame
        Columns ``scan_id, qc`` of every structure.

    Returns
    -------
    pandas.DataFrame
        Rows of `scans` with ``tile`` and ``sheet`` (``flagged`` or ``random``).
    """
    done = scans[scans["state"] == "done"]
    counts = {
        qc: volumes.loc[volumes["qc"] == qc, "scan_id"].value_counts() for qc in ("exclude", "flag")
    }
    done = done.assign(
        passed=done["qc"] == "pass",
        excluded=done["qc"] == "exclude",
        **{f"n_{qc}": done["scan_id"].map(n).fillna(0) for qc, n in counts.items()},
        lot=[_lot(scan_id, settings.seed) for scan_id in done["scan_id"]],
    )
    worst_first = done.sort_values(
        ["excluded", "n_exclude", "n_flag", "lot"], ascending=[False, False, False, True]
    )
    parts = []
    for sheet, rows, n in (
        ("flagged", worst_first[~worst_first["passed"]], settings.flagged),
        ("random", done[done["passed"]].sort_values("lot"), settings.random),
    ):
        shown = rows.head(n)
        tiles = [f"{sheet[0].upper()}{number}" for number in range(1, len(shown) + 1)]
        parts.append(shown.assign(tile=tiles, sheet=sheet))
    return pd.concat(parts, ignore_index=True)


def _lot(scan_id: str, seed: int) -> str:
    return hashlib.sha256(f"{seed}:{scan_id}".encode()).hexdigest()


def make_sheets(
    chosen: pd.DataFrame,
    scans: pd.DataFrame,
    volumes: pd.DataFrame,
    previews: pd.DataFrame,
    reasons: Mapping[str, Reason],
    *,
    show_scan_ids: bool,
) -> dict[str, Any]:
    """What the page needs to show the sheets.

    Parameters
    ----------
    chosen : pandas.DataFrame
        What `choose` returned.
    scans, volumes : pandas.DataFrame
        The tables it was chosen from; of the volumes also ``structure, qc_flags``.
    previews : pandas.DataFrame
        The table PREVIEWS of at least the chosen scans.
    """
    done = scans[scans["state"] == "done"]
    n_passed = int((done["qc"] == "pass").sum())
    n_of_kind = {"flagged": len(done) - n_passed, "random": n_passed}
    pictures = previews.set_index("scan_id").to_dict("index")
    of_scan = dict(iter(volumes[volumes["scan_id"].isin(chosen["scan_id"])].groupby("scan_id")))
    tiles: dict[str, list[Tile]] = {sheet: [] for sheet in n_of_kind}
    for row in chosen.to_dict("records"):
        structures = of_scan.get(row["scan_id"], volumes.iloc[:0])
        lines = _lines(row, structures, reasons)
        picture = pictures.get(row["scan_id"], {})
        tiles[row["sheet"]].append(_tile(row, lines, picture, named=show_scan_ids))
    shown = [pictures[name] for name in chosen["scan_id"] if name in pictures]
    return {
        "flagged": Sheet(tiles["flagged"], n_of_kind["flagged"]),
        "random": Sheet(tiles["random"], n_of_kind["random"]),
        "legend": _legend(shown),
    }


def private_table(chosen: pd.DataFrame, previews: pd.DataFrame) -> pd.DataFrame:
    """Which scan each tile is: the table CONTACT_SHEET."""
    structures = previews.set_index("scan_id")["structure"]
    table = chosen.assign(structure=chosen["scan_id"].map(structures))
    return table.reindex(columns=list(CONTACT_SHEET))


def _tile(
    row: Mapping[str, Any],
    lines: list[tuple[str, str]],
    picture: Mapping[str, Any],
    *,
    named: bool,
) -> Tile:
    png = picture.get("png")
    width, height = struct.unpack(">II", png[16:24]) if png else (0, 0)
    verdict = {"pass": "Passed", "flag": "Flagged", "exclude": "Excluded"}[row["qc"]]
    structure = picture.get("structure") or ""
    shown = style.display_name(structure) if structure else ""
    found = [style.display_name(name) for name in _outlines(picture)]
    alt = (
        f"Tile {row['tile']}: axial, coronal and sagittal plane of a scan, "
        f"outlined: {_names(found) or 'nothing was found'}."
    )
    alt += f" Below, the planes through the middle of one structure: {shown}." if shown else ""
    return Tile(
        number=row["tile"],
        verdict=verdict,
        lines=lines,
        source=png_uri(png) if png else "",
        width=width,
        height=height,
        alt=alt,
        second_row=shown,
        scan_id=row["scan_id"] if named else "",
    )


def _lines(
    row: Mapping[str, Any], structures: pd.DataFrame, reasons: Mapping[str, Reason]
) -> list[tuple[str, str]]:
    """Structures and sentence of each code; codes of excluded structures first."""
    by_code: dict[str, list[str]] = {}
    worst_first = structures.sort_values("qc", kind="stable")  # exclude, flag, pass
    for name, codes in zip(worst_first["structure"], worst_first["qc_flags"], strict=True):
        for code in _codes(codes):
            by_code.setdefault(code, []).append(style.display_name(name))
    for code in _codes(row.get("qc_flags")):
        by_code.setdefault(code, [])
    lines = []
    for code, names in by_code.items():
        everything = len(names) == len(structures) > 1
        who = "All structures" if everything else _names(names)
        sentence = reasons[code].sentence if code in reasons else code
        seen = row.get(_SAID_OF_A_SCAN.get(code, ""))
        lines.append((who, f"{sentence} Seen: {seen}." if isinstance(seen, str) else sentence))
    return lines


_SAID_OF_A_SCAN = {"QC_ORIENTATION": "body_orientation", "QC_SCALE": "usual_scale"}
"""Column of the scans table that says more of a code."""


def _codes(joined: Any) -> list[str]:
    return [code for code in joined.split(";") if code] if isinstance(joined, str) else []


def _names(names: list[str]) -> str:
    more = len(names) - MOST_NAMES
    shown = ", ".join(names[:MOST_NAMES])
    return f"{shown} and {more} more" if more > 0 else shown


def _outlines(picture: Mapping[str, Any]) -> dict[str, str]:
    """Colour of each outlined structure, from its column in PREVIEWS."""
    return dict(json.loads(picture.get("outlines") or "{}"))


def _legend(pictures: list[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """Colours with what they outline, in the order of the structures."""
    by_colour: dict[str, list[str]] = {}
    for picture in pictures:
        for structure, colour in _outlines(picture).items():
            names = by_colour.setdefault(colour, [])
            name = style.display_name(structure)
            if name not in names:
                names.append(name)
    second = {str(picture["structure_colour"]) for picture in pictures if picture["structure"]}
    legend = [
        (colour, ", ".join(names) if len(names) <= MOST_NAMES else "Other structures")
        for colour, names in by_colour.items()
    ]
    return legend + [(colour, "The structure named under the picture") for colour in sorted(second)]

"""Whether to believe a volume: QC codes per structure, and the sums of left and right."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from cohortvol.anatomy import structures as anatomy
from cohortvol.stages.measure.interval import sum_of_intervals
from cohortvol.stages.measure.volumes import FACE_ORDER, typed

MIN_LARGEST_FRACTION = 0.9
"""A structure with less than this in its largest component is flagged QC_FRAGMENTED."""

SUM_TOLERANCE = 0.02
"""Share of a volume by which those that make it up may differ from it; beyond, QC_SUM."""

MIN_EXPECTED = 2
"""Expected structures that a model must know before it can tell that a scan is no abdomen."""

EXCLUDING = (
    "QC_ABSENT",
    "QC_WRONG_BODY_PART",
    "QC_FW_SWAP",
    "QC_FEW_GREY_LEVELS",
    "QC_SIDE",
    "QC_OUTLIER",
)
"""QC codes that make a volume unfit for use; the others only ask for a look, or note a fact."""


def judge(
    volumes: pd.DataFrame,
    plausible_ml: Mapping[str, tuple[float, float]] | None = None,
    min_largest_fraction: float = MIN_LARGEST_FRACTION,
    expected: Sequence[str] = anatomy.EXPECTED,
    scan_codes: Sequence[str] = (),
) -> pd.DataFrame:
    """Add ``status``, ``reason``, ``qc`` and ``qc_flags`` to the structures of one scan.

    Codes: QC_ABSENT, with QC_MISSING_ORGAN where the structure is expected; QC_TRUNCATED_FOV;
    QC_FRAGMENTED, of structures that are one piece in every body; QC_OUTLIER (outside the
    plausible range; a cut structure, being a lower bound, only above it); QC_SUM, of a liver and
    its segments whose volumes differ by more than `SUM_TOLERANCE`; QC_SIDE. Those in
    `EXCLUDING` give ``exclude``, the others ``flag``. Left behind right makes both of a pair
    QC_SIDE. A liver on the left of the spleen makes every structure QC_SIDE: the image is
    mirrored (or the body is), and nothing in it can be called left or right. Where fewer than
    half of the expected structures that the model knows have a plausible volume, the scan shows
    no abdomen, and every structure is QC_WRONG_BODY_PART.

    Parameters
    ----------
    volumes : pandas.DataFrame
        What `structure_volumes` returned.
    plausible_ml : mapping of str to (float, float), optional
        Range per structure in mL; without it, the packaged one. Others are not judged.
    min_largest_fraction : float
        Smallest part of the voxels that the largest component must hold.
    expected : sequence of str
        Structures that every scan of the cohort shows; those that the model lacks do not count.
    scan_codes : sequence of str
        QC codes that hold for the scan as a whole, and so for each of its structures.
    """
    ranges = anatomy.plausible_ml() if plausible_ml is None else plausible_ml
    wrong_side = _on_the_wrong_side(volumes)
    in_sums = _in_sums_that_do_not_hold(volumes)
    elsewhere = _shows_something_else(volumes, ranges, expected)
    of_scan = [*(["QC_WRONG_BODY_PART"] if elsewhere else []), *scan_codes]
    verdicts: list[tuple[str, str | None, str, str]] = []
    for row in volumes.to_dict("records"):
        if pd.isna(row["n_voxels"]):
            missed = ["QC_MISSING_ORGAN"] if row["structure"] in expected and not elsewhere else []
            flags = ["QC_ABSENT", *missed, *of_scan]
            verdicts.append(("absent", "QC_ABSENT", "exclude", ";".join(flags)))
            continue
        low, high = ranges.get(row["structure"], (0.0, np.inf))
        too_small = row["volume_ml"] < low and not row["cut_by_fov"]
        in_pieces = row["largest_component_fraction"] < min_largest_fraction
        found = {
            "QC_TRUNCATED_FOV": row["cut_by_fov"],
            "QC_FRAGMENTED": in_pieces and _is_one_piece(row["structure"]),
            "QC_SIDE": row["structure"] in wrong_side,
            "QC_OUTLIER": too_small or row["volume_ml"] > high,
            "QC_SUM": row["structure"] in in_sums,
        }
        flags = [*(code for code, present in found.items() if present), *of_scan]
        status, reason = ("cut", "QC_TRUNCATED_FOV") if row["cut_by_fov"] else ("ok", None)
        verdicts.append((status, reason, _qc(flags), ";".join(flags)))
    verdict = pd.DataFrame(
        verdicts, columns=["status", "reason", "qc", "qc_flags"], index=volumes.index
    )
    return volumes.assign(**verdict.astype("object").to_dict("series"))


def _qc(flags: list[str]) -> str:
    if set(EXCLUDING).intersection(flags):
        return "exclude"
    return "flag" if flags else "pass"


def _is_one_piece(structure: str) -> bool:
    """False also of a structure that the table does not name: nobody said that it is."""
    known = anatomy.load().get(structure)
    return known is not None and known.one_piece


def _in_sums_that_do_not_hold(volumes: pd.DataFrame) -> set[str]:
    """Structures, and those that make them up, where a model that knows all says two volumes.

    A part that was not found is no part of the sum: it may be gone, and the whole with it.
    """
    volume_ml = dict(zip(volumes["structure"], volumes["volume_ml"].astype(float), strict=True))
    wrong: set[str] = set()
    for whole, parts in anatomy.WHOLES.items():
        if not {whole, *parts} <= set(volume_ml) or np.isnan(volume_ml[whole]):
            continue
        together = np.nansum([volume_ml[part] for part in parts])
        if abs(together - volume_ml[whole]) > SUM_TOLERANCE * volume_ml[whole]:
            wrong |= {whole, *parts}
    return wrong


def _shows_something_else(
    volumes: pd.DataFrame, ranges: Mapping[str, tuple[float, float]], expected: Sequence[str]
) -> bool:
    """Whether fewer than half of the expected structures have a plausible volume.

    A cut one counts from the least plausible volume on, like any other.
    """
    volume_ml = dict(zip(volumes["structure"], volumes["volume_ml"], strict=True))
    known = [structure for structure in expected if structure in volume_ml]
    n_plausible = 0
    for structure in known:
        low, high = ranges.get(structure, (0.0, np.inf))
        n_plausible += low <= volume_ml[structure] <= high  # False of NaN: it was not found
    return len(known) >= MIN_EXPECTED and 2 * n_plausible < len(known)


def _on_the_wrong_side(volumes: pd.DataFrame) -> set[str]:
    found = volumes[volumes["n_voxels"].notna()]
    x_mm = {
        structure: centroid[0]
        for structure, centroid in zip(found["structure"], found["centroid_ras_mm"], strict=True)
    }
    if "liver" in x_mm and "spleen" in x_mm and x_mm["liver"] <= x_mm["spleen"]:
        return set(x_mm)
    return {
        side
        for left, right in anatomy.pairs().values()
        if left in x_mm and right in x_mm and x_mm[left] >= x_mm[right]
        for side in (left, right)
    }


def pair_sums(judged: pd.DataFrame) -> pd.DataFrame:
    """Sums of left and right for every pair of which the model has both sides.

    A sum has a volume where both sides have one that can be used: it is null where either is
    absent, failed or excluded, with the code that excluded it as reason. It is cut where either
    is cut, and as good as the worse of the two. What has no meaning for a sum (components,
    centroid, bounding box, intensities) is null.
    """
    sides = {row["structure"]: row for row in judged.to_dict("records")}
    rows = [
        _sum_of_pair(name, sides[left], sides[right])
        for name, (left, right) in anatomy.pairs().items()
        if left in sides and right in sides
    ]
    return typed(pd.DataFrame(rows, columns=list(judged.columns)))


def _sum_of_pair(name: str, left: dict[str, Any], right: dict[str, Any]) -> dict[str, Any]:
    both = (left, right)
    worst = min(both, key=lambda side: ("failed", "absent", "cut", "ok").index(side["status"]))
    flags = sorted({code for side in both for code in side["qc_flags"].split(";") if code})
    row = {
        "structure": name,
        "status": worst["status"],
        "reason": worst["reason"],
        "qc": min((side["qc"] for side in both), key=("exclude", "flag", "pass").index),
        "qc_flags": ";".join(flags),
    }
    if worst["status"] in ("failed", "absent"):
        return row
    if row["qc"] == "exclude":
        why = next(code for code in EXCLUDING if code in flags)
        return row | {"status": "absent", "reason": why}
    return (
        row
        | {
            "n_voxels": left["n_voxels"] + right["n_voxels"],
            "volume_ml": left["volume_ml"] + right["volume_ml"],
            "cut_by_fov": worst["status"] == "cut",
            "cut_faces": "".join(
                letter for letter in FACE_ORDER if letter in left["cut_faces"] + right["cut_faces"]
            ),
            "cut_area_mm2": left["cut_area_mm2"] + right["cut_area_mm2"],
        }
        | sum_of_intervals(left, right)
    )

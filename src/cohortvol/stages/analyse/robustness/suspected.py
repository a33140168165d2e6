"""Volumes so far outside the rest that they may be remnants, or organs of a disease.

Said, counted and listed; nothing is left out for it. Whoever has looked writes what surgery took
into the column ``absent`` of the manifest.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from cohortvol.anatomy import structures as known
from cohortvol.stages.analyse.cohort.usable import ABSENT, FAILED_QC, Cohort
from cohortvol.stages.analyse.fits.designs import YEARS_PER_DECADE
from cohortvol.stages.analyse.fits.robust import robust_z

LEAST_N = 50
"""Usable volumes from which on a structure is looked at."""
FAR = 5.0
"""How many times as far from the median as the 10th or 90th centile a volume is far outside: of
normal deviates 6.4 SD. The two tails have limits of their own, which heavy ones move outward."""
SMALLER = 2.0
"""The same of a side that is far smaller than the other: 2.6 SD of normal deviates."""
TAILS = (10.0, 90.0)
SETTLED = 3.5
"""Robust z beyond which a volume has no say in what is usual."""
SMALL, LARGE, MISSED = "small", "large", "not found"
ONE_SIDE, WITH_LARGE, BOTH = "one side", "one side, the other large", "both sides"
STEP = "suspected"
REASONS = {
    SMALL: "a volume far below the rest",
    LARGE: "a volume far above the rest",
    MISSED: "a side not found, the other large",
}


@dataclass(frozen=True)
class Usual:
    """What is usual of one structure at the age and sex of every scan."""

    expected: np.ndarray
    """(scans,): ln(mL); NaN where age or sex is not known."""
    residual: np.ndarray
    """(scans,): ln(volume) over that; NaN where nothing was measured."""
    low: float
    high: float
    """Of the residuals of usable volumes, `TAILS`."""


def suspected(cohort: Cohort) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Volumes far outside the rest: ``analyse/suspected`` and ``analyse/suspected_scans``.

    Looked at are scans in the trends, and volumes that are used or that QC alone leaves out, as
    remnants may be. ln(volume) is compared with a parabola of age by sex. A volume is far outside
    beyond `FAR` times the 10th or 90th centile of what is left; and a side, beyond `SMALLER` times
    its 10th centile, if it is also that far smaller than the other side as pairs differ. A side
    that was not found is one where the other is above its 90th centile. What ``absent`` names is
    not looked at, nor are sums of pairs.

    Returns
    -------
    tuple of pandas.DataFrame
        Counts per structure and kind, and one row per volume, with its scan_id.
    """
    usual = {
        s: found
        for s, name in enumerate(cohort.structures)
        if name not in known.pairs() and (found := usual_of(cohort, s)) is not None
    }
    kinds = {s: _kinds(one) for s, one in usual.items()}
    patterns = {s: np.full(len(cohort.scans), None, dtype=object) for s in usual}
    place = {name: s for s, name in enumerate(cohort.structures)}
    for sides in known.pairs().values():
        left, right = (place.get(side, -1) for side in sides)
        if left in usual and right in usual:
            _compare(cohort, usual, kinds, patterns, left, right)
    rows = [
        _listed(cohort, s, usual[s], kinds[s], patterns[s]) for s in usual if (kinds[s] != "").any()
    ]
    listed = pd.concat(rows, ignore_index=True) if rows else pd.DataFrame()
    return _counted(listed, cohort, usual), listed


def usual_of(cohort: Cohort, structure: int) -> Usual | None:
    """`Usual` of a structure; None where too few volumes are usable, or they are all alike."""
    usable = cohort.usable(structure)
    if usable.sum() < LEAST_N:
        return None
    looked_at = cohort.in_trends & (usable | (cohort.reason[:, structure] == FAILED_QC))
    looked_at &= cohort.volume_ml[:, structure] > 0
    log_ml = np.full(len(cohort.scans), np.nan)
    log_ml[looked_at] = np.log(cohort.volume_ml[looked_at, structure])
    columns = _columns(cohort, usable)
    settled = usable
    for _ in range(3):
        fitted = np.linalg.lstsq(columns[settled], log_ml[settled], rcond=None)[0]
        left = log_ml - columns @ fitted
        away = np.full(len(left), np.inf)
        away[usable] = np.abs(robust_z(left[usable]))
        settled = away <= SETTLED
    middle = float(np.median(left[usable]))
    left = left - middle
    low, high = (float(end) for end in np.percentile(left[usable], TAILS))
    if not low < 0 < high:
        return None
    expected = np.where(cohort.in_trends, columns @ fitted + middle, np.nan)
    return Usual(expected, left, low, high)


def _columns(cohort: Cohort, usable: np.ndarray) -> np.ndarray:
    """(scans, terms): a parabola of age, by sex where several scans of both are usable."""
    ages = cohort.scans["age_years"].to_numpy(dtype=float)
    decades = np.nan_to_num((ages - ages[usable].mean()) / YEARS_PER_DECADE)
    columns = np.column_stack([np.ones(len(ages)), decades, decades**2])
    male = cohort.of_sex("M").astype(float)
    if min(male[usable].sum(), (1 - male[usable]).sum()) < LEAST_N / 5:
        return columns
    return np.column_stack([columns, male, decades * male])


def _kinds(usual: Usual) -> np.ndarray:
    kinds = np.full(len(usual.residual), "", dtype=object)
    kinds[usual.residual < FAR * usual.low] = SMALL
    kinds[usual.residual > FAR * usual.high] = LARGE
    return kinds


def _compare(
    cohort: Cohort,
    usual: Mapping[int, Usual],
    kinds: Mapping[int, np.ndarray],
    patterns: Mapping[int, np.ndarray],
    left: int,
    right: int,
) -> None:
    """Adds what only the other side tells of one side."""
    both = cohort.usable(left) & cohort.usable(right)
    if both.sum() < LEAST_N:
        return
    apart = usual[left].residual - usual[right].residual
    apart = apart - np.median(apart[both])
    low, high = np.percentile(apart[both], TAILS)
    for side, other, smaller in (
        (left, right, apart < FAR * low),
        (right, left, apart > FAR * high),
    ):
        of, beside = usual[side], usual[other]
        large = beside.residual > beside.high
        small = smaller & (of.residual < SMALLER * of.low)
        kinds[side][small & (kinds[side] == "")] = SMALL
        missed = cohort.in_trends & (cohort.reason[:, side] == ABSENT) & large
        kinds[side][missed] = MISSED
        one = (kinds[side] == SMALL) | missed
        patterns[side][one] = np.where(large[one], WITH_LARGE, ONE_SIDE)
        patterns[side][kinds[side] == LARGE] = ONE_SIDE
    same = (kinds[left] == kinds[right]) & (kinds[left] != "") & (kinds[left] != MISSED)
    for side in (left, right):
        patterns[side][same] = BOTH


def _listed(
    cohort: Cohort, s: int, usual: Usual, kinds: np.ndarray, patterns: np.ndarray
) -> pd.DataFrame:
    rows = np.flatnonzero(kinds != "")
    ratio = np.exp(usual.residual[rows])
    return pd.DataFrame(
        {
            "structure": cohort.structures[s],
            "scan_id": cohort.scans["scan_id"].to_numpy()[rows],
            "kind": kinds[rows],
            "pattern": patterns[rows],
            "volume_ml": np.where(kinds[rows] == MISSED, np.nan, cohort.volume_ml[rows, s]),
            "usual_ml": np.exp(usual.expected[rows]),
            "of_usual_pct": np.where(kinds[rows] == MISSED, np.nan, 100 * ratio),
            "used": cohort.usable(s)[rows],
        }
    )


def _counted(listed: pd.DataFrame, cohort: Cohort, usual: Mapping[int, Usual]) -> pd.DataFrame:
    rows: list[dict[str, Any]] = []
    for s, one in usual.items():
        here = listed[listed["structure"] == cohort.structures[s]] if len(listed) else listed
        for kind in REASONS:
            those = here[here["kind"] == kind] if len(here) else here
            row = {"structure": cohort.structures[s], "kind": kind, "n": len(those)}
            row |= {"n_used": int(those["used"].sum()) if len(those) else 0}
            row |= {
                f"n_{name}": int((those["pattern"] == pattern).sum()) if len(those) else 0
                for name, pattern in (("both_sides", BOTH), ("other_large", WITH_LARGE))
            }
            if kind != MISSED:  # of those, some are far outside beside their other side alone
                beyond = FAR * (one.low if kind == SMALL else one.high)
                usual_ml = np.exp(np.nanmedian(one.expected))
                row |= {"limit_pct": 100 * np.exp(beyond), "limit_ml": usual_ml * np.exp(beyond)}
                if kind == SMALL and len(those):
                    row["n_beside_other"] = int((those["of_usual_pct"] > row["limit_pct"]).sum())
            rows.append(row)
    return pd.DataFrame(rows)


def with_suspected(flow: pd.DataFrame, listed: pd.DataFrame) -> pd.DataFrame:
    """``analyse/flow`` with the scans that have any such volume, by kind."""
    rows = [
        {
            "step": STEP,
            "reason": reason,
            "n": listed.loc[listed["kind"] == kind, "scan_id"].nunique(),
        }
        for kind, reason in REASONS.items()
        if len(listed) and (listed["kind"] == kind).any()
    ]
    return pd.concat([flow, pd.DataFrame(rows)], ignore_index=True) if rows else flow


def suspicions(counted: pd.DataFrame, *, knows_cut: bool) -> list[str]:
    """A sentence for each structure and kind with any, and what to do.

    Parameters
    ----------
    knows_cut : bool
        Volumes that the field of view cuts are known, and left out.
    """
    found = counted[counted["n"] > 0] if len(counted) else counted
    if not len(found):
        return []
    cut = "" if knows_cut else ", or the part inside the field of view"
    sentences = [_sentence(row, cut) for row in found.to_dict("records")]
    return [
        *sentences,
        "What was used of these volumes is in every result: nothing is left out because it is far "
        "from the rest. Look at them (analyse/suspected_scans names the scans), and write what "
        "surgery took into the column absent of the manifest, or exclude what is wrong by review.",
    ]


def _sentence(row: Mapping[str, Any], cut: str) -> str:
    n, name = int(row["n"]), row["structure"]
    if row["kind"] == MISSED:
        whose = "1 scan has" if n == 1 else f"{n:,} scans have"
        return f"{whose} no {name} and a large other side, as with one kidney or after surgery."
    volumes = f"1 volume of {name} is" if n == 1 else f"{n:,} volumes of {name} are"
    limit = f"about {_two_digits(row['limit_ml'])} mL at the middle of age and sex"
    if row["kind"] == SMALL:
        why = f"a remnant, agenesis, what surgery left, or a failed segmentation{cut}"
        sides = (
            " A side far smaller than the other counts from less on."
            if row["n_beside_other"] > 0
            else ""
        )
        return f"{volumes} so small (below {limit}) that it may be {why}.{sides}"
    why = "disease, such as polycystic kidneys or a large spleen, or a failed segmentation"
    return f"{volumes} so large (above {limit}) that it may be {why}."


def _two_digits(value: float) -> str:
    return f"{float(f'{value:.2g}'):,g}"

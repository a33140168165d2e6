"""What the first screen says: of each structure, of all together, and whose slopes these are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from cohortvol.drawing import style
from cohortvol.stages.report.tables.inputs import HIGH, LOW, SLOPE, Analysis

KINDS = (
    ("smaller", "Smaller at higher age"),
    ("larger", "Larger at higher age"),
    ("bends", "Bends, without a clear slope"),
    ("unclear", "No clear difference"),
    ("untested", "No clear slope; a bend was not tested"),
)
"""What is said of a structure, and over such rows."""
_OTHERS = (
    ("bends", "bends without a clear slope", "bend without a clear slope"),
    ("unclear", "shows no clear difference", "show no clear difference"),
    (
        "untested",
        "has no clear slope, and whether its trend bends was not tested",
        "have no clear slope, and whether their trends bend was not tested",
    ),
)
AGREES = ("sign agrees", "CI holds the reference")
DISAGREES = ("conflict", "sign agrees, size differs")
"""Verdicts of `analyse/literature` that count as judged."""
FOREST = "the forest plot"
"""What `together` says that the page makes a link of."""


@dataclass(frozen=True)
class Row:
    """One structure: everything is text already, places are in hundredths of the bar's width."""

    name: str
    control: bool
    kind: str
    unadjusted: str
    slope: str
    sure: str
    low: float
    at: float
    high: float


def kind_of(analysis: Analysis, row: Mapping[str, Any], level: float) -> str:
    """The kind of a row of the slopes table; see `KINDS`."""
    if row["q_value"] < level:
        return "smaller" if row[SLOPE] < 0 else "larger"
    return bend_of(analysis, row["structure"], level)


def bend_of(analysis: Analysis, structure: str, level: float) -> str:
    """bends, or untested, where no test of a bend was possible; unclear where it shows none."""
    tests = analysis.table("nonlinearity")
    here = tests[tests["structure"] == structure]["q_value"].dropna()
    if here.empty:
        return "untested"
    return "bends" if (here < level).any() else "unclear"


def how_sure(analysis: Analysis, row: Mapping[str, Any], level: float) -> str:
    """q, how many other ways of analysis agree, whether the trend bends, in a few words.

    An analysis agrees where its interval lies on the same side of 0 as the slope of the table, and
    has a part in common with that slope's interval. That slope itself is none of them.
    """
    parts = [f"q {_compared(row['q_value'])}", *_agreement(analysis, row, level)]
    bend = bend_of(analysis, row["structure"], level)
    if bend == "bends":
        parts.append("bends")
    elif bend == "untested":
        parts.append("bend not tested")
    return "; ".join([*parts, *_published(analysis, row["structure"])])


def _published(analysis: Analysis, structure: str) -> list[str]:
    """How many published values agree of those that the slopes of their ages can tell from 0."""
    table = analysis.table("literature")
    told = table[(table["structure"] == structure) & (table["evidence"] != "UNVERIFIED")]
    holds_0 = (told[LOW] <= 0) & (told[HIGH] >= 0)  # and so a published slope that is not far off
    told = told[~(holds_0 & told["verdict"].isin(AGREES))]
    agree = told["verdict"].isin(AGREES).sum()
    judged = told["verdict"].isin(AGREES + DISAGREES).sum()
    return [f"{agree} of {judged} published agree"] if judged else []


def _agreement(analysis: Analysis, row: Mapping[str, Any], level: float) -> list[str]:
    table = analysis.table("sensitivity")
    others = table[(table["structure"] == row["structure"]) & (table["sex"] == "all")]
    others = others[others["analysis"] != "complete"].dropna(subset=[LOW, HIGH])
    if others.empty or not row["q_value"] < level:
        return []
    same = (others[LOW] > 0) if row[SLOPE] > 0 else (others[HIGH] < 0)
    same &= (others[LOW] <= row[HIGH]) & (others[HIGH] >= row[LOW])
    words = "analysis agrees" if len(same) == 1 else "analyses agree"
    parts = [f"{same.sum()} of {len(same)} other {words}"]
    people = others[(others["analysis"] == "one_scan_each") & ~same]
    if len(people):
        parts.append(f"one scan each {style.interval_of(people.iloc[0].to_dict(), SLOPE)} %")
    return parts


def _compared(value: float) -> str:
    if pd.isna(value):
        return "not known"
    return "< 0.001" if value < 0.001 else f"= {style.probability(value)}"


def summary(rows: Sequence[Row], n_without: int, model: str) -> list[str]:
    """Of how many structures what is said, the steepest, and the negative controls.

    Parameters
    ----------
    rows : sequence of Row
        From the steepest fall to the steepest rise, negative controls last.
    n_without : int
        Structures of the cohort that have no row.
    model : str
        Whose slopes these are.
    """
    organs = [row for row in rows if not row.control]
    return [
        text
        for text in (
            of_kinds(organs),
            steepest(organs),
            of_controls([row for row in rows if row.control]),
            not_given(n_without, model),
        )
        if text
    ]


def of_kinds(organs: Sequence[Row]) -> str:
    """How many are smaller, larger, and neither; nothing where all are negative controls."""
    if not organs:
        return ""
    n = Counter(row.kind for row in organs)
    words = "structure" if len(organs) == 1 else "structures"
    said = (
        f"Of {len(organs)} {words}, {n['smaller']} {_is(n['smaller'])} smaller and {n['larger']} "
        f"{_is(n['larger'])} larger at higher age"
    )
    for kind, one, several in _OTHERS:
        if n[kind]:
            said += f"; {n[kind]} {one if n[kind] == 1 else several}"
    return f"{said}."


def steepest(organs: Sequence[Row]) -> str:
    """The steepest clear fall and the steepest clear rise."""
    smaller = [row for row in organs if row.kind == "smaller"]
    larger = [row for row in organs if row.kind == "larger"]
    ends = [f"{row.name.lower()} {row.slope} %" for row in (smaller[:1] + larger[-1:])]
    return f"Steepest per decade (95\u00a0%\u00a0CI): {' and '.join(ends)}." if ends else ""


def of_controls(controls: Sequence[Row]) -> str:
    """Whether hollow organs are as flat as they should be, as far as that was tested."""
    moved = [row.name.lower() for row in controls if row.kind in ("smaller", "larger", "bends")]
    if moved:
        return (
            f"Of the negative controls, {', '.join(moved)} {_is(len(moved))} not flat: part of the "
            "other slopes may come from who was scanned."
        )
    names = ", ".join(row.name.lower() for row in controls)
    if not names:
        return ""
    if len(controls) == 1:
        return (
            f"The negative control ({names}) has no clear slope, as it should; how "
            "flat it is, its interval says."
        )
    return (
        f"The negative controls ({names}) have no clear slope, as they should; how flat "
        "they are, their intervals say."
    )


def not_given(n_without: int, model: str) -> str:
    """That the table is not of all structures."""
    words = "other structure" if n_without == 1 else "other structures"
    return f"No slope of {model} is given of {n_without} {words}." if n_without else ""


def together(analysis: Analysis, model: str) -> str:
    """Whose slopes the first screen shows."""
    slopes = analysis.slopes[analysis.slopes["model"] == model].dropna(subset=[SLOPE])
    if analysis.sexes == ["all"]:
        return "Sex is not known: women and men are not told apart."
    notes = slopes.loc[slopes["sex"] == "all", "note"].fillna("").str.split("; ")
    alone = {sex: sum(f"{sex} only" in parts for parts in notes) for sex in ("F", "M")}
    words = [
        f"{style.SEX_WORD[sex]} alone{'' if n == len(notes) else f' in {n} of {len(notes)} rows'}"
        for sex, n in alone.items()
        if n
    ]
    if len(notes) > sum(alone.values()):
        words.insert(0, "Women and men together")
    apart = set(slopes["sex"]) >= {"F", "M"}
    said = ", ".join([words[0], *(text.lower() for text in words[1:])])
    return f"{said}; apart in {FOREST}." if apart else f"{said}."


def _is(n: int) -> str:
    return "is" if n == 1 else "are"

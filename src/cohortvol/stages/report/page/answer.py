"""The first screen: which structures change with age, how fast, and how sure that is."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import pandas as pd

from cohortvol.drawing import style
from cohortvol.stages.report.figures.forest import NEGATIVE_CONTROLS
from cohortvol.stages.report.tables.inputs import HIGH, LOW, SLOPE, Analysis

_WIDTH = 100.0


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


KINDS = (
    ("smaller", "Smaller at higher age"),
    ("larger", "Larger at higher age"),
    ("bends", "Changes without one direction"),
    ("unclear", "No clear difference"),
    ("untested", "No clear slope; a bend was not tested"),
)
"""What is said of a structure, and over such rows."""


@dataclass(frozen=True)
class Answer:
    """What the page says first."""

    kinds = KINDS
    model: str
    sentences: list[str]
    rows: list[Row]
    zero: float
    adjusted: bool


def answer(analysis: Analysis, *, level: float) -> Answer | None:
    """Read off the slopes of both sexes together in the most adjusted model.

    A slope is clear where its q is below `level`; the rows go from the steepest fall to the
    steepest rise, negative controls last.

    Returns
    -------
    Answer or None
        None where no such slope was estimated.
    """
    pooled = analysis.slopes[analysis.slopes["sex"] == "all"].dropna(subset=[SLOPE, LOW, HIGH])
    if pooled.empty:
        return None
    model = str(max(pooled["model"]))
    first = pooled[pooled["model"] == "M1"].set_index("structure")
    slopes = pooled[pooled["model"] == model].sort_values(SLOPE)
    control = slopes["structure"].isin(NEGATIVE_CONTROLS)
    slopes = pd.concat([slopes[~control], slopes[control]])
    low, high = _range(slopes)
    rows = []
    for row in slopes.to_dict("records"):
        name = row["structure"]
        other = first.loc[name] if model != "M1" and name in first.index else None
        clear = bool(row["q_value"] < level)
        slope = "smaller" if row[SLOPE] < 0 else "larger"
        kind = slope if clear else _of_bend(analysis, name, level)
        ends = [max(low, min(high, row[column])) for column in (LOW, SLOPE, HIGH)]
        places = [round(_WIDTH * (end - low) / (high - low), 2) for end in ends]
        rows.append(
            Row(
                name=style.display_name(name),
                control=name in NEGATIVE_CONTROLS,
                kind=kind,
                unadjusted="" if other is None else style.interval_of(other, SLOPE),
                slope=style.interval_of(row, SLOPE),
                sure=_sure(analysis, name, model, row["q_value"], level),
                low=places[0],
                at=places[1],
                high=places[2],
            )
        )
    zero = round(_WIDTH * (0 - low) / (high - low), 2)
    return Answer(model, _sentences(rows), rows, zero, model != "M1")


def _range(slopes: pd.DataFrame) -> tuple[float, float]:
    """Ends of the bars: all estimates, and intervals unless they are very wide."""
    reach = 1.6 * max(float(slopes[SLOPE].abs().max()), 1.0)
    low = max(float(slopes[LOW].min()), -reach)
    high = min(float(slopes[HIGH].max()), reach)
    margin = 0.04 * (max(high, 0.0) - min(low, 0.0))
    return min(low, 0.0) - margin, max(high, 0.0) + margin


def _sure(analysis: Analysis, structure: str, model: str, q_value: float, level: float) -> str:
    """q, how many other ways of analysis agree, whether the trend bends, in a few words.

    An analysis agrees where its interval lies on the same side of 0 as the slope of the table, and
    has a part in common with that slope's interval. That slope itself is none of them.
    """
    parts = [f"q {_compared(q_value)}"]
    table = analysis.table("sensitivity")
    others = table[(table["structure"] == structure) & (table["sex"] == "all")]
    others = others[others["analysis"] != "complete"].dropna(subset=[LOW, HIGH])
    if len(others) and q_value < level:
        slopes = analysis.slopes
        own = slopes[(slopes["structure"] == structure) & (slopes["sex"] == "all")]
        own = own[own["model"] == model].iloc[0]
        same = (others[LOW] > 0) if own[SLOPE] > 0 else (others[HIGH] < 0)
        same &= (others[LOW] <= own[HIGH]) & (others[HIGH] >= own[LOW])
        parts.append(f"{same.sum()} of {len(same)} other analyses agree")
        people = others[(others["analysis"] == "one_scan_each") & ~same]
        if len(people):
            parts.append(f"one scan each {style.interval_of(people.iloc[0], SLOPE)} %")
    bend = _of_bend(analysis, structure, level)
    if bend == "bends":
        parts.append("bends")
    elif bend == "untested":
        parts.append("bend not tested")
    verdicts = analysis.table("literature")
    told = verdicts[(verdicts["structure"] == structure) & (verdicts["evidence"] != "UNVERIFIED")]
    agree = int(told["verdict"].isin(["sign agrees", "CI holds the reference"]).sum())
    judged = agree + int(told["verdict"].isin(["conflict", "sign agrees, size differs"]).sum())
    if judged:
        parts.append(f"{agree} of {judged} published agree")
    return "; ".join(parts)


def _of_bend(analysis: Analysis, structure: str, level: float) -> str:
    """bends, or untested, where no test of a bend was possible; unclear where it shows none."""
    tests = analysis.table("nonlinearity")
    here = tests[tests["structure"] == structure]["q_value"].dropna()
    if here.empty:
        return "untested"
    return "bends" if (here < level).any() else "unclear"


def _compared(value: float) -> str:
    if pd.isna(value):
        return "not known"
    return "< 0.001" if value < 0.001 else f"= {style.probability(value)}"


def _sentences(rows: list[Row]) -> list[str]:
    """How many of the structures are smaller or larger, the steepest, and the negative controls."""
    organs = [row for row in rows if not row.control]
    smaller = [row for row in organs if row.kind == "smaller"]
    larger = [row for row in organs if row.kind == "larger"]
    of_kind = Counter(row.kind for row in organs)
    words = "structure" if len(organs) == 1 else "structures"
    first = (
        f"Of {len(organs)} {words}, {len(smaller)} {_is(smaller)} smaller and {len(larger)} "
        f"{_is(larger)} larger at higher age"
    )
    for kind, one, several in (
        ("bends", "changes without one direction", "change without one direction"),
        ("unclear", "shows no clear difference", "show no clear difference"),
        (
            "untested",
            "has no clear slope, and whether its trend bends was not tested",
            "have no clear slope, and whether their trends bend was not tested",
        ),
    ):
        if count := of_kind[kind]:
            first += f"; {count} {one if count == 1 else several}"
    said = [f"{first}."]
    steepest = [f"{row.name.lower()} {row.slope} %" for row in (smaller[:1] + larger[-1:])]
    if steepest:
        said.append(f"Steepest per decade (95\u00a0%\u00a0CI): {' and '.join(steepest)}.")
    controls = [row for row in rows if row.control]
    moved = [row.name.lower() for row in controls if row.kind in ("smaller", "larger", "bends")]
    if controls and moved:
        said.append(
            f"Of the negative controls, {', '.join(moved)} {_is(moved)} not flat: part of the "
            "other slopes may come from who was scanned."
        )
    elif controls:
        names = ", ".join(row.name.lower() for row in controls)
        said.append(f"The negative controls ({names}) have no clear slope, as they should.")
    return said


def _is(rows: list[Row] | list[str]) -> str:
    return "is" if len(rows) == 1 else "are"

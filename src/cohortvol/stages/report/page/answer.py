"""The first screen: which structures change with age, how fast, and how sure that is."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from cohortvol.drawing import style
from cohortvol.stages.report.figures.forest import NEGATIVE_CONTROLS
from cohortvol.stages.report.page.sentences import first_screen
from cohortvol.stages.report.page.sentences.first_screen import KINDS, Row
from cohortvol.stages.report.tables.inputs import HIGH, LOW, SLOPE, Analysis

_WIDTH = 100.0


@dataclass(frozen=True)
class Answer:
    """What the page says first."""

    kinds = KINDS
    model: str
    sentences: list[str]
    rows: list[Row]
    zero: float
    adjusted: bool
    together: str


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
        ends = [max(low, min(high, row[column])) for column in (LOW, SLOPE, HIGH)]
        places = [round(_WIDTH * (end - low) / (high - low), 2) for end in ends]
        rows.append(
            Row(
                name=style.display_name(name),
                control=name in NEGATIVE_CONTROLS,
                kind=first_screen.kind_of(analysis, row, level),
                unadjusted="" if other is None else style.interval_of(other, SLOPE),
                slope=style.interval_of(row, SLOPE),
                sure=first_screen.how_sure(analysis, row, level),
                low=places[0],
                at=places[1],
                high=places[2],
            )
        )
    zero = round(_WIDTH * (0 - low) / (high - low), 2)
    n_without = len(set(analysis.slopes["structure"]) - set(slopes["structure"]))
    said = first_screen.summary(rows, n_without, model)
    return Answer(model, said, rows, zero, model != "M1", first_screen.together(analysis, model))


def _range(slopes: pd.DataFrame) -> tuple[float, float]:
    """Ends of the bars: all estimates, and intervals unless they are very wide."""
    reach = 1.6 * max(float(slopes[SLOPE].abs().max()), 1.0)
    low = max(float(slopes[LOW].min()), -reach)
    high = min(float(slopes[HIGH].max()), reach)
    margin = 0.04 * (max(high, 0.0) - min(low, 0.0))
    return min(low, 0.0) - margin, max(high, 0.0) + margin

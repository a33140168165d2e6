"""The flow of scans: counts from the flow table, one sentence, one STROBE diagram."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import isnan, nan
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from cohortvol.drawing import style

_LEFT_MM, _BOX_MM = 1.0, 66.0
_SIDE_LEFT_MM, _SIDE_BOX_MM = 82.0, 100.0
_PAD_MM, _GAP_MM, _LINE_MM = 2.2, 5.0, 2.75
_MOST_REASONS = 8
LEFT_THE_FLOW = ("quarantined", "skipped", "failed")
_HEADING = {
    "quarantined": "Quarantined: the data are at fault",
    "skipped": "Skipped by a stated rule",
    "failed": "Failed: retried on the next run",
    "unusable": "Excluded from trends",
    "kept": "Among the scans usable for trends",
    "out of range": "Values that cannot be true and count as unknown",
    "suspected": "Far outside the rest, not left out: surgery or disease?",
}
_AFTER = ("unusable", "kept", "out of range", "suspected")
"""Steps of measured scans that have a side box."""
BY_REVIEW = "scan excluded by review"
"""The reason with which `analyse` counts scans that people excluded."""


@dataclass(frozen=True)
class Flow:
    """How many scans reached each step, and why the others did not; NaN is a few, not given."""

    manifest: float
    done: float
    usable: float
    reasons: dict[str, dict[str, float]] = field(default_factory=dict)
    rounded: bool = False
    """Counts are rounded, so they need not add up."""

    def left(self, step: str) -> float:
        """Scans that ended in this state."""
        return self._sum(step)

    @property
    def n_left(self) -> float:
        """Scans that ended in any of `LEFT_THE_FLOW`."""
        return self._sum(*LEFT_THE_FLOW)

    def _sum(self, *steps: str) -> float:
        """The counts that are given; NaN where there are some and none is given."""
        counts = [n for step in steps for n in self.reasons.get(step, {}).values()]
        given = [n for n in counts if not isnan(n)]
        return sum(given) if given or not counts else nan

    def sentence(self) -> str:
        """The accounting line: every manifest row exactly once."""
        words = "row" if self.manifest == 1 else "rows"
        rows = f"{style.count(self.manifest)} {words} in the manifest"
        ends = [f"{style.count(self.done)} measured"]
        ends += [f"{style.count(self.left(step))} {step}" for step in LEFT_THE_FLOW]
        if self.rounded:
            return f"{rows}: {', '.join(ends)}. Counts are rounded to multiples of five."
        total = self.done + sum(self.left(step) for step in LEFT_THE_FLOW)
        wrong = f"sum {style.count(total)}: not balanced"
        balance = "all accounted for" if total == self.manifest else wrong
        return f"{rows} = {' + '.join(ends)}; {balance}."

    def review(self) -> str:
        """What people who looked at scans changed; empty where they changed nothing."""
        out = self.reasons.get("unusable", {}).get(BY_REVIEW, 0)
        kept = self.left("kept")
        if not out and not kept:
            return ""
        excluded, accepted = style.count(out), style.count(kept)
        words = "scan" if out == 1 else "scans"
        return f"Human review: {excluded} {words} excluded, {accepted} kept against automatic QC."


def count_flow(table: pd.DataFrame, *, rounded: bool = False) -> Flow:
    """Read the flow table of `analyse` (step, reason, n)."""
    totals: dict[str, float] = {}
    reasons: dict[str, dict[str, float]] = {}
    for step, reason, n in table[["step", "reason", "n"]].itertuples(index=False):
        known = nan if pd.isna(n) else int(n)
        if isinstance(reason, str) and reason:
            reasons.setdefault(step, {})[reason] = known
        else:
            totals[step] = known
    ends = totals["manifest"], totals["done"], totals["usable for trends"]
    return Flow(*ends, reasons=reasons, rounded=rounded)


def flow_figure(flow: Flow, sentences: Mapping[str, str]) -> tuple[Figure, pd.DataFrame]:
    """Boxes from the manifest down to the scans usable for trends, with side boxes for the rest.

    Parameters
    ----------
    flow : Flow
    sentences : mapping of str to str
        What each reason code means, in words.

    Returns
    -------
    Figure, pandas.DataFrame
        The diagram, and the counts in it.
    """
    out = [step for step in LEFT_THE_FLOW if flow.left(step)]
    sides = [_side_lines(flow, step, sentences) for step in out]
    after = [_side_lines(flow, step, sentences) for step in _AFTER if flow.left(step)]
    main = _PAD_MM * 2 + _LINE_MM * 2
    first, second = (
        max(sum(map(_height, boxes)) + _GAP_MM * (len(boxes) - 1), _GAP_MM)
        for boxes in (sides, after)
    )
    height = 3 * main + first + second + 4 * _GAP_MM * 0.6 + 2

    figure = style.new_figure(style.DOUBLE_COLUMN_MM, height)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, style.DOUBLE_COLUMN_MM), ylim=(height, 0))
    axes.axis("off")
    gap = _GAP_MM * 0.6
    top = 1.0
    _main_box(axes, top, "Rows in the manifest", flow.manifest)
    start = top + main
    top = start + gap
    for lines in sides:
        _side_box(axes, top, lines)
        top += _height(lines) + _GAP_MM
    end = start + first + 2 * gap
    _arrow_down(axes, start, end)
    _main_box(axes, end, "Segmented and measured", flow.done)
    start = end + main
    top = start + gap
    for lines in after:
        _side_box(axes, top, lines)
        top += _height(lines) + _GAP_MM
    end = start + second + 2 * gap
    _arrow_down(axes, start, end)
    _main_box(axes, end, "Usable for trends with age", flow.usable, strong=True)
    return figure, _counts(flow, sentences)


def _height(lines: list[tuple[str, str]]) -> float:
    return _PAD_MM * 2 + _LINE_MM * len(lines)


def _side_lines(flow: Flow, step: str, sentences: Mapping[str, str]) -> list[tuple[str, str]]:
    """Lines of a side box as (text, count); the first is its heading."""
    reasons = sorted(
        flow.reasons[step].items(), key=lambda item: (isnan(item[1]), -item[1], item[0])
    )
    shown, rest = reasons[:_MOST_REASONS], reasons[_MOST_REASONS:]
    named = [(_sentence_case(sentences.get(code, code)), n) for code, n in shown]
    if rest:
        named.append((f"{len(rest)} other reasons", sum(n for _, n in rest)))
    lines = [(_HEADING[step], f"n = {style.count(flow.left(step))}")]
    for text, n in named:
        first, *more = style.wrap(text, _SIDE_BOX_MM - 2 * _PAD_MM - 14, style.LABEL_PT)
        lines.append((first, style.count(n)))
        lines += [(line, "") for line in more]
    return lines


def _sentence_case(text: str) -> str:
    return text[:1].upper() + text[1:].rstrip(".")


def _box(axes: Axes, left: float, top: float, width: float, height: float, strong: bool) -> None:
    axes.add_patch(
        FancyBboxPatch(
            (left, top),
            width,
            height,
            boxstyle="round,pad=0,rounding_size=0.8",
            facecolor="#eef3f8" if strong else "white",
            edgecolor=style.INK,
            linewidth=0.6,
        )
    )


def _main_box(axes: Axes, top: float, text: str, n: float, *, strong: bool = False) -> None:
    height = _PAD_MM * 2 + _LINE_MM * 2
    _box(axes, _LEFT_MM, top, _BOX_MM, height, strong)
    centre, middle = _LEFT_MM + _BOX_MM / 2, top + height / 2
    axes.text(centre, middle - 1.5, text, ha="center", va="center", size=style.TITLE_PT)
    bold: dict[str, Any] = {"size": 7, "weight": "bold"}
    axes.text(centre, middle + 1.6, f"n = {style.count(n)}", ha="center", va="center", **bold)


def _side_box(axes: Axes, top: float, lines: list[tuple[str, str]]) -> None:
    height = _height(lines)
    _box(axes, _SIDE_LEFT_MM, top, _SIDE_BOX_MM, height, strong=False)
    for position, (text, count) in enumerate(lines):
        y = top + _PAD_MM + _LINE_MM * (position + 0.5)
        weight = "bold" if position == 0 else "normal"
        options: dict[str, Any] = {"size": style.LABEL_PT, "va": "center", "weight": weight}
        axes.text(_SIDE_LEFT_MM + _PAD_MM, y, text, ha="left", **options)
        axes.text(_SIDE_LEFT_MM + _SIDE_BOX_MM - _PAD_MM, y, count, ha="right", **options)
    centre = _LEFT_MM + _BOX_MM / 2
    y = top + _PAD_MM + _LINE_MM / 2
    _arrow(axes, (centre, y), (_SIDE_LEFT_MM, y))


def _arrow_down(axes: Axes, top: float, bottom: float) -> None:
    centre = _LEFT_MM + _BOX_MM / 2
    _arrow(axes, (centre, top), (centre, bottom))


def _arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    axes.annotate(
        "",
        xy=end,
        xytext=start,
        arrowprops={
            "arrowstyle": "-|>,head_width=0.12,head_length=0.25",
            "color": style.INK,
            "linewidth": 0.6,
            "shrinkA": 0,
            "shrinkB": 0,
        },
    )


def _counts(flow: Flow, sentences: Mapping[str, str]) -> pd.DataFrame:
    rows: list[tuple[str, str, str, float]] = [("manifest", "", "", flow.manifest)]
    for step in (*LEFT_THE_FLOW, "done", *_AFTER, "usable"):
        if step in ("done", "usable"):
            rows.append((step, "", "", flow.done if step == "done" else flow.usable))
        for reason, n in sorted(flow.reasons.get(step, {}).items()):
            rows.append((step, reason, sentences.get(reason, ""), n))
    return pd.DataFrame(rows, columns=["step", "reason", "meaning", "n"])

"""The rows of the first screen of a page, worked out anew for `page_truth`."""

from __future__ import annotations

import re
from html import unescape

from page_cohort import CONTROLS, HIGH, LOW, PCT, Cohort, Row, interval, name_of


def rows_of_first_screen(html: str, cohort: Cohort) -> list[str]:
    """Under which heading each structure stands, its slope, and how sure that is."""
    wrong, shown = [], set()
    by_name = {name_of(row["structure"]): row for row in cohort.first}
    for kind, body in re.findall(r'<tbody class="(\w+)"><tr><th scope="rowgroup" (.*?)</tbody>',
                                 html, re.DOTALL):  # fmt: skip
        for name, slope, sure in re.findall(
            r'<th scope="row">([^<]*)</th>.*?<td class="rate">([^<]*)</td>.*?'
            r'<td class="sure">([^<]*)</td>',
            body,
            re.DOTALL,
        ):
            row = by_name[unescape(name)]
            shown.add(unescape(name))
            true = "control" if row["structure"] in CONTROLS else cohort.kind(row)
            if true != kind:
                wrong.append(f"{name} stands under {kind}, is {true}")
            if unescape(slope) != interval(row):
                wrong.append(f"{name}: {slope}, not {interval(row)}")
            if unescape(sure) != (sought := "; ".join(_sure(cohort, row))):
                wrong.append(f"{name}: {unescape(sure)!r}, not {sought!r}")
    if shown != (set(by_name) if cohort.has_answer else set()):
        wrong.append(f"first screen: {sorted(shown)} of {sorted(by_name)}")
    return wrong


def _sure(c: Cohort, row: Row) -> list[str]:
    q, level = float(row["q_value"]), c.setting("fdr")
    parts = ["q < 0.001" if q < 0.001 else f"q = {_probability(q)}"]
    own = [float(row[name]) for name in (LOW, HIGH)]
    others = [r for r in c.of("sensitivity", structure=row["structure"], sex="all")
              if r[LOW] and r["analysis"] != "complete"]  # fmt: skip
    if q < level and others:
        agree, apart = 0, []
        for other in others:
            low, high = float(other[LOW]), float(other[HIGH])
            beside = (low > 0 if float(row[PCT]) > 0 else high < 0) and not (
                high < own[0] or low > own[1]
            )
            agree += beside
            if other["analysis"] == "one_scan_each" and not beside:
                apart = [f"one scan each {interval(other)} %"]
        words_ = "analysis agrees" if len(others) == 1 else "analyses agree"
        parts += [f"{agree} of {len(others)} other {words_}", *apart]
    bends = [float(t["q_value"]) for t in c.of("nonlinearity", structure=row["structure"])
             if t["q_value"]]  # fmt: skip
    parts += ["bend not tested"] if not bends else ["bends"] * (min(bends) < level)
    told = [r["verdict"] for r in c.of("literature", structure=row["structure"])
            if r["evidence"] != "UNVERIFIED" and not _cannot_tell(r)]  # fmt: skip
    agree = sum(v in ("sign agrees", "CI holds the reference") for v in told)
    judged = agree + sum(v in ("conflict", "sign agrees, size differs") for v in told)
    return parts + [f"{agree} of {judged} published agree"] * bool(judged)


def _cannot_tell(row: Row) -> bool:
    """An interval that holds both 0 and what was published."""
    ends = [row[LOW], row[HIGH]]
    holds_0 = all(ends) and float(row[LOW]) <= 0 <= float(row[HIGH])
    return holds_0 and row["verdict"] in ("sign agrees", "CI holds the reference")


def _probability(q: float) -> str:
    """As the page prints what is 0.001 or more."""
    return f"{q:.2f}" if q >= 0.1 else f"{q:.3f}"

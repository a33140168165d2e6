"""The page: rows of its tables, its texts, and the one HTML file they are put in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from cohortvol.drawing import style
from cohortvol.drawing.pages import Table
from cohortvol.errors import TableError
from cohortvol.models.card import Card, segmentation_key
from cohortvol.models.inference import ELSEWHERE
from cohortvol.models.told import told_run
from cohortvol.reasons import Reason
from cohortvol.stages.report.page.sentences import notices
from cohortvol.stages.report.tables.flow import Flow
from cohortvol.stages.report.tables.inputs import PROVENANCE_COLUMNS, SLOPE, Analysis
from cohortvol.stages.report.tables.rounding import SMALL

SEXES = ("all", "F", "M")
VARIABLES = {
    "scans": "Scans",
    "subjects": "Subjects",
    "age_years": "Age, years",
    "sex": "Sex",
    "height_cm": "Height, cm",
    "weight_kg": "Weight, kg",
    "bmi": "Body mass index, kg/m²",
    "time_of_day_h": "Time of day, h",
    "site": "Site",
    "scanner": "Scanner",
    "field_strength_t": "Field strength, T",
    "sequence": "Sequence",
    "contrast": "Contrast",
}
"""How Table 1 names its variables; another variable is shown by its own name."""

_ENDS = ("failed", "quarantined", "skipped")
"""States of scans that did not finish, in the order in which they are listed."""
_CI = "95\u00a0%\u00a0CI"  # no line break inside
_ML = "slope_ml_per_decade"


def table1(analysis: Analysis) -> Table:
    """Table 1 with one column per sex; rows of missing values only where there are any."""
    hidden, rows = notices.not_printed(analysis), []
    for (variable, level), cells in analysis.table1.groupby(["variable", "level"], sort=False):
        values = dict(zip(cells["group"], cells["value"], strict=True))
        if level == "missing" and all(str(v).split(" ")[0] == "0" for v in values.values()):
            continue
        name = VARIABLES.get(str(variable), str(variable))
        words = "" if level == "n" else str(level)
        rows.append([name, words, *[str(values.get(sex, "")) for sex in SEXES]])
    return Table(
        "Table 1. The measured scans",
        ["", "", *[style.SEX_WORD[sex] for sex in SEXES]],
        rows,
        "Median (interquartile range) or n (%). "
        + ("Small counts are not printed, to protect the people behind them. " * bool(hidden))
        + "Missing values are listed where there are any.",
        "table1",
    )


def slope_table(analysis: Analysis) -> Table:
    """Every slope, M1 and M2 side by side."""
    slopes = analysis.slopes
    models = sorted(slopes["model"].dropna().unique())
    header = ["Structure", "Sex"]
    for model in models:
        header += [f"{model}: % per decade ({_CI})", "q"]
    header += [f"{models[0]}: mL per decade ({_CI})" if models else "mL per decade"]
    header += ["p", "Mean, mL", "Used", "Not used", "Note"]
    rows = []
    for (structure, sex), group in slopes.groupby(["structure", "sex"], sort=False):
        by_model = {row["model"]: row for row in group.to_dict("records")}
        row = [style.display_name(structure), style.SEX_WORD.get(sex, sex)]
        for model in models:
            row += estimate_cells(by_model.get(model), SLOPE)
        first = by_model.get(models[0], {})
        row.append(_ml(first))
        row.append(style.probability(first.get("p_value"), first.get("log10_p")))
        row.append(style.significant(first.get("mean_volume_ml")))
        row += [style.number(first.get(name), 0) for name in ("n_used", "n_dropped")]
        notes = [item["note"] for item in by_model.values() if isinstance(item["note"], str)]
        row.append("; ".join(dict.fromkeys(notes)))
        rows.append(row)
    note = (
        f"{notices.of_all(analysis)} q: false discovery rate over all slopes of a model. mL per "
        f"decade, p, mean and counts belong to {models[0] if models else 'M1'}."
    )
    return Table("Slopes with age", header, rows, note, "slopes")


def estimate_cells(row: Mapping[str, Any] | None, name: str, *, q: bool = True) -> list[str]:
    """An estimate with its interval, and its q where wanted."""
    if row is None or pd.isna(row[name]):
        return ["–", "–"] if q else ["–"]
    text = style.interval_of(row, name)
    return [text, style.probability(row["q_value"])] if q else [text]


def _ml(row: Mapping[str, Any]) -> str:
    if not row or pd.isna(row[_ML]):
        return "–"
    size = max(abs(row[f"{_ML}_ci_low"]), abs(row[f"{_ML}_ci_high"]), abs(row[_ML]))
    digits = 0 if size >= 100 else 1 if size >= 10 else 2 if size >= 1 else 3
    return style.interval_of(row, _ML, digits)


def interaction_table(analysis: Analysis) -> Table:
    """Whether men and women differ in slope."""
    name = "difference_pct_per_decade"
    rows = [
        [
            style.display_name(row["structure"]),
            row["model"],
            *estimate_cells(row, name),
            style.probability(row["p_value"]),
            style.number(row["n_used"], 0),
        ]
        for row in analysis.interactions.to_dict("records")
    ]
    header = [
        "Structure",
        "Model",
        f"Men relative to women, % per decade ({_CI})",
        "q",
        "p",
        "Used",
    ]
    return Table("Do the slopes of men and women differ?", header, rows, csv="interactions")


def quantile_cells(row: Mapping[Any, Any]) -> tuple[str, str]:
    """Median with its quartiles, and the tails, as far as they are given; mL."""
    middle, q25, q75, p5, p95 = (
        style.significant(row[f"{name}_ml"]) for name in ("median", "q25", "q75", "p5", "p95")
    )
    middle_half = middle if q25 == "–" else f"{middle} ({q25} to {q75})"
    return middle_half, "–" if p5 == "–" else f"{p5} to {p95}"


def summary_table(analysis: Analysis) -> Table:
    """Quantiles of the volumes, of the groups that have any."""
    table = analysis.summary
    least = notices.least_shown(analysis)
    few = (table["n"].isna() | table["n"].between(1, least - 1)).any()
    rows = []
    for row in table[(table["sex"] == "all") | table["n"].ne(0)].to_dict("records"):
        sex = style.SEX_WORD.get(row["sex"], row["sex"])
        name = style.display_name(row["structure"])
        n = style.number(row["n"], 0)
        rows.append([name, sex, n, *quantile_cells(row)])
    header = ["Structure", "Sex", "n", "Median (IQR), mL", "5th to 95th centile, mL"]
    note = "Quantiles of a few scans are not given." if few else ""
    return Table("Volumes", header, rows, note, csv="summary")


def dropped_table(analysis: Analysis) -> Table:
    """Scans not used per structure, by the first reason that holds."""
    table = analysis.dropped
    reasons = list(dict.fromkeys(table["reason"]))
    rows = []
    for structure, group in table.groupby("structure", sort=False):
        counts = dict(zip(group["reason"], group["n"], strict=True))
        shown = [style.count(counts.get(reason, 0)) for reason in reasons]
        rows.append([style.display_name(structure), *shown])
    header = ["Structure", *[reason[:1].upper() + reason[1:] for reason in reasons]]
    note = "Each scan is counted under the first reason that holds."
    return Table("Scans not used, by structure", header, rows, note, "dropped")


def left_out_of(flow: Flow, reasons: Mapping[str, Reason]) -> list[dict[str, Any]]:
    """`left_out` from the counts of the flow alone."""
    return [
        _left_out(state, code, n, reasons)
        for state in _ENDS
        for code, n in flow.reasons.get(state, {}).items()
    ]


def left_out(
    scans: pd.DataFrame, reasons: Mapping[str, Reason], *, show_scan_ids: bool
) -> list[dict[str, Any]]:
    """Scans that did not finish, by state and reason, with what to do about it."""
    rows = []
    gone = scans[scans["state"] != "done"]
    for (state, code), group in gone.groupby(["state", "reason"], dropna=False, sort=True):
        code = code if isinstance(code, str) else "no reason recorded"
        scan_ids = sorted(group["scan_id"].dropna()) if show_scan_ids else []
        rows.append(_left_out(state, code, len(group), reasons, scan_ids))
    order = {state: place for place, state in enumerate(_ENDS)}
    last = len(order)
    return sorted(rows, key=lambda row: (order.get(row["state"], last), -row["n"], row["code"]))


def _left_out(
    state: str, code: str, n: float, reasons: Mapping[str, Reason], scan_ids: Sequence[str] = ()
) -> dict[str, Any]:
    known = reasons.get(code)
    return {
        "state": state,
        "code": code,
        "n": n,
        "sentence": known.sentence if known else "",
        "what_to_do": known.what_to_do if known else "",
        "scan_ids": scan_ids,
    }


def provenance(scans: pd.DataFrame, *, public: bool = False) -> list[tuple[str, str]]:
    """What segmented the scans: each value with its number of scans, or `public` without."""
    labels = {
        "model": "Segmentation model",
        "profile": "Inference profile",
        "segmentation_key": "Key of weights and recipe",
        "cohortvol_version": "cohortvol that segmented",
        "precision": "Numbers in the networks",
    }
    rows = []
    for name in PROVENANCE_COLUMNS:
        if name not in scans:
            continue
        found = _counted(scans[name], public=public)
        text = ", ".join(
            str(value) if public else f"{value} ({n:,} scans)" for value, n in found.items()
        )
        rows.append((labels[name], text or "not recorded"))
    return rows


def models_of(scans: pd.DataFrame, *, public: bool = False) -> str:
    """Segmentation models of the finished scans, in words; empty where none is recorded."""
    if "model" not in scans:
        return ""
    return " and ".join(map(str, _counted(scans["model"], public=public).index))


def made_elsewhere(scans: pd.DataFrame) -> bool:
    """Whether the label maps were made elsewhere, and no network was run here."""
    return "profile" in scans and bool(scans["profile"].eq(ELSEWHERE).any())


def told_of(scans: pd.DataFrame, card: Card) -> list[str]:
    """How the model came to the label maps of finished scans, a sentence each.

    Raises
    ------
    TableError
        If the scans were segmented with other weights, or in another way, than this model does it.
    """
    told: list[str] = []
    ways = scans.reindex(columns=["profile", "segmentation_key"]).dropna().drop_duplicates()
    for profile, key in ways.itertuples(index=False, name=None):
        if (of_card := segmentation_key(card, profile)) != key:
            raise TableError(
                f"{card.folder}: not the model that the scans were segmented with\n"
                f"  scans       key {key}, profile {profile}\n"
                f"  this model  key {of_card}\n"
                "  Give the model folder, and the structures wanted, that `cohortvol segment` had."
            )
        told = told_run(card, profile)
    return told


def precision_of(scans: pd.DataFrame, *, public: bool = False) -> list[str]:
    """In which numbers the networks worked, a sentence; none where that is not recorded.

    `public`, without numbers of scans: what a machine could says nothing of who was scanned.
    """
    if "precision" not in scans:
        return []
    found = _counted(scans["precision"], public=False)
    if len(found) < 2:
        return [f"The networks multiplied in {name}." for name in found.index]
    shares = [name if public else f"{name} ({n:,} scans)" for name, n in found.items()]
    return [
        f"The networks multiplied in {' or '.join(shares)}, as the processor of each job could."
    ]


def _counted(values: pd.Series, *, public: bool) -> pd.Series:
    """Scans of each value in its order; `public`, of values of several scans alone."""
    found = values.dropna().value_counts().sort_index()
    return found[found >= SMALL] if public else found

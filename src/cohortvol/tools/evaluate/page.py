"""The page of an evaluation: tables as people read them, figures, and how it was done."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from cohortvol import reasons
from cohortvol.drawing import pages, style
from cohortvol.drawing.pages import Table
from cohortvol.store.files import commit_text
from cohortvol.tools.evaluate.contours import Picture, contour_figure
from cohortvol.tools.evaluate.measures import MISSED
from cohortvol.tools.evaluate.page_tables import published_table, readers_table
from cohortvol.tools.evaluate.plots import Plot, bland_altman, box_plots
from cohortvol.tools.evaluate.reader_plots import reader_plots
from cohortvol.tools.evaluate.readers import EXPERT
from cohortvol.tools.evaluate.statistics import FEW_SUBJECTS, LEAST_SUBJECTS

TITLE = "Label maps against experts"
_SHOWN = {
    "dice": ("Dice", 3),
    "nsd": ("Surface Dice", 3),
    "hd95_mm": ("HD95, mm", 1),
    "volume_error_pct": ("Volume error, %", 1),
    "absolute_volume_error_pct": ("Absolute, %", 1),
}
"""Metrics of the tables, with their heading and decimals; the others are in summary.csv."""
_AVERAGES = {"class_mean": "Mean of structures", "pair_mean": "All pairs"}
_GROUPS = {"sequence": "Sequence", "scanner": "Scanner", "age_tertile": "Age"}
_CI = "Mean, with its 95 % interval. "


def write(
    out: Path,
    tables: Mapping[str, pd.DataFrame],
    record: Mapping[str, Any],
    pictures: Sequence[Picture],
) -> None:
    """Write ``figures/`` and ``index.html`` below `out`.

    Parameters
    ----------
    out : Path
        Folder of the evaluation.
    tables : mapping of str to pandas.DataFrame
        The tables of the evaluation, by name.
    record : mapping
        What ``evaluate.json`` holds.
    pictures : sequence of Picture
        Scans to show, lowest Dice first.
    """
    templates = pages.templates_folder()
    jinja = pages.environment(templates)
    settings = record["settings"]
    models = [model["name"] for model in record["models"]]
    pairs, summary, comparisons = (tables[name] for name in ("pairs", "summary", "comparisons"))
    figures = []
    with style.journal_style():
        for name, title, number, plot, context in _plots(tables, models, pictures, settings):
            caption = pages.caption(jinja, name, settings | context)
            stem = out / "figures" / (name if number == 1 else f"{name}_{number}")
            style.save_figure(plot.figure, stem, plot.data, f"{title}. {caption}")
            png = stem.with_name(f"{stem.name}.png").read_bytes()
            figures.append(pages.PageFigure(stem.name, name, title, caption, title, png))
    html = pages.render(
        jinja,
        templates,
        {
            "title": TITLE,
            "lead": _lead(pairs, models),
            "figures": figures,
            "tables": {
                "averages": _averages(summary),
                "structures": _by_structure(summary),
                "comparisons": _comparisons(comparisons) if len(models) > 1 else None,
                "groups": _by_group(summary) if (summary["group_by"] != "all").any() else None,
                "published": published_table(tables["published"]),
                "readers": readers_table(tables["readers"]),
            },
            "settings": settings,
            "reasons": _reasons(pairs, tables["reader_pairs"]),
            "record": record,
        },
        template="evaluation.html",
    )
    commit_text(out / "index.html", html)


def _plots(
    tables: Mapping[str, pd.DataFrame],
    models: Sequence[str],
    pictures: Sequence[Picture],
    settings: Mapping[str, Any],
) -> Iterator[tuple[str, str, int, Plot, dict[str, Any]]]:
    pairs = tables["pairs"]
    kinds = (
        ("boxes", "Dice and surface Dice by structure and model",
         list(box_plots(pairs, models, settings["tolerance_mm"]))),
        ("bland_altman", "Volumes by models and experts", list(bland_altman(pairs, models))),
        ("contours", "Expert and models in one axial slice",
         [contour_figure(pictures, models)] if pictures else []),
        ("readers", "Models with readers, and readers with each other",
         list(reader_plots(tables["readers"], models))),
    )  # fmt: skip
    for name, title, plots in kinds:
        for number, plot in enumerate(plots, start=1):
            context = {
                "page": number,
                "n_pages": len(plots),
                "n_missed": int((pairs["reason"] == MISSED).sum()),
                "n_cases": len(pictures),
            }
            yield name, title, number, plot, context


def _lead(pairs: pd.DataFrame, models: Sequence[str]) -> str:
    compared = pairs[pairs["dice"].notna()]
    words = "model" if len(models) == 1 else "models"
    return (
        f"{len(models)} {words} on {style.count(compared['scan_id'].nunique())} scans of "
        f"{style.count(compared['subject_id'].nunique())} people, "
        f"{style.count(compared['structure'].nunique())} structures: "
        f"{style.count(len(compared))} pairs compared."
    )


def _cell(rows: Mapping[str, Mapping[str, Any]], metric: str) -> str:
    return _mean(rows[metric], "mean", _SHOWN[metric][1]) if metric in rows else "–"


def _mean(row: Mapping[str, Any], name: str, digits: int) -> str:
    """A mean with its interval; without, where it has none; a dash where there is no mean."""
    if pd.isna(row[name]) or pd.isna(row["ci_low"]):
        return style.number(row[name], digits)
    return style.interval(row[name], row["ci_low"], row["ci_high"], digits)


def _cells(part: pd.DataFrame) -> list[str]:
    by_metric = {row["metric"]: row for row in part.to_dict("records")}
    dice = by_metric["dice"]
    counts = [style.count(dice["n_pairs"]), style.number(dice["n_missed"], 0)]
    return counts + [_cell(by_metric, metric) for metric in _SHOWN]


_HEADER = ["Pairs", "Missed", *[heading for heading, _ in _SHOWN.values()]]


def _averages(summary: pd.DataFrame) -> Table:
    chosen = summary[(summary["group_by"] == "all") & summary["average"].isin(list(_AVERAGES))]
    rows = [
        [str(model), _AVERAGES[str(average)], *_cells(part)]
        for (model, average), part in chosen.groupby(["model", "average"], sort=False)
    ]
    note = (
        f"{_CI}Mean of structures: every structure weighs the same. All pairs: every pair of scan "
        "and structure does. Distances are of what was found."
    )
    return Table("Averages", ["Model", "Average", *_HEADER], rows, note, "summary")


def _by_structure(summary: pd.DataFrame) -> Table:
    chosen = summary[(summary["group_by"] == "all") & (summary["average"] == "structure")]
    rows = [
        [style.display_name(str(structure)), str(model), *_cells(part)]
        for (structure, model), part in chosen.groupby(["structure", "model"], sort=False)
    ]
    order = {name: place for place, name in enumerate(dict.fromkeys(row[0] for row in rows))}
    rows.sort(key=lambda row: order[row[0]])
    return Table("Structures", ["Structure", "Model", *_HEADER], rows, _CI, "summary")


def _by_group(summary: pd.DataFrame) -> Table:
    chosen = summary[(summary["group_by"] != "all") & (summary["average"] == "pair_mean")]
    rows = []
    keys = ["group_by", "group", "model"]
    for (group_by, group, model), part in chosen.groupby(keys, sort=False):
        hidden = (part["reason"] == FEW_SUBJECTS).all()
        cells = ["<5"] + ["–"] * (len(_HEADER) - 1) if hidden else _cells(part)
        rows.append([f"{_GROUPS[str(group_by)]}: {group}", str(model), *cells])
    note = f"{_CI}All pairs. Groups of fewer than {LEAST_SUBJECTS} people are not given."
    return Table("Groups", ["Group", "Model", *_HEADER], rows, note, "summary")


def _comparisons(comparisons: pd.DataFrame) -> Table:
    rows = []
    for row in comparisons.to_dict("records"):
        heading, digits = _SHOWN[row["metric"]]
        name = row["structure"]
        rows.append(
            [
                f"{row['other_model']} − {row['model']}",
                "Mean of structures" if pd.isna(name) else style.display_name(name),
                heading,
                style.number(row["n_subjects"], 0),
                _mean(row, "mean_difference", digits),
                style.probability(row["p_value"]),
                style.probability(row["p_corrected"]),
            ]
        )
    header = ["Models", "Structure", "Metric", "People", "Mean difference", "p", "p corrected"]
    note = f"{_CI}No test with fewer than {LEAST_SUBJECTS} people."
    return Table("Differences between models", header, rows, note, "comparisons")


def _reasons(pairs: pd.DataFrame, reader_pairs: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows with a reason or a warning, counted by model, with what to do.

    Of the second reader those against the expert.
    """
    known = reasons.load()
    second = reader_pairs[reader_pairs["reference"] == EXPERT]
    pairs = pd.concat([pairs, second[pairs.columns]]) if len(second) else pairs
    rows = []
    for column in ("reason", "warning"):
        for (model, code), part in pairs.groupby(["model", column], sort=False):
            about = known[str(code)]
            rows.append(
                {
                    "model": model,
                    "n": f"{len(part):,}",
                    "code": code,
                    "sentence": about.sentence,
                    "what_to_do": about.what_to_do,
                }
            )
    return rows

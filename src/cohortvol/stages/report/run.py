"""The report stage: tables in, figures and one offline page out."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
from jinja2 import Environment

from cohortvol import reasons
from cohortvol.drawing import pages, style
from cohortvol.errors import ConfigError, OutputError, TableError
from cohortvol.models.card import load_card, restrict
from cohortvol.stages.report.figures import gallery, sheets
from cohortvol.stages.report.figures.sheets import SheetSettings
from cohortvol.stages.report.page import checklists, listing
from cohortvol.stages.report.page import html as page
from cohortvol.stages.report.page.answer import answer
from cohortvol.stages.report.page.sentences import methods, notices
from cohortvol.stages.report.tables import disclosure, inputs, published
from cohortvol.stages.report.tables.flow import Flow, count_flow
from cohortvol.stages.report.tables.inputs import Analysis
from cohortvol.store.files import DIGESTS, commit_bytes, commit_digests, commit_text, sha256_of
from cohortvol.store.keys import PRIVATE, PUBLISHED
from cohortvol.store.tables import csv_text, write_arrow

log = logging.getLogger(__name__)

TITLE = "Organ volumes and age"
FROM_ANALYSIS = ("table1", "slopes", "interactions", "correlations", "summary", "dropped")
BESIDE = (
    *("age_bands", "slopes_at_age", "peaks", "nonlinearity"),
    *("site_slopes", "literature", "published_centiles", "tipping", "suspected"),
    *("time_of_day", "two_models"),
)
"""Tables handed on as CSV; the regression also as Parquet."""
_TABLES = re.compile("|".join((*FROM_ANALYSIS, *BESIDE, *checklists.CHECKLISTS)))
_OURS = re.compile(rf"({'|'.join(gallery.NAMES)})(_\d+)?")


def run(
    analyse: Path,
    volumes: Path,
    scans: Path,
    out: Path,
    title: str | None = None,
    planted: Path | None = None,
    templates: Path | None = None,
    show_scan_ids: bool = False,
    previews: Path | None = None,
    contact_sheet: Path | None = None,
    sheet: SheetSettings | None = None,
    public: bool = False,
    model: Path | None = None,
    roi: Sequence[str] = (),
) -> Path:
    """Write ``index.html`` and ``figures/`` of a cohort; equal inputs give equal files.

    Parameters
    ----------
    analyse : Path
        Folder that the analyse stage wrote.
    volumes, scans : Path
        The cohort tables it read, CSV or Parquet.
    out : Path
        Folder to write to.
    title : str, optional
        Heading of the page.
    planted : Path, optional
        CSV of the slopes a simulated cohort was drawn with.
    templates : Path, optional
        Folder of page template and captions, in place of the project's own ``reports/``.
    show_scan_ids : bool
        Name scans on the page. Off by default: a page is passed on.
    previews : Path, optional
        Folder of tables of pictures that the measure stage wrote. Without it the page has no
        contact sheets, and no picture of a person in it.
    contact_sheet : Path, optional
        CSV to write that says which scan each picture is.
    sheet : SheetSettings, optional
        How many scans the contact sheets show.
    public : bool
        Make it fit to leave the house: see `cohortvol.stages.report.tables.disclosure`. No scan is
        drawn, and no image of one is shown. What was published is kept in
        ``private/published.json`` beside `out`, and a page too near to an earlier one is refused:
        see `cohortvol.stages.report.tables.published`.
    model : Path, optional
        Model folder with which the scans were segmented; Methods then say how it is run.
    roi : sequence of str
        Structures that were wanted of it; empty for all.

    Returns
    -------
    Path
        The page.

    Raises
    ------
    TableError
        If a table is missing, damaged, or lacks a column, or the scans are of another model.
    ModelError
        If `model` is no model folder.
    ConfigError
        If scan ids are to be shown in public.
    OutputError
        If the templates are missing or the folder cannot be written, or holds what is not public;
        or if a public page would give people away beside an earlier one.
    """
    if public and show_scan_ids:
        raise ConfigError("a public report names no scans: leave out --public or --show-scan-ids")
    if public:
        _check_only_ours(out)
    templates = templates or pages.templates_folder()
    jinja = pages.environment(templates)
    analysis = inputs.read_analysis(analyse)
    tables_read = {"volumes": volumes, "scans": scans}
    digests = {name: sha256_of(path) for name, path in tables_read.items() if path.is_file()}
    _check_same(analysis, tables_read, digests)
    scan_table = inputs.read_scans(scans, analysis.age_range_years)
    keep_cut = not analysis.settings.get("exclude_cut", True)
    measured = inputs.read_measured(volumes, scan_table, keep_cut=keep_cut)
    if public:
        _check_and_keep(out, scans, measured, digests)
        analysis = disclosure.public(analysis)
        measured = measured.iloc[:0]
    truth = inputs.read_planted(planted) if planted else None
    flow = count_flow(analysis.flow, rounded=public)
    texts = _texts(analysis, flow)

    level = _level(analysis)
    subject = gallery.Subject(analysis, measured, flow, truth, public=public, level=level)
    figures, written = _figures(subject, jinja, texts, out / "figures")
    tables = _tables(analysis)
    written.update(_hand_on(analysis, analyse, out / "tables", public=public))
    shown = None
    if previews is not None and not public:
        verdicts = inputs.read_verdicts(volumes)
        shown = _sheets(scan_table, verdicts, previews, contact_sheet, sheet, show_scan_ids)
    first = None if texts["all_small"] else answer(analysis, level=level)
    sections = ["answer"] * (first is not None) + ["sheets"] * (shown is not None)
    lists = _checklists(templates, figures, tables, sections)
    for name, items in lists.items():
        written.add(out / "tables" / f"{name}.csv")
        commit_text(out / "tables" / f"{name}.csv", csv_text(checklists.as_table(items)))
    absent = notices.absent(analysis, public=public)
    segmented = methods.segmented(
        page.models_of(scan_table, public=public),
        [
            *(page.told_of(scan_table, restrict(load_card(model), roi)) if model else []),
            *page.precision_of(scan_table, public=public),
        ],
        made_elsewhere=page.made_elsewhere(scan_table),
    )
    html = pages.render(
        jinja,
        templates,
        {
            "title": title or TITLE,
            "lead": f"{flow.sentence()} {flow.review()}",
            "figures": figures,
            "tables": tables,
            "flow": flow,
            "analysis": analysis,
            "absent": {
                name: sentence
                for name, sentence in absent.items()
                if name not in {figure.section for figure in figures}
            },
            "answer": first,
            "checklists": [(checklists.CHECKLISTS[name], name, lists[name]) for name in lists],
            "methods": methods.said(analysis, flow, segmented, public=public),
            "left_out": page.left_out_of(flow, reasons.load())
            if public
            else page.left_out(scan_table, reasons.load(), show_scan_ids=show_scan_ids),
            "sheets": shown,
            "provenance": page.provenance(scan_table, public=public),
            "settings": analysis.settings,
            "cannot_say": analysis.cannot_say,
            "sentences": analysis.sentences,
            "hashes": {}  # whoever has a guess at the tables could check it with them
            if public
            else {path.name: digests[name] for name, path in tables_read.items()},
            "versions": dict(analysis.record.get("versions", {})) | _versions(),
            "public": public,
            **texts,
        },
    )
    path = out / "index.html"
    commit_text(path, html)
    private = [contact_sheet] if shown is not None and contact_sheet is not None else []
    commit_digests(out, [*written, *private], last=path.name)
    log.info("%d figures, %d tables; %s", len(figures), len(tables), flow.sentence())
    return path


def _check_same(
    analysis: inputs.Analysis, tables: dict[str, Path], digests: dict[str, str]
) -> None:
    """Refuse tables that are not those of the analysis: counts and slopes would be of two cohorts.

    Raises
    ------
    TableError
        Naming the table that the analysis read, and the one given.
    """
    read = analysis.record.get("inputs", {})
    for name, digest in digests.items():
        expected = read.get(name)
        if expected and digest != expected["sha256"]:
            raise TableError(
                f"{tables[name]}: not the table of {name} that was analysed\n"
                f"  analysed   {expected['file']}, sha256 {expected['sha256'][:16]}...\n"
                f"  this one   sha256 {digest[:16]}...\n"
                f"  Give the tables that `cohortvol analyse` read, or analyse these first."
            )


def _check_and_keep(
    out: Path, scans: Path, measured: pd.DataFrame, digests: dict[str, str]
) -> None:
    """Compare with what was published of this results folder, and write down what will be."""
    people = published.count_people(inputs.read_people(scans), measured)
    made_of = {name: digests[name] for name in ("scans", "volumes")}
    published.check_and_keep(out.parent / PRIVATE / PUBLISHED, people, made_of)


def _figures(
    subject: gallery.Subject, jinja: Environment, texts: dict[str, Any], folder: Path
) -> tuple[list[pages.PageFigure], set[Path]]:
    """Draw and save every figure, and remove those of an earlier run: for the page, and files."""
    figures = []
    written: set[Path] = set()
    with style.journal_style():
        for drawn in gallery.draw(subject):
            caption = pages.caption(jinja, drawn.name, texts | drawn.context)
            stem = folder / drawn.stem
            whole = f"{drawn.title}. {caption}"
            written.update(style.save_figure(drawn.figure, stem, drawn.data, whole))
            small = pages.for_screen(stem.with_name(f"{drawn.stem}.png").read_bytes())
            figures.append(
                pages.PageFigure(drawn.stem, drawn.name, drawn.title, caption, drawn.alt, small)
            )
    for path in folder.iterdir():
        if _OURS.fullmatch(path.stem) and path not in written:
            path.unlink()
    return figures, written


def _sheets(
    scans: pd.DataFrame,
    verdicts: pd.DataFrame,
    previews: Path,
    contact_sheet: Path | None,
    settings: SheetSettings | None,
    show_scan_ids: bool,
) -> dict[str, Any]:
    """The contact sheets; which scan each picture is goes to a CSV, not on the page."""
    settings = settings or SheetSettings()
    chosen = sheets.choose(scans, verdicts, settings)
    pictures = inputs.read_previews(previews, chosen)
    if contact_sheet is not None:
        table = sheets.private_table(chosen, pictures)
        commit_text(contact_sheet, csv_text(table))
    made = sheets.make_sheets(
        chosen, scans, verdicts, pictures, reasons.load(), show_scan_ids=show_scan_ids
    )
    key = contact_sheet.name if contact_sheet is not None else ""
    return made | {"seed": settings.seed, "key": key}


def _level(analysis: Analysis) -> float:
    """False discovery rate below which something counts as found."""
    return float(analysis.settings.get("fdr", 0.05))


def _tables(analysis: Analysis) -> dict[str, pages.Table]:
    """Tables of the page; those that an analysis lacks, or that hold no result, are left out."""
    tables = {
        "table1": page.table1(analysis),
        "summary": page.summary_table(analysis),
        "dropped": page.dropped_table(analysis),
    }
    if not analysis.has_trends:
        return tables
    tables |= {
        "slopes": page.slope_table(analysis),
        "interactions": page.interaction_table(analysis),
        "correlations": listing.modes_table(analysis),
    }
    beside = {
        "age_bands": listing.age_bands_table(analysis),
        "slopes_at_age": listing.bends_table(analysis),
        "literature": listing.published_table(analysis),
        "published_centiles": listing.published_centiles_table(analysis),
        "site_slopes": listing.site_slopes_table(analysis, level=_level(analysis)),
        "tipping": listing.tipping_table(analysis),
        "suspected": listing.suspected_table(analysis),
        "time_of_day": listing.time_of_day_table(analysis),
        "two_models": listing.two_models_table(analysis),
    }
    return tables | {name: table for name, table in beside.items() if table.rows}


def _hand_on(analysis: Analysis, analyse: Path, folder: Path, *, public: bool) -> set[Path]:
    """Write the tables to download; of a public report without what may not be passed on."""
    frames = {name: getattr(analysis, name) for name in FROM_ANALYSIS}
    frames |= {name: analysis.beside[name] for name in BESIDE if name in analysis.beside}
    written = set()
    for name, frame in frames.items():
        path = folder / f"{name}.csv"
        written.add(path)
        if public:
            commit_text(path, csv_text(frame))
        else:
            commit_bytes(path, inputs.read_bytes(analyse / f"{name}.csv"))
    path = folder / "slopes.parquet"
    written.add(path)
    if public:
        table = pa.Table.from_pandas(analysis.slopes, preserve_index=False)
        write_arrow(path, table.replace_schema_metadata())
    else:
        commit_bytes(path, inputs.read_bytes(analyse / "slopes.parquet"))
    return written


def _checklists(
    templates: Path,
    figures: list[pages.PageFigure],
    tables: dict[str, pages.Table],
    sections: list[str],
) -> dict[str, list[checklists.Item]]:
    """STROBE and CLAIM, with the places that this report has."""
    always = ("scans", "methods", "left-out", "provenance")
    present = {f"section {name}" for name in (*always, *sections)}
    present |= {f"figure {figure.name}" for figure in figures}
    present |= {f"table {name}" for name in tables}
    return {name: checklists.read(templates, name, present) for name in checklists.CHECKLISTS}


def _texts(analysis: Analysis, flow: Flow) -> dict[str, Any]:
    """Sentences and settings that captions and page share."""
    settings, families = analysis.settings, analysis.record.get("families", {})
    small = notices.small(analysis)
    return {
        "flow": flow,
        "count": style.count,
        "adjusted_for": notices.adjusted_for(analysis),
        "models": notices.models(analysis),
        "fdr": f"{settings.get('fdr', 0.05):g}",
        "correlation_family": families.get("correlations", "Bonferroni"),
        "min_n_centiles": settings.get("min_n_centiles", 300),
        "family": families.get("slopes", "Benjamini-Hochberg"),
        "se_kind": notices.errors(analysis),
        "on_age": notices.on_age(analysis),
        "per": "per sex and structure" if len(analysis.sexes) > 1 else "per structure",
        "by_sex": " by sex" if len(analysis.sexes) > 1 else "",
        "all_small": notices.all_small(analysis),
        "has_trends": analysis.has_trends,
        "small_notice": small,
        "small_read": notices.how_to_read_small(analysis),
        "small_sentence": f"{small} Descriptive only." if small else "",
        "m2_sentence": notices.m2(analysis),
        "size_sentence": notices.size(analysis),
        "fixed_sentence": notices.CROSS_SECTIONAL,
    }


def _versions() -> dict[str, str]:
    versions = {}
    for package in ("cohortvol", "matplotlib", "jinja2"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "not installed"
    return versions


def _check_only_ours(out: Path) -> None:
    """Refuse a folder in which other files lie, such as images of scans of an earlier report."""
    ours = {out / name for name in ("figures", "tables", "index.html", DIGESTS)}
    allowed = re.compile(r".*\.(pdf|svg|png|csv|txt|parquet)")
    strange = [path for path in out.glob("*") if path not in ours]
    for folder, pattern in (("figures", _OURS), ("tables", _TABLES)):
        strange += [
            path
            for path in (out / folder).glob("*")
            if not (pattern.fullmatch(path.stem) and allowed.fullmatch(path.name))
        ]
    if strange:
        raise OutputError(
            f"{out}: holds what is no part of a public report: "
            f"{', '.join(sorted(path.name for path in strange))}\n"
            "  Remove it, or give an empty folder with --out."
        )

"""Rows of the manifest: every bad one found, named and explained at once."""

from __future__ import annotations

import json
import logging
import os
import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

import pandas as pd

from cohortvol.errors import ManifestError, did_you_mean
from cohortvol.ranges import AGE_RANGE_YEARS, age_range
from cohortvol.stages.manifest import bids
from cohortvol.stages.manifest.bids_images import Choice
from cohortvol.stages.manifest.channels import (
    channel_columns,
    companion_columns,
    companions,
    further_channels,
)
from cohortvol.stages.manifest.values import (
    SCAN_ID,
    SCAN_ID_ALLOWED,
    BadValueError,
    Rules,
    parse_covariate,
    parse_further,
    parse_label_map,
)
from cohortvol.stages.manifest.withdrawn import Withdrawn
from cohortvol.store import companions as companion_cells
from cohortvol.store.channels import as_json, from_json
from cohortvol.store.companions import COLUMN
from cohortvol.store.keys import LABEL_MAPS, LONGEST_ID_BYTES, Keys
from cohortvol.store.schemas import COVARIATES, MANIFEST
from cohortvol.store.tables import append_rows, to_arrow, to_pandas
from cohortvol.store.text_table import Problem, TextTable, read_text_table

log = logging.getLogger(__name__)

LONGEST_CELL = 100
"""Characters of a value that a complaint shows."""
MOST_LINES = 10
"""Lines with the same scan_id that the complaint about one of them names."""

REQUIRED = ("scan_id", "image")
KNOWN = (*REQUIRED, "dseg", *COVARIATES)


def read_manifest(
    path: Path,
    *,
    bad_rows: str = "refuse",
    sex_codes: Mapping[str, str | None] | None = None,
    age_range_years: Sequence[float] = AGE_RANGE_YEARS,
    choice: Choice | None = None,
    covariates: Mapping[str, str] | None = None,
    keys: Keys | None = None,
    withdrawn: Withdrawn | None = None,
) -> pd.DataFrame:
    """Read the user's table of scans and check every row.

    A missing age or sex is no fault: the scan is measured and left out of trends later.
    Whether the image file exists is for ingest to say.

    Parameters
    ----------
    path : Path
        CSV, TSV or Parquet, in which ``scan_id`` and ``image`` are required; or the folder of a
        BIDS dataset, see `read_bids`.
    bad_rows : {"refuse", "quarantine"}
        Raise if there are bad rows, or keep them with ``state`` quarantined and a reason.
    sex_codes : mapping, optional
        The manifest's coding of sex to ``F``, ``M`` or None. Besides, `SEX_WORDS` are understood,
        and for a BIDS dataset the standard's own words.
    age_range_years : (low, high)
        Ages outside are bad rows.
    choice : Choice, optional
        Which images of a BIDS dataset are scans.
    covariates : mapping, optional
        Further columns that are kept, and their kind: ``continuous`` or ``factor``.
    keys : Keys, optional
        Put these in place of ids and of paths of images. Ids may then be any text, and no value
        of the manifest is repeated in a message or a table.
    withdrawn : Withdrawn, optional
        Leave out the rows of these subjects before anything is said of them; it learns which
        scans those are.

    Returns
    -------
    pandas.DataFrame
        One row per row of the manifest, in its order, with the columns of
        `cohortvol.store.schemas.MANIFEST`; ``shard`` is still null. Images are absolute paths.

    Raises
    ------
    ManifestError
        If the table cannot be used, or if there are bad rows and they are refused; the
        message lists every one.
    """
    codes, further = dict(sex_codes or {}), dict(covariates or {})
    if path.is_dir():
        table = bids.read_bids(path, choice, tuple(further))
        codes = {**bids.sex_codes(path), **codes}
    else:
        table = read_text_table(
            path,
            "Give the table of scans with `manifest:` in the config, or make one with "
            "`cohortvol manifest-from-folder`.",
        )
        check_columns(path, table.columns, REQUIRED, tuple(further))
    if not table.rows:
        raise ManifestError(f"{path}: holds no scans, only a header")
    folder = os.path.dirname(os.path.abspath(path))
    if withdrawn is not None:
        table = withdrawn.without(table, folder)
    rules = Rules(
        sex_codes=codes,
        ages=age_range(age_range_years),
        ids_are_keys=keys is not None,
        further=further,
    )
    clashes = _clashing_ids(table, rules.ids_are_keys)
    rows: list[dict[str, Any]] = []
    problems: list[list[Problem]] = []
    for position, raw in enumerate(table.rows):
        row, found = _checked_row(raw, folder, rules)
        found = [*clashes.get(position, []), *table.problems.get(position, []), *found]
        closed = position in table.ends
        if closed:
            row["state"], row["reason"], row["detail"] = table.ends[position]
        problems.append([] if closed else found)
        rows.append({"manifest_line": table.lines[position], **row})
    places = table.places or [f"line {line}" for line in table.lines]
    if keys is not None:
        problems = [[replace(one, value=None) for one in found] for found in problems]
        _put_keys(rows, problems, keys)
        places = [row["scan_id"] for row in rows] if table.places else places
    if bad_rows == "refuse" and any(problems):
        raise ManifestError(_complaint(path, places, problems))
    for row, found in zip(rows, problems, strict=True):
        if found:
            row["state"] = "quarantined"
            row["reason"] = found[0].code
            row["detail"] = " | ".join(problem.text for problem in found)
    return to_pandas(to_arrow(append_rows(rows, MANIFEST), MANIFEST))


def _put_keys(
    rows: Sequence[dict[str, Any]], problems: Sequence[Sequence[Problem]], keys: Keys
) -> None:
    """Ids become keys; the image of a row that is a scan becomes a link, of another none."""
    for row, found in zip(rows, problems, strict=True):
        row["scan_id"] = keys.scan(row["scan_id"])
        row["subject_id"] = keys.subject(row["subject_id"])
        row["session_id"] = row["session_id"] and keys.session(row["session_id"])
        row["cluster_id"] = row["cluster_id"] and keys.cluster(row["cluster_id"])
        is_scan = not found and row["state"] is None
        row["image"] = keys.link(row["scan_id"], row["image"]) if is_scan else None
        links = [
            path and keys.link(f"{row['scan_id']}.{n}", path)
            for n, path in enumerate(from_json(row["more_images"]), start=2)
        ]
        row["more_images"] = as_json(links) if is_scan else None
        beside = {
            name: keys.link(f"{row['scan_id']}.{COLUMN}{name}", path)
            for name, path in companion_cells.from_json(row["companions"]).items()
        }
        row["companions"] = companion_cells.as_json(beside) if is_scan else None
        dseg = row["dseg"] if is_scan else None
        row["dseg"] = dseg and keys.link(row["scan_id"], dseg, LABEL_MAPS)


def check_columns(
    path: Path, columns: Sequence[str], required: Sequence[str], further: Sequence[str] = ()
) -> None:
    """Refuse a table without its required columns, or with a misspelt name.

    A column that is near a known one which is absent counts as misspelt. Any other extra
    column that is not among the `further` is left out with a notice.

    Raises
    ------
    ManifestError
        Naming every such column with the name it should have.
    """
    absent = [name for name in KNOWN if name not in columns]
    known = {*KNOWN, *further, *channel_columns(columns), *companion_columns(columns)}
    extra = [name for name in columns if name not in known]
    misspelt = {name: near for name in extra if (near := _near(name, absent))}
    lines = [
        f"  column {name!r}; did you mean {near!r}? Rename it, or take it out."
        for name, near in misspelt.items()
    ]
    lines += [
        f"  no column {name!r}; it is required"
        for name in required
        if name in absent and name not in misspelt.values()
    ]
    lines += [
        f"  no column {name!r}; `covariates` names it{did_you_mean(name, extra)}"
        for name in further
        if name not in columns
    ]
    if lines:
        listed = f"  known columns: {', '.join(KNOWN)}"
        raise ManifestError("\n".join([f"{path}: columns cannot be used", *lines, listed]))
    if extra:
        log.warning("%s: columns not used: %s", path, ", ".join(extra))


def _near(name: str, known: Sequence[str]) -> str | None:
    """The known column that a name most likely stands for: a slip, or a unit left out."""
    plain = name.lower().replace(" ", "_").replace("-", "_")
    for candidate in known:
        if plain == candidate or candidate.startswith(f"{plain}_"):
            return candidate
    ratios = [(SequenceMatcher(None, plain, candidate).ratio(), candidate) for candidate in known]
    ratio, best = max(ratios, default=(0.0, ""))
    return best if ratio >= 0.8 else None


def _checked_row(
    raw: Mapping[str, str], folder: str, rules: Rules
) -> tuple[dict[str, Any], list[Problem]]:
    """One row of `MANIFEST` without line, and what is wrong with it; bad values are null."""
    scan_id, image = raw["scan_id"], raw["image"]
    problems = []
    if not scan_id:
        problems.append(Problem("scan_id", "", "TAB_VALUE_MISSING", "a scan_id is required"))
    elif rules.ids_are_keys and len(scan_id.encode()) > LONGEST_ID_BYTES:
        allowed = f"at most {LONGEST_ID_BYTES} bytes"
        problems.append(Problem("scan_id", scan_id, "ID_INVALID", allowed))
    elif not (rules.ids_are_keys or SCAN_ID.fullmatch(scan_id)):
        problems.append(Problem("scan_id", scan_id, "ID_INVALID", SCAN_ID_ALLOWED))
    if not image.strip():
        allowed = "the path of an image, absolute or relative to the manifest"
        problems.append(Problem("image", image, "TAB_VALUE_MISSING", allowed))
    row: dict[str, Any] = {
        "scan_id": scan_id,
        "more_images": as_json(further_channels(raw, folder)),
        "companions": companion_cells.as_json(companions(raw, folder)),
        "image": os.path.normpath(os.path.join(folder, image)) if image.strip() else None,
        "dseg": None,
        "state": None,
        "reason": None,
        "detail": None,
        "shard": None,
    }
    try:
        row["dseg"] = parse_label_map(raw.get("dseg", ""), folder, rules)
    except BadValueError as error:
        problems.append(Problem("dseg", raw["dseg"], error.code, error.allowed))
    for column in COVARIATES:
        value = raw.get(column, "")
        try:
            row[column] = parse_covariate(column, value, rules)
        except BadValueError as error:
            row[column] = None
            problems.append(Problem(column, value, error.code, error.allowed))
    row["subject_id"] = row["subject_id"] or scan_id
    row["further"] = _further(raw, rules, problems)
    return row, problems


def _further(raw: Mapping[str, str], rules: Rules, problems: list[Problem]) -> str | None:
    """The further columns of a row as JSON, None where none is known; bad values are problems."""
    known = {}
    for column, kind in rules.further.items():
        value = raw.get(column, "")
        try:
            known[column] = parse_further(value, kind)
        except BadValueError as error:
            problems.append(Problem(column, value, error.code, error.allowed))
    known = {column: text for column, text in known.items() if text is not None}
    return json.dumps(known, ensure_ascii=False, sort_keys=True) if known else None


def _clashing_ids(table: TextTable, ids_are_keys: bool) -> dict[int, list[Problem]]:
    """Rows whose scan_id stands more than once, by position.

    Also twice but for case, for blanks around it, or for how an accent is written in Unicode.
    """
    groups: dict[str, list[int]] = defaultdict(list)
    for position, row in enumerate(table.rows):
        if row["scan_id"]:
            same = unicodedata.normalize("NFC", row["scan_id"]).strip().casefold()
            groups[same].append(position)
    clashes: dict[int, list[Problem]] = {}
    for group in groups.values():
        for position in group if len(group) > 1 else []:
            scan_id = table.rows[position]["scan_id"]
            equal = [other for other in group if table.rows[other]["scan_id"] == scan_id]
            code = "ID_DUPLICATE" if len(equal) > 1 else "ID_COLLISION"
            others = equal if code == "ID_DUPLICATE" else group
            where = _where(table, others, named=code == "ID_COLLISION" and not ids_are_keys)
            allowed = f"one row per scan_id whatever its case; here {where}"
            clashes[position] = [Problem("scan_id", scan_id, code, allowed)]
    return clashes


def _where(table: TextTable, positions: Sequence[int], named: bool) -> str:
    """``lines 4 (Case), 5 (case)``, or where rows are files, how many there are."""
    if table.places:
        return f"{len(positions)} files"
    ids = (f" ({_short(table.rows[at]['scan_id'])})" if named else "" for at in positions)
    lines = (str(table.lines[at]) for at in positions)
    found = [*map("".join, zip(lines, ids, strict=True))]
    more = f" and {len(found) - MOST_LINES:,} more" if len(found) > MOST_LINES else ""
    return "lines " + ", ".join(found[:MOST_LINES]) + more


def _short(text: str) -> str:
    """A text as it stands in a line of a complaint: its two ends, where it is long."""
    middle = " ... "
    kept = (LONGEST_CELL - len(middle)) // 2
    return text if len(text) <= LONGEST_CELL else text[:kept] + middle + text[-kept:]


def _complaint(path: Path, places: Sequence[str], problems: Sequence[Sequence[Problem]]) -> str:
    bad = sum(map(bool, problems))
    listed = [(*map(_short, cells), allowed) for *cells, allowed in _listed(places, problems)]
    widths = [max(len(cells[i]) for cells in listed) for i in range(4)]
    body = [
        "  "
        + "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=False))
        + f"  {cells[4]}"
        for cells in listed
    ]
    return "\n".join(
        [
            f"{path}: {bad} of {len(places)} rows cannot be used",
            *body,
            "  Correct them, or set `bad_rows: quarantine` to go on without them.",
        ]
    )


def _listed(
    places: Sequence[str], problems: Sequence[Sequence[Problem]]
) -> Iterator[tuple[str, str, str, str, str]]:
    for place, found in zip(places, problems, strict=True):
        for problem in found:
            yield place, problem.column, problem.shown, problem.code, problem.allowed

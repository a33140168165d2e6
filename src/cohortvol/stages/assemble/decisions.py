"""What people decided after looking: a table that overrules automatic QC, and what it changes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd

from cohortvol.anatomy import structures as anatomy
from cohortvol.errors import TableError, did_you_mean
from cohortvol.store.schemas import DECISION_COLUMNS
from cohortvol.store.tables import as_written
from cohortvol.store.text_table import read_text_table

NEEDED = ("scan_id", "decision", "reviewer", "date")
WHOLE_SCAN = "*"
REVIEWS = ACCEPT, EXCLUDE = "accept", "exclude"
MEASURED = ("ok", "cut")
QC = ("pass", "flag", "exclude")
_RANK_OF_REVIEW = np.array([QC.index("pass"), QC.index("exclude")], dtype=np.int8)
"""Place in `QC` of what was decided, by its place in `REVIEWS`."""


def read_decisions(path: Path) -> pd.DataFrame:
    """The decision that holds for each scan and structure of a decision table.

    Rows without a decision are still to be filled in and count for nothing. Of several rows for
    one scan and structure the latest date holds.

    Parameters
    ----------
    path : Path
        CSV, TSV or Parquet with the columns `NEEDED`; ``structure`` empty or ``*`` is the whole
        scan; ``decision`` is accept or exclude; ``date`` is a day, such as 2026-11-23. Other
        columns are not read.

    Returns
    -------
    pandas.DataFrame
        ``line``, ``scan_id``, ``structure`` (`WHOLE_SCAN` for the scan), ``decision``, sorted by
        line. Reviewer and note stay in the user's table.

    Raises
    ------
    TableError
        Listing every row that cannot be used, and every pair of rows of one date that disagree.
    """
    table = read_text_table(
        path,
        "Make a table of decisions to fill in with `cohortvol review --todo --results R --out "
        "todo.csv`.",
    )
    lacking = [name for name in NEEDED if name not in table.columns]
    if lacking:
        hints = [f"  no column {name!r}{did_you_mean(name, table.columns)}" for name in lacking]
        raise TableError("\n".join([f"{path}: columns missing", *hints]))
    rows, wrong = [], []
    for line, raw in zip(table.lines, table.rows, strict=True):
        row = {name: as_written(raw.get(name, "")).strip() for name in DECISION_COLUMNS}
        if not row["decision"]:
            continue
        wrong += [f"  line {line}: {problem}" for problem in _problems(row)]
        rows.append({**row, "line": line, "structure": row["structure"] or WHOLE_SCAN})
    _refuse(path, wrong, "rows cannot be used")
    columns = ["line", "scan_id", "structure", "decision", "date"]
    return _latest(path, pd.DataFrame(rows, columns=columns)).drop(columns="date")


def _problems(row: dict[str, str]) -> Iterator[str]:
    if not row["scan_id"]:
        yield "no scan_id"
    if row["decision"] not in (ACCEPT, EXCLUDE):
        yield f"decision {row['decision']!r}; allowed: {ACCEPT}, {EXCLUDE}, or nothing yet"
    if not row["reviewer"]:
        yield "a decision without a reviewer"
    try:
        if date.fromisoformat(row["date"]) > datetime.now(UTC).date() + timedelta(days=1):
            yield f"date {row['date']!r} lies in the future"
    except ValueError:
        yield f"date {row['date']!r}; write a day such as 2026-11-23"


def _refuse(path: Path, lines: list[str], what: str, advice: str = "Correct them.") -> None:
    if lines:
        raise TableError("\n".join([f"{path}: {len(lines)} {what}", *lines, f"  {advice}"]))


def _latest(path: Path, rows: pd.DataFrame) -> pd.DataFrame:
    """One row per scan and structure; two of the same last day that disagree are refused."""
    key = ["scan_id", "structure"]
    rows = rows.assign(date=rows["date"].map(date.fromisoformat))
    last = rows[rows["date"] == rows.groupby(key)["date"].transform("max")]
    conflicts = [
        f"  {_name(*names)}: "
        + ", ".join(f"{row['decision']} in line {row['line']}" for row in group.to_dict("records"))
        for names, group in last.groupby(key)
        if group["decision"].nunique() > 1
    ]
    _refuse(
        path,
        conflicts,
        "decisions of the same day contradict each other",
        "Agree, and take one of the rows out or give it the day of the agreement.",
    )
    return last.drop_duplicates(key).sort_values("line", ignore_index=True)


def _name(scan_id: str, structure: str) -> str:
    return f"{scan_id}, the whole scan" if structure == WHOLE_SCAN else f"{scan_id} {structure}"


@dataclass(frozen=True)
class Decided:
    """Volumes and scans as people see them, and the decisions that change nothing."""

    volumes: pd.DataFrame
    """Rows as given, with ``qc``, ``review`` (accept, exclude or null) and ``review_line``."""
    of_scans: pd.DataFrame
    """By scan_id: ``review`` and ``review_line`` of decisions on a whole scan."""
    idle: list[str]
    """A line for each decision that has no effect, with the reason."""


def decide(path: Path, decisions: pd.DataFrame, volumes: pd.DataFrame, done: pd.Series) -> Decided:
    """Apply decisions to the automatic verdicts on structures.

    A decision on a structure beats one on its scan. ``exclude`` makes a structure ``exclude``,
    ``accept`` makes it ``pass``; what was not measured stays what it was. The sum of a pair is as
    good as the worse of its sides.

    Parameters
    ----------
    path : Path
        Of the decision table, for messages.
    decisions : pandas.DataFrame
        What `read_decisions` returned.
    volumes : pandas.DataFrame
        ``scan_id, structure, label, status`` and the automatic ``qc`` of the whole cohort, as
        categories, of ``qc`` those of `QC`; sorted by scan.
    done : pandas.Series of bool
        Whether a scan is done, by scan_id, for every scan_id of the manifest.

    Raises
    ------
    TableError
        Listing every decision on a scan or structure that the cohort does not have.
    """
    decisions = decisions.reset_index(drop=True)
    is_sum = are_sums(volumes)
    _refuse_unknown(path, decisions, volumes, is_sum, done)
    measured = volumes["status"].isin(MEASURED).to_numpy()
    held = np.where(measured & ~is_sum, _decision_of_row(decisions, volumes), -1)
    review = np.append(decisions["decision"].map(REVIEWS.index), -1).astype(np.int8)[held]
    automatic = volumes["qc"].cat.codes.to_numpy()
    rank = np.where(review < 0, automatic, _RANK_OF_REVIEW[review])
    _judge_sums(volumes, measured & is_sum, automatic, rank, review)
    line = np.append(decisions["line"], 0).astype(np.int64)[held]
    decided = volumes.assign(
        qc=pd.Categorical.from_codes(rank, list(QC)),
        review=pd.Categorical.from_codes(review, list(REVIEWS)),
        review_line=pd.arrays.IntegerArray(line, held < 0),
    )
    of_scans = decisions[decisions["structure"] == WHOLE_SCAN].set_index("scan_id")
    of_scans = of_scans.rename(columns={"decision": "review", "line": "review_line"})
    return Decided(
        decided,
        of_scans[["review", "review_line"]],
        list(_idle(decisions, volumes[measured], done)),
    )


def _decision_of_row(decisions: pd.DataFrame, volumes: pd.DataFrame) -> np.ndarray:
    """(rows,) place of the decision on each structure, or else on its scan; -1 where none is."""
    scans, structures = (volumes[name].cat for name in ("scan_id", "structure"))
    scan = scans.codes.to_numpy()
    starts = np.searchsorted(scan, np.arange(len(scans.categories) + 1, dtype=scan.dtype))
    structure = structures.codes.to_numpy()
    found = np.full(len(volumes), -1)
    is_whole = decisions["structure"] == WHOLE_SCAN
    for some in (decisions[is_whole], decisions[~is_whole]):
        of_scan = scans.categories.get_indexer(some["scan_id"])
        of_structure = structures.categories.get_indexer(some["structure"])
        for place, at, code in zip(some.index, of_scan, of_structure, strict=True):
            if at >= 0:
                rows = slice(starts[at], starts[at + 1])
                found[rows][(structure[rows] == code) | (code < 0)] = place
    return found


def are_sums(volumes: pd.DataFrame) -> np.ndarray:
    """Whether each row is the sum of a left and a right structure."""
    sums: np.ndarray = (
        volumes["structure"].isin(list(anatomy.pairs())) & volumes["label"].isna()
    ).to_numpy(dtype=bool)
    return sums


def _refuse_unknown(
    path: Path,
    decisions: pd.DataFrame,
    volumes: pd.DataFrame,
    is_sum: np.ndarray,
    done: pd.Series,
) -> None:
    structures = {WHOLE_SCAN, *volumes.loc[~is_sum, "structure"].unique()}
    sums = set(volumes.loc[is_sum, "structure"].unique())
    scans = set(done.index)
    wrong = []
    for row in decisions.to_dict("records"):
        if row["scan_id"] not in scans:
            hint = did_you_mean(row["scan_id"], scans)
            wrong.append(f"  line {row['line']}: no scan {row['scan_id']!r}{hint}")
        elif row["structure"] in sums:
            sides = " and ".join(anatomy.pairs()[row["structure"]])
            wrong.append(f"  line {row['line']}: {row['structure']} is a sum; decide on {sides}")
        elif row["structure"] not in structures:
            hint = did_you_mean(row["structure"], structures - {WHOLE_SCAN})
            wrong.append(f"  line {row['line']}: no structure {row['structure']!r}{hint}")
    _refuse(path, wrong, "decisions on what this cohort does not have")


def _judge_sums(
    volumes: pd.DataFrame,
    of_sum: np.ndarray,
    automatic: np.ndarray,
    rank: np.ndarray,
    review: np.ndarray,
) -> None:
    """Make sums of pairs of which a side was decided on as good as the worse of their sides, and
    reviewed where that changes them.

    `automatic` and `rank` are places in `QC` before and after, `review` those in `REVIEWS`.
    """
    scan = volumes["scan_id"].cat.codes.to_numpy()
    for name, sides in anatomy.pairs().items():
        of_sides = np.flatnonzero(volumes["structure"].isin(sides))
        is_decided = np.zeros(len(volumes["scan_id"].cat.categories), dtype=bool)
        is_decided[scan[of_sides[review[of_sides] >= 0]]] = True
        rows = np.flatnonzero(of_sum & (volumes["structure"] == name) & is_decided[scan])
        if not len(rows):
            continue
        worse = np.full(len(is_decided), -1, dtype=np.int8)
        np.maximum.at(worse, scan[of_sides], rank[of_sides])
        rank[rows] = worse[scan[rows]]
        excluded = rank[rows] == QC.index("exclude")
        changed = np.where(excluded, REVIEWS.index(EXCLUDE), REVIEWS.index(ACCEPT))
        review[rows] = np.where(rank[rows] != automatic[rows], changed, -1)


def _idle(decisions: pd.DataFrame, measured: pd.DataFrame, done: pd.Series) -> Iterator[str]:
    measured = measured[measured["scan_id"].isin(decisions["scan_id"])]
    known = set(zip(measured["scan_id"], measured["structure"], strict=True))
    known |= {(scan_id, WHOLE_SCAN) for scan_id in measured["scan_id"].unique()}
    for row in decisions.to_dict("records"):
        key = (row["scan_id"], row["structure"])
        if not done[row["scan_id"]]:
            yield f"line {row['line']}: {_name(*key)}: the scan is not done"
        elif key not in known:
            yield f"line {row['line']}: {_name(*key)}: nothing was measured there"

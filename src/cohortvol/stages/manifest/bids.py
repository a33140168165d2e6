"""A BIDS dataset as a manifest: one row per image of one datatype, with what its tables say.

Read by the layout that the standard prescribes (sub-*/[ses-*/]<datatype>/), every folder listed
once: nothing else in the dataset (derivatives/, sourcedata/, code/, other datatypes) is looked at.
"""

from __future__ import annotations

import logging
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cohortvol.errors import ManifestError, TableError
from cohortvol.stages.manifest import bids_tables
from cohortvol.stages.manifest.bids_images import (
    Choice,
    Image,
    Scan,
    Sidecar,
    ignored_by,
    image_of,
    is_nifti,
    sidecars_of,
)
from cohortvol.stages.manifest.channels import column_of
from cohortvol.store.companions import COLUMN
from cohortvol.store.text_table import Problem, TextTable

log = logging.getLogger(__name__)

DESCRIPTION = "dataset_description.json"
PARTICIPANTS = "participants.tsv"

_FOLDER = re.compile(r"(sub|ses)-[0-9A-Za-z+]+")

Row = dict[str, str]


@dataclass
class _Dataset:
    """What holds for the whole dataset."""

    root: str
    choice: Choice
    participants: dict[str, Row] | None
    factor: Mapping[str, float]
    factor_of_sessions: Mapping[str, float]
    sidecars: list[Sidecar]
    is_ignored: Callable[[str], bool]
    contents: dict[str, dict[str, Any]] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)
    further: Sequence[str] = ()

    def said(self, row: Row, factor: Mapping[str, float]) -> Row:
        """What a row of a table says of a scan."""
        kept = {name: row[name] for name in self.further if row.get(name)}
        return bids_tables.covariates(row, factor) | kept


def read_bids(folder: Path, choice: Choice | None = None, further: Sequence[str] = ()) -> TextTable:
    """Rows of the manifest for a BIDS dataset, sorted by subject, session and file name.

    Every image that `choice` admits is a row, or with channels every scan of several: ``scan_id``
    is its file name without extension, and without what tells the channels apart; ``subject_id``
    and ``session_id`` are its folders. An image of a subject that
    participants.tsv does not list is skipped (``ID_NO_CLINICAL``); without that table it is
    measured without covariates. A participant without image is a row too (``SRC_MISSING``), and so
    is a scan without an image of every channel (``IMG_CHANNEL_MISSING``).

    Values come from ``*_scans.tsv``, ``*_sessions.tsv`` and participants.tsv, the first that
    has one, then from the JSON sidecars, of which the lower in the tree wins (inheritance
    principle). Of a person with scans of several sessions, the age of participants.tsv is
    not used, as it cannot be the age at all of them.

    Parameters
    ----------
    folder : Path
        The dataset, with dataset_description.json.
    choice : Choice, optional
        Which images are scans; every image of ``anat`` if not given.
    further : sequence of str
        Columns of the tables that are kept besides those of the manifest.

    Returns
    -------
    TextTable
        Values as text; ``lines`` just numbers the rows.

    Raises
    ------
    ManifestError
        If it is no BIDS dataset, holds no subject, or a table of the whole dataset cannot be
        used. What is wrong with one subject's own tables is a problem of its rows.
    """
    dataset = _open(folder, choice or Choice(), further)
    subjects = set(_subfolders(dataset, dataset.root, "", "sub-"))
    if not subjects:
        raise ManifestError(f"{folder}: a BIDS dataset without any sub-<label> folder")
    listed = dataset.participants
    if listed is not None and not listed.keys() & subjects:
        raise ManifestError(
            f"{folder / PARTICIPANTS}: none of its {len(listed)} participant_id is one of the "
            f"{len(subjects)} sub-<label> folders (TAB_JOIN)\n"
            "  A participant_id is the whole name of the folder, such as sub-01."
        )
    table = TextTable(["scan_id", "image"], [], [])
    for subject in sorted(subjects | set(listed or ())):
        found = _subject(dataset, subject) if subject in subjects else []
        if not found and listed is not None and subject in listed:
            what = f"no image in {dataset.choice.datatype}/ that the bids settings admit"
            table.ends[len(table.rows)] = ("quarantined", "SRC_MISSING", what)
            row = {"scan_id": subject, "image": "", "subject_id": subject}
            found = [(row, subject, [], None)]
            dataset.counts["participants without such an image"] += 1
        for row, place, problems, lacking in found:
            if listed is not None and subject not in listed:
                table.ends[len(table.rows)] = ("skipped", "ID_NO_CLINICAL", None)
                dataset.counts[f"images of subjects that {PARTICIPANTS} does not list"] += 1
            elif lacking:
                table.ends[len(table.rows)] = ("quarantined", "IMG_CHANNEL_MISSING", lacking)
                dataset.counts["scans without an image of every channel"] += 1
            if problems:
                table.problems[len(table.rows)] = problems
            table.rows.append(row)
            table.places.append(place)
    if len(table.ends) == len(table.rows):
        raise ManifestError(
            f"{folder}: holds no scan: no image in {dataset.choice.datatype}/ of a participant "
            "that the bids settings admit\n"
            f"  {_told(dataset.counts) or 'no image at all'}"
        )
    table.lines.extend(range(2, len(table.rows) + 2))
    log.info("%s: %d rows, %d subject folders", folder, len(table.rows), len(subjects))
    for what, number in dataset.counts.items():
        log.warning("%s: %d %s", folder, number, what)
    return table


def sex_codes(folder: Path) -> dict[str, str | None]:
    """Codes of sex that hold in a dataset: the standard's, and those participants.json explains."""
    return {**bids_tables.SEX_CODES, **bids_tables.sex_codes(_optional_json(folder, PARTICIPANTS))}


def _open(folder: Path, choice: Choice, further: Sequence[str]) -> _Dataset:
    description = folder / DESCRIPTION
    if not description.is_file():
        raise ManifestError(
            f"{folder}: is a folder without {DESCRIPTION}, so not a BIDS dataset\n"
            "  Give the folder that holds it, or make a manifest of a folder of images with "
            "`cohortvol manifest-from-folder`."
        )
    bids_tables.read_json(description)
    root = os.path.abspath(folder)
    participants = folder / PARTICIPANTS
    if not participants.is_file():
        log.warning("%s: no %s, so no age, sex or other covariate", folder, PARTICIPANTS)
    about_sessions = _optional_json(folder, "sessions.tsv")
    with os.scandir(root) as entries:
        names = [entry.name for entry in entries]
    return _Dataset(
        root=root,
        choice=choice,
        further=further,
        participants=(
            bids_tables.in_rows(participants, "participant_id") if participants.is_file() else None
        ),
        factor=bids_tables.factors(
            _optional_json(folder, PARTICIPANTS), participants.with_suffix(".json")
        ),
        factor_of_sessions=bids_tables.factors(about_sessions, folder / "sessions.json"),
        sidecars=sidecars_of(root, names),
        is_ignored=ignored_by(folder / ".bidsignore"),
    )


def _optional_json(folder: Path, table: str) -> dict[str, Any]:
    """The JSON that describes the columns of a table, empty if there is none."""
    path = (folder / table).with_suffix(".json")
    return bids_tables.read_json(path) if path.is_file() else {}


def _subfolders(dataset: _Dataset, folder: str, below: str, prefix: str) -> list[str]:
    with os.scandir(folder) as entries:
        return sorted(
            entry.name
            for entry in entries
            if entry.name.startswith(prefix)
            and _FOLDER.fullmatch(entry.name)
            and entry.is_dir()
            and not dataset.is_ignored(below + entry.name)
        )


def _subject(dataset: _Dataset, subject: str) -> list[tuple[Row, str, list[Problem], str | None]]:
    """Row, place, problems, and channels that are missing, of every scan of a subject."""
    top = os.path.join(dataset.root, subject)
    names = os.listdir(top)
    levels = [(top, names)]
    sidecars = [*dataset.sidecars, *sidecars_of(top, names)]
    scans_found = _scans(dataset, subject, "", levels, sidecars)
    if any(name.startswith("ses-") for name in names):
        for session in _subfolders(dataset, top, f"{subject}/", "ses-"):
            place = os.path.join(top, session)
            names_there = os.listdir(place)
            levels.append((place, names_there))
            there = [*sidecars, *sidecars_of(place, names_there)]
            scans_found += _scans(dataset, subject, session, [levels[-1]], there)
    if not scans_found:
        return []
    visits = [scan.first.session for scan in scans_found]
    beyond = len(visits) - len(set(visits))
    if beyond:
        dataset.counts["images beyond the first of their session, each a scan of its own"] += beyond
    problems: list[Problem] = []
    sessions = _table(dataset, levels[:1], "sessions", "session_id", problems)
    factor = _factor_of_sessions(dataset, top, subject, names, problems)
    scans = _table(dataset, levels, "scans", "filename", problems)
    days = {os.path.basename(name): row.get("acq_time", "") for name, row in scans.items()}
    person = dataset.said((dataset.participants or {}).get(subject, {}), dataset.factor)
    if len(set(visits)) > 1 and person.pop("age_years", ""):
        unknown = sum(
            "age_years" not in dataset.said(sessions.get(visit, {}), factor) for visit in visits
        )
        if unknown:
            dataset.counts[
                f"scans without age: the person has several sessions, so {PARTICIPANTS} cannot "
                "give it; write an age per session into sub-<label>_sessions.tsv"
            ] += unknown
    found = []
    for scan in scans_found:
        image, own = scan.first, list(problems)
        paths = [one and os.path.join(one.folder, one.name) for one in scan.channels]
        row = {
            "scan_id": scan.scan_id,
            **{column_of(n): path or "" for n, path in enumerate(paths, start=1)},
            **{
                COLUMN + name: os.path.join(one.folder, one.name)
                for name, one in scan.companions.items()
            },
            "subject_id": subject,
            "session_id": image.session,
            **_of_sidecars(dataset, image, own),
            **person,
            **dataset.said(sessions.get(image.session, {}), factor),
        }
        day = bids_tables.day_of(days.get(image.name, ""))
        if day:
            row["acquisition_date"] = day
        if clock := bids_tables.time_of(days.get(image.name, "")):
            row.setdefault("time_of_day_h", clock)
        place = os.path.relpath(os.path.join(image.folder, image.name), dataset.root)
        found.append((row, place, own, dataset.choice.lacking(scan)))
    return found


def _scans(
    dataset: _Dataset,
    subject: str,
    session: str,
    levels: Sequence[tuple[str, list[str]]],
    sidecars: list[Sidecar],
) -> list[Scan]:
    """Scans in the datatype's folder of a session, or of a subject without sessions."""
    place, names = levels[-1]
    datatype = dataset.choice.datatype
    below = "/".join(filter(None, (subject, session, datatype)))
    if datatype not in names or dataset.is_ignored(below):
        return []
    folder = os.path.join(place, datatype)
    try:
        files = os.listdir(folder)
    except NotADirectoryError:
        return []
    there = [*sidecars, *sidecars_of(folder, files)]
    images = []
    for name in sorted(filter(is_nifti, files)):
        if dataset.is_ignored(f"{below}/{name}"):
            continue
        image = image_of(folder, name, subject, session, there)
        if image is None:
            dataset.counts["files left out whose names are not those of BIDS"] += 1
        else:
            images.append(image)
    return dataset.choice.scans_of(images)


def _of_sidecars(dataset: _Dataset, image: Image, problems: list[Problem]) -> Row:
    merged: dict[str, Any] = {}
    for path in image.sidecars:
        shared = os.path.dirname(path) == dataset.root
        try:
            content = dataset.contents.get(path) or bids_tables.read_json(path)
        except ManifestError:
            if shared:
                raise
            problems.append(_unreadable(dataset, path))
            continue
        if shared:
            dataset.contents[path] = content
        merged |= content
    found = bids_tables.of_sidecars(merged)
    if "ce" in image.entities:
        found.setdefault("contrast", image.entities["ce"])
    return found


def _table(
    dataset: _Dataset,
    levels: Iterable[tuple[str, list[str]]],
    kind: str,
    key: str,
    problems: list[Problem],
) -> dict[str, Row]:
    """Rows of the ``*_<kind>.tsv`` of a subject and its sessions; an unusable one is a problem."""
    rows: dict[str, Row] = {}
    for folder, names in levels:
        for name in names:
            if not name.endswith(f"_{kind}.tsv"):
                continue
            try:
                rows |= bids_tables.in_rows(Path(folder, name), key)
            except (ManifestError, TableError):
                problems.append(_unreadable(dataset, os.path.join(folder, name)))
    return rows


def _factor_of_sessions(
    dataset: _Dataset, top: str, subject: str, names: Iterable[str], problems: list[Problem]
) -> Mapping[str, float]:
    """Units of a subject's own sessions.tsv: its own JSON's, else the dataset's."""
    name = f"{subject}_sessions.json"
    if name not in names:
        return dataset.factor_of_sessions
    path = os.path.join(top, name)
    try:
        return {
            **dataset.factor_of_sessions,
            **bids_tables.factors(bids_tables.read_json(path), path),
        }
    except ManifestError:
        problems.append(_unreadable(dataset, path))
        return {}


def _unreadable(dataset: _Dataset, path: str) -> Problem:
    allowed = "a table or JSON file as the standard has it, with units that are understood"
    return Problem("sidecar", os.path.relpath(path, dataset.root), "TAB_SIDECAR", allowed)


def _told(counts: Mapping[str, int]) -> str:
    return "; ".join(f"{number} {what}" for what, number in counts.items())

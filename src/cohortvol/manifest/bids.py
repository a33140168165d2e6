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

from cohortvol.errors import ManifestError
from cohortvol.manifest import bids_tables
from cohortvol.manifest.text_table import TextTable
from cohortvol.manifest.values import Problem

log = logging.getLogger(__name__)

DESCRIPTION = "dataset_description.json"
PARTICIPANTS = "participants.tsv"

_FOLDER = re.compile(r"(sub|ses)-[0-9A-Za-z+]+")
_NAME = re.compile(
    r"(?P<stem>(?P<entities>(?:[a-z]+-[0-9A-Za-z+]+_)*)(?P<suffix>[0-9A-Za-z]+))"
    r"\.(?P<kind>nii|nii\.gz|json)"
)
_NOT_SCANS = frozenset({"defacemask", "dseg", "mask", "probseg"})
_NOT_GREY = frozenset({"phase", "real", "imag"})

_NOT_WANTED = -1

Labels = Sequence[str | int | None]
Row = dict[str, str]


@dataclass(frozen=True)
class Choice:
    """Which images are scans.

    Parameters
    ----------
    datatype : str
        Name of the folder they lie in.
    suffix : sequence of str
        Suffixes in order of preference: of a session the images with the first one that is
        there are taken. Empty takes every image.
    entities : mapping of str to sequence
        Labels in order of preference for an entity, such as ``{"acq": ["dixon"], "run": [1]}``;
        other images are left out. A number is that index, however many zeros it is written with;
        None is an image without the entity.
    """

    datatype: str = "anat"
    suffix: Sequence[str] = ()
    entities: Mapping[str, Labels] = field(default_factory=dict)

    def of_session(self, images: Iterable[_Image]) -> list[_Image]:
        """Those of one session's images that are scans."""
        ranked = [(self._rank(image), image) for image in images if self._may_be_scan(image)]
        admitted = [(rank, image) for rank, image in ranked if _NOT_WANTED not in rank]
        best = min((rank for rank, _ in admitted), default=())
        return [image for rank, image in admitted if rank == best]

    def _may_be_scan(self, image: _Image) -> bool:
        is_grey = "part" in self.entities or image.entities.get("part") not in _NOT_GREY
        return is_grey and image.suffix not in _NOT_SCANS

    def _rank(self, image: _Image) -> tuple[int, ...]:
        """How far down each list of preferences an image stands."""
        of_suffix = [_place(image.suffix, self.suffix)] if self.suffix else []
        of_entities = (
            _place(image.entities.get(name), labels) for name, labels in self.entities.items()
        )
        return (*of_suffix, *of_entities)


@dataclass(frozen=True)
class _Image:
    """One image file, by what its name says."""

    name: str
    folder: str
    session: str
    stem: str
    suffix: str
    entities: Mapping[str, str]
    sidecars: tuple[str, ...]


@dataclass(frozen=True)
class _Sidecar:
    path: str
    suffix: str
    entities: frozenset[tuple[str, str]]


@dataclass
class _Dataset:
    """What holds for the whole dataset."""

    root: str
    choice: Choice
    participants: dict[str, Row] | None
    factor: Mapping[str, float]
    factor_of_sessions: Mapping[str, float]
    sidecars: list[_Sidecar]
    is_ignored: Callable[[str], bool]
    contents: dict[str, dict[str, Any]] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)


def read_bids(folder: Path, choice: Choice | None = None) -> TextTable:
    """Rows of the manifest for a BIDS dataset, sorted by subject, session and file name.

    Every image that `choice` admits is a row: ``scan_id`` is its file name without extension,
    ``subject_id`` and ``session_id`` are its folders. An image of a subject that
    participants.tsv does not list is skipped (``ID_NO_CLINICAL``); without that table it is
    measured without covariates. A participant without image is a row too (``SRC_MISSING``).

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
    dataset = _open(folder, choice or Choice())
    subjects = _subfolders(dataset, dataset.root, "", "sub-")
    if not subjects:
        raise ManifestError(f"{folder}: a BIDS dataset without any sub-<label> folder")
    listed = dataset.participants
    if listed is not None and not listed.keys() & set(subjects):
        raise ManifestError(
            f"{folder / PARTICIPANTS}: none of its {len(listed)} participant_id is one of the "
            f"{len(subjects)} sub-<label> folders (TAB_JOIN)\n"
            "  A participant_id is the whole name of the folder, such as sub-01."
        )
    table = TextTable(["scan_id", "image"], [], [])
    for subject in sorted({*subjects, *(listed or ())}):
        found = _subject(dataset, subject) if subject in subjects else []
        if not found and listed is not None and subject in listed:
            what = f"no image in {dataset.choice.datatype}/ that the bids settings admit"
            table.ends[len(table.rows)] = ("quarantined", "SRC_MISSING", what)
            found = [({"scan_id": subject, "image": "", "subject_id": subject}, subject, [])]
            dataset.counts["participants without such an image"] += 1
        for row, place, problems in found:
            if listed is not None and subject not in listed:
                table.ends[len(table.rows)] = ("skipped", "ID_NO_CLINICAL", None)
                dataset.counts[f"images of subjects that {PARTICIPANTS} does not list"] += 1
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
    log.info("%s: %d images of %d subjects", folder, len(table.rows), len(subjects))
    for what, number in dataset.counts.items():
        log.warning("%s: %d %s", folder, number, what)
    return table


def sex_codes(folder: Path) -> dict[str, str | None]:
    """Codes of sex that hold in a dataset: the standard's, and those participants.json explains."""
    return {**bids_tables.SEX_CODES, **bids_tables.sex_codes(_optional_json(folder, PARTICIPANTS))}


def inputs(folder: Path) -> list[Path]:
    """The files of a whole dataset that exist, for a workflow to watch.

    Raises
    ------
    ManifestError
        If there is no dataset_description.json.
    """
    description = folder / DESCRIPTION
    if not description.is_file():
        raise ManifestError(
            f"{folder}: is a folder without {DESCRIPTION}, so not a BIDS dataset\n"
            "  Give the folder that holds it, or make a manifest of a folder of images with "
            "`cohortvol manifest-from-folder`."
        )
    table = folder / PARTICIPANTS
    optional = (table, table.with_suffix(".json"), folder / "sessions.json", folder / ".bidsignore")
    return [description, *(path for path in optional if path.is_file())]


def _open(folder: Path, choice: Choice) -> _Dataset:
    bids_tables.read_json(inputs(folder)[0])
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
        participants=(
            bids_tables.in_rows(participants, "participant_id") if participants.is_file() else None
        ),
        factor=bids_tables.factors(
            _optional_json(folder, PARTICIPANTS), participants.with_suffix(".json")
        ),
        factor_of_sessions=bids_tables.factors(about_sessions, folder / "sessions.json"),
        sidecars=_sidecars(root, names),
        is_ignored=_ignored(folder / ".bidsignore"),
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


def _subject(dataset: _Dataset, subject: str) -> list[tuple[Row, str, list[Problem]]]:
    """Row, place and problems of every scan of a subject."""
    top = os.path.join(dataset.root, subject)
    names = os.listdir(top)
    levels = [(top, names)]
    sidecars = [*dataset.sidecars, *_sidecars(top, names)]
    images = _images(dataset, subject, "", levels, sidecars)
    if any(name.startswith("ses-") for name in names):
        for session in _subfolders(dataset, top, f"{subject}/", "ses-"):
            place = os.path.join(top, session)
            names_there = os.listdir(place)
            levels.append((place, names_there))
            there = [*sidecars, *_sidecars(place, names_there)]
            images += _images(dataset, subject, session, [levels[-1]], there)
    if not images:
        return []
    beyond = len(images) - len({image.session for image in images})
    if beyond:
        dataset.counts["images beyond the first of their session, each a scan of its own"] += beyond
    problems: list[Problem] = []
    sessions = _table(dataset, levels[:1], "sessions", "session_id", problems)
    factor = _factor_of_sessions(dataset, top, subject, names, problems)
    scans = _table(dataset, levels, "scans", "filename", problems)
    days = {os.path.basename(name): row.get("acq_time", "") for name, row in scans.items()}
    person = bids_tables.covariates((dataset.participants or {}).get(subject, {}), dataset.factor)
    if len({image.session for image in images}) > 1 and person.pop("age_years", ""):
        unknown = sum(
            "age_years" not in bids_tables.covariates(sessions.get(image.session, {}), factor)
            for image in images
        )
        if unknown:
            dataset.counts[
                f"scans without age: the person has several sessions, so {PARTICIPANTS} cannot "
                "give it; write an age per session into sub-<label>_sessions.tsv"
            ] += unknown
    found = []
    for image in images:
        own = list(problems)
        row = {
            "scan_id": image.stem,
            "image": os.path.join(image.folder, image.name),
            "subject_id": subject,
            "session_id": image.session,
            **_of_sidecars(dataset, image, own),
            **person,
            **bids_tables.covariates(sessions.get(image.session, {}), factor),
        }
        day = bids_tables.day_of(days.get(image.name, ""))
        if day:
            row["acquisition_date"] = day
        found.append((row, os.path.relpath(row["image"], dataset.root), own))
    return found


def _images(
    dataset: _Dataset,
    subject: str,
    session: str,
    levels: Sequence[tuple[str, list[str]]],
    sidecars: list[_Sidecar],
) -> list[_Image]:
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
    there = [*sidecars, *_sidecars(folder, files)]
    prefix = "_".join(filter(None, (subject, session))) + "_"
    images = []
    for name in sorted(files):
        if not name.lower().endswith((".nii", ".nii.gz")) or name.startswith("."):
            continue
        if dataset.is_ignored(f"{below}/{name}"):
            continue
        match = _NAME.fullmatch(name)
        if match is None or not name.startswith(prefix):
            dataset.counts["files left out whose names are not those of BIDS"] += 1
            continue
        entities = _entities(match["entities"])
        images.append(
            _Image(
                name=name,
                folder=folder,
                session=session,
                stem=match["stem"],
                suffix=match["suffix"],
                entities=entities,
                sidecars=_applicable(there, match["suffix"], entities),
            )
        )
    return dataset.choice.of_session(images)


def _entities(text: str) -> dict[str, str]:
    """``sub-01_run-1_`` as a mapping."""
    pairs = (part.partition("-")[::2] for part in text.split("_") if part)
    return dict(pairs)


def _sidecars(folder: str, names: Iterable[str]) -> list[_Sidecar]:
    """JSON files of a folder that may be about images."""
    found = []
    for name in names:
        match = _NAME.fullmatch(name) if name.endswith(".json") else None
        if match:
            entities = frozenset(_entities(match["entities"]).items())
            found.append(_Sidecar(os.path.join(folder, name), match["suffix"], entities))
    return found


def _applicable(
    sidecars: Iterable[_Sidecar], suffix: str, entities: Mapping[str, str]
) -> tuple[str, ...]:
    """Sidecars with the image's suffix and no entity that it lacks, the most general first."""
    fit = [one for one in sidecars if one.suffix == suffix and one.entities <= entities.items()]
    fit.sort(key=lambda one: (one.path.count(os.sep), len(one.entities), one.path))
    return tuple(one.path for one in fit)


def _of_sidecars(dataset: _Dataset, image: _Image, problems: list[Problem]) -> Row:
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
            except ManifestError:
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


def _place(label: str | None, wanted: Labels) -> int:
    """Position of a label among those wanted, or `_NOT_WANTED`."""
    for place, one in enumerate(wanted):
        if label == one:
            return place
        if isinstance(one, int) and label is not None and label.isdigit() and int(label) == one:
            return place
    return _NOT_WANTED


def _ignored(path: Path) -> Callable[[str], bool]:
    """What the patterns of a .bidsignore, which are those of a .gitignore, leave out.

    Raises
    ------
    ManifestError
        For a pattern that takes back another (``!``), which this reader does not know.
    """
    if not path.is_file():
        return lambda _: False
    patterns = []
    for line in path.read_text(encoding="utf-8").splitlines():
        text = line.strip()
        if text.startswith("!"):
            raise ManifestError(f"{path}: {text!r}: patterns with ! are not understood")
        if text and not text.startswith("#"):
            patterns.append(_as_regex(text))
    matcher = re.compile("|".join(patterns)) if patterns else None
    return lambda below: matcher is not None and matcher.fullmatch(below) is not None


def _as_regex(pattern: str) -> str:
    """A .gitignore pattern as a regular expression for a path below the dataset."""
    anchored = "/" in pattern.rstrip("/")
    body = re.escape(pattern.strip("/"))
    for glob, regex in ((r"\*\*/", "(.*/)?"), (r"\*\*", ".*"), (r"\*", "[^/]*"), (r"\?", "[^/]")):
        body = body.replace(glob, regex)
    return (body if anchored else f"(.*/)?{body}") + "(/.*)?"


def _told(counts: Mapping[str, int]) -> str:
    return "; ".join(f"{number} {what}" for what, number in counts.items())

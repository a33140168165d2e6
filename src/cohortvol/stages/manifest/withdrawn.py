"""Who took their consent back, and what of the lists and maps in a results folder says so."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from cohortvol.stages.manifest.channels import companions, further_channels
from cohortvol.store.removals import Removals, names_of_image
from cohortvol.store.text_table import TextTable
from cohortvol.store.withdrawals import Unknown, normal, unknown_of


@dataclass(frozen=True)
class Listed:
    """A row of the manifest that belongs to somebody who withdrew, as the manifest writes it."""

    scan_id: str
    subject_id: str
    images: tuple[str, ...]


@dataclass
class Withdrawn:
    """Who is withdrawn, and which scans of theirs the manifest still lists.

    Attributes
    ----------
    path : Path, optional
        The list; none where nobody is withdrawn.
    lines : mapping of str to int
        Subjects as the list names them, or single scans, each with its line.
    prefix : str
        What the list may leave out before a subject.
    rows : list of Listed
        Rows of theirs in the manifest.
    known : set of str
        All scans and subjects of the manifest.
    found : set of str
        Those of `lines` that the manifest or the results know, or knew.
    """

    path: Path | None = None
    lines: Mapping[str, int] = field(default_factory=dict)
    prefix: str = ""
    rows: list[Listed] = field(default_factory=list)
    known: set[str] = field(default_factory=set)
    found: set[str] = field(default_factory=set)

    def without(self, table: TextTable, folder: str) -> TextTable:
        """The rows of a manifest that are not theirs; lines stay what they are in the file.

        Parameters
        ----------
        table : TextTable
            The manifest.
        folder : str
            What its paths are relative to.
        """
        kept = []
        for position, row in enumerate(table.rows):
            scan_id = normal(row["scan_id"])
            names = {scan_id, normal(row.get("subject_id", "")) or scan_id}
            self.known |= names
            if self.matches(names):
                image, dseg = (
                    path and os.path.normpath(os.path.join(folder, path))
                    for path in (row["image"], row.get("dseg", ""))
                )
                further = (*further_channels(row, folder), *companions(row, folder).values())
                images = (image, *filter(None, (*further, dseg)))
                subject_id = row.get("subject_id", "") or row["scan_id"]
                self.rows.append(Listed(row["scan_id"], subject_id, images))
            else:
                kept.append(position)
        if len(kept) == len(table.rows):
            return table
        places = {old: new for new, old in enumerate(kept)}
        return TextTable(
            table.columns,
            [table.rows[at] for at in kept],
            [table.lines[at] for at in kept],
            [table.places[at] for at in kept] if table.places else [],
            {places[at]: end for at, end in table.ends.items() if at in places},
            {places[at]: found for at, found in table.problems.items() if at in places},
        )

    def matches(self, names: Collection[str]) -> bool:
        """Whether one of these names of a scan, its own or its subject's, is withdrawn."""
        found = {one for name in names for one in both(name, self.prefix) if one in self.lines}
        self.found |= found
        return bool(found)

    def unknown(self, removals: Removals, known: Iterable[str], *, show: bool) -> Unknown | None:
        """Ids of the list that nobody here has or had, after the manifest was read.

        Parameters
        ----------
        removals : Removals
            Who was removed before.
        known : iterable of str
            Further ids that are known here.
        show : bool
            Whether a message may show ids of people who stay.
        """
        if self.path is None:
            return None
        self.found |= {name for name in self.lines if removals.knows(name)}
        return unknown_of(
            self.path,
            self.lines,
            self.found,
            {*self.known, *known},
            was_nearly=removals.was_nearly,
            show=show,
        )


@dataclass(frozen=True)
class Leaving:
    """What must go.

    Attributes
    ----------
    shard_of : dict of str to str
        The scans, each with its shard.
    names : set of str
        What else stands for them and may be in a log.
    keys : set of str
        Their keys, and those of sessions, in the map of hashed ids.
    names_of : dict of str to set of str
        For each id under which a list may name one of them, all that stands for it.
    """

    shard_of: dict[str, str] = field(default_factory=dict)
    names: set[str] = field(default_factory=set)
    keys: set[str] = field(default_factory=set)
    names_of: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))

    @property
    def scans(self) -> Collection[str]:
        return self.shard_of.keys()

    def add(self, scan: Names, subject: Names | None, images: Iterable[str], prefix: str) -> None:
        """Somebody's scan, with its subject if all of them is withdrawn."""
        own = {*scan, *(name for image in images for name in names_of_image(image))}
        for name in both(scan.id, prefix):
            self.names_of[name] |= own
        self.keys.add(scan.key)
        if subject is not None:
            for name in both(subject.id, prefix):
                self.names_of[name] |= {*own, *subject}
            self.keys.add(subject.key)


class Names(NamedTuple):
    """A scan or a subject: its id, and how the results call it."""

    id: str
    key: str


def both(name: str, prefix: str) -> set[str]:
    """A name, and what a list may write in its place."""
    return {name, name.removeprefix(prefix)}

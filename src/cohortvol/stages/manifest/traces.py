"""What a results folder holds of scans and people: by which names, and in which of its files."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from cohortvol.errors import TableError
from cohortvol.stages.manifest.withdrawn import Leaving, Names, Withdrawn, both
from cohortvol.store import companions
from cohortvol.store.channels import further_images
from cohortvol.store.keys import Keys, read_map
from cohortvol.store.schemas import (
    INGEST,
)
from cohortvol.store.tables import read_arrow
from cohortvol.store.withdrawals import normal

_DIGESTS = ("image_sha256", "voxels_sha256", "dseg_sha256")


def theirs(
    withdrawn: Withdrawn,
    keys: Keys | None,
    results: Path,
    shards: pd.DataFrame,
    scans: pd.DataFrame,
) -> Leaving:
    """What a results folder holds of withdrawn subjects, in the manifest or not.

    Parameters
    ----------
    withdrawn : Withdrawn
        After the manifest was read.
    keys : Keys, optional
        Of a folder with hashed ids.
    results : Path
        Results folder.
    shards, scans : pandas.DataFrame
        The tables SHARDS and MANIFEST of the run before.
    """
    leaving = Leaving()
    if not withdrawn.lines:
        return leaving
    known: Withdrawn = withdrawn
    id_of: dict[str, str] = {}
    if keys is not None:
        listed = {one for name in withdrawn.lines for one in (name, withdrawn.prefix + name)}
        of_listed = {keys.key_of(kind, name): name for kind in "sp" for name in listed}
        known, id_of = Withdrawn(lines=dict.fromkeys(of_listed, 0)), read_map(results) | of_listed

    def called(kind: str, name: str) -> Names:
        return Names(normal(name), keys.key_of(kind, name) if keys else name)

    for row in withdrawn.rows:
        subject = called("p", row.subject_id)
        is_all = withdrawn.matches({subject.id})
        images = {place for image in row.images for place in _places(image)}
        leaving.add(called("s", row.scan_id), subject if is_all else None, images, withdrawn.prefix)
    listed_here = set(leaving.keys)
    places = pd.concat([scans, shards], ignore_index=True)
    places["subject_id"] = places["subject_id"].fillna(places["scan_id"])
    named = zip(places["scan_id"], places["subject_id"], strict=True)
    which = [
        known.matches({normal(scan), normal(subject)}) or scan in listed_here
        for scan, subject in named
    ]
    rows = places.loc[which]
    placed = rows[rows["shard"].notna()]
    leaving.shard_of.update(zip(placed["scan_id"], placed["shard"], strict=True))
    made = _made_of(results, leaving.shard_of)
    for row in rows.to_dict("records"):
        scan = Names(normal(id_of.get(row["scan_id"], row["scan_id"])), row["scan_id"])
        subject = Names(normal(id_of.get(row["subject_id"], row["subject_id"])), row["subject_id"])
        is_all = known.matches({normal(subject.key)})
        further = further_images(row.get("more_images"), row.get("companions"))
        of_scan = [row["image"], *further, row["dseg"]]
        images = {place for image in of_scan for place in _places(image)}
        images.update(made.get(scan.key, ()))
        leaving.add(scan, subject if is_all else None, images, withdrawn.prefix)
        leaving.names.update(leaving.names_of[scan.id], subject if is_all else ())
    leaving.keys.update(rows["session_id"].dropna())
    if keys is not None:
        leaving.keys.update(known.lines)
        names = {name for key in known.found for name in both(id_of[key], withdrawn.prefix)}
        withdrawn.found |= names & withdrawn.lines.keys()
    return leaving


def _places(image: Any) -> set[str]:
    """Where an image lies, and where that leads to; nothing where it has none."""
    return {image, os.path.realpath(image)} if isinstance(image, str) and image else set()


def _made_of(results: Path, shard_of: Mapping[str, str]) -> dict[str, set[str]]:
    """Images and digests that the tables of ingest have of some scans, where they can be read."""
    found: dict[str, set[str]] = defaultdict(set)
    plain = ("image", "dseg", *_DIGESTS)
    columns = {name: INGEST[name] for name in ("scan_id", *plain, "companions")}
    for shard in sorted(set(shard_of.values())):
        try:
            table = read_arrow(results / "ingest" / f"{shard}.parquet", columns)
        except TableError:
            continue
        for row in table.select(list(columns)).to_pylist():
            if row["scan_id"] in shard_of:
                known = {row[name] for name in plain} - {None, ""}
                found[row["scan_id"]] |= known | companions.stands_for(row["companions"])
    return found

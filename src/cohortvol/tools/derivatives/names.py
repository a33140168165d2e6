"""Names of scans in BIDS."""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass

import pandas as pd

from cohortvol.errors import ConfigError

_NAME = re.compile(
    r"(?P<subject>sub-[0-9A-Za-z+]+)(?:_(?P<session>ses-[0-9A-Za-z+]+))?"
    r"(?P<rest>(?:_[a-z]+-[0-9A-Za-z+]+)*)_(?P<suffix>[0-9A-Za-z]+)"
)
_ENTITIES = ("task", "acq", "ce", "rec", "run", "echo", "part", "space", "chunk", "seg", "desc")
"""Entities that the standard lets a ``_dseg`` of anat have, in their order; others of the source
become a ``desc``."""


@dataclass(frozen=True)
class Name:
    """Where the files of a scan go: ``<folder>/<stem>_dseg.nii.gz``."""

    folder: str
    stem: str


def names_of(done: pd.DataFrame, segmentation: str) -> dict[str, Name]:
    """Name of every scan.

    A scan_id that is the name of a BIDS image keeps its entities. Any other becomes a subject
    label: its letters and digits.

    Parameters
    ----------
    done : pandas.DataFrame
        Columns ``scan_id``.
    segmentation : str
        Label of the ``seg`` entity.

    Raises
    ------
    ConfigError
        If two scans would have the same one.
    """
    names = {scan_id: _name(scan_id, segmentation) for scan_id in done["scan_id"]}
    same = defaultdict(list)
    for scan_id, name in names.items():
        same[name.stem.casefold()].append(scan_id)
    clashes = [f"  {', '.join(ids)}" for ids in same.values() if len(ids) > 1]
    if clashes:
        raise ConfigError(
            "\n".join(
                [
                    "these scans would have one name in BIDS, where labels are letters and digits",
                    *clashes,
                    "  Give them other ids in the manifest.",
                ]
            )
        )
    return names


def _name(scan_id: str, segmentation: str) -> Name:
    match = _NAME.fullmatch(scan_id)
    if match is None:
        subject = "sub-" + re.sub(r"[^0-9A-Za-z]", "", scan_id)
        return Name(f"{subject}/anat", f"{subject}_seg-{segmentation}")
    entities = {"space": match["suffix"], "seg": segmentation}
    for part in filter(None, match["rest"].split("_")):
        key, _, label = part.partition("-")
        if key in _ENTITIES and key not in entities:
            entities[key] = label
        else:
            entities["desc"] = entities.get("desc", "") + key + label
    folders = [name for name in (match["subject"], match["session"]) if name]
    labels = [f"{key}-{entities[key]}" for key in _ENTITIES if key in entities]
    return Name("/".join([*folders, "anat"]), "_".join([*folders, *labels]))

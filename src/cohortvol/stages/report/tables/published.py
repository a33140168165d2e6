"""What was published before, and whether another page would give single people away by difference.

Two pages of cohorts that differ by a few people differ by numbers of those few. So a page is made
only where nobody came, went or changed since every earlier one, or `LEAST_CHANGED` people did, and
of either sex nobody or five. What is kept for this is no list of people: how many fall into each
of 256 classes by a hash of their id, and by one of their values.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cohortvol.errors import ConfigError, OutputError
from cohortvol.stages.report.tables.rounding import SMALL
from cohortvol.store.files import commit_text
from cohortvol.store.keys import make_private

LEAST_CHANGED = 10
"""People by whom two pages of one results folder must differ, if they differ at all."""
CLASSES = 256
SEXES = ("F", "M", "not known")
KINDS = ("ids", "values")

Counts = dict[str, dict[str, list[int]]]
"""People in each class, by kind of hash and sex."""


def count_people(scans: pd.DataFrame, points: pd.DataFrame) -> Counts:
    """How many people fall into each class.

    Parameters
    ----------
    scans : pandas.DataFrame
        One row per scan: ``scan_id``, ``sex``, ``subject_id`` if known, and all else that a page
        counts or describes of a scan.
    points : pandas.DataFrame
        ``scan_id, structure, volume_ml`` of the volumes that are used.
    """
    told = [name for name in scans if name not in ("scan_id", "subject_id")]
    of_scan = [
        "|".join(str(value) for value in row)
        for row in scans[told].astype(object).itertuples(index=False, name=None)
    ]
    of_volumes = points.assign(
        text=[f"{name}={volume!r}" for name, volume in
              zip(points["structure"], points["volume_ml"].astype(float), strict=True)]
    ).sort_values("text").groupby("scan_id")["text"].agg(" ".join)  # fmt: skip
    subject = scans["scan_id"] if "subject_id" not in scans else scans["subject_id"]
    people = pd.DataFrame(
        {
            "person": subject.fillna(scans["scan_id"]).astype(str),
            "sex": scans["sex"].where(scans["sex"].isin(SEXES[:2]), SEXES[2]),
            "text": [f"{text} {volumes}" for text, volumes in
                     zip(of_scan, scans["scan_id"].map(of_volumes).fillna(""), strict=True)],
        }
    ).sort_values("text")  # fmt: skip
    one = people.groupby("person").agg(sex=("sex", "first"), text=("text", "\n".join))
    hashed = {"ids": one.index, "values": one["text"]}
    return {
        kind: {
            sex: np.bincount(
                [_class(text) for text in pd.Index(texts)[(one["sex"] == sex).to_numpy()]],
                minlength=CLASSES,
            ).tolist()
            for sex in SEXES
        }
        for kind, texts in hashed.items()
    }


def _class(text: str) -> int:
    return hashlib.sha256(text.encode()).digest()[0]


def too_near(before: Counts, now: Counts) -> str:
    """Why a page of these people would give some of them away beside an earlier one.

    In each class as many came or went as its count grew or fell, or more; a person who changed is
    counted on both sides. So the greater of the two sums is at most the number of people concerned.

    Returns
    -------
    str
        Empty if it would not.
    """
    for kind in KINDS:
        moved = {sex: np.subtract(now[kind][sex], before[kind][sex], dtype=int) for sex in SEXES}
        changed = {
            sex: int(max(by.clip(min=0).sum(), (-by).clip(min=0).sum()))
            for sex, by in moved.items()
        }
        together = np.concatenate(list(moved.values()))
        n = int(max(together.clip(min=0).sum(), (-together).clip(min=0).sum()))
        few = any(0 < by < SMALL for by in changed.values())
        if 0 < n < LEAST_CHANGED:
            return f"fewer than {LEAST_CHANGED} people differ"
        if few:
            return f"fewer than {SMALL} people of one sex, or of unknown sex, differ"
    return ""


def check_and_keep(path: Path, now: Counts, tables: Mapping[str, str]) -> None:
    """Refuse a page that is too near to an earlier one; else write down that there is one more.

    Parameters
    ----------
    path : Path
        ``<results>/private/published.json``; nothing was published where it is missing.
    now : Counts
        The people of the page to be made.
    tables : mapping of str to str
        sha256 of the tables it is made of, for the house to know later.

    Raises
    ------
    OutputError
        If the page is refused.
    ConfigError
        If the file is damaged or may not be read.
    """
    pages = _read(path)
    for number, page in enumerate(pages, start=1):
        if why := too_near(page["people"], now):
            raise OutputError(
                f"a public page of these scans is not made: {why} from page {number} of "
                f"{len(pages)} in {path}, and who has both would read them off the difference\n"
                f"  Publish again when at least {LEAST_CHANGED} people have come, gone or changed, "
                f"of either sex none or {SMALL};\n"
                "  or make a page for the house (report: {public: false}, or without --public).\n"
                f"  If page {number} never left the house, take it out of that file."
            )
    if all(page["people"] != now for page in pages):
        make_private(path.parent)
        pages.append({"tables": dict(tables), "people": now})
        commit_text(path, json.dumps({"pages": pages}) + "\n", mode=0o600)


def _read(path: Path) -> list[dict[str, Any]]:
    try:
        pages = json.loads(path.read_text(encoding="utf-8"))["pages"]
        if not all(_is_counts(page["people"]) for page in pages):
            raise ValueError("counts are missing")
    except FileNotFoundError:
        return []
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from error
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{path}: damaged ({error}); it says what was published before: restore it from a "
            "backup, or delete it if no page has left the house"
        ) from error
    return list(pages)


def _is_counts(people: Any) -> bool:
    found: Iterable[Any] = (people[kind][sex] for kind in KINDS for sex in SEXES)
    return all(
        len(counts) == CLASSES and all(isinstance(n, int) for n in counts) for counts in found
    )

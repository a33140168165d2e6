"""Reason codes: why a scan, a row or a run stopped, and what to do about it. Data, not code."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

CLASSES = ("quarantine", "flag", "note", "retry", "skip", "stop")
"""What follows from a code: the scan is set aside as its data are at fault; it is kept and a person
should look; it is kept, and what is noted asks for nobody; it is tried again as we or the machine
are at fault; it is left out by a stated rule; the run stops before any work."""


@dataclass(frozen=True)
class Reason:
    """One row of ``reasons.tsv``.

    Parameters
    ----------
    code : str
        ``AREA_CAUSE``, such as ``SRC_TRUNCATED``. A code is never renamed.
    class_ : str
        One of `CLASSES`.
    stage : str
        The stage that gives the code, or ``all``.
    sentence, what_to_do : str
        For people, one sentence each.
    since : str
        Version of cohortvol in which the code entered the table.
    produced : bool
        Whether this version can give the code; the others are reserved.
    """

    code: str
    class_: str
    stage: str
    sentence: str
    what_to_do: str
    since: str
    produced: bool


@cache
def load() -> dict[str, Reason]:
    """Every reason code of ``reasons.tsv``, by code, in the order of the table."""
    text = files("cohortvol").joinpath("reasons.tsv").read_text(encoding="utf-8")
    rows = csv.DictReader(text.splitlines(), delimiter="\t", quoting=csv.QUOTE_NONE)
    return {
        row["code"]: Reason(
            code=row["code"],
            class_=row["class"],
            stage=row["stage"],
            sentence=row["sentence"],
            what_to_do=row["what_to_do"],
            since=row["since"],
            produced=row["produced"] == "yes",
        )
        for row in rows
    }


def state_of(reason: str) -> str:
    """``quarantined`` where the data are at fault, ``failed`` where we or the machine are."""
    known = load().get(reason)
    return "quarantined" if known is not None and known.class_ == "quarantine" else "failed"

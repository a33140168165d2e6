"""What the structures of a scan say of the scan, before and after people looked at it."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from itertools import compress
from typing import Any

import numpy as np
import pandas as pd

from cohortvol import reasons
from cohortvol.stages.assemble.decisions import ACCEPT
from cohortvol.stages.assemble.following import AGE_CONFLICT, SAME_CONTENT, stale
from cohortvol.store.schemas import SCANS

_UNUSABLE_CODES = f"{SAME_CONTENT}|{AGE_CONFLICT}|QC_ORIENTATION"


def scan_verdicts(volumes: pd.DataFrame) -> pd.DataFrame:
    """What the structures of a scan say of the scan.

    Parameters
    ----------
    volumes : pandas.DataFrame
        Columns ``scan_id, status, reason, qc, qc_flags``, as categories.

    Returns
    -------
    pandas.DataFrame
        One row per scan, indexed by scan_id: ``unusable``, whether every structure of it is
        excluded (so also where left and right are wrong, which `measure` says of every
        structure); ``qc_flags``, the codes of all structures; and ``failure``, the reason code
        where the scan could not be measured.
    """
    scan = volumes["scan_id"].cat
    n_rows, n_excluded = (
        np.bincount(scan.codes[rows], minlength=len(scan.categories))
        for rows in (slice(None), (volumes["qc"] == "exclude").to_numpy())
    )
    failed = volumes[volumes["status"] == "failed"].drop_duplicates("scan_id")
    failed = failed.astype({"scan_id": object, "reason": object}).set_index("scan_id")
    verdicts = pd.DataFrame(
        {
            "unusable": n_excluded == n_rows,
            "qc_flags": _codes_by_scan(scan, volumes["qc_flags"].cat),
            "failure": failed["reason"].reindex(scan.categories),
        },
        index=scan.categories,
    )
    return verdicts[n_rows > 0]


def _codes_by_scan(scan: Any, flags: Any) -> np.ndarray:
    """The codes of all rows of every scan, as one sorted list each."""
    lists = [set(text.split(";")) - {""} for text in flags.categories]
    names = sorted(set().union(*lists))
    has = np.zeros((len(scan.categories), len(names) + 1), dtype=bool)
    for place, name in enumerate(names):
        with_it = np.array([*(name in codes for codes in lists), False])  # the last for null
        has[scan.codes[with_it[flags.codes]], place] = True
    patterns, which = np.unique(has, axis=0, return_inverse=True)
    joined = [";".join(compress(names, pattern)) for pattern in patterns]
    return np.array(joined, dtype=object)[which]


def _all_codes(joined: Iterable[str | None]) -> str:
    """Codes of several ``;``-joined lists as one sorted list."""
    return ";".join(
        sorted(
            {code for codes in joined if isinstance(codes, str) for code in codes.split(";")} - {""}
        )
    )


@cache
def _asking() -> frozenset[str]:
    """Codes that ask a person to look."""
    return frozenset(code for code, known in reasons.load().items() if known.class_ == "flag")


@cache
def _qc_of(codes: str) -> str:
    return "flag" if _asking().intersection(codes.split(";")) else "pass"


def final_states(scans: pd.DataFrame, verdicts: pd.DataFrame) -> pd.DataFrame:
    """The table SCANS: segmented scans become done, or what measure says of them.

    ``qc`` of a scan is ``exclude`` when nothing of it can be used, ``flag`` when a person should
    look at it, otherwise ``pass``. Only codes of class ``flag`` ask for that. A note, such as a
    structure cut by the field of view, or one absent that not every scan shows, stays with its
    structure: nearly every scan has one. Whether one structure is used is for its own ``qc``.

    Parameters
    ----------
    scans : pandas.DataFrame
        What `follow` returned.
    verdicts : pandas.DataFrame
        What `scan_verdicts` returned.

    Raises
    ------
    TemporaryError
        If a segmented scan has not been measured.
    """
    segmented = scans["state"] == "segmented"
    unmeasured = segmented & ~scans["scan_id"].isin(verdicts.index)
    if unmeasured.any():
        raise stale("measure", scans[unmeasured], "were segmented but not measured")
    of_scan = verdicts.reindex(scans["scan_id"]).set_axis(scans.index)
    failure = of_scan["failure"].where(segmented)
    at_fault = {code for code, known in reasons.load().items() if known.class_ == "quarantine"}
    done = segmented & failure.isna()
    state = scans["state"].mask(segmented, "failed")
    state = state.mask(failure.isin(at_fault), "quarantined").mask(done, "done")
    warnings = scans["warnings"].map(lambda codes: "" if pd.isna(codes) else codes)
    final = scans.assign(
        state=state,
        reason=scans["reason"].mask(failure.notna(), failure).mask(done, None),
        detail=scans["detail"].mask(done, None),
        qc=_scan_qc(of_scan, warnings).where(done),
        qc_flags=_codes_of(of_scan["qc_flags"].where(done), warnings),
    )
    return final.assign(warnings=warnings).reindex(columns=[*SCANS, "warnings"])


def _codes_of(of_structures: pd.Series, warnings: pd.Series) -> pd.Series:
    """Codes of the image and of the structures of every scan, as one list each."""
    pairs = zip(warnings, of_structures.fillna(""), strict=True)
    return pd.Series([_all_codes(pair) for pair in pairs], index=warnings.index, dtype=object)


def _scan_qc(of_scan: pd.DataFrame, warnings: pd.Series) -> pd.Series:
    """``qc`` of every scan from its structures (`scan_verdicts`) and its own codes."""
    codes = _codes_of(of_scan["qc_flags"], warnings)
    unusable = of_scan["unusable"].eq(True) | codes.str.contains(_UNUSABLE_CODES)
    return codes.map(_qc_of).mask(unusable, "exclude")


def reviewed(scans: pd.DataFrame, verdicts: pd.DataFrame, decisions: pd.DataFrame) -> pd.DataFrame:
    """The table SCANS with what people decided; ``qc_auto`` keeps what was found without them.

    A scan that people accept passes unless all of its structures are excluded; any other is
    judged by the same rule as before, where a structure that people decided on asks for no look.

    Parameters
    ----------
    scans : pandas.DataFrame
        What `final_states` returned.
    verdicts : pandas.DataFrame
        What `scan_verdicts` returned of the structures after review.
    decisions : pandas.DataFrame
        ``review`` and ``review_line`` by scan_id, of decisions on whole scans.
    """
    done = scans["state"] == "done"
    of_scan = verdicts.reindex(scans["scan_id"]).set_axis(scans.index)
    own = decisions.reindex(scans["scan_id"]).set_axis(scans.index)
    review = own["review"].where(done)
    qc = _scan_qc(of_scan, scans["warnings"]).where(done)
    qc = qc.mask((review == ACCEPT) & of_scan["unusable"].ne(True), "pass")
    return scans.assign(
        qc=qc,
        qc_auto=scans["qc"],
        review=review,
        review_line=own["review_line"].where(done),
    )[list(SCANS)]

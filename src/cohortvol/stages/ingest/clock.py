"""The time of day, as DICOM headers and sidecars write it."""

from __future__ import annotations

import re
from typing import Any

_TIMES = (
    re.compile(r"(\d{2})(?:(\d{2})(?:\d{2}(?:\.\d{1,6})?)?)?"),  # DICOM (PS3.5, TM)
    re.compile(r"(\d{1,2}):(\d{1,2})(?::\d{1,2}(?:\.\d*)?)?"),  # dcm2niix, which does not pad
)


def hours_of(text: Any) -> float | None:
    """Hours since midnight, to the minute before: no more of a person's day is needed.

    Parameters
    ----------
    text : str
        ``134501.25``, ``1345``, ``13:45:1.25``. What is written as a time that no clock shows, such
        as ``250000``, is given as it is: whether it can be true is asked where it is used.

    Returns
    -------
    float or None
        None where it is not written as a time.
    """
    written = "" if text is None else str(text).strip()
    for form in _TIMES:
        if (match := form.fullmatch(written)) is not None:
            return round(int(match[1]) + int(match[2] or 0) / 60, 4)
    return None

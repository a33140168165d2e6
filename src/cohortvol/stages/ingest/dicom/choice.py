"""Which of the stacks in a folder is the scan: by a stated rule, and never by a guess."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from cohortvol.errors import ScanError
from cohortvol.stages.ingest.dicom.positions import (
    check_contrasts,
    check_number,
    one_body,
    stations_in,
)
from cohortvol.stages.ingest.dicom.stacks import Stack
from cohortvol.stages.ingest.rules import Rules

_SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
_LOCALIZER_WORDS = re.compile(r"locali[sz]er|scout|survey", re.IGNORECASE)


@dataclass(frozen=True)
class Choice:
    """The stack that is the scan, or its stations, and a row for every stack there was.

    Attributes
    ----------
    chosen : tuple of Stack
        One; of a body in several table positions one for each, in their order. Empty where `error`
        says why none was singled out.
    error : ScanError or None
        Why not.
    series : list of dict
        A row of the table SERIES for every stack, without ``scan_id``.
    """

    chosen: tuple[Stack, ...]
    error: ScanError | None
    series: list[dict[str, Any]]


def choose(stacks: Sequence[Stack], rules: Rules) -> Choice:
    """The one stack that fits the rules; several that fit are no choice, unless they are stations.

    A list in the rules is an order of preference: of the stacks that fit, those with its first
    value that occurs are kept.
    """
    refusals = [_refusal(stack, stacks, rules) for stack in stacks]
    fitting = [n for n, refusal in enumerate(refusals) if refusal is None]
    preferences: Iterable[tuple[tuple[str, ...], Callable[[Stack], str | None]]] = (
        (rules.modality, _modality),
        (rules.plane, lambda stack: stack.orientation),
        (rules.dixon, lambda stack: stack.first.dixon),
    )
    for preferred, value_of in preferences:
        values = {value_of(stacks[n]) for n in fitting}
        first = next((value for value in preferred if value in values), None)
        for n in fitting:
            if first is not None and value_of(stacks[n]) != first:
                refusals[n] = "DCM_NOT_WANTED", f"{first} is preferred"
        fitting = [n for n in fitting if refusals[n] is None]
    chosen: tuple[Stack, ...] = ()
    try:
        chosen = _singled_out(
            [stacks[n] for n in fitting],
            [s for n, s in enumerate(stacks) if n not in fitting],
            rules,
        )
    except ScanError as error:
        for n in fitting:
            refusals[n] = error.reason, error.detail
    rows = [
        _row(stack) | {"chosen": bool(chosen) and refusal is None} | _reason_and_detail(refusal)
        for stack, refusal in zip(stacks, refusals, strict=True)
    ]
    return Choice(chosen, None if chosen else _error(refusals, fitting), rows)


def _singled_out(
    fitting: Sequence[Stack], others: Sequence[Stack], rules: Rules
) -> tuple[Stack, ...]:
    """The stack that is left, whole or as its stations; or the stations that are left."""
    if not fitting:
        return ()
    if len(fitting) == 1:
        body = one_body(stations_in(fitting[0])) or tuple(fitting)
    else:
        body = one_body(fitting) or ()
        if not body:
            raise ScanError("DCM_AMBIGUOUS_SERIES", f"{len(fitting)} series fit the rules")
    check_number(len(body), rules.stations)
    check_contrasts(body, others)
    return body


def _error(refusals: Sequence[tuple[str, str] | None], fitting: Sequence[int]) -> ScanError:
    """Why there is no choice: several fit, or what is wrong with the largest."""
    decisive = refusals[fitting[0] if fitting else 0] if refusals else None
    reason, detail = decisive or ("DCM_UNREADABLE_FILE", "no file holds an image")
    n_others = len(refusals) - max(len(fitting), 1)
    return ScanError(reason, f"{detail}; {n_others} others left out" if n_others > 0 else detail)


def _reason_and_detail(refusal: tuple[str, str] | None) -> dict[str, str | None]:
    reason, detail = refusal or (None, None)
    return {"reason": reason, "detail": detail or None}


def _refusal(stack: Stack, stacks: Sequence[Stack], rules: Rules) -> tuple[str, str] | None:
    """Reason and detail why a stack is not the scan, or None."""
    frame, facts = stack.first, stack.first.facts
    kinds = set(frame.image_type)
    description = str(facts.get("SeriesDescription", ""))
    if _modality(stack) not in rules.modality:
        return "DCM_WRONG_MODALITY", _modality(stack)
    if str(facts.get("SOPClassUID", "")).startswith(_SECONDARY_CAPTURE):
        return "PHI_BURNED_IN", "secondary capture"
    if str(facts.get("BurnedInAnnotation", "")).upper() == "YES":
        return "PHI_BURNED_IN", "BurnedInAnnotation YES"
    if "MOSAIC" in kinds:
        return "DCM_MOSAIC", ""
    planes = (other.first.plane for other in stacks if other.first.series == frame.series)
    n_turns = len({plane.turn(decimals=1) for plane in planes if plane})
    if kinds & {"LOCALIZER", "SCOUT"} or _LOCALIZER_WORDS.search(description) or n_turns > 1:
        return "DCM_LOCALIZER", f"{n_turns} orientations in the series" if n_turns > 1 else ""
    is_map = frame.dixon == "fat_fraction" and "fat_fraction" not in rules.dixon
    is_derived = "DERIVED" in kinds and frame.dixon is None
    if (is_map or is_derived) and rules.derived == "skip":
        return "DCM_DERIVED", "\\".join(frame.image_type)
    if frame.signal != "magnitude":
        return "DCM_NOT_MAGNITUDE", frame.signal
    unwanted = _unwanted(stack, stacks, rules, description)
    if unwanted:
        return "DCM_NOT_WANTED", unwanted
    if len(stack.frames) < rules.min_slices:
        return "IMG_TOO_FEW_SLICES", f"{len(stack.frames)}, of at least {rules.min_slices}"
    return None


def _unwanted(stack: Stack, stacks: Sequence[Stack], rules: Rules, description: str) -> str:
    """What the rules ask for and the stack is not."""
    frame, facts = stack.first, stack.first.facts
    if rules.plane and stack.orientation not in rules.plane:
        return f"plane {stack.orientation}"
    if rules.dixon and frame.dixon not in rules.dixon:
        return f"dixon {frame.dixon}"
    if rules.sequence:
        names = (description, facts.get("ProtocolName", ""), facts.get("SequenceName", ""))
        if not any(re.search(rules.sequence, str(name), re.IGNORECASE) for name in names):
            return "another sequence"
    if rules.contrast != "any" and has_contrast(stack) != (rules.contrast == "with"):
        return f"not {rules.contrast} contrast agent"
    if rules.echo is not None:
        echoes = sorted(
            {s.first.echo_time_ms or 0.0 for s in stacks if s.first.series == frame.series}
        )
        echo = echoes.index(frame.echo_time_ms or 0.0) + 1
        if echo != rules.echo:
            return f"echo {echo}"
    if rules.phase not in (None, stack.phase, "last" if stack.phase == stack.n_phases else None):
        return f"phase {stack.phase} of {stack.n_phases}"
    return ""


def has_contrast(stack: Stack) -> bool:
    """Whether the header names a contrast agent."""
    agent = str(stack.first.facts.get("ContrastBolusAgent", "")).strip()
    sequence = stack.first.facts.get("ContrastBolusAgentSequence")
    return bool(sequence) or agent.upper() not in {"", "NO", "NONE"}


def _modality(stack: Stack) -> str:
    return str(stack.first.facts.get("Modality", ""))


def _row(stack: Stack) -> dict[str, Any]:
    frame = stack.first
    row_mm, column_mm = (None, None) if frame.spacing_mm is None else frame.spacing_mm.tolist()
    return {
        "series": frame.series,
        "modality": _modality(stack),
        "image_type": "\\".join(frame.image_type),
        "plane": stack.orientation,
        "dixon": frame.dixon,
        "echo_time_ms": frame.echo_time_ms,
        "has_contrast": has_contrast(stack),
        "n_images": len(stack.frames),
        "n_positions": stack.n_positions,
        "n_columns": frame.columns,
        "n_rows": frame.rows,
        "column_mm": column_mm,
        "row_mm": row_mm,
    }

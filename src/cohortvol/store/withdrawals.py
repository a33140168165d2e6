"""The list of subjects who took their consent back, and what it says of whom nobody knows.

Ids are matched exactly: an id that a spreadsheet changed is somebody else's, or nobody's. Those
that were never known are named, each with what it is nearly.
"""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from cohortvol.errors import LONGEST_LIST, TableError, WithdrawalError
from cohortvol.store.text_table import other_delimiter, read_records

COLUMNS = ("subject_id", "participant_id", "scan_id")
"""Columns of a list that name who is withdrawn; any of them will do."""

_LIKE_COLUMNS = {
    f"{who}{what}"
    for who in ("", "subject", "participant", "patient", "person", "scan", "case", "record")
    for what in ("", "id", "ids", "identifier", "no", "nr", "number", "s")
} - {"", "no", "nr", "s"} | {"eid", "idp", "uid"}  # fmt: skip
"""Words that head a column of ids and are no id, without blanks, dashes and case."""

_SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "vertical bars", ",": "commas"}


def read_withdrawals(path: Path) -> dict[str, int]:
    """Ids of withdrawn subjects, each as `normal` writes it, with its line in the file.

    A CSV, TSV or Parquet table with a column ``subject_id`` or ``participant_id``, or of single
    scans ``scan_id``; or a text with one id per line and no header. An empty file withdraws nobody.

    Raises
    ------
    TableError
        If the file cannot be read with certainty, has several columns and none of these, a header
        that is nearly one of these, or a row without an id.
    """
    if path.is_file() and path.stat().st_size == 0:
        return {}
    (first, header), *rows = read_records(path, may_be_list=True)
    known = [position for position, name in enumerate(header) if name in COLUMNS]
    if not known:
        rows = [(first, header), *rows]
        _refuse_columns(path, rows)
        known = [0]
    lines: dict[str, int] = {}
    for line, row in rows:
        ids = {normal(row[position]) for position in known} - {""}
        if not ids and any(map(str.strip, row)):
            raise TableError(
                f"{path}: line {line}: a row without an id (TAB_VALUE_MISSING)\n"
                "  Fill it in, or take the row out."
            )
        for name in sorted(ids):
            lines.setdefault(name, line)
    return lines


def _refuse_columns(path: Path, rows: Iterable[tuple[int, list[str]]]) -> None:
    """Refuse what is no list of one id per line, to be read without a header."""
    for line, row in rows:
        if len(row) > 1:
            raise TableError(
                f"{path}: no column {' or '.join(COLUMNS)}\n"
                "  Name the column of the ids, or give a list with one id per line."
            )
        if re.sub(r"[^a-z]", "", row[0].casefold()) in _LIKE_COLUMNS and not re.search(
            r"[0-9]", row[0]
        ):
            raise TableError(
                f"{path}: line {line}: {row[0]!r} is no id but heads a column\n"
                f"  The first line may be {', '.join(COLUMNS)}; otherwise every line is an id."
            )
        for mark, name in _SEPARATORS.items():
            if mark in row[0]:
                raise other_delimiter(path, name, ",")


def normal(text: str) -> str:
    """An id as it is compared: accents in one way (NFC), no blanks around it."""
    return unicodedata.normalize("NFC", text).strip()


@dataclass(frozen=True)
class Unknown:
    """Ids of a list that were never known where it is applied.

    Attributes
    ----------
    path : Path
        The list.
    n_ids : int
        How many it names.
    ids : dict of str to (int, str, str or None)
        Each with its line, how it differs from the id that it is nearly, and that one; None where
        that one must not be shown.
    """

    path: Path
    n_ids: int
    ids: Mapping[str, tuple[int, str, str | None]]

    @property
    def is_all(self) -> bool:
        """Whether the list names nobody who was ever known."""
        return len(self.ids) == self.n_ids

    def text(self, *, named: bool = True) -> str:
        """What is said of them; without ids, by their lines alone, where it may lie in results."""
        head = (
            f"{self.path}: none of the {self.n_ids} ids was ever known here: nobody is withdrawn"
            if self.is_all
            else f"{self.path}: {len(self.ids)} of {self.n_ids} ids were never known here: nothing "
            "is removed for them"
        )
        told = list(self.ids.items())
        body = [
            f"  line {line}"
            + (f": {name!r}" if named else "")
            + (f"; nearly {near!r}" if named and near else "; nearly one that is" if kind else "")
            + (f" ({kind})" if kind else "")
            for name, (line, kind, near) in told[:LONGEST_LIST]
        ]
        if len(told) > LONGEST_LIST:
            body.append(f"  and {len(told) - LONGEST_LIST} more")
        advice = (
            "  Ids are matched exactly. Correct the list; if nobody in it was ever in this cohort, "
            "take it out."
            if self.is_all
            else "  Ids are matched exactly. Correct what is misspelt; who was never in this "
            "cohort may stay in the list."
        )
        return "\n".join([head, *body, advice])


def refuse_if_all(unknown: Unknown | None, *, named: bool = True) -> None:
    """Stop before anything is made of a list that withdraws nobody.

    Raises
    ------
    WithdrawalError
        If not one id of the list was ever known.
    """
    if unknown is not None and unknown.is_all:
        raise WithdrawalError(unknown.text(named=named))


def unknown_of(
    path: Path,
    lines: Mapping[str, int],
    found: Collection[str],
    known: Iterable[str],
    *,
    was_nearly: Callable[[str], bool] = lambda name: False,
    show: bool = True,
) -> Unknown | None:
    """Ids of a list that were not found, with what each is nearly; None where there are none.

    Parameters
    ----------
    path, lines
        The list, and what `read_withdrawals` made of it.
    found : collection of str
        Those that are known.
    known : iterable of str
        Ids that are known here, of all people; looked at only if there is need.
    was_nearly : callable
        Whether an id is nearly that of somebody who was removed before.
    show : bool
        Whether ids of people here may be shown.
    """
    lost = {name: line for name, line in lines.items() if name not in found}
    if not lost:
        return None
    near = _Near(known)
    ids = {}
    for name, line in lost.items():
        kind, other = near.of(name)
        if not kind and any(was_nearly(form) for form in {loose(one) for one in _cleaned(name)}):
            kind = "of somebody who was removed before"
        ids[name] = (line, kind, other if show else None)
    return Unknown(path, len(lines), ids)


_DASHES = re.compile(r"[-_\u2010-\u2015\u2212\u00ad]")
_SCIENTIFIC = re.compile(r"([0-9])(?:[.,]([0-9]+))?[eE]\+?([0-9]{1,2})")


def _visible(text: str) -> str:
    return "".join(one for one in text if not one.isspace() and unicodedata.category(one) != "Cf")


_DIFFERENCES: dict[str, Callable[[str], str]] = {
    "other case of letters": str.casefold,
    "blanks or characters that do not show": _visible,
    "another form of Unicode": lambda text: unicodedata.normalize("NFKC", text),
    "dashes and underscores": lambda text: _DASHES.sub("", text),
    "with or without sub-": lambda text: re.sub(r"^sub[-_]?", "", text),
    "leading zeros": lambda text: re.sub(r"(?<![0-9])0+(?=[0-9])", "", text),
}


def loose(text: str) -> str:
    """What is left of an id when everything goes in which a slip may lie."""
    for change in (
        "another form of Unicode", "blanks or characters that do not show",
        "other case of letters", "with or without sub-", "dashes and underscores",
        "leading zeros",
    ):  # fmt: skip
        text = _DIFFERENCES[change](text)
    return text


def _cleaned(text: str) -> list[str]:
    """An id as it may have been before a spreadsheet or a person added to it."""
    bare = text.strip("=\"'`\u2018\u2019\u201c\u201d")
    return [
        text,
        bare,
        re.sub(r"[.,]0+$", "", bare),
        re.sub(r"[.,'\u2019\s](?=[0-9]{3}(?![0-9]))", "", bare),
        re.split(r"[\s#;,|(/]", bare, maxsplit=1)[0],
    ]


class _Near:
    """Which known id another one is nearly."""

    def __init__(self, known: Iterable[str]) -> None:
        self._of: dict[str, list[str]] = defaultdict(list)
        for name in sorted(known):
            self._of[loose(name)].append(name)
        self._of.pop("", None)

    def of(self, text: str) -> tuple[str, str | None]:
        """How it differs, empty where it is near to none; and that one, where it is one alone."""
        for position, form in enumerate(_cleaned(text)):
            if others := self._of.get(loose(form)):
                kinds = {_difference(form, other) for other in others}
                added = "more than the id" if position else ""
                kind = added or (kinds.pop() if len(kinds) == 1 else "in several ways")
                return kind, others[0] if len(others) == 1 else None
        if number := _SCIENTIFIC.fullmatch(text.strip()):
            digits, rest, power = number[1], number[2] or "", int(number[3])
            start, length = digits + rest, power + 1
            others = [
                other
                for names in self._of.values()
                for other in names
                if other.isdecimal() and len(other) == length and _rounds_to(other, start)
            ]
            if others:
                return "a number that lost digits", others[0] if len(others) == 1 else None
        return "", None


def _rounds_to(digits: str, start: str) -> bool:
    """Whether a number, rounded to so many digits, begins with these."""
    mantissa = f"{int(digits):.{max(len(start) - 1, 0)}E}".partition("E")[0].replace(".", "")
    return mantissa == start


def _difference(one: str, other: str) -> str:
    for kind, change in _DIFFERENCES.items():
        if change(one) == change(other):
            return kind
    return "in several ways"

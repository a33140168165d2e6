"""Lists of people who withdrew, in every dialect that a spreadsheet or a person writes.

`LISTS` has over 200 of them, each with whom its writer meant; `withdrawal_trial` says what comes of
one.
"""

from __future__ import annotations

import gzip
import io
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import pandas as pd

NUMBERS = ("1000012", "1000034")
ROUND = ("100000",)
ZEROS = ("0071",)
BIDS = ("sub-01",)
NAMES = ("Withdrawn77", "anna_b")
ACCENTS = ("M\u00fcller",)
STAY = ("1000099", "0072", "sub-010", "anna-c", "Zo\u00eb-K")
PEOPLE = (*NUMBERS, *ROUND, *ZEROS, *BIDS, *NAMES, *ACCENTS, *STAY)
FOREIGN = "7654321"


@dataclass(frozen=True)
class WithdrawalList:
    """A list as it comes.

    Attributes
    ----------
    name : str
        What is special about it.
    file : str
        Name of the file.
    content : bytes
        What is in it.
    meant : tuple of str
        Subjects that its writer meant.
    """

    name: str
    file: str
    content: bytes
    meant: tuple[str, ...]


def _lines(
    ids: Iterable[str], header: str | None = "subject_id", end: str = "\n", last: str = "\n"
) -> str:
    return end.join([*([header] if header else []), *ids]) + last


def _with_dates(ids: Iterable[str], mark: str, header: str = "subject_id") -> str:
    rows = [f"{header}{mark}date", *(f"{one}{mark}2026-11-01" for one in ids)]
    return "\n".join(rows) + "\n"


def _all() -> Iterator[tuple[str, str, str | bytes, tuple[str, ...]]]:
    for ids in (NUMBERS, NAMES):
        what = f"ids such as {ids[0]}"
        # Separators, with one and with several columns.
        for mark, name in {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}.items():
            for end in ("csv", "tsv", "txt"):
                yield f"{name} in .{end}, {what}", f"w.{end}", _with_dates(ids, mark), ids
                headless = "".join(f"{one}{mark}2026-11-01\n" for one in ids)
                yield f"{name} in .{end}, no header, {what}", f"w.{end}", headless, ids
        # Ends of lines.
        for shown, end in {"LF": "\n", "CR": "\r", "CRLF": "\r\n", "NEL": "\x85", "LS": "\u2028",
                           "LF CR": "\n\r", "form feed": "\f"}.items():  # fmt: skip
            for header in ("subject_id", None):
                yield (
                    f"lines end with {shown}, header {header}, {what}",
                    "w.csv",
                    _lines(ids, header, end, end),
                    ids,
                )
        yield f"no end of the last line, {what}", "w.csv", _lines(ids, last=""), ids
        # Headers.
        for header in (
            "participant_id", "Subject_ID", "Subject ID", "SUBJECT_ID", "subjectid", "eid", "ID",
            "id", "Subject", "participant", "Patient ID", "Probandennummer", "subject_id ",
            "\ufeffsubject_id", '"subject_id"', "'subject_id'", "subject_id (study)",
            "# subject_id",
        ):  # fmt: skip
            yield f"header {header!r}, {what}", "w.csv", _lines(ids, header), ids
            if header.isascii() and "'" not in header:
                several = _with_dates(ids, ",", header)
                yield f"header {header!r} of two columns, {what}", "w.csv", several, ids
        yield (
            f"header in the second line, {what}",
            "w.csv",
            _lines(ids, "withdrawn\nsubject_id"),
            ids,
        )
        yield f"header twice, {what}", "w.csv", _lines([ids[0], "subject_id", ids[1]]), ids
        # Comments.
        for mark in (" # left", ";left", " (left)", "  // left", ", left", "\tleft", " - left"):
            yield f"{mark!r} behind the id, {what}", "w.csv", _lines(f"{o}{mark}" for o in ids), ids
            yield (
                f"{mark!r} behind one id, {what}",
                "w.txt",
                _lines([f"{ids[0]}{mark}", ids[1]], None),
                ids,
            )
        yield f"a comment before, {what}", "w.csv", "# withdrawn in 2026\n" + _lines(ids), ids
        yield f"a comment before, no header, {what}", "w.txt", _lines(ids, "# of 2026"), ids
        yield f"a comment after, {what}", "w.csv", _lines([*ids, "# that is all"]), ids
        # Blanks and empty rows.
        for shown, blank in {
            "blank": " ",
            "tab": "\t",
            "no-break": "\u00a0",
            "ideographic": "\u3000",
            "zero width": "\u200b",
            "soft hyphen": "\u00ad",
            "BOM": "\ufeff",
        }.items():
            yield f"{shown} behind the id, {what}", "w.csv", _lines(o + blank for o in ids), ids
            yield f"{shown} before the id, {what}", "w.csv", _lines(blank + o for o in ids), ids
            inside = [f"{o[:3]}{blank}{o[3:]}" for o in ids]
            yield f"{shown} within the id, {what}", "w.csv", _lines(inside), ids
        yield f"empty rows, {what}", "w.csv", _lines([ids[0], "", "", ids[1], ""]), ids
        yield f"rows of blanks, {what}", "w.csv", _lines([ids[0], "   ", ids[1], "  "]), ids
        yield f"rows of commas, {what}", "w.csv", _with_dates(ids, ",") + ",\n,\n", ids
        yield f"a row without an id, {what}", "w.csv", _with_dates([*ids, ""], ","), ids
        yield f"ids merged over rows, {what}", "w.csv", _with_dates([ids[0], "", ids[1]], ","), ids
        # Quotes.
        yield (
            f"all quoted, {what}",
            "w.csv",
            '"subject_id","date"\n' + "".join(f'"{one}","2026-11-01"\n' for one in ids),
            ids,
        )
        for shown, around in {"single": "'{}'", "formula": '="{}"', "typed": "\u201c{}\u201d",
                              "apostrophe": "'{}", "backtick": "`{}`", "triple": '"""{}"""',
                              "unclosed": '"{}', "closed only": '{}"'}.items():  # fmt: skip
            quoted = [around.format(one) for one in ids]
            yield f"quotes: {shown}, {what}", "w.csv", _lines(quoted), ids
        # Several columns.
        yield (
            f"id last, {what}",
            "w.csv",
            "date,subject_id\n" + "".join(f"x,{o}\n" for o in ids),
            ids,
        )
        yield (
            f"unnamed columns, {what}",
            "w.csv",
            "subject_id,,\n" + "".join(f"{one},,\n" for one in ids),
            ids,
        )
        yield f"a row too long, {what}", "w.csv", _lines([f"{ids[0]},x", ids[1]]), ids
        yield (
            f"decimal commas, {what}",
            "w.csv",
            "subject_id;kg\n" + "".join(f"{one};70,5\n" for one in ids),
            ids,
        )
        yield (
            f"decimal commas unquoted, {what}",
            "w.csv",
            "subject_id,kg\n" + "".join(f"{one},70,5\n" for one in ids),
            ids,
        )
        yield (
            f"decimal commas quoted, {what}",
            "w.csv",
            "subject_id,kg\n" + "".join(f'{one},"70,5"\n' for one in ids),
            ids,
        )
        yield f"ids beside each other, {what}", "w.csv", ",".join(ids) + "\n", ids
        yield (
            f"the column twice, {what}",
            "w.csv",
            "subject_id,subject_id\n" + "".join(f"{one},{one}\n" for one in ids),
            ids,
        )
        for mark in (",", ";"):
            yield f"sep={mark}, {what}", "w.csv", f"sep={mark}\n" + _with_dates(ids, mark), ids
        # Encodings.
        text = _lines(ids)
        for encoding in ("utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "cp500"):
            yield f"{encoding}, {what}", "w.csv", text.encode(encoding), ids
        # Names of files.
        for file in ("w.CSV", "w", "w.dat", "w.xlsx", "w.csv.gz", "w.lst"):
            yield f"called {file}, {what}", file, text, ids
        # Who was never here.
        yield f"one is foreign, {what}", "w.csv", _lines([*ids, FOREIGN]), ids
        yield f"one is misspelt, {what}", "w.csv", _lines([ids[0], ids[1] + "x"]), ids
        yield f"other kinds of file: ZIP, {what}", "w.csv", _zipped(text), ids
        yield f"other kinds of file: gzip, {what}", "w.csv", gzip.compress(text.encode()), ids
        yield (
            f"other kinds of file: HTML, {what}",
            "w.csv",
            "<table><tr><td>" + "</td></tr><tr><td>".join(ids) + "</td></tr></table>\n",
            ids,
        )
        yield f"other kinds of file: JSON, {what}", "w.csv", str(list(ids)).replace("'", '"'), ids
        for kind in ("string", "category", "bytes"):
            yield f"Parquet of {kind}, {what}", "w.parquet", _parquet(ids, kind), ids
    yield "Parquet of int64", "w.parquet", _parquet(NUMBERS, "int64"), NUMBERS
    yield "Parquet of float", "w.parquet", _parquet(NUMBERS, "float"), NUMBERS
    yield "all are foreign", "w.csv", _lines([FOREIGN, "7654322"]), ()
    yield "an empty file", "w.csv", b"", ()
    yield "a header and nothing else", "w.csv", "subject_id\n", ()
    yield (
        "an old Excel workbook",
        "w.csv",
        b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600),
        NUMBERS,
    )
    # What a spreadsheet makes of numbers.
    for shown, change in _NUMBERS.items():
        yield f"numbers: {shown}", "w.csv", _lines(map(change, NUMBERS)), NUMBERS
        yield f"one number: {shown}", "w.csv", _lines([change(NUMBERS[0]), NUMBERS[1]]), NUMBERS
    for text in ("1E+05", "1.00E+05", "1e5", "1,00E+05", "100000.0", "100,000", "1e+05"):
        yield f"100000 as {text}", "w.csv", _lines([f'"{text}"']), ROUND
    for text in ("71", "00071", "71.0", "071", " 0071", "0071 ", "71 # left"):
        yield f"0071 as {text!r}", "w.csv", _lines([text]), ZEROS
    for text in ("01", "sub01", "SUB-01", "sub_01", "Sub-01", "sub-1", "sub 01", "sub-01_ses-1",
                 "sub\u201301", "sub\u221201", "sub-001", "1", "sub-0 1"):  # fmt: skip
        yield f"sub-01 as {text!r}", "w.csv", _lines([text]), BIDS
        yield (
            f"sub-01 as {text!r}, and others",
            "w.txt",
            _lines([text, *NAMES], None),
            (*BIDS, *NAMES),
        )
    for text in ("anna-b", "Anna_b", "ANNA_B", "annab", "anna b", "anna.b", "anna__b", "sub-anna_b",
                 "\uff41nna_b", "\u0430nna_b", "anna_b.", "anna\u2011b"):  # fmt: skip
        yield f"anna_b as {text!r}", "w.csv", _lines([text]), NAMES[1:]
    for text in ("withdrawn77", "WITHDRAWN77", "Withdrawn 77", "Withdrawn-77",
                 "Withdrawn\uff17\uff17", "Withdrawn077"):  # fmt: skip
        yield f"Withdrawn77 as {text!r}", "w.csv", _lines([text]), NAMES[:1]
    for encoding in ("utf-8", "utf-8-sig", "latin-1", "cp1252", "mac_roman", "cp437", "utf-16"):
        yield f"M\u00fcller in {encoding}", "w.csv", _lines(ACCENTS).encode(encoding), ACCENTS
    for text in ("Mu\u0308ller", "Muller", "Mueller", "M\u00c3\u00bcller", "M?ller", "M\ufffdller",
                 "M\u00dcLLER", "m\u00fcller", "M&uuml;ller"):  # fmt: skip
        yield f"M\u00fcller as {text!r}", "w.csv", _lines([text]), ACCENTS
        yield f"M\u00fcller as {text!r}, and a number", "w.csv", _lines([text, *NUMBERS]), (
            *ACCENTS, *NUMBERS
        )  # fmt: skip


_NUMBERS: dict[str, Callable[[str], str]] = {
    "1000012.0": lambda one: f"{one}.0",
    "1000012,0": lambda one: f'"{one},0"',
    "1000012.00": lambda one: f"{one}.00",
    "1,000,012": lambda one: f'"{int(one):,}"',
    "1.000.012": lambda one: f"{int(one):,}".replace(",", "."),
    "1 000 012": lambda one: f"{int(one):,}".replace(",", " "),
    "1'000'012": lambda one: f"{int(one):,}".replace(",", "'"),
    "1E+06": lambda one: f"{int(one):.0E}",
    "1.00E+06": lambda one: f"{int(one):.2E}",
    "1.000012E+06": lambda one: f"{int(one):.6E}",
    "+1000012": lambda one: f"+{one}",
    "01000012": lambda one: f"0{one}",
    "No. 1000012": lambda one: f"No. {one}",
    "#######": lambda one: "#######",
}


def _zipped(text: str) -> bytes:
    """A ZIP archive, as a workbook is."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("xl/worksheets/sheet1.xml", f"<v>{text}</v>")
    return stream.getvalue()


def _parquet(ids: Sequence[str], kind: str) -> bytes:
    values: pd.Series = pd.Series(ids)
    if kind == "bytes":
        values = values.map(str.encode)
    elif kind != "string":
        values = values.astype(kind)
    stream = io.BytesIO()
    pd.DataFrame({"subject_id": values}).to_parquet(stream)
    return stream.getvalue()


LISTS = tuple(
    WithdrawalList(name, file, text.encode() if isinstance(text, str) else text, meant)
    for name, file, text, meant in _all()
)

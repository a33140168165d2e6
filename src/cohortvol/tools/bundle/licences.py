"""Licences of what a bundle holds: of wheels from their metadata, of models from their cards."""

from __future__ import annotations

import csv
import io
import re
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from email.message import Message
from email.parser import HeaderParser
from pathlib import Path, PurePosixPath

from cohortvol.models.card import Card
from cohortvol.tools.bundle.wheels import Wheel

COLUMNS = ("kind", "name", "version", "licence", "texts", "source")
NOT_STATED = "not stated"
LONGEST = 120
"""Characters of a licence in the table; some packages put the whole text there."""

_TEXT = re.compile(r"(?i)^(licen[cs]e|copying|notice|authors)")


def of_wheels(wheels: Sequence[Wheel]) -> Iterator[tuple[tuple[str, ...], dict[str, bytes]]]:
    """For each wheel its row of the table, and the texts it brings by their names."""
    for wheel in wheels:
        with zipfile.ZipFile(wheel.path) as archive:
            info = next(
                name for name in archive.namelist()
                if re.fullmatch(r"[^/]+\.dist-info/METADATA", name)
            )  # fmt: skip
            metadata = HeaderParser().parsestr(archive.read(info).decode("utf-8", "replace"))
            folder = info.removesuffix("METADATA")
            texts = {
                name.removeprefix(folder).removeprefix("licenses/"): archive.read(name)
                for name in archive.namelist()
                if name.startswith(folder) and _is_text(name)
            }
        row = (
            "wheel", wheel.name, wheel.version, stated(metadata), str(len(texts)), _home(metadata)
        )  # fmt: skip
        yield row, texts


def _is_text(name: str) -> bool:
    path = PurePosixPath(name)
    return (
        not name.endswith("/")
        and ".." not in path.parts
        and (
            _TEXT.match(path.name) is not None
            or (path.parts[1:2] == ("licenses",) and path.suffix != "")
        )
    )


def stated(metadata: Message) -> str:
    """What a package says of its licence: the expression, else the field, else the classifiers."""
    classified = [
        line.rsplit(" :: ", 1)[-1]
        for line in metadata.get_all("Classifier", [])
        if line.startswith("License ::")
    ]
    field = str(metadata.get("License") or "").strip()
    field = "" if field.upper() == "UNKNOWN" else field
    short = "" if "\n" in field else field
    chosen = metadata.get("License-Expression") or short or "; ".join(classified) or field
    return " ".join(str(chosen).split())[:LONGEST] or NOT_STATED


def _home(metadata: Message) -> str:
    links = [line.partition(",") for line in metadata.get_all("Project-URL", [])]
    named = {label.strip().lower(): link.strip() for label, _, link in links}
    found = metadata.get("Home-page") or next(
        (named[label] for label in ("homepage", "source", "repository") if label in named), ""
    )
    return str(found)


def of_models(cards: Iterable[Card]) -> Iterator[tuple[str, ...]]:
    """For each model its row of the table."""
    for card in cards:
        yield "model", card.id, "", card.licence, "0", card.source


def table(rows: Iterable[Sequence[str]]) -> str:
    """Rows of `COLUMNS` as tab-separated text."""
    stream = io.StringIO()
    writer = csv.writer(stream, delimiter="\t", lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(rows)
    return stream.getvalue()


def place_of(wheel_name: str, text: str) -> Path:
    """Where in a bundle a licence text lies."""
    return Path("licences") / wheel_name / text

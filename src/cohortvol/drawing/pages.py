"""Pages that hold all they show: figures and tables as texts, put into one HTML file."""

from __future__ import annotations

import base64
import hashlib
import io
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape
from markupsafe import Markup
from PIL import Image

from cohortvol.errors import OutputError
from cohortvol.shipped import path_of

SCREEN_PX, SCREEN_COLOURS = 1280, 128
"""Width and colours of a figure on the page, which shows it at 1,032 px at most."""


@dataclass(frozen=True)
class PageFigure:
    """A saved figure as the page shows it."""

    name: str
    section: str
    title: str
    caption: str
    alt: str
    png: bytes

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels, so that the page does not move while it loads."""
        width, height = struct.unpack(">II", self.png[16:24])
        return width, height

    @property
    def source(self) -> str:
        """The image as a data URI."""
        return png_uri(self.png)


@dataclass(frozen=True)
class Table:
    """A table of the page: everything is text already."""

    title: str
    header: list[str]
    rows: list[list[str]]
    note: str = ""
    csv: str = ""

    def groups(self) -> list[tuple[str, list[list[str]]]]:
        """Rows that follow each other under the same first cell, which then stands once."""
        grouped = groupby(self.rows, key=lambda row: row[0])
        return [(name, [row[1:] for row in rows]) for name, rows in grouped]


def png_uri(png: bytes) -> str:
    """A PNG as a data URI."""
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")


def for_screen(png: bytes) -> bytes:
    """A figure for the page: as wide as a screen shows it, in a palette of a few colours.

    The files beside the page keep the full resolution.
    """
    with Image.open(io.BytesIO(png)) as image:
        height = round(image.height * SCREEN_PX / image.width)
        small = image.convert("RGB").resize((SCREEN_PX, height), Image.Resampling.LANCZOS)
    palette = small.quantize(
        SCREEN_COLOURS, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE
    )
    buffer = io.BytesIO()
    palette.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def templates_folder() -> Path:
    """Page template and captions."""
    return path_of("reports")


def environment(templates: Path) -> Environment:
    """Jinja that escapes HTML, and fails on a name that is not there.

    Raises
    ------
    OutputError
        If the folder has no page template.
    """
    if not (templates / "page.html").is_file():
        raise OutputError(
            f"{templates}: no page.html here\n"
            "  Give the folder of page template and captions with --templates."
        )
    return Environment(
        loader=FileSystemLoader(templates),
        autoescape=select_autoescape(enabled_extensions=("html",), default=False),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def caption(jinja: Environment, name: str, context: Mapping[str, Any]) -> str:
    """Text of ``captions/<name>.txt``, on one line."""
    return " ".join(jinja.get_template(f"captions/{name}.txt").render(**context).split())


def render(
    jinja: Environment, templates: Path, context: Mapping[str, Any], template: str = "page.html"
) -> str:
    """The page. It may run its own script alone, and load its own style and data images alone."""
    parts: dict[str, str] = {}
    for kind in ("css", "js"):
        text = (templates / f"page.{kind}").read_text(encoding="utf-8").strip()
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")
        parts[kind] = Markup(text)  # noqa: S704 -- a file of this project, not of a user
        parts[f"{kind}_sha256"] = digest
    return jinja.get_template(template).render(**parts, **context)

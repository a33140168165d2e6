"""What commands print: a result as text or as JSON, and how far long work has come."""

from __future__ import annotations

import json
import shutil
import textwrap
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    import pandas as pd
    from rich.table import Table

SECONDS_BETWEEN_LINES = 60


def show(value: Mapping[str, Any], text: str | None) -> None:
    """Print the text, or the value as JSON where there is none."""
    typer.echo(json.dumps(value, indent=1) if text is None else text.rstrip("\n"))


def width() -> int:
    """Columns of the terminal; 100 where there is none."""
    return shutil.get_terminal_size((100, 24)).columns


def line_a_minute(what: str) -> Callable[[int, int], None]:
    """A function that is told how many are done, of how many, and says so once a minute."""
    said = time.monotonic()

    def told(done: int, total: int) -> None:
        nonlocal said
        if time.monotonic() - said >= SECONDS_BETWEEN_LINES:
            said = time.monotonic()
            typer.echo(f"{done:,} of {total:,} {what}", err=True)

    return told


def as_table(frame: pd.DataFrame, title: str) -> Table:
    """A data frame for the terminal: numbers to two places, a dash for what is unknown."""
    import pandas as pd  # not for commands that print no table
    from rich.table import Table

    def shown(value: Any) -> str:
        if pd.isna(value):
            return "-"
        return f"{value:.2f}" if isinstance(value, float) else str(value)

    table = Table(title=title, title_justify="left")
    for column in frame.columns:
        numeric = pd.api.types.is_numeric_dtype(frame[column])
        table.add_column(str(column), justify="right" if numeric else "left")
    for row in frame.itertuples(index=False):
        table.add_row(*map(shown, row))
    return table


def echo_model(card: Any) -> None:
    """Print where a model is, and its structures."""
    from cohortvol.models.card import AS_STORED
    from cohortvol.models.told import told_boxes, told_together

    typer.echo(f"{card.folder}: {len(card.labels)} structures: {', '.join(card.labels.values())}")
    if any(part.mirror_axes for part in card.parts):
        _echo_wrapped(
            "It was trained for mirroring: profile nnunet averages the mirror images of every "
            "patch, as nnUNetv2_predict does; nnunet-nomirror takes an eighth of the time."
        )
    for line in (*told_together(card.parts), *told_boxes(card.parts)):
        _echo_wrapped(line)
    if card.channels:
        columns = ["image", *(f"image_{n}" for n in range(2, len(card.channels) + 1))]
        named = (f"{column} is {name}" for column, name in zip(columns, card.channels, strict=True))
        _echo_wrapped(f"It sees several images of a scan; in the manifest {', '.join(named)}.")
    if card.orientation != AS_STORED or card.elsewhere:
        return
    told = "It takes scans as they are stored, as it was trained. "
    if card.stored_axes is None:
        told += (
            "On which axes its training images are stored is not known: left and right may change "
            "places in a scan stored otherwise. Say it with --stored-axes, and such scans are "
            "flagged (QC_AXES)."
        )
    else:
        told += (
            f"Its training images are on the axes {card.stored_axes}; scans on others are flagged "
            f"(QC_AXES). With --orientation {card.stored_axes} all are turned to these."
        )
    _echo_wrapped(told)


def _echo_wrapped(text: str) -> None:
    wrapped = textwrap.TextWrapper(
        width(), initial_indent="  ", subsequent_indent="  ", break_on_hyphens=False
    )  # options stay whole
    typer.echo(wrapped.fill(text))

"""How every figure looks, how numbers and names are written, and the one way to save a figure."""

from __future__ import annotations

import io
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib import font_manager
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.textpath import text_to_path
from matplotlib.ticker import MaxNLocator

from cohortvol.store.files import commit_bytes, commit_text
from cohortvol.store.tables import csv_text

DOUBLE_COLUMN_MM = 183.0
MAX_HEIGHT_MM = 247.0
MM_PER_INCH = 25.4
POINTS_PER_MM = 72 / MM_PER_INCH
DPI = 300

TITLE_PT, LABEL_PT, SMALL_PT, LEAST_PT = 7.0, 6.0, 5.5, 5.0

SEX_COLOUR = {"F": "#D55E00", "M": "#0072B2", "all": "#333333"}
"""Told apart under every common colour vision deficiency (CIE76 difference >= 91)."""
INK, QUIET = "#1a1a1a", "#5f6368"
SEX_DARK = {"F": "#7a3500", "M": "#003f63", "all": INK}
SEX_LINE: dict[str, Any] = {"F": "-", "M": (0, (4, 1.6)), "all": "-"}
SEX_MARKER = {"F": "o", "M": "^", "all": "o"}
SEX_WORD = {"F": "Women", "M": "Men", "all": "All"}
MANY = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#333333")
"""Colours of things that are neither sex (Okabe and Ito), in their order."""
MOST_POINTS = 500
"""With more scans than this in a panel, counts in hexagons are drawn and not single points."""

_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")

FORMATS = ("pdf", "svg", "png")
_METADATA: dict[str, dict[str, Any]] = {
    "pdf": {"CreationDate": None, "ModDate": None},
    "svg": {"Date": None},
    "png": {"Software": None},
}


def _font_families() -> list[str]:
    """The journals' sans where it is installed; DejaVu Sans, which matplotlib brings, behind."""
    installed = set(font_manager.get_font_names())
    wanted = ("Arial", "Helvetica", "Liberation Sans", "DejaVu Sans")
    return [name for name in wanted if name in installed]


@contextmanager
def journal_style() -> Iterator[None]:
    """Matplotlib settings under which all figures are drawn and saved."""
    settings: Any = {
        "font.family": _font_families(),
        "font.size": LABEL_PT,
        "axes.titlesize": TITLE_PT,
        "axes.labelsize": LABEL_PT,
        "xtick.labelsize": LABEL_PT,
        "ytick.labelsize": LABEL_PT,
        "legend.fontsize": LABEL_PT,
        "text.color": INK,
        "axes.labelcolor": INK,
        "axes.edgecolor": INK,
        "xtick.color": INK,
        "ytick.color": INK,
        "axes.linewidth": 0.5,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "xtick.major.width": 0.5,
        "ytick.major.width": 0.5,
        "xtick.major.size": 2.0,
        "ytick.major.size": 2.0,
        "xtick.major.pad": 2.0,
        "ytick.major.pad": 2.0,
        "lines.linewidth": 1.0,
        "hatch.linewidth": 0.5,
        "text.parse_math": False,  # a $ in a name is a $
        "axes.formatter.use_mathtext": False,
        "axes.unicode_minus": True,
        "pdf.fonttype": 42,
        "svg.fonttype": "path",
        "svg.hashsalt": "cohortvol",
        "figure.dpi": DPI,
        "savefig.dpi": DPI,
    }
    quiet = logging.getLogger("matplotlib.font_manager")
    level = quiet.level
    quiet.setLevel(logging.ERROR)
    try:
        with matplotlib.rc_context(settings):
            yield
    finally:
        quiet.setLevel(level)


def new_figure(width_mm: float, height_mm: float) -> Figure:
    """An empty figure of this size; no pyplot state, so nothing leaks between figures.

    Raises
    ------
    ValueError
        If it is higher than a journal page.
    """
    if height_mm > MAX_HEIGHT_MM + 1e-6:
        raise ValueError(f"figure of {height_mm:.0f} mm; a page holds {MAX_HEIGHT_MM:.0f} mm")
    figure = Figure(figsize=(width_mm / MM_PER_INCH, height_mm / MM_PER_INCH))
    FigureCanvasAgg(figure)
    return figure


def save_figure(figure: Figure, stem: Path, data: pd.DataFrame, caption: str) -> list[Path]:
    """Write a figure as PDF, SVG and PNG (300 dpi), its data as CSV, its caption as text.

    Equal figures give equal bytes: no dates, fixed SVG ids.

    Parameters
    ----------
    stem : Path
        Folder and name without suffix, ``figures/flow``.
    data : pandas.DataFrame
        What is drawn, so that the figure can be redrawn elsewhere.
    caption : str
        Plain text.

    Returns
    -------
    list of Path
        The files written.
    """
    written = []
    for suffix in FORMATS:
        buffer = io.BytesIO()
        figure.savefig(buffer, format=suffix, dpi=DPI, metadata=_METADATA[suffix])
        written.append(stem.with_name(f"{stem.name}.{suffix}"))
        commit_bytes(written[-1], buffer.getvalue())
    written.append(stem.with_name(f"{stem.name}.csv"))
    commit_text(written[-1], csv_text(data, float_format="%.6g"))
    written.append(stem.with_name(f"{stem.name}.txt"))
    commit_text(written[-1], caption.strip() + "\n")
    return written


def number_ticks(axis: Axis, most: int, **locator: Any) -> None:
    """At most this many ticks, all written with the same number of digits."""
    axis.set_major_locator(MaxNLocator(most, **{"steps": [1, 2, 5, 10], **locator}))

    def written(value: float, _place: float) -> str:
        places = np.asarray(axis.get_majorticklocs(), dtype=float)
        digits = next((d for d in range(4) if np.allclose(places, places.round(d), atol=1e-9)), 4)
        return number(value, digits)

    axis.set_major_formatter(written)


def text_width_mm(text: str, size_pt: float) -> float:
    """Width of a line of text in the figure font, mm."""
    font = font_manager.FontProperties(family=_font_families(), size=size_pt)
    width_pt, _, _ = text_to_path.get_text_width_height_descent(text, font, ismath=False)
    return float(width_pt) / POINTS_PER_MM


def wrap(text: str, width_mm: float, size_pt: float) -> list[str]:
    """Break text into lines no wider than `width_mm` in the figure font."""
    lines, line = [], ""
    for word in text.split():
        longer = f"{line} {word}".strip()
        if line and text_width_mm(longer, size_pt) > width_mm:
            lines.append(line)
            longer = word
        line = longer
    return [*lines, line] if line else lines or [""]


def display_name(structure: str) -> str:
    """``kidney_left`` as a reader's words: ``Left kidney``."""
    words = structure.split("_")
    if words[-1] in ("left", "right"):
        words = [words[-1], *words[:-1]]
    name = " ".join(words)
    return name[:1].upper() + name[1:]


def listed(words: Sequence[str]) -> str:
    """``age, sex and height``."""
    return " and ".join(part for part in (", ".join(words[:-1]), *words[-1:]) if part)


def number(value: float | None, digits: int = 1) -> str:
    """A number with a true minus sign and thin thousands commas; a dash where unknown."""
    if value is None or pd.isna(value):
        return "–"
    rounded = f"{value:,.{digits}f}"
    if float(rounded.replace(",", "")) == 0:
        rounded = rounded.lstrip("-")
    return rounded.replace("-", "−")


def count(value: float | None) -> str:
    """A number of scans; ``<5`` where it is too small to be given."""
    return "<5" if value is None or pd.isna(value) else f"{int(value):,}"


def significant(value: float | None, figures: int = 3) -> str:
    """A volume or slope in mL with about three significant figures."""
    if value is None or pd.isna(value):
        return "–"
    if value == 0:
        return "0"
    return number(value, max(0, figures - 1 - math.floor(math.log10(abs(value)))))


def interval(value: float, low: float, high: float, digits: int = 1) -> str:
    """``−4.1 (−5.0 to −3.2)``."""
    return f"{number(value, digits)} ({number(low, digits)} to {number(high, digits)})"


def interval_of(row: Mapping[str, Any], name: str, digits: int = 1) -> str:
    """`interval` of an estimate whose limits stand beside it, as ``<name>_ci_low`` and so on."""
    return interval(row[name], row[f"{name}_ci_low"], row[f"{name}_ci_high"], digits)


def probability(value: float | None, log10: float | None = None) -> str:
    """p or q: a decimal down to 0.001, a power of ten below; 0 is an underflow, never a zero."""
    if value is None or pd.isna(value):
        return "–"
    if value >= 0.001:
        return f"{value:.2f}" if value >= 0.1 else f"{value:.3f}"
    if value == 0 or (log10 is not None and log10 < -300):
        return "< 10⁻³⁰⁰"
    digits, exponent = f"{value:.0e}".split("e")
    return f"{digits} × 10{str(int(exponent)).translate(_SUPERSCRIPT)}"

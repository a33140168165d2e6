"""The tables of one analysis as rows of texts, for `page_truth`, and what is read off them."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from html import unescape
from pathlib import Path

Row = dict[str, str]
Said = tuple[str, ...]
CONTROLS = {"stomach", "gallbladder", "urinary_bladder"}
FACTORS = ("site", "scanner", "sequence", "contrast")
PCT, LOW, HIGH = (f"slope_pct_per_decade{end}" for end in ("", "_ci_low", "_ci_high"))


@dataclass
class Cohort:
    """The tables of one analysis, and those that it read, as rows of texts; the model's card."""

    tables: dict[str, list[Row]]
    record: dict
    scans: list[Row] = field(default_factory=list)
    volumes: list[Row] = field(default_factory=list)
    figures: set[str] = field(default_factory=set)
    card: dict = field(default_factory=dict)

    @classmethod
    def read(
        cls, analysis: Path, scans: Path, volumes: Path, figures: Path, card: Path | None = None
    ) -> Cohort:
        """From an analyse folder, the tables given to it, the figures of the report, a card."""
        return cls(
            {path.stem: _rows(path) for path in analysis.glob("*.csv")},
            json.loads((analysis / "analyse.json").read_text(encoding="utf-8")),
            _rows(scans),
            _rows(volumes),
            {re.sub(r"_\d+$", "", path.stem) for path in figures.glob("*.csv")},
            json.loads(card.read_text(encoding="utf-8")) if card else {},
        )

    def of(self, name: str, **where: str) -> list[Row]:
        """Rows of a table with these values."""
        rows = self.tables.get(name, [])
        return [row for row in rows if all(row.get(key) == word for key, word in where.items())]

    def setting(self, name: str) -> float:
        """A setting of the analysis."""
        return self.record["settings"][name]

    @cached_property
    def slopes(self) -> list[Row]:
        """Those that were estimated."""
        return [row for row in self.of("slopes") if row[PCT]]

    @property
    def trends(self) -> bool:
        """Whether any was."""
        return bool(self.slopes)

    @cached_property
    def model(self) -> str:
        """Of the first screen."""
        return max((row["model"] for row in self.slopes if row["sex"] == "all"), default="")

    @cached_property
    def first(self) -> list[Row]:
        """The slopes of the first screen, without the negative controls."""
        return [row for row in self.slopes if row["sex"] == "all" and row["model"] == self.model]

    @property
    def has_answer(self) -> bool:
        """Whether there is a first screen: not where all is a description only."""
        return bool(self.first) and not self.all_few

    @property
    def few(self) -> list[bool]:
        """Of each slope, whether it is a description only."""
        return ["descriptive only" in row["note"] for row in self.slopes]

    @property
    def all_few(self) -> bool:
        """Whether all are."""
        return self.trends and all(self.few)

    @property
    def done(self) -> list[Row]:
        """Scans that were measured."""
        return [row for row in self.scans if row.get("state", "done") == "done"]

    def kind(self, row: Row) -> str:
        """Of a slope of the first screen."""
        level = self.setting("fdr")
        bends = [float(t["q_value"]) for t in self.of("nonlinearity", structure=row["structure"])
                 if t["q_value"]]  # fmt: skip
        if float(row["q_value"]) < level:
            return "smaller" if float(row[PCT]) < 0 else "larger"
        if not bends:
            return "untested"
        return "bends" if min(bends) < level else "unclear"

    def adjusted(self, row: Row) -> set[str]:
        """Terms of a slope beyond age and sex."""
        return set(filter(None, row.get("adjusted_for", "").split(", ")))

    @cached_property
    def m2(self) -> list[Row]:
        """Slopes of M2."""
        return [row for row in self.slopes if row["model"] == "M2"]

    @property
    def terms(self) -> set[str]:
        """Of any slope of M2."""
        return set().union(*(self.adjusted(row) for row in self.m2))

    @property
    def sexes(self) -> list[str]:
        """Those of which a volume is used in any slope, or else that are known: women, men."""
        known = [sex for sex in ("F", "M") if self.record["counts"][sex]]
        used = {row["sex"] for row in self.of("slopes") if int(row["n_used"])}
        return [
            {"F": "women", "M": "men"}[sex] for sex in known if sex in used or not used & set(known)
        ]

    def any(self, table: str, column: str, *, but: str = "") -> bool:
        """Whether a table has a value in a column, but for one analysis."""
        return any(row[column] and row.get("analysis") != but for row in self.of(table))


def _rows(path: Path) -> list[Row]:
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def words(html: str) -> str:
    """A page without its marks: one line of text, with a space after it."""
    html = re.sub(r"<(style|script).*?</\1>|src=\"data:[^\"]*\"", " ", html, flags=re.DOTALL)
    return " ".join(unescape(re.sub(r"<[^>]*>", "", html)).replace("\u00a0", " ").split()) + " "


def number(text: str) -> float:
    """As it is printed."""
    return float(text.replace("−", "-").replace(",", ""))


def name_of(structure: str) -> str:
    """As the page prints it."""
    for side in ("left", "right"):
        if structure.endswith(f"_{side}"):
            structure = f"{side}_{structure.removesuffix(f'_{side}')}"
    text = structure.replace("_", " ")
    return text[:1].upper() + text[1:]


def interval(row: Row) -> str:
    value, low, high = (_printed(float(row[name])) for name in (PCT, LOW, HIGH))
    return f"{value} ({low} to {high})"


def _printed(value: float) -> str:
    text = f"{value:,.1f}"
    return text.removeprefix("-") if float(text.replace(",", "")) == 0 else text.replace("-", "−")


def sorted_names(names: Iterable[str]) -> str:
    return ", ".join(sorted(name.lower() for name in names))

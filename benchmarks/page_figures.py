"""Whether titles, captions, keys and alt texts of figures are true of what the figures show.

Worked out anew from the CSV beside each figure. ``tests/test_captions.py`` puts what one page says
under another.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from page_cohort import Row, name_of, words

WORDS = {"F": "women", "M": "men"}


@dataclass(frozen=True)
class Shown:
    """One page of a figure: what stands in, above and below it, and the rows beside it."""

    name: str
    """Of the figure, without the number of its page."""
    rows: list[Row]
    caption: str
    """With its title."""
    alt: str
    key: list[str] = field(default_factory=list)
    sexes: int = 2
    """How many sexes the analysis tells apart."""

    def values(self, column: str, **where: str) -> set[str]:
        """What a column has in rows with these values, but nothing."""
        rows = [r for r in self.rows if all(r.get(key) == word for key, word in where.items())]
        return {row[column] for row in rows if row.get(column)}

    def n_of(self, kind: str) -> int:
        """Scans drawn as marks, or in hexagons."""
        rows = [row for row in self.rows if row.get("kind") == kind]
        return sum(int(float(row.get("n") or 1)) if kind == "hexagon" else 1 for row in rows)

    @property
    def curves(self) -> dict[tuple[str, str], set[str]]:
        """Models of the curves by structure and sex."""
        found: dict[tuple[str, str], set[str]] = {}
        for row in self.rows:
            if row.get("kind") == "fit":
                found.setdefault((row["structure"], row["sex"]), set()).add(row["model"])
        return found

    @property
    def slopes(self) -> set[tuple[str, str]]:
        """Structures and sexes that have one, without what others published."""
        rows = [row for row in self.rows if row.get("model") != "published"]
        return {(row["structure"], row["sex"]) for row in rows}


def shown(html: str, folder: Path, keys: Mapping[str, list[str]], sexes: int) -> list[Shown]:
    """Figures of a page, with the CSV files in a folder and the labels of their keys."""
    found = []
    for stem, alt, caption in re.findall(
        r'<figure id="(\w+)">.*?<img [^>]*?alt="([^"]*)".*?<figcaption>(.*?)<span', html, re.DOTALL
    ):
        with (folder / f"{stem}.csv").open(encoding="utf-8", newline="") as stream:
            rows = list(csv.DictReader(stream))
        name = re.sub(r"_\d+$", "", stem)
        found.append(
            Shown(name, rows, words(caption).strip(), words(alt).strip(), keys.get(stem, []), sexes)
        )
    return found


@dataclass(frozen=True)
class Claim:
    """What is said of a page of a figure of these names, and what would have to be."""

    name: str
    figures: tuple[str, ...]
    said: Callable[[Shown], object]
    true: Callable[[Shown], object]


def _says(pattern: str) -> Callable[[Shown], bool]:
    return lambda f: bool(re.search(pattern, f.caption))


def _number(pattern: str) -> Callable[[Shown], list[str]]:
    return lambda f: re.findall(pattern, f.caption)


def _sexes_of_key(f: Shown) -> set[str]:
    text = " ".join(f.key).lower()
    return {sex for sex, word in WORDS.items() if re.search(rf"\b{word}\b", text)}


def _sexes(f: Shown) -> set[str]:
    column = "level" if f.name == "missing" else "sex"
    rows = [row for row in f.rows if row.get("kind") != "published"]
    return {row[column] for row in rows} & set(WORDS)


def _range(f: Shown) -> list[str]:
    """Least and most of the counts of a page."""
    column = next((name for name in ("n_used", "n", "n_scans") if name in f.rows[0]), "")
    counts = [int(float(row[column] or 0)) for row in f.rows if column]
    ends = sorted({f"{end(n for n in counts if n):,}" for end in (min, max)} if any(counts) else ())
    return [" to ".join(sorted(ends, key=lambda text: int(text.replace(",", ""))))] if ends else []


def _shows(beginning: str) -> Callable[[Shown], bool]:
    """Whether a heat map has a statistic."""
    return lambda f: any(text.startswith(beginning) for text in f.values("statistic"))


def _curves_of_key(f: Shown) -> list[str]:
    found = []
    for sex, word in (("F", "Women"), ("M", "Men"), ("all", "All")):
        bent = ["spline" in models for (_, whose), models in f.curves.items() if whose == sex]
        if bent:
            what = "spline" if all(bent) else "spline or line" if any(bent) else "fit"
            found.append(f"{word}: {what}, 95% CI")
    return found + ["straight"] * any(len(models) > 1 for models in f.curves.values())


def _names(f: Shown) -> list[str]:
    return sorted(map(name_of, f.values("pair" if f.name == "sides" else "structure")))


def _terms_of_m1(f: Shown) -> set[str]:
    return {"age × sex" if f.sexes == 2 else "age"} if re.search("M1[, (]+ln", f.caption) else set()


SCANS = ("trends", "sides")
"""Figures in which scans are drawn as marks, or in hexagons."""
OF_STRUCTURES = (
    *("volumes", "trends", "centiles", "worms", "forest", "quartiles", "heatmap", "sides"),
    *("missing", "sensitivity", "repeats"),
)
THIRDS = {
    "age_years": "by thirds of age",
    "sex": "by sex",
    "height_cm": "by thirds of height",
}
PER = r"per (?:sex and )?structure"
CLAIMS = (
    Claim(
        "sexes of the key",
        ("trends", "centiles", "worms", "quartiles", "sensitivity", "sides", "missing"),
        _sexes_of_key,
        _sexes,
    ),
    Claim(
        "curves of the key",
        ("trends",),
        lambda f: [text for text in f.key if "CI" in text or text == "straight"],
        _curves_of_key,
    ),
    Claim(
        "hexagons of the key",
        SCANS,
        lambda f: sum("mostly" in text for text in f.key),
        lambda f: 2 * (len(f.values("sex", kind="hexagon")) == 2),
    ),
    Claim(
        "bends of the key",
        ("heatmap",),
        lambda f: "the trend bends" in f.key,
        _shows("Bend"),
    ),
    Claim(
        "shapes",
        (*SCANS, "volumes"),
        _says(r"\(circles women, triangles men\)"),
        lambda f: len(f.values("sex", kind="scan")) == 2,
    ),
    Claim("marks", SCANS, _says("[Ee]ach mark is one scan"), lambda f: f.n_of("scan") > 0),
    Claim("hexagons", SCANS, _says("Hexagons hold scans"), lambda f: f.n_of("hexagon") > 0),
    Claim(
        "volumes drawn",
        ("trends",),
        _number(r"; ([\d,]+) (?:of [\d,]+ volumes are drawn|volumes? in all)"),
        lambda f: [f"{f.n_of('scan') + f.n_of('hexagon'):,}"],
    ),
    Claim(
        "splines",
        ("trends",),
        _says("Lines are natural cubic splines"),
        lambda f: any("spline" in models for models in f.curves.values()),
    ),
    Claim(
        "straight where no spline",
        ("trends",),
        _says("and straight where no spline was fitted"),
        lambda f: len({"spline" in models for models in f.curves.values()}) == 2,
    ),
    Claim(
        "dotted lines",
        ("trends",),
        _says("dotted lines are"),
        lambda f: any(len(models) > 1 for models in f.curves.values()),
    ),
    Claim(
        "terms of M1",
        ("trends", "forest", "heatmap"),
        lambda f: set(re.findall(r"M1[, (]+ln\(volume\) on (age × sex|age)", f.caption)),
        _terms_of_m1,
    ),
    Claim(
        "how many",
        ("forest", "quartiles", "centiles", "missing", "sensitivity"),
        _number(
            rf"([\d,]+(?: to [\d,]+)?)(?: scans? {PER}| scans?; implausibly| {PER}\. | measured "
            "scans? per group| scans? per estimate)"
        ),
        _range,
    ),
    Claim(
        "per sex",
        ("forest", "centiles"),
        _says("per sex and structure"),
        lambda f: f.sexes == 2 and bool(_range(f)),
    ),
    Claim(
        "men against women",
        ("heatmap",),
        _says(r"\. .*men against women:"),
        _shows("Men against"),
    ),
    Claim("bends", ("heatmap",), _says("bend: q of"), _shows("Bend")),
    Claim("correlations", ("heatmap",), _says("Replication: Spearman"), _shows("Spearman")),
    Claim(
        "groups of missing",
        ("missing",),
        lambda f: {name for name, text in THIRDS.items() if text in f.caption},
        lambda f: f.values("variable"),
    ),
    Claim(
        "dashes",
        ("forest",),
        _says("A dash: no slope"),
        lambda f: len(f.slopes) < f.sexes * len({name for name, _ in f.slopes}),
    ),
    Claim("dagger", ("forest",), _says("A dagger marks"), lambda f: "True" in f.values("average")),
    Claim(
        "title by sex",
        ("trends", "centiles", "worms", "quartiles"),
        _says(r"^[^.]*\b(structure and|pooled and by) sex\."),
        lambda f: f.sexes == 2,
    ),
    Claim(
        "volumes by sex",
        ("volumes",),
        _says("^Volumes by structure and sex"),
        lambda f: len(_sexes(f)) == 2,
    ),
    Claim(
        "names of the alt text",
        OF_STRUCTURES,
        lambda f: sorted(f.alt.partition(": ")[2].removesuffix(".").split(", ")),
        _names,
    ),
)


def untrue(figures: Iterable[Shown], claims: Iterable[Claim] = CLAIMS) -> list[str]:
    """Every claim of which a figure says something else than its rows."""
    return [
        f"{claim.name} ({f.name}): said {claim.said(f)}, true {claim.true(f)}"
        for f in figures
        for claim in claims
        if f.name in claim.figures and claim.said(f) != claim.true(f)
    ]

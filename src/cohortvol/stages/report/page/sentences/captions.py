"""What titles, captions and texts in place of a figure say of the page of it that they stand under.

All is read off the data of that page, the CSV beside it: of which sexes it is, what is drawn of
scans, which curves, which columns.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import pandas as pd

from cohortvol.drawing import style

SPLINE = "spline"
_SHAPES = {"F": "circles women", "M": "triangles men"}
_COLUMNS = {
    "Spearman": "correlations",
    "Slope": "slopes",
    "Bend": "bends",
    "Men against": "men against women",
}
"""Beginnings of statistics of the heat map, and what they are called."""
_BY = {"age_years": "age", "sex": "sex", "height_cm": "height"}
_THIRDS = {"age_years": "thirds of age", "sex": "sex", "height_cm": "thirds of height"}
"""Variables of missingness in words: as a title has them, and as a caption."""


def title(name: str, data: pd.DataFrame, sexes: Sequence[str]) -> str:
    """What stands above the caption of a figure of this name.

    Parameters
    ----------
    name : str
        Of the figure, as its files.
    data : pandas.DataFrame
        What is drawn.
    sexes : sequence of str
        F and M, one of them, or ``all`` where no sex is known.
    """
    and_sex = " and sex" if len(sexes) > 1 else ""
    titles = {
        "flow": "Flow of scans from the manifest to the trends",
        "volumes": f"Volumes by structure{and_sex}",
        "trends": f"Volume against age at the scan, by structure{and_sex}",
        "centiles": f"Centiles of volume against age, by structure{and_sex}",
        "worms": f"Whether the centiles fit the people: worm plots by structure{and_sex}",
        "forest": "Change of volume per decade of age, %",
        "quartiles": "Volume by quartile of age" + (", pooled and by sex" if and_sex else ""),
        "heatmap": f"Structures by organ system: {style.listed(columns(data))}",
        "sides": "Left against right",
        "missing": f"Scans without a usable volume, by {style.listed(_known(data, _BY))}",
        "sensitivity": "The slope of each structure under other ways of analysing it",
        "repeats": "Slopes between people and within people scanned again",
        "planted": "Planted and recovered slopes, % per decade of age",
    }
    return titles[name]


def alt(name: str, data: pd.DataFrame, sexes: Sequence[str], structures: Iterable[str]) -> str:
    """What a figure is, for those who do not see it."""
    by_sex = " by sex" if len(sexes) > 1 else ""
    kinds = {
        "volumes": "Volumes as points and boxes, one panel each",
        "trends": "Volume against age, one panel each",
        "centiles": "Centile curves of volume against age, one panel"
        f"{' per sex' if by_sex else ' each'}",
        "worms": "Worm plots of scores in the centiles, five panels per structure",
        "forest": f"Forest plot, percent per decade{by_sex}",
        "quartiles": "Box plots of volume in quartiles of age",
        "heatmap": f"Heat map of {style.listed(columns(data))}",
        "sides": "Asymmetry against age, and difference against mean of both sides",
        "missing": f"Share of scans without a usable volume, by {style.listed(_known(data, _BY))}",
        "sensitivity": "Slopes with intervals under every way of analysis",
        "repeats": "Slopes between and within people with intervals",
        "planted": f"Planted slopes beside estimates, percent per decade{by_sex}",
    }
    return f"{kinds[name]}: {', '.join(style.display_name(one) for one in structures)}."


def scans(data: pd.DataFrame) -> str:
    """How scans are drawn; ``kind`` of the data is scan, hexagon, or something else."""
    marks, hexagons = data[data["kind"] == "scan"], data[data["kind"] == "hexagon"]
    each = f"each mark is one scan{shapes(set(marks['sex']))}"
    if hexagons.empty:
        return f"E{each[1:]}" if len(marks) else "No scan is drawn"
    mix = "coloured by the mix of the sexes and " if hexagons["sex"].nunique() > 1 else ""
    said = f"Hexagons hold scans, {mix}deeper with more"
    return f"{said}; in panels of {style.MOST_POINTS} scans or fewer {each}" if len(marks) else said


def shapes(sexes: Iterable[str]) -> str:
    """Which marks are whose; nothing where they are of one sex, or of none that is known."""
    words = [_SHAPES[sex] for sex in _SHAPES if sex in sexes]
    return f" ({', '.join(words)})" if len(words) > 1 else ""


def n_drawn(data: pd.DataFrame) -> int:
    """Scans that are drawn, a structure at a time."""
    n = data.loc[data["kind"] == "hexagon", "n"].sum() if "n" in data else 0
    return int(n) + int((data["kind"] == "scan").sum())


def lines(data: pd.DataFrame, on_age: str) -> str:
    """What the curves of a page of trends are; nothing where there are none."""
    kinds = curve_kinds(data)
    straight = f"model M1, ln(volume) on {on_age}"
    if not kinds:
        return ""
    if not any(SPLINE in models for models in kinds.values()):
        return f"Lines are the fit of {straight}, with its 95 % confidence band"
    own = "" if on_age == "age" else " by sex"
    said = f"Lines are natural cubic splines of ln(volume) on age{own}"
    if any(SPLINE not in models for models in kinds.values()):
        said += ", and straight where no spline was fitted,"
    said += " with their 95 % confidence band"
    if any(len(models) > 1 for models in kinds.values()):
        said += f"; dotted lines are the straight fit of {straight}"
    return said


def curve_kinds(data: pd.DataFrame) -> dict[tuple[str, str], set[str]]:
    """(structure, sex) to models of their curves."""
    found: dict[tuple[str, str], set[str]] = {}
    fits = data[data["kind"] == "fit"] if "kind" in data else data
    for structure, sex, model in (
        fits[["structure", "sex", "model"]].drop_duplicates().itertuples(index=False)
    ):
        found.setdefault((structure, sex), set()).add(model)
    return found


def columns(data: pd.DataFrame) -> list[str]:
    """What the heat map shows."""
    found = [str(name) for name in data["statistic"].unique()] if "statistic" in data else []
    return [
        words
        for beginning, words in _COLUMNS.items()
        if any(name.startswith(beginning) for name in found)
    ]


def groups_of_missing(data: pd.DataFrame) -> str:
    """By what shares of missing volumes are told apart."""
    return ", ".join(f"by {words}" for words in _known(data, _THIRDS))


def lacks_slopes(data: pd.DataFrame, structures: list[str], sexes: list[str]) -> bool:
    """Whether a structure of a forest plot has no slope in a sex."""
    if "model" in data:
        data = data[data["model"] != "published"]
    return len(data[["structure", "sex"]].drop_duplicates()) < len(structures) * len(sexes)


def _known(data: pd.DataFrame, words: dict[str, str]) -> list[str]:
    known = set(data["variable"]) if "variable" in data else set()
    return [word for variable, word in words.items() if variable in known]

"""What the page says of the whole cohort: too small, not adjusted, nothing to draw."""

from __future__ import annotations

import pandas as pd

from cohortvol.drawing import style
from cohortvol.stages.report.tables.inputs import SLOPE, Analysis

DESCRIPTIVE = "descriptive only"
CROSS_SECTIONAL = "Cross-sectional: people of different ages, not people growing older."
_KINDS_OF_ERROR = {"cluster": "cluster-robust", "CR2": "bias-reduced cluster-robust (CR2)"}


def _descriptive(analysis: Analysis) -> pd.Series:
    """Of the slopes that are given, which rest on few people."""
    given = analysis.slopes.dropna(subset=[SLOPE])
    return given["note"].fillna("").str.contains(DESCRIPTIVE, regex=False).astype(bool)


def all_small(analysis: Analysis) -> bool:
    """Whether every slope that is given is a description only."""
    few = _descriptive(analysis)
    return bool(len(few) and few.all())


def small(analysis: Analysis) -> str:
    """That slopes rest on few people; nothing where none does."""
    if all_small(analysis):
        most = int(analysis.slopes.dropna(subset=[SLOPE])["n_used"].max())
        return f"Slopes rest on {style.count(most)} usable scans at most, too few to show trends."
    if _descriptive(analysis).any():
        return "Some slopes rest on too few scans to be more than descriptive."
    return ""


def how_to_read_small(analysis: Analysis) -> str:
    """What `small` means for the reader."""
    if all_small(analysis):
        return (
            "Read every slope on this page as a description of these scans. Wide intervals are "
            "expected; a slope that is not clear here, or that points the other way, says nothing "
            "about the population."
        )
    return f"The slopes concerned are marked “{DESCRIPTIVE}” in the table of slopes."


NOTHING = "nothing that M1 does not"
"""What M2 adjusts for where its covariates could not enter it for any structure."""


def models(analysis: Analysis) -> list[str]:
    """Models that have a slope."""
    return sorted(analysis.slopes.dropna(subset=[SLOPE])["model"].unique())


def adjusted_for(analysis: Analysis) -> str:
    """Terms of M2 beyond age and sex, in words; empty without such a model.

    The record names what any structure is adjusted for; where not every slope of M2 has all of
    it, that is said.
    """
    names = [str(name) for name in analysis.record.get("covariates", {}).get("adjusted_for", [])]
    if not names or "M2" not in models(analysis):
        return ""
    said = style.listed(names)
    return said if _same_terms(analysis, names) else f"{said} (each where a structure allows it)"


def _same_terms(analysis: Analysis, names: list[str]) -> bool:
    slopes = analysis.slopes
    if "adjusted_for" not in slopes:  # of an earlier version
        return True
    of_m2 = slopes[(slopes["model"] == "M2") & slopes[SLOPE].notna()]["adjusted_for"]
    return all(set(str(text).split(", ")) == set(names) for text in of_m2)


def m2(analysis: Analysis) -> str:
    """What the second model adjusts for."""
    if names := adjusted_for(analysis):
        return f"M2 adjusts for {names}."
    return f"M2 adjusts for {NOTHING}." if "M2" in models(analysis) else ""


def size(analysis: Analysis) -> str:
    """That nothing is adjusted for body size; nothing where a slope is."""
    if "height" in adjusted_for(analysis):
        return ""
    known = analysis.record.get("covariates", {}).get("left_out", {}).get("height") != "not known"
    if known and "covariates" in analysis.record:
        return "No slope is adjusted for body size."
    return "Height and weight are not known together: nothing is adjusted for body size."


def one_sex(analysis: Analysis) -> str:
    """The only sex among the scans used, in words; empty if there are both, or none is known."""
    here = [style.SEX_WORD[sex].lower() for sex in analysis.sexes if sex != "all"]
    return here[0] if len(here) == 1 else ""


def on_age(analysis: Analysis) -> str:
    """What ln(volume) is regressed on in M1, in short."""
    return "age × sex" if len(analysis.sexes) > 1 else "age"


def of_all(analysis: Analysis) -> str:
    """What the rows of all sexes in the table of slopes are."""
    if analysis.sexes == ["all"]:
        return "All: from a fit without a term of sex, which is not known."
    if one := one_sex(analysis):
        return f"All: {one}, as there are no others."
    return "All: one slope for both sexes from a fit with a sex term."


def errors(analysis: Analysis) -> str:
    """Kinds of standard errors behind the slopes, in words."""
    kinds = sorted(analysis.slopes.dropna(subset=[SLOPE])["se_kind"].dropna().unique())
    return " and ".join(_KINDS_OF_ERROR.get(kind, kind) for kind in kinds) or "robust"


def few_within_people(analysis: Analysis) -> str:
    """Why there are no slopes within people."""
    return _why(analysis, "within_between", "too few were scanned at several ages")


def few_for_centiles(analysis: Analysis) -> str:
    """Why there are no centiles."""
    people = "people of a sex" if len(analysis.sexes) > 1 else "people"
    return _why(analysis, "centiles", f"too few {people} have a usable volume of any structure")


def _why(analysis: Analysis, table: str, too_few: str) -> str:
    """The reasons of the notes of a table, `too_few` for all that say ANA_TOO_FEW or nothing."""
    notes = analysis.table(table)["note"].dropna().astype(str)
    few = notes.str.startswith("ANA_TOO_FEW")
    others = list(dict.fromkeys(note.partition(": ")[2] or note for note in notes[~few]))
    return ", or ".join([too_few] * (bool(few.any()) or not others) + others)


ABSENT = {
    "trends": "No figure of volume against age: nothing of two ages can be shown.",
    "worms": "No worm plots: there are no centiles, or the analysis has no such table.",
    "forest": "No forest plot: no slope was estimated.",
    "quartiles": "No box plots: no quartile of age holds enough scans for a box.",
    "heatmap": "No heat map: there is nothing to show in it.",
    "sides": "No comparison of left and right: no structure was measured on both sides, or the "
    "analysis has no such table.",
    "missing": "No figure of missingness: the analysis has no such table, or too few scans to "
    "show a share of.",
    "sensitivity": "No figure of sensitivity: no other analysis could be made.",
}
"""What the page says where a figure has nothing to show."""
NOT_IN_PUBLIC = {
    "sides": "No comparison of left and right: it would draw single scans.",
    "volumes": "No figure of volumes: quantiles of so few scans are not given.",
    "worms": "No worm plots: the ends of a worm are single people.",
}
"""What a public page says in its place."""


def absent(analysis: Analysis, *, public: bool) -> dict[str, str]:
    """What the page says where it has no such figure, by its name."""
    why = {
        "centiles": f"No centile charts: {few_for_centiles(analysis)}.",
        "repeats": f"No slopes within people: {few_within_people(analysis)}.",
    }
    return ABSENT | why | (NOT_IN_PUBLIC if public else {})


def least_shown(analysis: Analysis) -> int:
    """Counts from 1 to one less than this are not shown."""
    of_analysis = analysis.settings.get("suppress_below", 5)
    return int(analysis.record.get("least_shown", of_analysis))


def not_printed(analysis: Analysis) -> str:
    """Which counts Table 1 leaves out; nothing where it leaves out none."""
    most = least_shown(analysis) - 1
    if most < 1:
        return ""
    counts = "Counts of 1" if most == 1 else f"Counts from 1 to {most}"
    return f"{counts} are not printed in Table 1"

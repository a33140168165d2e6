"""Whether what a page says is true, worked out anew from the tables that it was made of.

`untrue` reads a finished page and the tables of its analysis as CSV, row by row, with nothing of
the report's own code but how it prints numbers. For each sentence of `CLAIMS` it finds what the
page says and what it would have to say; a sentence that is there and should not be, is not there
and should, or has another number is named. ``tests/test_sentences.py`` plants a lie in each.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Iterable
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
    """The tables of one analysis, and those that it read, as rows of texts."""

    tables: dict[str, list[Row]]
    record: dict
    scans: list[Row] = field(default_factory=list)
    volumes: list[Row] = field(default_factory=list)
    figures: set[str] = field(default_factory=set)

    @classmethod
    def read(cls, analysis: Path, scans: Path, volumes: Path, figures: Path) -> Cohort:
        """From an analyse folder, the tables given to it, and the figures of the report."""
        return cls(
            {path.stem: _rows(path) for path in analysis.glob("*.csv")},
            json.loads((analysis / "analyse.json").read_text(encoding="utf-8")),
            _rows(scans),
            _rows(volumes),
            {re.sub(r"_\d+$", "", path.stem) for path in figures.glob("*.csv")},
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
    def n_of_sex(self) -> dict[str, int]:
        """Scans used by sex, at most over structures."""
        return {
            sex: max((int(r["n_used"]) for r in self.of("slopes", sex=sex, model="M1")), default=0)
            for sex in ("F", "M")
        }

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


@dataclass(frozen=True)
class Claim:
    """A sentence: how it reads, and what it would have to say of a cohort."""

    name: str
    pattern: str
    true: Callable[[Cohort], Iterable[Said] | None]
    """Texts of the groups, each time it should be said; None where the page may say anything."""
    lie: tuple[str, str] = ("", "")
    """Pattern and replacement that make the sentence untrue, for the test of the test."""


def _if(condition: bool) -> list[Said]:
    return [("",)] if condition else []


# ---- the cohort ----------------------------------------------------------------------------------


def _manifest(c: Cohort) -> list[Said]:
    return [(f"{len(c.scans):,}",)]


def _flow(c: Cohort) -> list[Said]:
    states = [row.get("state", "done") for row in c.scans]
    ends = ("done", "quarantined", "skipped", "failed")
    return [(f"{len(states):,}", *(f"{states.count(end):,}" for end in ends))]


def _size(c: Cohort) -> list[Said] | None:
    if not c.trends:
        return None
    if "height" in c.terms:
        return []
    of_done, of_all = (
        any(row.get("height_cm") and row.get("weight_kg") for row in rows)
        for rows in (c.done, c.scans)
    )
    if of_done != of_all:  # none of those measured: either may be said
        return None
    if of_done:
        return [("No slope is adjusted",)]
    return [("Height and weight are not known together: nothing is adjusted",)]


# ---- the first screen ----------------------------------------------------------------------------


def _counts(c: Cohort) -> list[Said]:
    organs = [c.kind(row) for row in c.first if row["structure"] not in CONTROLS]
    if not organs or not c.has_answer:
        return []
    told = [str(organs.count(kind)) for kind in ("smaller", "larger", "bends", "unclear",
                                                 "untested")]  # fmt: skip
    return [(str(len(organs)), *told[:2], *(n if n != "0" else "" for n in told[2:]))]


def _steepest(c: Cohort) -> list[Said]:
    if not c.has_answer:
        return []
    organs = [row for row in c.first if row["structure"] not in CONTROLS]
    ends = []
    for kind, choose in (("smaller", min), ("larger", max)):
        if here := [row for row in organs if c.kind(row) == kind]:
            row = choose(here, key=lambda row: float(row[PCT]))
            ends.append(f"{name_of(row['structure']).lower()} {_interval(row)} %")
    return [(" and ".join(ends),)] if ends else []


def _interval(row: Row) -> str:
    value, low, high = (_printed(float(row[name])) for name in (PCT, LOW, HIGH))
    return f"{value} ({low} to {high})"


def _printed(value: float) -> str:
    text = f"{value:,.1f}"
    return text.removeprefix("-") if float(text.replace(",", "")) == 0 else text.replace("-", "−")


def _controls(c: Cohort, *, moved: bool) -> list[Said]:
    controls = [row for row in c.first if row["structure"] in CONTROLS]
    not_flat = [r for r in controls if c.kind(r) in ("smaller", "larger", "bends")]
    if not c.has_answer or not controls or bool(not_flat) != moved:
        return []
    return [(_sorted(name_of(row["structure"]) for row in (not_flat if moved else controls)),)]


def _sorted(names: Iterable[str]) -> str:
    return ", ".join(sorted(name.lower() for name in names))


def _not_given(c: Cohort) -> list[Said]:
    n = len({r["structure"] for r in c.of("slopes")} - {r["structure"] for r in c.first})
    return [(c.model, str(n))] if n and c.has_answer else []


def _together(c: Cohort) -> list[Said]:
    if not c.has_answer:
        return []
    both = single = 0
    sexes = set()
    for row in c.first:
        key = {"structure": row["structure"], "model": c.model}
        n = {sex: int(c.of("slopes", sex=sex, **key)[0]["n_used"]) for sex in ("F", "M")}
        enough = {sex for sex in n if n[sex] >= 2} or {sex for sex in n if n[sex]}
        if not enough:  # nobody's sex is known
            return [("Sex is not known: women and men are not told apart.",)]
        both, single = both + (len(enough) == 2), single + (len(enough) == 1)
        sexes |= enough if len(enough) == 1 else set()
    told = ["Women and men together"] * bool(both)
    for sex, word in (("F", "Women alone"), ("M", "Men alone")):
        if sex in sexes:
            told.append(word)
    return [("+".join(told).lower(),)]


def _adjusts(c: Cohort) -> list[Said]:
    if not c.has_answer or c.model != "M2":
        return []
    partly = any(c.adjusted(row) != c.terms for row in c.m2)
    return [(_sorted(c.terms), "partly" if partly else "")]


# ---- Methods -------------------------------------------------------------------------------------


def _m1(c: Cohort) -> list[Said]:
    told_apart = all(c.n_of_sex.values()) or c.n_of_sex["F"] + c.n_of_sex["M"] > max(
        c.n_of_sex.values()
    )
    return [("sex" if told_apart else "",)] if c.trends else []


def _m2(c: Cohort) -> list[Said]:
    if not c.m2:
        return []
    size = "height" in c.terms
    return [(_sorted(c.terms), "size" if size else "")]


def _between_sites(c: Cohort) -> list[Said]:
    q_values = [float(row["q_value"]) for row in c.of("site_slopes") if row["q_value"]]
    if not c.trends or not q_values:
        return []
    return [("" if min(q_values) < c.setting("fdr") else "in no structure",)]


def _sexes(c: Cohort) -> list[Said]:
    if not c.trends:
        return []
    known = [word for sex, word in (("F", "women"), ("M", "men")) if c.record["counts"][sex]]
    return [({0: "unknown", 1: f"of {known[0] if known else ''}", 2: "both"}[len(known)],)]


def _errors(c: Cohort) -> list[Said]:
    kinds = {"HC3": "HC3", "cluster": "cluster-robust",
             "CR2": "bias-reduced cluster-robust (CR2)"}  # fmt: skip
    names = sorted({row["se_kind"] for row in c.slopes})
    return [(" and ".join(kinds[name] for name in names),)] if c.trends else []


def _rows_of_all(c: Cohort) -> list[Said]:
    known = [word for sex, word in (("F", "women"), ("M", "men")) if c.record["counts"][sex]]
    if not c.trends:
        return []
    both = ("from a fit without a term of sex", *known)[-1]
    return [("one slope for both sexes" if len(known) == 2 else both,)]


def _no_trend(c: Cohort) -> list[Said] | None:
    notes = [row["note"] for row in c.of("slopes", sex="all")]
    few = all("ANA_TOO_FEW" in note for note in notes)
    ages = {row["age_years"] for row in c.done if row.get("age_years")}
    if c.trends or not notes or few or len(ages) < 2:
        return [] if c.trends else None
    return [("volumes that a trend can be",)]


def _curves(c: Cohort) -> list[Said]:
    kinds = {(r["structure"], r["sex"], r["model"]) for r in c.of("curves")}
    bent = {key[:2] for key in kinds if key[2] == "spline"}
    straight = {key[:2] for key in kinds} - bent
    if not c.trends or not kinds:
        return []
    if not bent:
        return [("straight lines of M1", "", "")]
    knots = ", ".join(f"{k:.1f}" for k in c.record["spline"]["knots_years"])
    return [("natural cubic splines by sex", knots, "straight" if straight else "")]


def _replication(c: Cohort) -> list[Said]:
    rho, boxes = c.any("correlations", "spearman_rho"), c.any("quartiles", "median_ml")
    if not c.trends or not (rho or boxes):
        return []
    return [("Spearman" if rho else "", "box" if boxes else "")]


def _why_none(c: Cohort, table: str, column: str, few: str) -> list[Said]:
    if not c.trends or c.any(table, column):
        return []
    notes = [row["note"] for row in c.of(table) if row["note"]]
    others = list(dict.fromkeys(n.split(": ", 1)[1] for n in notes if "ANA_TOO_FEW" not in n))
    too_few = [few] if len(others) == 0 or any("ANA_TOO_FEW" in n for n in notes) else []
    return [(", or ".join(too_few + others),)]


def _not_printed(c: Cohort) -> list[Said]:
    most = int(c.setting("suppress_below")) - 1
    return [] if most < 1 else [("of 1",)] if most == 1 else [(f"from 1 to {most}",)]


# ---- what `analyse` says -------------------------------------------------------------------------


def _below_zero(c: Cohort) -> list[Said]:
    n = sum(float(row["volume_ml"] or 0) < 0 for row in c.volumes)
    return [(str(n),)] if n else []


def _fixed(c: Cohort) -> list[Said]:
    return [(_sorted(set(FACTORS) & c.terms),)] if set(FACTORS) & c.terms else []


def _one_sex(c: Cohort) -> list[Said] | None:
    kinds = {row.get("sex") for row in c.done if row.get("qc") != "exclude"} & {"F", "M"}
    return None if not c.volumes else _if(len(kinds) == 1)


# ---- captions ------------------------------------------------------------------------------------


def _lines(c: Cohort) -> list[Said] | None:
    if "trends" not in c.figures or not c.trends:
        return None
    models = {row["model"] for row in c.of("curves")}
    return [("natural cubic splines",)] if "spline" in models else _lines_m1(models)


def _lines_m1(models: set[str]) -> list[Said]:
    return [("the fit of model M1",)] if models else []


def _absent(name: str) -> Callable[[Cohort], list[Said]]:
    return lambda c: _if(c.trends and name not in c.figures)


NAMES = r"((?:[\w-]|, |(?<=\w) )+?)"
CLAIMS = (
    Claim("manifest", r"The manifest named ([\d,]+) scans?\.", _manifest, (r"named \d", "named 9")),
    Claim(
        "flow",
        r"([\d,]+) rows? in the manifest = ([\d,]+) measured \+ ([\d,]+) quarantined \+ ([\d,]+) "
        r"skipped \+ ([\d,]+) failed; all accounted for",
        _flow,
        (r"\+ \d+ skipped", "+ 77 skipped"),
    ),
    Claim(
        "all small",
        r"A cohort of ([\d,]+) usable scans? is too small to show every trend",
        lambda c: [(f"{c.record['counts']['usable_for_trends']:,}",)] if c.all_few else [],
        (r"A cohort of \d", "A cohort of 7"),
    ),
    Claim(
        "some small",
        r"(?:Some slopes rest on too few scans to be more than descriptive)(?=())",
        lambda c: _if(any(c.few) and not c.all_few),
        ("Some slopes rest on too few scans", "Slopes rest on many scans"),
    ),
    Claim(
        "size",
        r"(No slope is adjusted|Height and weight are not known together: nothing is adjusted) "
        r"for body size\.",
        _size,
        ("is adjusted for body size", "is changed for body size"),
    ),
    Claim(
        "kinds",
        r"Of (\d+) structures?, (\d+) (?:is|are) smaller and (\d+) (?:is|are) larger at higher age"
        r"(?:; (\d+) changes? without one direction)?(?:; (\d+) shows? no clear difference)?"
        r"(?:; (\d+) (?:has|have) no clear slope, and whether (?:its|their) trends? bends? was not "
        r"tested)?\.",
        _counts,
        (r"Of (\d+) (structures?), \d+", r"Of \1 \2, 8"),
    ),
    Claim(
        "steepest",
        r"Steepest per decade \(95 % CI\): (.*? %)\. ",
        _steepest,
        (r"(CI\): \D+)\d", r"\g<1>97"),
    ),
    Claim(
        "controls that move",
        rf"Of the negative controls, {NAMES} (?:is|are) not flat",
        lambda c: _controls(c, moved=True),
        ("Of the negative controls, ", "Of the negative controls, liver, "),
    ),
    Claim(
        "flat controls",
        rf"The negative controls? \({NAMES}\) (?:has|have) no clear slope",
        lambda c: _controls(c, moved=False),
        (r"(The negative controls?) \(", r"\1 (liver, "),
    ),
    Claim(
        "not given",
        r"No slope of (M\d) is given of (\d+) other structures?\.",
        _not_given,
        (r"is given of \d+", "is given of 9"),
    ),
    Claim(
        "together",
        r"CI\), M\d: .*? ((?:Women and men together|Women alone|Men alone|Sex is not known)[^;.]*)",
        _together,
        ("Women and men together|Sex is not known", "Men alone"),
    ),
    Claim(
        "M2 on the first screen",
        r"M2 adjusts for ([^.(]*?)(?: \((each where a structure allows it)\))?\. Clear:",
        _adjusts,
        ("M2 adjusts for ", "M2 adjusts for income, "),
    ),
    Claim(
        "M1",
        r"Model M1 regresses the natural logarithm of the volume on age \([^)]*\)(?:, (sex), and "
        r"their product)?\.",
        _m1,
        (r"years\)(, sex, and their product)?\. ", "years), blood. "),
    ),
    Claim(
        "M2",
        r"Model M2 adjusts for ([^.(]*?)(?: \(each[^)]*\))? besides \((height and body mass)?",
        _m2,
        ("Model M2 adjusts for ", "Model M2 adjusts for income, "),
    ),
    Claim(
        "sexes",
        r"(The slopes of women and men are contrasts of one fit|Sex is not known: the slope of all "
        r"comes|All scans used are of (?:women|men))",
        _sexes,
        ("The slopes of women and men are contrasts of one fit", "All scans used are of women"),
    ),
    Claim(
        "errors",
        r"Intervals are 95 % confidence intervals from (.*?) standard errors\.",
        _errors,
        ("confidence intervals from ", "confidence intervals from bootstrapped and "),
    ),
    Claim(
        "curves",
        r"Curves are (straight lines of M1|natural cubic splines by sex)(?: with knots at "
        r"([\d., ]+?) years)?(?:, and (straight) lines of M1 where no spline was fitted)?\.",
        _curves,
        ("Curves are (straight lines of M1|natural cubic splines by sex)", "Curves are cubic"),
    ),
    Claim(
        "bends tested",
        r"Model M3 puts a natural cubic spline of age(?=())",
        lambda c: _if(c.trends and c.any("nonlinearity", "q_value")),
        ("Model M3 puts", "Model M4 puts"),
    ),
    Claim(
        "bends not tested",
        r"No test for bends was made\.(?=())",
        lambda c: _if(c.trends and not c.any("nonlinearity", "q_value")),
        ("No test for bends was made", "A test for bends was made"),
    ),
    Claim(
        "body size",
        r"Body size is adjusted for allometrically(?=())",
        lambda c: _if("height" in c.terms),
        ("Body size is adjusted for allometrically", "Body size is divided by"),
    ),
    Claim(
        "replication",
        r"Replication: (?=Spearman corr|box plots)(Spearman)?(?: correlations of volume with age)?"
        r"(?: and )?(box)?",
        _replication,
        ("Replication: ", "Repetition: "),
    ),
    Claim(
        "centiles",
        r"Centiles are fitted by sex(?=())",
        lambda c: _if(c.trends and c.any("centiles", "p50_ml")),
        ("Centiles are fitted by sex", "Centiles were not fitted by sex"),
    ),
    Claim(
        "no centiles",
        r"Centiles were not fitted\.(?=())",
        lambda c: _if(c.trends and not c.any("centiles", "p50_ml")),
        ("Centiles were not fitted", "Centiles were fitted"),
    ),
    Claim(
        "no centile charts",
        r"No centile charts: (.*?)\. ",
        lambda c: _why_none(
            c,
            "centiles",
            "p50_ml",
            "too few people of a sex have a usable volume of any structure",
        ),
        ("No centile charts: ", "No centile charts: rain, or "),
    ),
    Claim(
        "sensitivity",
        r"Sensitivity: one scan per person(?=())",
        lambda c: _if(c.trends and c.any("sensitivity", LOW, but="complete")),
        ("Sensitivity: one scan", "Sensitivity: two scans"),
    ),
    Claim(
        "no sensitivity",
        r"No sensitivity analyses could be made(?=())",
        lambda c: _if(c.trends and not c.any("sensitivity", LOW, but="complete")),
        ("No sensitivity analyses could", "Sensitivity analyses could"),
    ),
    Claim(
        "within people",
        r"Slopes within and between people come from(?=())",
        lambda c: _if(c.trends and c.any("within_between", "within_pct_per_decade")),
        ("Slopes within and between", "Slopes between"),
    ),
    Claim(
        "between sites",
        r"Slopes within and between sites \(.*?by site(?:; (in no structure) did the two "
        r"differ)?\.",
        _between_sites,
        ("Slopes within and between sites", "Slopes between sites"),
    ),
    Claim(
        "not within people",
        r"Slopes within people were not estimated: (.*?)\. ",
        lambda c: _why_none(
            c, "within_between", "within_pct_per_decade", "too few were scanned at several ages"
        ),
        ("within people were not estimated: ", "within people were not estimated: rain, or "),
    ),
    Claim(
        "tipping",
        r"For each slope the drift of the segmentation(?=())",
        lambda c: _if(c.trends and c.any("tipping", "bias_pct_per_decade")),
        ("For each slope the drift", "For no slope the drift"),
    ),
    Claim(
        "literature",
        r"Slopes are compared with published values(?=())",
        lambda c: _if(c.trends and any(row["source"] and row[PCT] for row in c.of("literature"))),
        ("Slopes are compared", "Slopes are not compared"),
    ),
    Claim(
        "not printed",
        r"Counts ((?:of 1|from 1 to \d+)) are not printed in Table 1",
        _not_printed,
        ("Counts (of|from) 1", "Counts from 0 to 3"),
    ),
    Claim(
        "left out",
        r"None: every scan of the manifest was measured\.(?=())",
        lambda c: _if(len(c.done) == len(c.scans)),
        ("None: every scan of the manifest", "None: no scan of the manifest"),
    ),
    Claim(
        "rows of all",
        r" All: (one slope for both sexes|from a fit without a term of sex|women|men)[ ,]",
        _rows_of_all,
        (r"All: (one slope for both|from a fit without|women|men)", "All: men, not"),
    ),
    Claim(
        "no trend",
        r"No structure has (enough usable volumes for a trend|volumes that a trend can be)",
        _no_trend,
        ("enough usable volumes for|volumes that a trend can", "volumes in"),
    ),
    Claim(
        "below zero",
        r"(\d+) volumes? below 0 mL counts? as not measured",
        _below_zero,
        (r"\d+ volumes? below 0 mL", "99 volumes below 0 mL"),
    ),
    Claim(
        "fixed effects",
        r"M2 and M3 have fixed effects of (.*?); M1 has not",
        _fixed,
        ("fixed effects of ", "fixed effects of income, "),
    ),
    Claim(
        "no factor",
        r"No model adjusts for site, scanner, sequence or contrast\.(?=())",
        lambda c: _if(c.trends and not set(FACTORS) & c.terms),
        ("No model adjusts for site", "A model adjusts for site"),
    ),
    Claim(
        "one sex",
        r"All whose sex is known are of one sex(?=())",
        _one_sex,
        ("All whose sex is known", "None whose sex is known"),
    ),
    Claim(
        "lines of the trends",
        r"Lines are (natural cubic splines|the fit of model M1)",
        _lines,
        ("Lines are (natural|the fit)", "Lines are not"),
    ),
    Claim("no forest", r"No forest plot: (?=())", _absent("forest"), ("No forest", "A forest")),
    Claim("no boxes", r"No box plots: (?=())", _absent("quartiles"), ("No box plots", "Boxes")),
    Claim(
        "no figure of sensitivity",
        r"No figure of sensitivity: (?=())",
        _absent("sensitivity"),
        ("No figure of sensitivity", "A figure of sensitivity"),
    ),
)


def found(claim: Claim, text: str) -> set[Said]:
    """What a page says, in the words of `Claim.true`."""
    said = set()
    for match in re.finditer(claim.pattern, text):
        groups = [group or "" for group in match.groups()]
        if claim.name in ("controls that move", "flat controls", "fixed effects"):
            groups = [_sorted(groups[0].split(", "))]
        if claim.name in ("M2 on the first screen", "M2"):
            names = groups[0].replace(" and ", ", ").split(", ")
            groups = [_sorted(names), groups[1] and ("size" if claim.name == "M2" else "partly")]
        if claim.name == "sexes":
            groups = ["both" if "contrasts" in groups[0] else "unknown" if "not" in groups[0] else
                      groups[0].removeprefix("All scans used are ")]  # fmt: skip
        if claim.name == "together":
            known = re.sub(r" in \d+ of \d+ rows", "", groups[0]).lower().replace(", ", "+")
            unknown = known.startswith("sex is not")
            groups = ["Sex is not known: women and men are not told apart." if unknown else known]
        said.add(tuple(groups))
    return said


def untrue(html: str, cohort: Cohort, claims: Iterable[Claim] = CLAIMS) -> list[str]:
    """Every sentence that is not what the tables give, and rows of the first screen likewise."""
    text, wrong = words(html), []
    for claim in claims:
        expected = claim.true(cohort)
        said = found(claim, text)
        if expected is not None and said != set(expected):
            wrong.append(f"{claim.name}: said {sorted(said)}, true {sorted(expected)}")
    return wrong + _balance(cohort) + _rows_of_first_screen(html, cohort)


def _balance(c: Cohort) -> list[str]:
    """Whether those measured are those used and those not used, as the flow diagram shows them."""
    n = {
        step: sum(int(row["n"]) for row in c.of("flow", step=step))
        for step in ("done", "unusable", "usable for trends")
    }
    right = n["done"] == n["unusable"] + n["usable for trends"]
    return [] if right else [f"flow diagram: {n}"]


def _rows_of_first_screen(html: str, cohort: Cohort) -> list[str]:
    """Under which heading each structure stands, its slope, and how sure that is."""
    wrong, shown = [], set()
    by_name = {name_of(row["structure"]): row for row in cohort.first}
    for kind, body in re.findall(r'<tbody class="(\w+)"><tr><th scope="rowgroup" (.*?)</tbody>',
                                 html, re.DOTALL):  # fmt: skip
        for name, slope, sure in re.findall(
            r'<th scope="row">([^<]*)</th>.*?<td class="rate">([^<]*)</td>.*?'
            r'<td class="sure">([^<]*)</td>',
            body,
            re.DOTALL,
        ):
            row = by_name[unescape(name)]
            shown.add(unescape(name))
            true = "control" if row["structure"] in CONTROLS else cohort.kind(row)
            if true != kind:
                wrong.append(f"{name} stands under {kind}, is {true}")
            if unescape(slope) != _interval(row):
                wrong.append(f"{name}: {slope}, not {_interval(row)}")
            if unescape(sure) != (sought := "; ".join(_sure(cohort, row))):
                wrong.append(f"{name}: {unescape(sure)!r}, not {sought!r}")
    if shown != (set(by_name) if cohort.has_answer else set()):
        wrong.append(f"first screen: {sorted(shown)} of {sorted(by_name)}")
    return wrong


def _sure(c: Cohort, row: Row) -> list[str]:
    q, level = float(row["q_value"]), c.setting("fdr")
    parts = ["q < 0.001" if q < 0.001 else f"q = {_probability(q)}"]
    own = [float(row[name]) for name in (LOW, HIGH)]
    others = [r for r in c.of("sensitivity", structure=row["structure"], sex="all")
              if r[LOW] and r["analysis"] != "complete"]  # fmt: skip
    if q < level and others:
        agree, apart = 0, []
        for other in others:
            low, high = float(other[LOW]), float(other[HIGH])
            beside = (low > 0 if float(row[PCT]) > 0 else high < 0) and not (
                high < own[0] or low > own[1]
            )
            agree += beside
            if other["analysis"] == "one_scan_each" and not beside:
                apart = [f"one scan each {_interval(other)} %"]
        words_ = "analysis agrees" if len(others) == 1 else "analyses agree"
        parts += [f"{agree} of {len(others)} other {words_}", *apart]
    bends = [float(t["q_value"]) for t in c.of("nonlinearity", structure=row["structure"])
             if t["q_value"]]  # fmt: skip
    parts += ["bend not tested"] if not bends else ["bends"] * (min(bends) < level)
    told = [r["verdict"] for r in c.of("literature", structure=row["structure"])
            if r["evidence"] != "UNVERIFIED"]  # fmt: skip
    agree = sum(v in ("sign agrees", "CI holds the reference") for v in told)
    judged = agree + sum(v in ("conflict", "sign agrees, size differs") for v in told)
    return parts + [f"{agree} of {judged} published agree"] * bool(judged)


def _probability(q: float) -> str:
    """As the page prints what is 0.001 or more."""
    return f"{q:.2f}" if q >= 0.1 else f"{q:.3f}"

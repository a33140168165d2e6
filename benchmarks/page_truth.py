"""Whether what a page says is true, worked out anew from the tables that it was made of.

`untrue` reads a finished page and the tables of its analysis as CSV, row by row, with nothing of
the report's own code but how it prints numbers. For each sentence of `CLAIMS` it finds what the
page says and what it would have to say; a sentence that is there and should not be, is not there
and should, or has another number is named. ``tests/test_sentences.py`` plants a lie in each.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import page_expected as expected
from page_cohort import FACTORS, LOW, PCT, Cohort, Said, sorted_names, words
from page_first_screen import rows_of_first_screen


@dataclass(frozen=True)
class Claim:
    """A sentence: how it reads, and what it would have to say of a cohort."""

    name: str
    pattern: str
    true: Callable[[Cohort], Iterable[Said] | None]
    """Texts of the groups, each time it should be said; None where the page may say anything."""
    lie: tuple[str, str] = ("", "")
    """Pattern and replacement that make the sentence untrue, for the test of the test."""


NAMES = r"((?:[\w-]|, |(?<=\w) )+?)"
CLAIMS = (
    Claim(
        "manifest",
        r"The manifest named ([\d,]+) scans?\.",
        expected.manifest,
        (r"named \d", "named 9"),
    ),
    Claim(
        "flow",
        r"([\d,]+) rows? in the manifest = ([\d,]+) measured \+ ([\d,]+) quarantined \+ ([\d,]+) "
        r"skipped \+ ([\d,]+) failed; all accounted for",
        expected.flow,
        (r"\+ \d+ skipped", "+ 77 skipped"),
    ),
    Claim(
        "all small",
        r"Slopes rest on ([\d,]+) usable scans at most, too few to show trends",
        expected.all_few,
        (r"Slopes rest on \d", "Slopes rest on 7"),
    ),
    Claim(
        "some small",
        r"(?:Some slopes rest on too few scans to be more than descriptive)(?=())",
        lambda c: expected.when(any(c.few) and not c.all_few),
        ("Some slopes rest on too few scans", "Slopes rest on many scans"),
    ),
    Claim(
        "size",
        r"(No slope is adjusted|Height and weight are not known together: nothing is adjusted) "
        r"for body size\.",
        expected.size,
        ("is adjusted for body size", "is changed for body size"),
    ),
    Claim(
        "kinds",
        r"Of (\d+) structures?, (\d+) (?:is|are) smaller and (\d+) (?:is|are) larger at higher age"
        r"(?:; (\d+) bends? without a clear slope)?(?:; (\d+) shows? no clear difference)?"
        r"(?:; (\d+) (?:has|have) no clear slope, and whether (?:its|their) trends? bends? was not "
        r"tested)?\.",
        expected.counts,
        (r"Of (\d+) (structures?), \d+", r"Of \1 \2, 8"),
    ),
    Claim(
        "steepest",
        r"Steepest per decade \(95 % CI\): (.*? %)\. ",
        expected.steepest,
        (r"(CI\): \D+)\d", r"\g<1>97"),
    ),
    Claim(
        "controls that move",
        rf"Of the negative controls, {NAMES} (?:is|are) not flat",
        lambda c: expected.controls(c, moved=True),
        ("Of the negative controls, ", "Of the negative controls, liver, "),
    ),
    Claim(
        "flat controls",
        rf"The negative controls? \({NAMES}\) (?:has|have) no clear slope",
        lambda c: expected.controls(c, moved=False),
        (r"(The negative controls?) \(", r"\1 (liver, "),
    ),
    Claim(
        "not given",
        r"No slope of (M\d) is given of (\d+) other structures?\.",
        expected.not_given,
        (r"is given of \d+", "is given of 9"),
    ),
    Claim(
        "together",
        r"CI\), M\d: .*? ((?:Women and men together|Women alone|Men alone|Sex is not known)[^;.]*)",
        expected.together,
        ("Women and men together|Sex is not known", "Men alone"),
    ),
    Claim(
        "M2 on the first screen",
        r"M2 adjusts for ([^.(]*?)(?: \((each where a structure allows it)\))?\. Clear:",
        expected.adjusts,
        ("M2 adjusts for ", "M2 adjusts for income, "),
    ),
    Claim(
        "M1",
        r"Model M1 regresses the natural logarithm of the volume on age \([^)]*\)(?:, (sex), and "
        r"their product)?\.",
        expected.m1,
        (r"years\)(, sex, and their product)?\. ", "years), blood. "),
    ),
    Claim(
        "M2",
        r"Model M2 adjusts for ([^.(]*?)(?: \(each[^)]*\))? (?:besides )?\((height and body mass)?",
        expected.m2,
        ("Model M2 adjusts for ", "Model M2 adjusts for income, "),
    ),
    Claim(
        "sexes",
        r"(The slopes of women and men are contrasts of one fit|Sex is not known: the slope of all "
        r"comes|All scans used are of (?:women|men))",
        expected.sexes,
        ("The slopes of women and men are contrasts of one fit", "All scans used are of women"),
    ),
    Claim(
        "errors",
        r"Intervals are 95 % confidence intervals from (.*?) standard errors\.",
        expected.errors,
        ("confidence intervals from ", "confidence intervals from bootstrapped and "),
    ),
    Claim(
        "curves",
        r"Curves are (straight lines of M1|natural cubic splines(?: by sex)?)(?: with knots at "
        r"([\d., ]+?) years)?(?:, and (straight) lines of M1 where no spline was fitted)?\.",
        expected.curves,
        ("Curves are (straight lines of M1|natural cubic splines)", "Curves are cubic"),
    ),
    Claim(
        "bends tested",
        r"Model M3 puts a natural cubic spline of age( by sex)? in",
        expected.bends_tested,
        ("Model M3 puts", "Model M4 puts"),
    ),
    Claim(
        "bends not tested",
        r"No test for bends was made\.(?=())",
        lambda c: expected.when(c.trends and not c.any("nonlinearity", "q_value")),
        ("No test for bends was made", "A test for bends was made"),
    ),
    Claim(
        "body size",
        r"Body size is adjusted for allometrically(?=())",
        lambda c: expected.when("height" in c.terms),
        ("Body size is adjusted for allometrically", "Body size is divided by"),
    ),
    Claim(
        "replication",
        r"Replication: (?=Spearman corr|box plots)(Spearman)?(?: correlations of volume with age)?"
        r"(?: and )?(box)?",
        expected.replication,
        ("Replication: ", "Repetition: "),
    ),
    Claim(
        "centiles",
        r"Centiles are fitted by sex(?=())",
        lambda c: expected.when(c.trends and c.any("centiles", "p50_ml")),
        ("Centiles are fitted by sex", "Centiles were not fitted by sex"),
    ),
    Claim(
        "no centiles",
        r"Centiles were not fitted\.(?=())",
        lambda c: expected.when(c.trends and not c.any("centiles", "p50_ml")),
        ("Centiles were not fitted", "Centiles were fitted"),
    ),
    Claim(
        "no centile charts",
        r"No centile charts: (.*?)\. ",
        lambda c: expected.why_none(c, "centiles", "p50_ml", expected.few_people(c)),
        ("No centile charts: ", "No centile charts: rain, or "),
    ),
    Claim(
        "sensitivity",
        r"Sensitivity: one scan per person(?=())",
        lambda c: expected.when(c.trends and c.any("sensitivity", LOW, but="complete")),
        ("Sensitivity: one scan", "Sensitivity: two scans"),
    ),
    Claim(
        "no sensitivity",
        r"No sensitivity analyses could be made(?=())",
        lambda c: expected.when(c.trends and not c.any("sensitivity", LOW, but="complete")),
        ("No sensitivity analyses could", "Sensitivity analyses could"),
    ),
    Claim(
        "within people",
        r"Slopes within and between people come from(?=())",
        lambda c: expected.when(c.trends and c.any("within_between", "within_pct_per_decade")),
        ("Slopes within and between", "Slopes between"),
    ),
    Claim(
        "between sites",
        r"Slopes within and between sites \(.*?by site(?:; (in no structure) did the two "
        r"clearly differ)?\.",
        expected.between_sites,
        ("Slopes within and between sites", "Slopes between sites"),
    ),
    Claim(
        "not within people",
        r"Slopes within people were not estimated: (.*?)\. ",
        lambda c: expected.why_none(
            c, "within_between", "within_pct_per_decade", "too few were scanned at several ages"
        ),
        ("within people were not estimated: ", "within people were not estimated: rain, or "),
    ),
    Claim(
        "tipping",
        r"For each slope the drift of the segmentation(?=())",
        lambda c: expected.when(c.trends and c.any("tipping", "bias_pct_per_decade")),
        ("For each slope the drift", "For no slope the drift"),
    ),
    Claim(
        "literature",
        r"Slopes are compared with published values(?=())",
        lambda c: expected.when(
            c.trends and any(row["source"] and row[PCT] for row in c.of("literature"))
        ),
        ("Slopes are compared", "Slopes are not compared"),
    ),
    Claim(
        "not printed",
        r"Counts ((?:of 1|from 1 to \d+)) are not printed in Table 1",
        expected.not_printed,
        ("Counts (of|from) 1", "Counts from 0 to 3"),
    ),
    Claim(
        "left out",
        r"None: every scan of the manifest was measured\.(?=())",
        lambda c: expected.when(len(c.done) == len(c.scans)),
        ("None: every scan of the manifest", "None: no scan of the manifest"),
    ),
    Claim(
        "rows of all",
        r" All: (one slope for both sexes|from a fit without a term of sex|women|men)[ ,]",
        expected.rows_of_all,
        (r"All: (one slope for both|from a fit without|women|men)", "All: men, not"),
    ),
    Claim(
        "no trend",
        r"No structure has (enough usable volumes for a trend|volumes that a trend can be)",
        expected.no_trend,
        ("enough usable volumes for|volumes that a trend can", "volumes in"),
    ),
    Claim(
        "below zero",
        r"(\d+) volumes? below 0 mL counts? as not measured",
        expected.below_zero,
        (r"\d+ volumes? below 0 mL", "99 volumes below 0 mL"),
    ),
    Claim(
        "fixed effects",
        r"M2 and M3 have fixed effects of (.*?); M1 has not",
        expected.fixed,
        ("fixed effects of ", "fixed effects of income, "),
    ),
    Claim(
        "no factor",
        r"No model adjusts for site, scanner, sequence or contrast\.(?=())",
        lambda c: expected.when(c.trends and not set(FACTORS) & c.terms),
        ("No model adjusts for site", "A model adjusts for site"),
    ),
    Claim(
        "one sex",
        r"All whose sex is known are of one sex(?=())",
        expected.one_sex,
        ("All whose sex is known", "None whose sex is known"),
    ),
    Claim(
        "lines of the trends",
        r"Lines are (natural cubic splines|the fit of model M1)",
        expected.lines,
        ("Lines are (natural|the fit)", "Lines are not"),
    ),
    Claim(
        "networks of folds",
        r"(\d+) networks, one of each fold, are averaged((?: in [^.]*)?)\.",
        expected.folds,
        (r"\d+ networks, one", "99 networks, one"),
    ),
    Claim(
        "mirrored passes",
        r"Of each patch (\d+) passes are averaged, one for each way to mirror it along (\d) "
        r"ax[ei]s((?: in [^.]*)?)\.",
        expected.mirrored,
        (r"Of each patch \d+", "Of each patch 9"),
    ),
    Claim(
        "no mirrored passes",
        r"No mirrored passes are made((?: in [^.]*)?)\.",
        expected.not_mirrored,
        ("No mirrored passes are", "Mirrored passes are"),
    ),
    Claim(
        "boxes",
        r"Part (\S+) sees a box around ([^;]*?), ([\d.]+) mm wider;",
        expected.boxes,
        (r"[\d.]+ mm wider", "99 mm wider"),
    ),
    Claim(
        "cascade",
        r"(\w+) sees the label map of (\w+) beside the image: a cascade\.",
        expected.cascades,
        ("sees the label map of ", "sees the label map of not_"),
    ),
    Claim(
        "averaged",
        r"The probabilities of ([^.]*?) are averaged\.",
        expected.averaged,
        ("The probabilities of ", "The probabilities of 9d, "),
    ),
    Claim(
        "largest pieces",
        r"Of the (?:structure|label)s? ([^.]*?) the largest connected piece is kept\.",
        expected.largest,
        (r"Of the (structure|label)(s?) ", r"Of the \1\2 left_ear, "),
    ),
    Claim(
        "no forest", r"No forest plot: (?=())", expected.absent("forest"), ("No forest", "A forest")
    ),
    Claim(
        "no boxes", r"No box plots: (?=())", expected.absent("quartiles"), ("No box plots", "Boxes")
    ),
    Claim(
        "no figure of sensitivity",
        r"No figure of sensitivity: (?=())",
        expected.absent("sensitivity"),
        ("No figure of sensitivity", "A figure of sensitivity"),
    ),
)


def found(claim: Claim, text: str) -> set[Said]:
    """What a page says, in the words of `Claim.true`."""
    said = set()
    for match in re.finditer(claim.pattern, text):
        groups = [group or "" for group in match.groups()]
        if claim.name in ("controls that move", "flat controls", "fixed effects"):
            groups = [sorted_names(groups[0].split(", "))]
        if claim.name in ("M2 on the first screen", "M2"):
            names = groups[0].replace(" and ", ", ").split(", ")
            groups = [
                sorted_names(names),
                groups[1] and ("size" if claim.name == "M2" else "partly"),
            ]
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
        true = claim.true(cohort)
        said = found(claim, text)
        if true is not None and said != set(true):
            wrong.append(f"{claim.name}: said {sorted(said)}, true {sorted(true)}")
    return wrong + _balance(cohort) + rows_of_first_screen(html, cohort)


def _balance(c: Cohort) -> list[str]:
    """Whether those measured are those used and those not used, as the flow diagram shows them."""
    n = {
        step: sum(int(row["n"]) for row in c.of("flow", step=step))
        for step in ("done", "unusable", "usable for trends")
    }
    right = n["done"] == n["unusable"] + n["usable for trends"]
    return [] if right else [f"flow diagram: {n}"]

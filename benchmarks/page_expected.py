"""What each sentence of a page would have to say of a cohort, for the claims of `page_truth`."""

from __future__ import annotations

from collections.abc import Callable

from page_cohort import CONTROLS, FACTORS, PCT, Cohort, Said, interval, name_of, sorted_names

NOTHING = sorted_names(["nothing that M1 does not"])
"""What M2 adjusts for where none of its covariates could enter it."""


def when(condition: bool) -> list[Said]:
    return [("",)] if condition else []


# ---- the cohort ----------------------------------------------------------------------------------


def manifest(c: Cohort) -> list[Said]:
    return [(f"{len(c.scans):,}",)]


def flow(c: Cohort) -> list[Said]:
    states = [row.get("state", "done") for row in c.scans]
    ends = ("done", "quarantined", "skipped", "failed")
    return [(f"{len(states):,}", *(f"{states.count(end):,}" for end in ends))]


def size(c: Cohort) -> list[Said] | None:
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


def counts(c: Cohort) -> list[Said]:
    organs = [c.kind(row) for row in c.first if row["structure"] not in CONTROLS]
    if not organs or not c.has_answer:
        return []
    told = [str(organs.count(kind)) for kind in ("smaller", "larger", "bends", "unclear",
                                                 "untested")]  # fmt: skip
    return [(str(len(organs)), *told[:2], *(n if n != "0" else "" for n in told[2:]))]


def steepest(c: Cohort) -> list[Said]:
    if not c.has_answer:
        return []
    organs = [row for row in c.first if row["structure"] not in CONTROLS]
    ends = []
    for kind, choose in (("smaller", min), ("larger", max)):
        if here := [row for row in organs if c.kind(row) == kind]:
            row = choose(here, key=lambda row: float(row[PCT]))
            ends.append(f"{name_of(row['structure']).lower()} {interval(row)} %")
    return [(" and ".join(ends),)] if ends else []


def controls(c: Cohort, *, moved: bool) -> list[Said]:
    controls = [row for row in c.first if row["structure"] in CONTROLS]
    not_flat = [r for r in controls if c.kind(r) in ("smaller", "larger", "bends")]
    if not c.has_answer or not controls or bool(not_flat) != moved:
        return []
    return [(sorted_names(name_of(row["structure"]) for row in (not_flat if moved else controls)),)]


def not_given(c: Cohort) -> list[Said]:
    n = len({r["structure"] for r in c.of("slopes")} - {r["structure"] for r in c.first})
    return [(c.model, str(n))] if n and c.has_answer else []


def together(c: Cohort) -> list[Said]:
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


def adjusts(c: Cohort) -> list[Said]:
    if not c.has_answer or c.model != "M2":
        return []
    partly = any(c.adjusted(row) != c.terms for row in c.m2)
    return [(sorted_names(c.terms) or NOTHING, "partly" if partly else "")]


# ---- Methods -------------------------------------------------------------------------------------


def m1(c: Cohort) -> list[Said]:
    return [("sex" if len(c.sexes) == 2 else "",)] if c.trends else []


def m2(c: Cohort) -> list[Said]:
    if not c.m2:
        return []
    size = "height" in c.terms
    return [(sorted_names(c.terms) or NOTHING, "size" if size else "")]


def between_sites(c: Cohort) -> list[Said]:
    q_values = [float(row["q_value"]) for row in c.of("site_slopes") if row["q_value"]]
    if not c.trends or not q_values:
        return []
    return [("" if min(q_values) < c.setting("fdr") else "in no structure",)]


def all_few(c: Cohort) -> list[Said]:
    return [(f"{max(int(row['n_used']) for row in c.slopes):,}",)] if c.all_few else []


def few_people(c: Cohort) -> str:
    people = "people of a sex" if len(c.sexes) == 2 else "people"
    return f"too few {people} have a usable volume of any structure"


def sexes(c: Cohort) -> list[Said]:
    if not c.trends:
        return []
    return [("both" if len(c.sexes) == 2 else f"of {c.sexes[0]}" if c.sexes else "unknown",)]


def errors(c: Cohort) -> list[Said]:
    kinds = {"HC3": "HC3", "cluster": "cluster-robust",
             "CR2": "bias-reduced cluster-robust (CR2)"}  # fmt: skip
    names = sorted({row["se_kind"] for row in c.slopes})
    return [(" and ".join(kinds[name] for name in names),)] if c.trends else []


def rows_of_all(c: Cohort) -> list[Said]:
    if not c.trends:
        return []
    alone = ("from a fit without a term of sex", *c.sexes)[-1]
    return [("one slope for both sexes" if len(c.sexes) == 2 else alone,)]


def no_trend(c: Cohort) -> list[Said] | None:
    notes = [row["note"] for row in c.of("slopes", sex="all")]
    few = all("ANA_TOO_FEW" in note for note in notes)
    low, high = c.record["settings"]["age_range_years"]
    ages = {age for row in c.done if low <= (age := float(row.get("age_years") or "nan")) <= high}
    if c.trends or not notes or few or len(ages) < 2:
        return [] if c.trends else None
    return [("volumes that a trend can be",)]


def curves(c: Cohort) -> list[Said]:
    kinds = {(r["structure"], r["sex"], r["model"]) for r in c.of("curves")}
    bent = {key[:2] for key in kinds if key[2] == "spline"}
    straight = {key[:2] for key in kinds} - bent
    if not c.trends or not kinds:
        return []
    if not bent:
        return [("straight lines of M1", "", "")]
    knots = ", ".join(f"{k:.1f}" for k in c.record["spline"]["knots_years"])
    return [(f"natural cubic splines{_by_sex(c)}", knots, "straight" if straight else "")]


def bends_tested(c: Cohort) -> list[Said]:
    return [(_by_sex(c),)] if c.trends and c.any("nonlinearity", "q_value") else []


def _by_sex(c: Cohort) -> str:
    return " by sex" if len(c.sexes) == 2 else ""


def replication(c: Cohort) -> list[Said]:
    rho, boxes = c.any("correlations", "spearman_rho"), c.any("quartiles", "median_ml")
    if not c.trends or not (rho or boxes):
        return []
    return [("Spearman" if rho else "", "box" if boxes else "")]


def why_none(c: Cohort, table: str, column: str, few: str) -> list[Said]:
    if not c.trends or c.any(table, column):
        return []
    notes = [row["note"] for row in c.of(table) if row["note"]]
    others = list(dict.fromkeys(n.split(": ", 1)[1] for n in notes if "ANA_TOO_FEW" not in n))
    too_few = [few] if len(others) == 0 or any("ANA_TOO_FEW" in n for n in notes) else []
    return [(", or ".join(too_few + others),)]


def not_printed(c: Cohort) -> list[Said]:
    most = int(c.setting("suppress_below")) - 1
    return [] if most < 1 else [("of 1",)] if most == 1 else [(f"from 1 to {most}",)]


# ---- what `analyse` says -------------------------------------------------------------------------


def below_zero(c: Cohort) -> list[Said]:
    n = sum(float(row["volume_ml"] or 0) < 0 for row in c.volumes)
    return [(str(n),)] if n else []


def fixed(c: Cohort) -> list[Said]:
    return [(sorted_names(set(FACTORS) & c.terms),)] if set(FACTORS) & c.terms else []


def one_sex(c: Cohort) -> list[Said] | None:
    kinds = {row.get("sex") for row in c.done if row.get("qc") != "exclude"} & {"F", "M"}
    return None if not c.volumes else when(len(kinds) == 1)


# ---- captions ------------------------------------------------------------------------------------


def lines(c: Cohort) -> list[Said] | None:
    if "trends" not in c.figures or not c.trends:
        return None
    models = {row["model"] for row in c.of("curves")}
    return [("natural cubic splines",)] if "spline" in models else _lines_m1(models)


def _lines_m1(models: set[str]) -> list[Said]:
    return [("the fit of model M1",)] if models else []


def absent(name: str) -> Callable[[Cohort], list[Said]]:
    return lambda c: when(c.trends and name not in c.figures)


# ---- the model -----------------------------------------------------------------------------------


def folds(c: Cohort) -> list[Said]:
    found = _by_number(c, lambda part: len(part["folds"]))
    return [(str(n), where) for n, where in found.items() if n > 1]


def mirrored(c: Cohort) -> list[Said]:
    found = _by_number(c, lambda part: _n_mirrored(c, part))
    return [(str(2**n), str(n), where) for n, where in found.items() if n]


def not_mirrored(c: Cohort) -> list[Said]:
    found = _by_number(c, lambda part: _n_mirrored(c, part))
    return [(where,) for n, where in found.items() if not n]


def _n_mirrored(c: Cohort, part: dict) -> int:
    profiles = {row["profile"].split("+")[0] for row in c.scans if row.get("profile")}
    return len(part["mirror_axes"]) if profiles == {"nnunet"} else 0


def _by_number(c: Cohort, number: Callable[[dict], int]) -> dict[int, str]:
    numbers: dict[int, list[str]] = {}
    for part in c.card.get("parts", []):
        numbers.setdefault(number(part), []).append(part["name"])
    return {
        n: f" in {', '.join(names)}" if len(numbers) > 1 else "" for n, names in numbers.items()
    }


def boxes(c: Cohort) -> list[Said]:
    return [
        (part["name"], ", ".join(part["crop"]), f"{part['margin_mm']:g}")
        for part in c.card.get("parts", [])
        if part.get("crop")
    ]


def cascades(c: Cohort) -> list[Said]:
    kinds = _configurations(c)
    return [
        (part["configuration"], kinds[part["previous"]])
        for part in c.card.get("parts", [])
        if part.get("previous")
    ]


def averaged(c: Cohort) -> list[Said]:
    kinds = _configurations(c)
    together = [
        [kinds[name] for name in (*part["averaged_with"], part["name"])]
        for part in c.card.get("parts", [])
        if part.get("averaged_with")
    ]
    return [(f"{', '.join(some[:-1])} and {some[-1]}",) for some in together]


def _configurations(c: Cohort) -> dict[str, str]:
    return {part["name"]: part["configuration"] for part in c.card.get("parts", [])}


def largest(c: Cohort) -> list[Said]:
    return [
        (", ".join(str(n) if part.get("regions") else part["labels"][str(n)] for n in labels),)
        for part in c.card.get("parts", [])
        for labels in part.get("keep_largest", [])
    ]

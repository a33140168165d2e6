"""What Methods says was done with this cohort, sentence by sentence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cohortvol.drawing import style
from cohortvol.stages.report.page.sentences import notices
from cohortvol.stages.report.page.sentences.captions import SPLINE
from cohortvol.stages.report.tables.flow import Flow
from cohortvol.stages.report.tables.inputs import LOW, SLOPE, Analysis

TIME_OF_DAY = "time of day"


def said(analysis: Analysis, flow: Flow, segmented: str, *, public: bool) -> dict[str, str]:
    """Every sentence of Methods that the template places, by name; empty where there is none.

    What `segmented` returns is given.
    """
    return {
        "manifest": manifest(flow),
        "segmented": segmented,
        "cut": cut(analysis),
        "no_trend": no_trend(analysis),
        "m1": m1(analysis),
        "m2": m2(analysis),
        "sexes": sexes(analysis),
        "errors": f"Intervals are 95 % confidence intervals from {notices.errors(analysis)} "
        "standard errors.",
        "multiplicity": multiplicity(analysis),
        "descriptive": descriptive(analysis),
        "curves": curves(analysis),
        "not_printed": _ended(notices.not_printed(analysis)),
        "left_out": left_out(analysis),
        "bends": bends(analysis, public=public),
        "body_size": body_size(analysis),
        "replication": replication(analysis),
        "centiles": centiles(analysis, public=public),
        "sensitivity": sensitivity(analysis, public=public),
        "repeats": repeats(analysis, public=public),
        "site_slopes": site_slopes(analysis),
        "tipping": tipping(analysis),
        "literature": literature(analysis),
    }


def manifest(flow: Flow) -> str:
    """How many scans were asked for."""
    scans = "scan" if flow.manifest == 1 else "scans"
    return f"The manifest named {style.count(flow.manifest)} {scans}."


def segmented(models_of_scans: str, told: Sequence[str], *, made_elsewhere: bool) -> str:
    """With which model and, as it is `told`, how; or by whom."""
    if made_elsewhere and models_of_scans:
        return (
            f"Structures were taken from label maps made elsewhere, {models_of_scans}, each of "
            "which was checked to lie on the native grid of its image and to hold known labels "
            "alone."
        )
    if models_of_scans:
        model = f"the model {models_of_scans}, on the native grid of each image."
        return " ".join([f"Structures were segmented with {model}", *told])
    return "The tables do not name a segmentation model."


def cut(analysis: Analysis) -> str:
    """What was made of volumes that the field of view cuts."""
    if not analysis.settings.get("exclude_cut", True):
        done = "used as measured, although they are lower bounds"
    elif analysis.knows_cut:
        done = "left out"
    else:
        done = "not told apart from others by the table, and none was left out for it"
    return f"Volumes of structures that the field of view cuts were {done}."


def no_trend(analysis: Analysis) -> str:
    """Why no trend is reported, and what is not given of few scans."""
    said = f"No trend is reported. {' '.join(analysis.cannot_say)}"
    if printed := notices.not_printed(analysis):
        said += f" {printed}, and quantiles of as few scans are not given."
    return said


def m1(analysis: Analysis) -> str:
    """The unadjusted model."""
    age = f"age (in decades, centred at {analysis.settings.get('age_center', 50.0):g} years)"
    terms = f"{age}, sex, and their product" if len(analysis.sexes) > 1 else age
    return f"Model M1 regresses the natural logarithm of the volume on {terms}."


def m2(analysis: Analysis) -> str:
    """The adjusted model, and of which scans it is."""
    names = notices.adjusted_for(analysis)
    if not names:
        nothing = f"Model M2 adjusts for {notices.NOTHING} (see the notes of the slopes)."
        return nothing if "M2" in notices.models(analysis) else ""
    covariates = analysis.record.get("covariates", {})
    adjusted, lines = covariates.get("adjusted_for", []), covariates.get("continuous", [])
    how = ["height and body mass index as logarithms"] * ("height" in adjusted)
    how += ["the time of day as one harmonic of 24 hours"] * (TIME_OF_DAY in adjusted)
    how += [f"{', '.join(lines)} as a line"] * bool(lines)
    fixed = [name for name in adjusted if name not in ("height", "BMI", TIME_OF_DAY, *lines)]
    how += ["the others as fixed effects" if how else "as fixed effects"] * bool(fixed)
    needed = (
        ["height", "weight"] * ("height" in adjusted), [TIME_OF_DAY] * (TIME_OF_DAY in adjusted),
        lines,
    )  # fmt: skip
    of = [_known(some) for some in needed if some]
    scans = f", on the scans whose {' and whose '.join(of)}" if of else ""
    return (
        f"Model M2 adjusts for {names} besides ({', '.join(how)}){scans}. Both are printed side "
        "by side."
    )


def _known(names: list[str]) -> str:
    return f"{style.listed(names)} {'is' if len(names) == 1 else 'are'} known"


def sexes(analysis: Analysis) -> str:
    """Where the slopes of women, men and all come from."""
    if analysis.sexes == ["all"]:
        return "Sex is not known: the slope of all comes from a fit without a term of sex."
    if one := notices.one_sex(analysis):
        return f"All scans used are of {one}: the slope of all is that of {one}."
    return (
        "The slopes of women and men are contrasts of one fit; the slope of all comes from a fit "
        "with a sex term and no product."
    )


def multiplicity(analysis: Analysis) -> str:
    """Over which families tests are corrected, and what counts as a finding."""
    families: Mapping[str, str] = analysis.record.get("families", {})
    listed = "; ".join(f"{name}, {family}" for name, family in families.items())
    fdr = analysis.settings.get("fdr", 0.05)
    found = f"A false discovery rate below {fdr:g} counts as a finding."
    return f"Multiplicity: {listed}. {found}" if listed else found


def descriptive(analysis: Analysis) -> str:
    """From how many people on slopes are estimated, and more than a description."""
    settings = analysis.settings
    said = f"Slopes with fewer than {settings.get('min_n_per_sex', 100)} usable subjects of a sex"
    said += " are descriptive only"
    if "min_n_fit" in settings:
        said += f", and with fewer than {settings['min_n_fit']} none is estimated"
    return f"{said}."


def curves(analysis: Analysis) -> str:
    """What the curves are, and where they end."""
    table = analysis.curves
    bent = table[table["model"] == SPLINE]
    keys = ["structure", "sex"]
    straight = set(table[keys].itertuples(index=False, name=None)) - set(
        bent[keys].itertuples(index=False, name=None)
    )
    knots = analysis.record.get("spline", {}).get("knots_years", [])
    at = f" with knots at {', '.join(f'{knot:.1f}' for knot in knots)} years" if knots else ""
    if table.empty:
        return f"The spline of M3 has{at.removeprefix(' with')}." if at and _bends(analysis) else ""
    if bent.empty:
        kind = "straight lines of M1"
    else:
        kind = f"natural cubic splines{_by_sex(analysis)}{at}"
        kind += ", and straight lines of M1 where no spline was fitted" if straight else ""
    return (
        f"Curves are {kind}. They are drawn only inside the 1st to 99th percentile of age, never "
        "beyond the data."
    )


def _by_sex(analysis: Analysis) -> str:
    return " by sex" if len(analysis.sexes) > 1 else ""


def left_out(analysis: Analysis) -> str:
    """What M2 is not adjusted for, and why."""
    names: Mapping[str, str] = analysis.record.get("covariates", {}).get("left_out", {})
    listed = ", ".join(f"{name} ({why})" for name, why in names.items())
    return f"Not adjusted for: {listed}." if listed else ""


def _bends(analysis: Analysis) -> bool:
    return bool(analysis.table("nonlinearity")["q_value"].notna().any())


def bends(analysis: Analysis, *, public: bool) -> str:
    """How it was tested whether trends bend."""
    if not _bends(analysis):
        return f"No test for bends {_made(public)}."
    settings = analysis.settings
    return (
        f"Model M3 puts a natural cubic spline of age{_by_sex(analysis)} in the place of the "
        "straight line, with the other terms of the most adjusted model; whether a trend bends is "
        "a robust Wald test of M3 against it. Where it bends, slopes at several ages and the age "
        "of the peak are given, the latter with a percentile interval over "
        f"{settings.get('bootstrap_draws', '–')} draws of subjects (seed "
        f"{settings.get('seed', '–')})."
    )


def body_size(analysis: Analysis) -> str:
    """How slopes are adjusted for body size."""
    if "height" not in notices.adjusted_for(analysis):
        return ""
    return (
        "Body size is adjusted for allometrically, with estimated exponents; volumes divided by "
        "body surface are for comparison only."
    )


def replication(analysis: Analysis) -> str:
    """What is repeated of the TotalSegmentator MRI study."""
    ways = ["Spearman correlations of volume with age"] * bool(
        analysis.correlations["spearman_rho"].notna().any()
    )
    ways += ["box plots by quartile of age"] * bool(
        analysis.table("quartiles")["median_ml"].notna().any()
    )
    if not ways:
        return ""
    groups = ", pooled and by sex" if len(analysis.sexes) > 1 else ""
    said = f"Replication: {' and '.join(ways)}{groups}"
    said += ", with Bonferroni's correction" if ways[0].startswith("Spearman") else ""
    return f"{said}, implausibly small volumes left out by a table of limits."


def centiles(analysis: Analysis, *, public: bool) -> str:
    """How centiles are fitted."""
    if not analysis.table("centiles")["p50_ml"].notna().any():
        return f"Centiles {_made(public, 'were not fitted', 'are not given')}."
    settings = analysis.settings
    checked = ", and checked by quantile regression" if settings.get("quantile_check") else ""
    names = settings.get("centile_covariates")
    depends = f" their median depending also on {', '.join(names)}," if names else ""
    return (
        "Centiles are fitted by sex by maximum likelihood with the Box-Cox Cole-Green distribution "
        "(LMS), or with Box-Cox t, SHASH or LMS with a share of people far out where its centiles "
        f"or tails disagree with the people fitted to,{depends} for sexes with "
        f"{settings.get('min_n_centiles', '–')} usable subjects or more{checked}."
    )


def sensitivity(analysis: Analysis, *, public: bool) -> str:
    """Which other analyses stand beside the slopes."""
    table = analysis.table("sensitivity")
    if not table.loc[table["analysis"] != "complete", LOW].notna().any():
        return f"No sensitivity analyses {_made(public, 'could be made', 'are given')}."
    return (
        "Sensitivity: one scan per person where some have several, inverse probability weighting, "
        "cut volumes as bounds (Tobit), Huber's robust regression, fits without outliers, per body "
        "surface, and sites as fixed effects or harmonised, each where the data allow it."
    )


def repeats(analysis: Analysis, *, public: bool) -> str:
    """Where slopes within people come from, or why there are none."""
    if analysis.table("within_between")["within_pct_per_decade"].notna().any():
        return (
            "Slopes within and between people come from a random intercept per subject (REML), "
            "with cluster-robust errors."
        )
    made = _made(public, "were not estimated", "are not given")
    return f"Slopes within people {made}: {notices.few_within_people(analysis)}."


def site_slopes(analysis: Analysis) -> str:
    """Where slopes within and between sites come from, and whether they differ in any structure."""
    q_values = analysis.table("site_slopes")["q_value"].dropna().astype(float)
    if q_values.empty:
        return ""
    differ = (q_values < float(analysis.settings.get("fdr", 0.05))).any()
    return (
        "Slopes within and between sites (scanners, where no sites are told apart) come from a "
        "random intercept per site, with age split into the mean age of its people and the "
        "distance from it, and those within also from a term per site; errors are cluster-robust "
        "by site"
        f"{'' if differ else '; in no structure did the two clearly differ'}."
    )


def tipping(analysis: Analysis) -> str:
    """That the drift that would cancel a slope is given."""
    if not analysis.table("tipping")["bias_pct_per_decade"].notna().any():
        return ""
    return "For each slope the drift of the segmentation that would cancel it is given."


def literature(analysis: Analysis) -> str:
    """That slopes are compared with published ones."""
    table = analysis.table("literature")
    if not (table["source"].notna() & table[SLOPE].notna()).any():
        return ""
    return (
        "Slopes are compared with published values; of the TotalSegmentator MRI study "
        "(doi 10.1148/radiol.241613) only directions are known, and no number is taken from it."
    )


def _made(public: bool, not_made: str = "was made", not_given: str = "is given") -> str:
    """A public page leaves out what was made of few."""
    return not_given if public else not_made


def _ended(text: str) -> str:
    return f"{text}." if text else ""

"""The analyse stage: two tables in, tables of trends and one JSON of how they came about out."""

from __future__ import annotations

import logging
import platform
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from threadpoolctl import threadpool_limits

from cohortvol import __version__, ranges
from cohortvol.stages.analyse.answers import nonlinearity as bends
from cohortvol.stages.analyse.answers.asymmetry import asymmetry
from cohortvol.stages.analyse.answers.centiles import centiles
from cohortvol.stages.analyse.answers.companions import companion_slopes
from cohortvol.stages.analyse.answers.correlation import correlations
from cohortvol.stages.analyse.answers.curves import KNOT_PERCENTILES, curves, knots_years
from cohortvol.stages.analyse.answers.literature import literature
from cohortvol.stages.analyse.answers.published_centiles import published_centiles
from cohortvol.stages.analyse.answers.repeats import within_between
from cohortvol.stages.analyse.answers.sites import site_sentences, site_slopes
from cohortvol.stages.analyse.answers.slopes import trends
from cohortvol.stages.analyse.answers.time_of_day import time_of_day
from cohortvol.stages.analyse.answers.two_models import two_models
from cohortvol.stages.analyse.cohort import ages, hours
from cohortvol.stages.analyse.cohort import usable as cohort_of
from cohortvol.stages.analyse.cohort.bands import age_bands, quartiles
from cohortvol.stages.analyse.cohort.describe import dropped, flow, summary, table1
from cohortvol.stages.analyse.cohort.groups import models_of
from cohortvol.stages.analyse.cohort.inputs import read_scans, read_volumes
from cohortvol.stages.analyse.cohort.limits import cannot_say
from cohortvol.stages.analyse.cohort.settings import Settings, checked
from cohortvol.stages.analyse.cohort.usable import Cohort
from cohortvol.stages.analyse.each import Each, each
from cohortvol.stages.analyse.fits.designs import FACTORS, TIME_OF_DAY, continuous_of, factors_of
from cohortvol.stages.analyse.outputs import write
from cohortvol.stages.analyse.robustness.body_size import body_size
from cohortvol.stages.analyse.robustness.diagnostics import diagnostics
from cohortvol.stages.analyse.robustness.measurement_error import tipping
from cohortvol.stages.analyse.robustness.selection import missingness
from cohortvol.stages.analyse.robustness.sensitivity import sensitivity
from cohortvol.stages.analyse.robustness.suspected import suspected, suspicions, with_suspected
from cohortvol.store.files import commit_digests, commit_json, sha256_of

log = logging.getLogger(__name__)

LEAST_SIDE_BY_SIDE = 300_000
"""Volumes from which on it pays to start processes."""
FAMILIES = {
    "slopes": "Benjamini-Hochberg over all structures and sexes (all, F, M) of one model",
    "interactions": "Benjamini-Hochberg over all structures of one model",
    "nonlinearity": "Benjamini-Hochberg over all structures and sexes (all, F, M)",
    "sites": "Benjamini-Hochberg over all structures and sexes (all, F, M) of one model",
    "correlations": "Bonferroni over all structures of one stratum (all, F or M)",
    "asymmetry": "Benjamini-Hochberg over all pairs and sexes (all, F, M)",
}


def run(
    volumes: Path, scans: Path, out: Path, *, threads: int = 1, **settings: Any
) -> dict[str, Any]:
    """Analyse a cohort and write every table of `outputs.SCHEMAS`, and ``analyse.json``.

    Equal inputs and settings give equal files. ``files.sha256``, written last, has their digests.

    Parameters
    ----------
    volumes : Path
        CSV, TSV or Parquet with ``scan_id, structure, volume_ml``; ``status``,
        ``cut_by_fov``, ``qc``, ``label`` and ``model`` are used where there.
    scans : Path
        CSV, TSV or Parquet with ``scan_id, age_years, sex``; ``state``, ``qc``,
        ``subject_id``, ``height_cm``, ``weight_kg``, ``site`` and the like where there.
    out : Path
        Folder to write to.
    threads : int
        Processes that work at structures side by side; the tables are the same for any number.
    **settings
        Fields of `Settings`.

    Returns
    -------
    dict
        What ``analyse.json`` holds.

    Raises
    ------
    TableError
        If a table is missing, damaged, or lacks a column; the message names it.
    ConfigError
        If a setting is unknown, or several segmentation models await a choice.
    """
    with threadpool_limits(1):  # with more, sums are added up in another order
        return _analysed(volumes, scans, out, checked(settings), threads)


def _analysed(
    volumes: Path, scans: Path, out: Path, chosen: Settings, threads: int
) -> dict[str, Any]:
    named = ("literature", "agreement", "companions")
    beside = {name: Path(path) for name in named if (path := getattr(chosen, name))}
    cohort = cohort_of.build(
        read_volumes(volumes),
        read_scans(scans, chosen.covariates),
        exclude_cut=chosen.exclude_cut,
        segmentation_model=chosen.segmentation_model,
        age_range_years=chosen.age_range_years,
        covariates=chosen.covariates,
    )
    cohort = hours.decided(cohort, chosen.time_of_day)
    for_each = each(threads if cohort.volume_ml.size > LEAST_SIDE_BY_SIDE else 1)
    slopes, interactions = trends(cohort, chosen)
    splines = bends.Splines(cohort, chosen)
    nonlinearity = bends.nonlinearity(splines)
    bent = bends.bent(nonlinearity, chosen)
    slopes = bends.label_average(slopes, bent)
    diagnosed, influence = diagnostics(cohort, chosen, for_each)
    far_out, whose = suspected(cohort)
    tables = {
        "slopes": slopes,
        "interactions": interactions,
        "correlations": correlations(cohort, chosen, for_each),
        "curves": curves(cohort, chosen, for_each),
        "summary": summary(cohort, chosen),
        "dropped": dropped(cohort),
        "table1": table1(cohort, chosen),
        "flow": with_suspected(flow(cohort), whose),
        "suspected": far_out,
        "suspected_scans": whose,
        "nonlinearity": nonlinearity,
        "slopes_at_age": bends.slopes_at_age(splines, bent),
        "peaks": bends.peaks(splines, bent, for_each),
        "body_size": body_size(cohort, chosen),
        "diagnostics": diagnosed,
        "influence": influence,
        "quartiles": quartiles(cohort, chosen),
        "age_bands": age_bands(cohort, chosen),
        **_beside(cohort, slopes, chosen, for_each),
    }
    rows = {name: write(out, name, frame) for name, frame in tables.items()}
    counts = _counts(cohort)
    record = {
        "settings": asdict(chosen) | {name: path.name for name, path in beside.items()},
        "models": list(models_of(cohort)),
        "covariates": covariates(cohort, slopes, chosen),
        "families": FAMILIES | _family_of_hours(cohort),
        "knows_cut": cohort.knows_cut,
        "spline": {
            "knot_percentiles": list(KNOT_PERCENTILES),
            "knots_years": knots_years(cohort).tolist(),
        },
        "counts": counts,
        "findings": _findings(slopes, chosen),
        "rows": rows,
        "cannot_say": cannot_say(cohort, slopes, chosen),
        "sentences": [
            *sentences(cohort, slopes, chosen),
            *site_sentences(tables["site_slopes"], chosen),
            *suspicions(far_out, knows_cut=cohort.knows_cut and chosen.exclude_cut),
        ],
        "inputs": {
            name: {"file": path.name, "sha256": sha256_of(path)}
            for name, path in {"volumes": volumes, "scans": scans, **beside}.items()
        },
        "versions": _versions(),
    }
    commit_json(out / "analyse.json", record)
    names = [f"{name}.{kind}" for name in tables for kind in ("parquet", "csv")]
    commit_digests(out, [out / name for name in names], last="analyse.json")
    log.info(
        "%d scans, %d usable for trends, %d structures",
        counts["scans"],
        counts["usable_for_trends"],
        counts["structures"],
    )
    return record


def _beside(
    cohort: Cohort, slopes: pd.DataFrame, settings: Settings, each: Each
) -> dict[str, pd.DataFrame]:
    """Centiles, and what tells how far the slopes can be trusted."""
    return {
        **centiles(cohort, settings, each),
        "within_between": within_between(cohort, settings, each),
        "site_slopes": site_slopes(cohort, settings, each),
        "sensitivity": sensitivity(cohort, settings, each),
        "missingness": missingness(cohort, settings),
        "literature": literature(cohort, settings, each),
        "published_centiles": published_centiles(cohort, settings),
        "tipping": tipping(cohort, slopes),
        "asymmetry": asymmetry(cohort, settings),
        "time_of_day": time_of_day(cohort, settings),
        "two_models": two_models(cohort, settings),
        "companion_slopes": companion_slopes(cohort, settings),
    }


def _counts(cohort: Cohort) -> dict[str, int]:
    scans = cohort.scans
    known = cohort.in_trends
    return {
        "scans": len(scans),
        "done": int((scans["state"] == "done").sum()),
        "usable_for_trends": int(known.sum()),
        "subjects": int(scans.loc[known, "subject"].nunique()),
        "F": int((known & cohort.of_sex("F")).sum()),
        "M": int((known & cohort.of_sex("M")).sum()),
        "with_height_and_weight": int((known & cohort.has_size).sum()),
        "values_out_of_range": int(
            sum((rows & cohort.counted).sum() for rows in cohort.outside.values())
        ),
        "structures": len(cohort.structures),
        "volumes_usable": int((cohort.reason == cohort_of.USABLE).sum()),
        "volumes_cut": int((cohort.reason == cohort_of.CUT).sum()),
        "volumes_excluded_by_review": int(
            np.isin(cohort.reason, (cohort_of.REVIEW, cohort_of.SCAN_REVIEW)).sum()
        ),
        "volumes_accepted_by_review": cohort.accepted,
        "volume_rows_without_scan": cohort.rows_without_scan,
    }


def covariates(cohort: Cohort, slopes: pd.DataFrame, settings: Settings) -> dict[str, Any]:
    """What M2 is adjusted for in any structure, and why not for what else it might."""
    m2 = slopes[slopes["model"] == "M2"] if len(slopes) else slopes
    given = m2["adjusted_for"].dropna() if "adjusted_for" in m2 else []
    adjusted = list(dict.fromkeys(name for text in given for name in text.split(", ")))
    varying = {factor.name for factor in factors_of(cohort)}
    left_out = {}
    for name in ("height", "BMI"):
        if name not in adjusted:
            left_out[name] = "no M2 could be fitted" if cohort.has_size.any() else "not known"
    varying |= set(continuous_of(cohort))
    for name in (*FACTORS, *cohort.covariates):
        if name not in adjusted:
            here = name in cohort.scans and cohort.scans[name].notna().any()
            unused = "the same for all scans" if here else "not known"
            left_out[name] = "see the notes of M2" if name in varying else unused
    if TIME_OF_DAY not in adjusted:
        why = hours.why_not(cohort, settings.time_of_day)
        left_out[TIME_OF_DAY] = why or "see the notes of M2"
    continuous = [name for name in continuous_of(cohort) if name in adjusted]
    return {"adjusted_for": adjusted, "continuous": continuous, "left_out": left_out}


def _findings(slopes: pd.DataFrame, settings: Settings) -> dict[str, int]:
    """How many slopes of each model have a q value below the false discovery rate."""
    if slopes.empty:
        return {}
    found = slopes["q_value"] < settings.fdr
    return {str(model): int(n) for model, n in found.groupby(slopes["model"]).sum().items()}


def sentences(cohort: Cohort, slopes: pd.DataFrame, settings: Settings) -> list[str]:
    """What must be printed wherever these results are shown."""
    counts = _counts(cohort)
    said = [
        "The data are cross-sectional: differences between people of different ages are not "
        "the ageing of one person.",
        "Unless the scans were drawn at random from a population, the results describe the "
        "people scanned and not a population.",
    ]
    estimated = "slope_pct_per_decade" in slopes and slopes["slope_pct_per_decade"].notna().any()
    factors = {factor.name for factor in factors_of(cohort)}
    adjusted = covariates(cohort, slopes, settings)["adjusted_for"]
    fixed = [name for name in adjusted if name in factors]
    if fixed:
        said.append(f"M2 and M3 have fixed effects of {', '.join(fixed)}; M1 has not.")
        said += _pooled_levels(cohort, fixed, settings)
    elif estimated:
        said.append(f"No model adjusts for {', '.join(FACTORS[:-1])} or {FACTORS[-1]}.")
    if estimated:
        wish = settings.time_of_day
        said += ages.said(cohort)
        said += hours.said(cohort, wish, adjusted=TIME_OF_DAY in adjusted)
    if not cohort.knows_sex:
        said.append("Sex is not known: women and men are analysed as one.")
    if estimated and not cohort.has_size.any():
        said.append("Height and weight are not known: no result is adjusted for body size.")
    notes = slopes["note"].fillna("") if len(slopes) else pd.Series(dtype=str)
    for mark, meaning in (
        ("descriptive only", f"fewer than {settings.min_n_per_sex} usable subjects per sex"),
        ("ANA_", "a slope that could not be estimated; the note of the row says why"),
    ):
        marked = slopes.loc[notes.str.contains(mark), "structure"].unique() if len(slopes) else []
        if estimated and len(marked):
            label = "descriptive only, with" if mark == "descriptive only" else "with"
            which = "all" if len(marked) == len(cohort.structures) else ", ".join(marked)
            said.append(f"Structures {label} {meaning}: {which}.")
    if settings.exclude_cut and counts["volumes_cut"]:
        said.append(
            f"{_volumes(counts['volumes_cut'])} left out as the field of view cuts the structure; "
            "who is cut may depend on height and age."
        )
    if counts["volumes_excluded_by_review"]:
        said.append(
            f"{_volumes(counts['volumes_excluded_by_review'])} left out because people who "
            "looked at them excluded them; automatic QC alone would use them."
        )
    if counts["volumes_accepted_by_review"]:
        said.append(
            f"{_volumes(counts['volumes_accepted_by_review'])} used because people who looked "
            "at them accepted them; automatic QC alone would leave them out."
        )
    if n_taken := int((cohort.reason == cohort_of.SURGERY).sum()):
        said.append(
            f"{_volumes(n_taken)} left out because surgery took the structure or a part of it, "
            "as the column absent says; nobody else stands for these people."
        )
    if not settings.exclude_cut:
        said.append("Volumes cut by the field of view are used although they are lower bounds.")
    said += [*_of_clusters(cohort, slopes), *cohort.remarks]
    outside = {name: pd.Series(rows & cohort.counted) for name, rows in cohort.outside.items()}
    said += [
        f"{what}: they count as unknown and enter no result."
        for what in ranges.said(outside, settings.age_range_years)
    ]
    if counts["volume_rows_without_scan"]:
        said.append(
            f"{counts['volume_rows_without_scan']:,} rows of the volumes table belong to no "
            "row of the scans table and are not used."
        )
    return said


def _of_clusters(cohort: Cohort, slopes: pd.DataFrame) -> list[str]:
    """Whose errors go together, where any do."""
    kinds = set(slopes["se_kind"].dropna()) if len(slopes) else set()
    if not kinds & {"cluster", "CR2"}:
        return []
    scans = cohort.scans[cohort.in_trends]
    who = ["Some people have several scans"] if scans["subject"].duplicated().any() else []
    who += ["some were drawn in groups (cluster_id)"] if scans["cluster_id"].notna().any() else []
    text = " and ".join(who)
    said = [
        f"{text[0].upper()}{text[1:]}: standard errors are cluster-robust; p values of "
        "correlations take every scan as independent."
    ]
    if "CR2" in kinds:
        said.append(
            "Where these are few groups, errors are bias-reduced (CR2) and intervals have "
            "Satterthwaite's degrees of freedom."
        )
    return said


def _family_of_hours(cohort: Cohort) -> dict[str, str]:
    return {TIME_OF_DAY: "Benjamini-Hochberg over all structures"} if cohort.time_of_day else {}


def _volumes(n: int) -> str:
    return "1 volume is" if n == 1 else f"{n:,} volumes are"


def _pooled_levels(cohort: Cohort, fixed: list[str], settings: Settings) -> list[str]:
    """Levels without a term of their own, between which nothing is adjusted for."""
    said = []
    for factor in factors_of(cohort):
        lump = factor.lump(cohort.in_trends, settings.min_n_per_level)
        if factor.name in fixed and len(lump.pooled) > 1:
            said.append(
                f"Of {len(lump.own) + len(lump.pooled)} levels of {factor.name}, "
                f"{len(lump.pooled)} have too few scans for a term of their own and share one: "
                "what differs between these is not adjusted for."
            )
    return said


def _versions() -> dict[str, str]:
    libraries = {package: version(package) for package in ("numpy", "pandas", "pyarrow", "scipy")}
    return {"cohortvol": __version__, "python": platform.python_version(), **libraries}

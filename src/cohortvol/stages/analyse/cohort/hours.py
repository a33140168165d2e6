"""The time of day of the scans: what of it can be true, whether M2 adjusts for it, who differs."""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np
import pandas as pd
from scipy import stats

from cohortvol.stages.analyse.cohort.settings import ALWAYS, NEVER
from cohortvol.stages.analyse.cohort.usable import Cohort

log = logging.getLogger(__name__)

HOURS = "time_of_day_h"
CONSTANT_FROM = 10
"""Scans of a site with a time of day from which on it can be seen that these times are none."""
CONSTANT_SHARE = 0.8
"""Share of them at one and the same minute from which on that minute stands for a time that was
taken out. Whole hours that people wrote down do not reach it, as long as there are two."""
LEAST_KNOWN = 0.95
"""Share of the scans that M2 would use of which the time is known, for `settings.AUTO`."""
LEAST_SPREAD_H = 2.0
"""Hours between the 5th and 95th percentile of the times, for the same."""
LEAST_DIFFERENT = 3
"""Different times that the two terms of a harmonic and an intercept need."""
LEAST_OF_A_SITE = 5
"""Scans of a site by which it is said when it scans."""
SITES_APART_H = 1.0
SITES_P = 0.001


def decided(cohort: Cohort, wish: str) -> Cohort:
    """The cohort without times that are none, and with the decision whether M2 adjusts for them.

    Parameters
    ----------
    wish : str
        The setting ``time_of_day``.
    """
    empty = stand_ins(cohort.scans)
    if empty.any():
        n = int(empty.sum())
        scans = "1 scan has" if n == 1 else f"{n:,} scans have"
        remark = (
            f"{scans} the same minute of the day as nearly all others of their site: such times "
            "were put in for ones that were taken out, and count as unknown."
        )
        log.warning("%s", remark)
        cleaned = cohort.scans.assign(**{HOURS: cohort.scans[HOURS].mask(empty)})
        cohort = replace(cohort, scans=cleaned, remarks=(*cohort.remarks, remark))
    return replace(cohort, time_of_day=not why_not(cohort, wish))


def stand_ins(scans: pd.DataFrame) -> pd.Series:
    """Rows whose time nearly all scans of the site share: a constant in place of a time.

    Parameters
    ----------
    scans : pandas.DataFrame
        ``time_of_day_h`` and, where known, ``site``; without, all are taken as of one site.
    """
    known = scans[scans[HOURS].notna()]
    site = known["site"].fillna("") if "site" in known else pd.Series("", known.index)
    of_site = known.groupby(site)[HOURS].transform("size")
    at_once = known.groupby([site, known[HOURS]])[HOURS].transform("size")
    constant = (of_site >= CONSTANT_FROM) & (at_once >= CONSTANT_SHARE * of_site)
    return constant.reindex(scans.index, fill_value=False).astype(bool)


def why_not(cohort: Cohort, wish: str) -> str:
    """Why M2 does not adjust for the time of day; empty where it does."""
    wanted = cohort.in_trends & (cohort.has_size if cohort.has_size.any() else True)
    hours = cohort.scans.loc[wanted, HOURS].to_numpy(dtype=float)
    known = hours[~np.isnan(hours)]
    if not len(known):
        return "not known"
    if wish == NEVER:
        return "not asked for"
    if len(np.unique(known)) < LEAST_DIFFERENT:
        return "the same for nearly all scans"
    if wish == ALWAYS:
        return ""
    if len(known) < LEAST_KNOWN * len(hours):
        return f"known of less than {100 * LEAST_KNOWN:g} % of the scans"
    if np.ptp(np.percentile(known, [5, 95])) < LEAST_SPREAD_H:
        return "the same for nearly all scans"
    return ""


def said(cohort: Cohort, wish: str, *, adjusted: bool) -> list[str]:
    """Sentences on the time of day; none where it is not known.

    Parameters
    ----------
    adjusted : bool
        Whether any M2 was fitted with it.
    """
    hours = cohort.scans.loc[cohort.in_trends, HOURS]
    if hours.isna().all():
        return []
    found = []
    if adjusted:
        found.append(
            "M2 and M3 adjust for the time of day by one harmonic of 24 hours; M1 does not."
        )
    else:
        why = why_not(cohort, wish) or "no M2 could be fitted with it"
        found.append(f"No model adjusts for the time of day ({why}).")
    if sites_apart(cohort):
        rest = "M1 compares sites at different hours" if adjusted else "a trend with age may be one"
        found.append(
            "Sites scan at different hours: median times of day of two sites are more than an hour "
            "apart. The time of day is a confounder here, as organs change with meals and posture: "
            f"{rest}, and what seems to differ between sites may be the hour."
        )
    return found


def sites_apart(cohort: Cohort) -> bool:
    """Whether sites scan at other hours: medians an hour apart, and no chance (Kruskal-Wallis)."""
    scans = cohort.scans[cohort.in_trends]
    if "site" not in scans:
        return False
    known = scans.dropna(subset=["site", HOURS])
    groups = [times.to_numpy(dtype=float) for _, times in known.groupby("site")[HOURS]]
    groups = [times for times in groups if len(times) >= LEAST_OF_A_SITE]
    if len(groups) < 2 or len(np.unique(np.concatenate(groups))) < 2:
        return False
    medians = [float(np.median(times)) for times in groups]
    if np.ptp(medians) <= SITES_APART_H:
        return False
    return bool(stats.kruskal(*groups).pvalue < SITES_P)

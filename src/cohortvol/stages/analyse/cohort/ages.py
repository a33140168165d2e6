"""Ages that are not what people's ages are: in bands, in whole years, cut down to a highest one."""

from __future__ import annotations

import numpy as np
from scipy import stats

from cohortvol.stages.analyse.cohort.usable import Cohort

LEAST_N = 50
"""Scans of known age from which on their ages are looked at."""
LEAST_BAND_YEARS = 2.0
TOP_FROM_YEARS = 75.0
"""Privacy cuts ages down to 80, 85, 89 or 90 years; a lower highest age is that of a study."""
TOP_OVER_BELOW = 3.0
"""How many times as many scans the highest age has as one a step below, on average."""
TOP_P = 1e-4
STEPS_BELOW = 5
MOST_AT_TOP = 0.3
"""Share of the scans beyond which they are people of one age and not the end of many."""
_DECIMALS = 2


def said(cohort: Cohort) -> list[str]:
    """What is odd in the ages, and what can still be estimated, as sentences."""
    ages = cohort.scans.loc[cohort.in_trends, "age_years"].to_numpy(dtype=float)
    if len(ages) < LEAST_N:
        return []
    found, step = [], step_years(ages)
    if step >= LEAST_BAND_YEARS:
        found.append(
            f"Ages come in steps of {step:g} years, as bands do. Slopes per decade can still be "
            "estimated, with somewhat wider intervals: they do not depend on whether a band is "
            "named by its lower end or its middle. Ages of curves, centiles and peaks do, by half "
            "a band, and changes inside a band cannot be seen."
        )
    elif step >= 1:
        found.append(
            "Ages are whole years. Slopes and curves can be estimated as from exact ages (half a "
            "year early where ages are those of the last birthday); slopes within people scanned "
            "less than a few years apart are blurred."
        )
    if top_coded(ages, step):
        found.append(
            "Many more scans have the highest age than any just below: higher ages seem to be cut "
            "down to it (top-coded). Below it everything can be estimated. Slopes of all are too "
            "steep where the trend goes on above; age_range_years with an end below that age "
            "leaves these scans out of the trends."
        )
    return found


def step_years(ages: np.ndarray) -> float:
    """The longest step of which all differences of ages are multiples; 0 where there is none.

    The highest age may be off the steps, as that of an open band.
    """
    different = np.unique(np.round(ages, _DECIMALS))
    if len(different) < 3:
        return 0.0
    steps = [0.0]
    for values in (different, different[:-1]):
        hundredths = np.round(np.diff(values) * 10**_DECIMALS).astype(int)
        step = float(np.gcd.reduce(hundredths)) / 10**_DECIMALS
        steps += [step] if step >= 1 and len(values) >= 3 else []
    return max(steps)


def top_coded(ages: np.ndarray, step: float) -> bool:
    """Whether far more scans have exactly the highest age than ages below it lead to expect.

    Parameters
    ----------
    ages : (n,) float array
    step : float
        Of `step_years`; of exact ages a year is looked at.
    """
    top = float(ages.max())
    at_top = int((ages == top).sum())
    if top < TOP_FROM_YEARS or at_top > MOST_AT_TOP * len(ages):
        return False
    below = (ages < top) & (ages >= top - STEPS_BELOW * max(step, 1.0))
    expected = max(below.sum(), 1) / STEPS_BELOW
    return bool(
        at_top > TOP_OVER_BELOW * expected and stats.poisson.sf(at_top - 1, expected) < TOP_P
    )

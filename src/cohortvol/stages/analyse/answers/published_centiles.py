"""Published centiles beside the people here: how many of them lie below, at the same ages."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cohortvol.stages.analyse.answers.literature import CENTILES, SEX_HERE, references
from cohortvol.stages.analyse.cohort.settings import Settings
from cohortvol.stages.analyse.cohort.usable import Cohort, one_scan_each

NEAR_YEARS = 10.0
"""To either side of a reference's age, where it prints no band of ages."""
_Z95 = 1.959964


def published_centiles(cohort: Cohort, settings: Settings) -> pd.DataFrame:
    """One row for every published centile of a structure here: ``analyse/published_centiles``.

    One scan per subject, that at the lowest age within the band.
    """
    known = references(Path(settings.literature) if settings.literature else None)
    known = known[known[list(CENTILES.values())].notna().any(axis=1)]
    rows = [
        row
        for index, structure in enumerate(cohort.structures)
        for reference in known[known["structure"] == structure].to_dict("records")
        for row in _compared(cohort, index, reference, settings)
    ]
    return pd.DataFrame(rows)


def _compared(
    cohort: Cohort, index: int, reference: dict[str, Any], settings: Settings
) -> Iterator[dict[str, Any]]:
    sex = SEX_HERE[reference["sex"]]
    low, high = _ages(reference)
    ages = cohort.scans["age_years"].to_numpy(dtype=float)
    mask = cohort.usable(index) & (ages >= low) & (ages < high)
    mask &= cohort.of_sex(sex) if sex != "all" else True
    people = one_scan_each(mask, cohort.scans["subject"].to_numpy(), ages)
    volume_ml, n = cohort.volume_ml[people, index], len(people)
    shared = {
        "structure": cohort.structures[index],
        "sex": sex,
        "age_from_years": low if np.isfinite(low) else None,
        "age_below_years": high if np.isfinite(high) else None,
        "n_used": n,
        **{name: reference[name] for name in ("modality", "evidence", "source")},
    }
    for percent, name in CENTILES.items():
        published = float(reference[name])
        if np.isnan(published):
            continue
        row = {**shared, "reference_centile": percent, "reference_ml": published}
        if n < settings.min_n_fit:
            yield {**row, "note": f"ANA_TOO_FEW: fewer than {settings.min_n_fit} usable subjects"}
            continue
        here = float(np.quantile(volume_ml, percent / 100, method="hazen"))
        yield {
            **row,
            "here_ml": here,
            "ratio": here / published,
            **_share_below(volume_ml, published),
        }


def _ages(reference: dict[str, Any]) -> tuple[float, float]:
    """From and below which age: the band as printed, in completed years, or around an age."""
    low, high = (float(reference[f"band_{end}_years"]) for end in ("low", "high"))
    at = float(reference["age_ref_years"])
    if not (np.isnan(low) and np.isnan(high)):
        return (-np.inf if np.isnan(low) else low), (np.inf if np.isnan(high) else high + 1)
    return (-np.inf, np.inf) if np.isnan(at) else (at - NEAR_YEARS, at + NEAR_YEARS)


def _share_below(volume_ml: np.ndarray, reference_ml: float) -> dict[str, float]:
    """Percent of the people below a volume, with Wilson's interval."""
    n = len(volume_ml)
    share = float(np.mean(volume_ml < reference_ml))
    square = _Z95**2 / n
    middle = (share + square / 2) / (1 + square)
    half = _Z95 * np.sqrt(share * (1 - share) / n + square / (4 * n)) / (1 + square)
    return {
        "below_pct": 100 * share,
        "below_pct_ci_low": 100 * max(float(middle - half), 0.0),
        "below_pct_ci_high": 100 * min(float(middle + half), 1.0),
    }

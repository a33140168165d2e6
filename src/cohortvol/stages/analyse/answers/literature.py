"""The slopes beside published ones: does the sign agree, does the interval hold the reference?"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cohortvol.errors import EstimateError, TableError
from cohortvol.stages.analyse.answers.slopes import joined_notes
from cohortvol.stages.analyse.cohort.groups import LOG, ML
from cohortvol.stages.analyse.cohort.settings import Settings
from cohortvol.stages.analyse.cohort.usable import GROUPS, Cohort
from cohortvol.stages.analyse.each import Each, one_by_one
from cohortvol.stages.analyse.fits.joint import problems
from cohortvol.stages.analyse.fits.regression import contrast, fit
from cohortvol.store.text_table import read_text_table

SIGN, OVERLAP, SIZE, OPEN, CONFLICT, NONE = (
    "sign agrees",
    "CI holds the reference",
    "sign agrees, size differs",
    "cannot tell",
    "conflict",
    "no reference",
)
"""Of a direction: its sign, beyond chance, or the other one. Of a published slope: inside the
interval, or its sign alone, or the other one. OPEN where the interval holds 0 and a direction."""
REFERENCE_VOLUMES = Path(__file__).with_name("reference_volumes.csv")
TEXTS = {
    "structure": None,
    "sex": ("both", "F", "M"),
    "direction": ("increase", "decrease", "none", "peak"),
    "modality": None,
    "evidence": ("VERIFIED", "DERIVED", "UNVERIFIED"),
    "source": None,
}
"""Texts of a reference table, and what they may be."""
NUMBERS = (
    "age_ref_years",
    "age_low_years",
    "age_high_years",
    "mean_ml",
    "sd_ml",
    "slope_ml_per_decade",
    "slope_pct_per_decade",
    "n",
)
CENTILES = {
    2.5: "p2_5_ml",
    5.0: "p5_ml",
    25.0: "p25_ml",
    50.0: "p50_ml",
    75.0: "p75_ml",
    95.0: "p95_ml",
    97.5: "p97_5_ml",
}
"""Centiles as published, which `published_centiles` compares; at the ages of `BAND`."""
BAND = ("band_low_years", "band_high_years")
NEEDED = ("structure", "sex", "modality", "evidence", "source")
SEX_HERE = {"both": "all", "F": "F", "M": "M"}


def references(further: Path | None = None) -> pd.DataFrame:
    """The published values that come with cohortvol, and those of a table of the user's.

    Raises
    ------
    TableError
        If the table cannot be read with certainty, lacks a needed column, or holds a value that is
        not allowed.
    """
    own = _shipped()
    if further is None:
        return own.copy()
    table = read_text_table(further, "It is named by the setting analyse.literature.")
    frame = pd.DataFrame(table.rows, columns=table.columns, dtype=object)
    return pd.concat([own, _checked(frame, str(further), table.lines)], ignore_index=True)


@cache
def _shipped() -> pd.DataFrame:
    with REFERENCE_VOLUMES.open() as stream:
        return _checked(pd.read_csv(stream, dtype=str, keep_default_na=False), "reference_volumes")


def _checked(frame: pd.DataFrame, name: str, lines: Sequence[int] | None = None) -> pd.DataFrame:
    line_of = range(2, len(frame) + 2) if lines is None else lines
    missing = [column for column in NEEDED if column not in frame]
    if missing:
        raise TableError(
            f"{name}: column missing: {', '.join(missing)}\n"
            f"  needed   {', '.join(NEEDED)}\n"
            f"  may be there   {', '.join([*NUMBERS, *BAND, *CENTILES.values(), 'direction'])}"
        )
    out = pd.DataFrame(index=frame.index)
    for column, allowed in TEXTS.items():
        texts = frame[column].str.strip() if column in frame else pd.Series("", frame.index)
        wrong = texts[(texts != "") & ~texts.isin(allowed)] if allowed else texts[:0]
        if column in NEEDED and (texts == "").any():
            wrong = texts[texts == ""]
        if len(wrong):
            raise TableError(
                f"{name}: column {column}, line {line_of[wrong.index[0]]}: {wrong.iloc[0]!r}\n"
                f"  Allowed is {', '.join(allowed) if allowed else 'any text, and not nothing'}."
            )
        out[column] = texts.astype(object).where(texts != "", None)
    for column in (*NUMBERS, *BAND, *CENTILES.values()):
        texts = frame[column].str.strip() if column in frame else pd.Series("", frame.index)
        numbers = pd.to_numeric(texts, errors="coerce")
        wrong = texts[(numbers.isna() | np.isinf(numbers)) & (texts != "")]
        if len(wrong):
            line = f"line {line_of[wrong.index[0]]}"
            raise TableError(f"{name}: column {column}, {line}: {wrong.iloc[0]!r} is no number")
        out[column] = numbers
    for place, row in enumerate(out[list(CENTILES.values())].to_numpy(dtype=float)):
        given = row[~np.isnan(row)]
        if (given <= 0).any() or (np.diff(given) <= 0).any():
            raise TableError(
                f"{name}: line {line_of[place]}: its centiles are "
                f"{', '.join(f'{value:g}' for value in given)} mL\n"
                "  They must be above 0, and a higher centile a larger volume."
            )
    return out


def literature(cohort: Cohort, settings: Settings, each: Each = one_by_one) -> pd.DataFrame:
    """One row for every published value of a structure here: ``analyse/literature``.

    The slope beside it is M1, as published slopes are mostly of age alone, over the ages of the
    reference where it names them. UNVERIFIED values are listed and not meant to be plotted.
    """
    known = references(Path(settings.literature) if settings.literature else None)
    slopes = _Slopes(cohort, settings)

    def of_structure(index: int) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = []
        published = known[known["structure"] == cohort.structures[index]]
        for sex in GROUPS:
            key = {"structure": cohort.structures[index], "sex": sex, "model": "M1"}
            of_sex = published[published["sex"].map(SEX_HERE) == sex]
            if of_sex.empty:
                rows.append({**key, **slopes.of(index, sex, np.nan, np.nan), "verdict": NONE})
            for reference in of_sex.to_dict("records"):
                ages = float(reference["age_low_years"]), float(reference["age_high_years"])
                ours = slopes.of(index, sex, *ages)
                verdict, note = _verdict(ours, reference)
                rows.append(
                    {
                        **key,
                        **ours,
                        **{f"reference_{k}": reference[k] for k in (*NUMBERS, "direction")},
                        **{k: reference[k] for k in ("modality", "evidence", "source")},
                        "plotted": reference["evidence"] != "UNVERIFIED",
                        **_ratio(ours, reference),
                        "verdict": verdict,
                        "note": joined_notes(ours["note"] or "", note),
                    }
                )
        return rows

    return pd.DataFrame(each(of_structure, cohort.structures))


class _Slopes:
    """M1 slopes in % and mL over a range of ages, each fitted once."""

    def __init__(self, cohort: Cohort, settings: Settings) -> None:
        self.cohort = cohort
        self.settings = settings
        self.known: dict[tuple[int, float, float], dict[str, dict[str, Any]]] = {}

    def of(self, index: int, sex: str, low: float, high: float) -> dict[str, Any]:
        low = -np.inf if np.isnan(low) else low
        high = np.inf if np.isnan(high) else high
        if (index, low, high) not in self.known:
            self.known[index, low, high] = self._fitted(index, low, high)
        return self.known[index, low, high][sex]

    def _fitted(self, index: int, low: float, high: float) -> dict[str, dict[str, Any]]:
        ages = self.cohort.scans["age_years"].to_numpy(dtype=float)
        mask = self.cohort.usable(index) & (ages >= low) & (ages <= high)
        scans = self.cohort.scans.loc[mask, ["age_years", "sex", "subject", "cluster"]]
        volume_ml = self.cohort.volume_ml[mask, index]
        found, why = problems(
            scans,
            np.log(volume_ml),
            np.empty((len(scans), 0)),
            self.settings.age_center,
            self.settings.min_n_fit,
        )
        rows: dict[str, dict[str, Any]] = {sex: {"note": note} for sex, note in why.items()}
        for problem in found:
            kept = volume_ml[problem.keep]
            responses = np.column_stack([np.log(kept), kept])
            subjects = scans["cluster"].to_numpy()[problem.keep]
            try:
                fitted = fit(problem.design, responses, subjects)
            except EstimateError as error:
                rows |= {sex: {"note": str(error)} for sex in problem.slopes}
                continue
            for sex, weights in problem.slopes.items():
                log, ml = contrast(fitted, weights, LOG), contrast(fitted, weights, ML)
                percent = log.percent_cells("slope_pct_per_decade")
                rows[sex] = {**percent, **ml.cells("slope_ml_per_decade"), "note": None}
        for sex, row in rows.items():
            row["n_used"] = int(mask.sum() if sex == "all" else (scans["sex"] == sex).sum())
        nothing = {"note": "ANA_TOO_FEW: no usable scan of these ages", "n_used": 0}
        return {sex: rows.get(sex, nothing) for sex in GROUPS}


def _ratio(ours: dict[str, Any], reference: dict[str, Any]) -> dict[str, float]:
    """How many times the published slope the slope here is, and the difference of the two in mL."""
    for kind in ("pct", "ml"):
        published = reference[f"slope_{kind}_per_decade"]
        name = f"slope_{kind}_per_decade"
        if np.isnan(published) or published == 0 or name not in ours:
            continue
        ends = [ours[column] / published for column in (name, f"{name}_ci_low", f"{name}_ci_high")]
        found = {"ratio": ends[0], "ratio_ci_low": min(ends), "ratio_ci_high": max(ends)}
        in_ml = reference["slope_ml_per_decade"]
        if not np.isnan(in_ml):
            found["difference_ml_per_decade"] = ours["slope_ml_per_decade"] - in_ml
        return found
    return {}


def _verdict(ours: dict[str, Any], reference: dict[str, Any]) -> tuple[str | None, str]:
    """Verdict, None where there is no slope here; and what to know of it."""
    percent, ml = reference["slope_pct_per_decade"], reference["slope_ml_per_decade"]
    direction = reference["direction"]
    if direction == "peak":
        return NONE, "the reference peaks, and has no one sign"
    if direction is None and np.isnan(percent) and np.isnan(ml):
        return NONE, "the reference gives a level and no slope"
    if "slope_pct_per_decade" not in ours:
        return None, ""
    kind, published = ("pct", percent) if not np.isnan(percent) else ("ml", ml)
    value = ours[f"slope_{kind}_per_decade"]
    low, high = (ours[f"slope_{kind}_per_decade_ci_{end}"] for end in ("low", "high"))
    if not np.isnan(published):
        if low <= published <= high:
            return OVERLAP, ""
        if low <= 0 <= high:
            return OPEN, "the interval holds 0 and not the reference"
        return (SIZE, "") if value * published > 0 else (CONFLICT, "")
    note = "the reference gives a direction only"
    if direction == "none":
        return (OVERLAP if low <= 0 <= high else CONFLICT), note
    if low <= 0 <= high:
        return OPEN, note
    return (SIGN if (value > 0) == (direction == "increase") else CONFLICT), note

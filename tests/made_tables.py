"""Tables of an analysis drawn at random, without an analysis: many cohorts a second."""

from __future__ import annotations

import csv
import io
from typing import Any

import numpy as np
import pandas as pd

from cohortvol.stages.report.tables.inputs import (
    ANALYSE_COLUMNS,
    ANALYSE_OPTIONAL,
    BESIDE_COLUMNS,
    HIGH,
    LOW,
    SLOPE,
    Analysis,
)

STRUCTURES = ("liver", "spleen", "kidney_left", "aorta", "stomach", "gallbladder")
FEW = "ANA_TOO_FEW: few"
VERDICTS = (
    "sign agrees",
    "CI holds the reference",
    "conflict",
    "sign agrees, size differs",
    "open",
)
TERMS = ("height", "BMI", "site", "sequence", "waist_cm")


def made(seed: int) -> tuple[Analysis, dict[str, list[dict[str, str]]], list[dict[str, str]]]:
    """An analysis as the report reads it, its tables as texts, and the scans."""
    rng = np.random.default_rng(seed)
    names = list(rng.permutation(STRUCTURES)[: rng.integers(1, len(STRUCTURES) + 1)])
    scans, n_of = _scans(rng)
    sexes = {sex for sex, n in n_of.items() if n}
    terms = [str(term) for term in TERMS if rng.random() < 0.5]
    size = {"height", "BMI"} & set(terms)
    terms = [term for term in terms if term not in size] if len(size) < 2 else terms
    with_m2 = bool(terms) and rng.random() < 0.7
    if not with_m2:
        terms = []
    known = "height" in terms or rng.random() < 0.3
    for scan in scans:
        scan |= {"height_cm": "170", "weight_kg": "70"} if known else {}
    rows = _slopes(rng, names, n_of, terms if with_m2 else None)
    slopes = _frame("slopes", rows)
    used = [set(row["adjusted_for"].split(", ")) for row in rows if row.get("adjusted_for")]
    adjusted = [term for term in terms if any(term in these for these in used)]
    record = {
        "settings": {
            "fdr": float(rng.choice([0.05, 0.2])),
            "suppress_below": int(rng.choice([0, 2, 5, 10])),
            "min_n_per_sex": 100,
            "min_n_fit": 10,
        },
        "counts": {**n_of, "usable_for_trends": sum(s["state"] == "done" for s in scans)},
        "covariates": {
            "adjusted_for": adjusted,
            "continuous": [term for term in adjusted if term == "waist_cm"],
            "left_out": {} if "height" in adjusted else {
                "height": "no M2 could be fitted" if known else "not known"
            },
        },
        "spline": {"knots_years": [40.0, 55.5, 70.0]},
        "families": {"slopes": "Benjamini-Hochberg"},
    }  # fmt: skip
    beside = {
        "nonlinearity": _tests(rng, names),
        "sensitivity": _sensitivity(rng, slopes),
        "literature": _literature(rng, names),
        "centiles": _notes(rng, names, "p50_ml"),
        "within_between": _notes(rng, names, "within_pct_per_decade"),
        "site_slopes": _tests(rng, names) if rng.random() < 0.5 else [],
        "quartiles": [{"structure": name, "median_ml": _maybe(rng)} for name in names],
        "tipping": [{"structure": name, "bias_pct_per_decade": _maybe(rng)} for name in names],
    }
    curves = [
        {"structure": name, "sex": sex, "model": model}
        for name in names
        for sex in sexes
        for model in ("M1", "spline")
        if rng.random() < 0.5
    ]
    done = sum(scan["state"] == "done" for scan in scans)
    flow = [("manifest", None, len(scans)), ("done", None, done), ("usable for trends", None, done)]
    for state in ("quarantined", "skipped", "failed"):
        if n := sum(scan["state"] == state for scan in scans):
            flow.append((state, "SRC_EMPTY", n))
    tables = {
        **{name: pd.DataFrame(columns=columns) for name, columns in ANALYSE_COLUMNS.items()},
        "slopes": slopes,
        "curves": _frame("curves", curves),
        "correlations": _frame(
            "correlations", [{"structure": n, "spearman_rho": _maybe(rng)} for n in names]
        ),
        "flow": pd.DataFrame(flow, columns=["step", "reason", "n"]),
    }
    more = {name: _frame(name, rows) for name, rows in beside.items()}
    texts = {name: _texts(table) for name, table in (tables | more).items()}
    return Analysis(**tables, record=record, beside=more), texts, scans


def _scans(rng: np.random.Generator) -> tuple[list[dict[str, str]], dict[str, int]]:
    n_of = {sex: int(rng.choice([0, 1, 2, 9, 30])) for sex in ("F", "M")}
    scans = [{"state": "done", "sex": sex} for sex, n in n_of.items() for _ in range(n)]
    scans += [{"state": "done", "sex": ""}] * (0 if scans else 12)
    if rng.random() < 0.5:
        scans += [{"state": str(rng.choice(["quarantined", "skipped", "failed"])), "sex": ""}]
    return [dict(scan) for scan in scans], n_of


def _slopes(
    rng: np.random.Generator, names: list[str], n_of: dict[str, int], terms: list[str] | None
) -> list[dict[str, Any]]:
    """With sexes alone and too few as `analyse` notes them."""
    least = int(rng.choice([0, 10, 1000]))  # a few, some, or all are descriptive
    rows = []
    for model in ("M1", "M2") if terms is not None else ("M1",):
        absent = rng.choice([0.0, 0.3, 1.0], p=[0.4, 0.5, 0.1])
        for name in names:
            enough = [s for s, n in n_of.items() if n >= 2] or [s for s, n in n_of.items() if n]
            few = any(n_of[sex] < least for sex in enough) or (not enough and least > 12)
            for sex in ("all", "F", "M"):
                n = n_of.get(sex, sum(n_of[s] for s in enough) or 12)
                row = {"structure": name, "sex": sex, "model": model, "n_used": n}
                rows.append(row)
                small = few if sex == "all" else n < least
                if rng.random() < absent or n < 2:
                    row |= {SLOPE: np.nan, "note": FEW}
                    continue
                only = sex == "all" and len(enough) == 1
                notes = ["descriptive only: n < 100 per sex"] * small
                notes += [f"{enough[0]} only"] if only else []
                row |= _estimate(rng) | {"note": "; ".join(notes) or None}
                row |= {"q_value": float(rng.choice([1e-9, 0.004, 0.04, 0.06, 0.3, 1.0]))}
                row |= {"se_kind": str(rng.choice(["HC3", "cluster", "CR2"]))}
                if model == "M2":
                    kept = terms if rng.random() < 0.7 else terms[:1]
                    row["adjusted_for"] = ", ".join(kept)
    return rows


def _estimate(rng: np.random.Generator) -> dict[str, float]:
    value = float(rng.normal(0, 4))
    half = abs(float(rng.normal(0, 4)))
    return {SLOPE: value, LOW: value - half, HIGH: value + half}


def _maybe(rng: np.random.Generator) -> float:
    return float(rng.normal()) if rng.random() < 0.3 else np.nan


def _tests(rng: np.random.Generator, names: list[str]) -> list[dict[str, Any]]:
    choices = [np.nan] if rng.random() < 0.2 else [np.nan, np.nan, np.nan, 1e-40, 0.04, 0.4]
    return [
        {"structure": name, "sex": sex, "q_value": float(rng.choice(choices))}
        for name in names
        for sex in ("all", "F", "M")
    ]


def _sensitivity(rng: np.random.Generator, slopes: pd.DataFrame) -> list[dict[str, Any]]:
    rows = []
    ways = ("complete", "one_scan_each", "huber", "weighted") if rng.random() < 0.8 else ()
    shown = slopes[slopes["sex"] == "all"].dropna(subset=[SLOPE])
    for row in shown.drop_duplicates("structure", keep="last").to_dict("records"):
        for way in ways:
            near = sorted(row[end] + rng.normal(0, 2) for end in (SLOPE, LOW, HIGH))
            found = dict(zip((LOW, SLOPE, HIGH), near, strict=True)) if rng.random() < 0.7 else {}
            rows.append({"structure": row["structure"], "sex": "all", "analysis": way, **found})
    return rows


def _literature(rng: np.random.Generator, names: list[str]) -> list[dict[str, Any]]:
    return [
        {
            "structure": name,
            "sex": "all",
            "source": str(rng.choice(["A 2020", "B 2021"])) if rng.random() < 0.5 else None,
            "evidence": str(rng.choice(["VERIFIED", "DERIVED", "UNVERIFIED"])),
            "verdict": str(rng.choice(VERDICTS)),
            **(_estimate(rng) if rng.random() < 0.5 else {}),
        }
        for name in names
        for _ in range(int(rng.integers(0, 4)))
    ]


def _notes(rng: np.random.Generator, names: list[str], column: str) -> list[dict[str, Any]]:
    whys = (FEW, FEW, "ANA_NO_VARIANCE: all volumes are equal")
    there = rng.random() < 0.5
    return [
        {"structure": name, column: 1.0, "note": None}
        if there and rng.random() < 0.5
        else {"structure": name, column: np.nan, "note": str(rng.choice(whys))}
        for name in names
    ]


def _frame(name: str, rows: list[dict[str, Any]]) -> pd.DataFrame:
    known = {**ANALYSE_COLUMNS, **BESIDE_COLUMNS}[name] + ANALYSE_OPTIONAL.get(name, [])
    return pd.DataFrame(rows).reindex(columns=known)


def _texts(table: pd.DataFrame) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(table.to_csv(index=False))))

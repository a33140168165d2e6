"""Subjects and organ volumes of a synthetic cohort, drawn from planted age trends.

Levels, spreads and slopes per structure and sex stand in ``synthetic_truth.csv``, each with
its basis. Age, height and body mass index follow the fits to R's ``survival::nafld1`` (17,549
people of Minnesota): age N(58, 18.5) within 18 to 95; height falls with age; the logarithm of
BMI is a parabola of age.
"""

from __future__ import annotations

from importlib import resources

import numpy as np
import pandas as pd

SITES = ("north", "south", "west")
SCANNERS = {"north": "A-1.5T", "south": "B-3T", "west": "B-1.5T"}
FIELD_T = {"A-1.5T": 1.5, "B-3T": 3.0, "B-1.5T": 1.5}
SEQUENCES = ("T2-SPIR", "T2-HASTE", "T1-GRE", "T1-VIBE-contrast", "DIXON-water")

REFERENCE_HEIGHT_CM = {"F": 163.5, "M": 177.4}
REFERENCE_BMI = {"F": float(np.exp(3.382)), "M": float(np.exp(3.406))}
"""Height and BMI at age 50, to which ``median_ml_age50`` refers."""


def truth() -> pd.DataFrame:
    """The planted trends: one row per structure and sex."""
    with (resources.files("cohortvol.tools.simulate") / "synthetic_truth.csv").open() as stream:
        return pd.read_csv(stream)


def draw_subjects(n: int, rng: np.random.Generator) -> pd.DataFrame:
    """Age, sex, body size and scanner of `n` people.

    Returns
    -------
    pandas.DataFrame
        ``age_years, sex, height_cm, weight_kg, site, scanner, field_strength_t, sequence``.
    """
    age = rng.normal(58, 18.5, n)
    while (out := (age < 18) | (age > 95)).any():
        age[out] = rng.normal(58, 18.5, int(out.sum()))
    female = rng.random(n) < 0.5
    height = np.where(
        female,
        169.39 - 0.1185 * age + rng.normal(0, 6.80, n),
        182.28 - 0.0981 * age + rng.normal(0, 7.55, n),
    )
    years = age - 50
    log_bmi = np.where(
        female,
        3.382 + 0.00042 * years - 0.0000695 * years**2 + rng.normal(0, 0.245, n),
        3.406 + 0.00070 * years - 0.0000739 * years**2 + rng.normal(0, 0.188, n),
    )
    site = rng.choice(SITES, n, p=[0.5, 0.3, 0.2])
    scanner = pd.Series(site).map(SCANNERS)
    return pd.DataFrame(
        {
            "age_years": age.round(1),
            "sex": np.where(female, "F", "M"),
            "height_cm": height.round(1),
            "weight_kg": (np.exp(log_bmi) * (height / 100) ** 2).round(1),
            "site": site,
            "scanner": scanner,
            "field_strength_t": scanner.map(FIELD_T),
            "sequence": rng.choice(SEQUENCES, n),
        }
    )


def expected_log_volume(subjects: pd.DataFrame) -> pd.DataFrame:
    """Expected logarithm of every structure's volume (mL) for every subject.

    ``log(median at 50) + height and BMI terms + a slope before and one after 50``.
    """
    rows = truth()
    columns = {}
    decades = (subjects["age_years"] - 50) / 10
    bmi = subjects["weight_kg"] / (subjects["height_cm"] / 100) ** 2
    for structure, both in rows.groupby("structure", sort=False):
        by_sex = both.set_index("sex")

        def of(column: str, table: pd.DataFrame = by_sex) -> pd.Series:
            return subjects["sex"].map(table[column])

        before = np.log1p(of("slope_pct_per_decade_before50") / 100)
        after = np.log1p(of("slope_pct_per_decade_after50") / 100)
        height = subjects["height_cm"] / subjects["sex"].map(REFERENCE_HEIGHT_CM)
        columns[str(structure)] = (
            np.log(of("median_ml_age50"))
            + before * decades.clip(upper=0)
            + after * decades.clip(lower=0)
            + of("height_exponent") * np.log(height)
            + of("bmi_exponent") * np.log(bmi / subjects["sex"].map(REFERENCE_BMI))
        )
    return pd.DataFrame(columns)


def draw_volumes(
    subjects: pd.DataFrame, rng: np.random.Generator, spread: float = 1.0
) -> pd.DataFrame:
    """Volumes in mL, one column per structure: expectation times log-normal spread.

    Left and right of a pair share most of their deviation (correlation 0.8), as in people.

    Parameters
    ----------
    spread : float
        Factor on the planted standard deviation of the logarithm.
    """
    expected = expected_log_volume(subjects)
    sd = truth().groupby("structure", sort=False)["log_sd_at50"].first()
    shared: dict[str, np.ndarray] = {}
    volumes = {}
    for structure in expected.columns:
        pair = structure.removesuffix("_left").removesuffix("_right")
        if pair not in shared:
            shared[pair] = rng.standard_normal(len(subjects))
        deviation = shared[pair]
        if pair != structure:
            deviation = np.sqrt(0.8) * deviation + np.sqrt(0.2) * rng.standard_normal(len(subjects))
        deviation = np.clip(deviation, -3, 3)
        volumes[structure] = np.exp(expected[structure] + spread * sd[structure] * deviation)
    return pd.DataFrame(volumes)


def planted_slopes(n: int = 50_000) -> pd.DataFrame:
    """What each model of `analyse` estimates when the cohort is endless and free of noise.

    The planted trends bend at 50 and height and BMI change with age, so a straight line in age
    estimates neither planted slope; it estimates their projection on the line. That projection
    is computed here by least squares on the expected log volumes of `n` people.

    Returns
    -------
    pandas.DataFrame
        ``structure, sex (all, F, M), model (M1, M2), planted_pct_per_decade``.
    """
    subjects = draw_subjects(n, np.random.default_rng(0))
    expected = expected_log_volume(subjects)
    decades = ((subjects["age_years"] - 50) / 10).to_numpy()
    male = (subjects["sex"] == "M").to_numpy(float)
    bmi = subjects["weight_kg"] / (subjects["height_cm"] / 100) ** 2
    size = np.log(np.column_stack([subjects["height_cm"], bmi]))
    rows = []
    for model, extra in (("M1", size[:, :0]), ("M2", size - size.mean(axis=0))):
        by_sex = np.column_stack([np.ones(n), decades, male, decades * male, extra])
        pooled = np.column_stack([np.ones(n), decades, male, extra])
        for structure in expected.columns:
            y = expected[structure].to_numpy()
            slopes = np.linalg.lstsq(by_sex, y, rcond=None)[0]
            both = np.linalg.lstsq(pooled, y, rcond=None)[0]
            for sex, slope in (("all", both[1]), ("F", slopes[1]), ("M", slopes[1] + slopes[3])):
                rows.append((structure, sex, model, 100 * np.expm1(slope)))
    columns = ["structure", "sex", "model", "planted_pct_per_decade"]
    return pd.DataFrame(rows, columns=columns)

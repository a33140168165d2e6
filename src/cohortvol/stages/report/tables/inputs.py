"""What the report reads: the tables of `analyse`, the cohort tables, and the planted slopes."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from cohortvol import ranges
from cohortvol.errors import TableError
from cohortvol.store.schemas import COHORT_VOLUMES, PREVIEWS, SCANS
from cohortvol.store.tables import append_rows, read_table, to_pandas
from cohortvol.store.text_table import PARQUET, read_frame


def _ends(name: str) -> list[str]:
    """An estimate and the two limits of its interval."""
    return [name, f"{name}_ci_low", f"{name}_ci_high"]


_PCT = _ends("slope_pct_per_decade")
SLOPE, LOW, HIGH = _PCT
_ML = _ends("slope_ml_per_decade")

ANALYSE_COLUMNS = {
    "slopes": [
        *["structure", "sex", "model", *_PCT, *_ML],
        *["p_value", "log10_p", "q_value", "n_used", "n_dropped", "mean_volume_ml"],
        *["se_kind", "note"],
    ],
    "interactions": [
        *["structure", "model", *_ends("difference_pct_per_decade")],
        *["p_value", "q_value", "n_used"],
    ],
    "correlations": [
        *["structure", "sex", "spearman_rho", "p_value", "p_bonferroni", "pearson_r"],
        *["n_used", "n_dropped"],
    ],
    "curves": [
        *["structure", "sex", "model", "age_years"],
        *["volume_ml", "volume_ml_ci_low", "volume_ml_ci_high"],
    ],
    "summary": ["structure", "sex", "n", "median_ml", "q25_ml", "q75_ml", "p5_ml", "p95_ml"],
    "dropped": ["structure", "reason", "n"],
    "table1": ["variable", "level", "group", "value", "n"],
    "flow": ["step", "reason", "n"],
}
ANALYSE_OPTIONAL = {"slopes": ["adjusted_for"], "interactions": ["note"]}
"""Columns of these tables that an analysis of an earlier version lacks."""

BESIDE_COLUMNS = {
    "nonlinearity": ["structure", "sex", "p_value", "log10_p", "q_value", "n_used"],
    "slopes_at_age": ["structure", "sex", "age_years", *_PCT, "n_used"],
    "peaks": ["structure", "sex", *_ends("peak_age_years"), "n_used", "note"],
    "quartiles": [
        *["structure", "sex", "quartile", "age_above_years", "age_to_years", "n", "median_ml"],
        *["q25_ml", "q75_ml", "whisker_low_ml", "whisker_high_ml", "n_implausible"],
    ],
    "age_bands": [
        *["structure", "sex", "age_from_years", "age_below_years", "n"],
        *["median_ml", "q25_ml", "q75_ml", "p5_ml", "p95_ml"],
    ],
    "centiles": [
        *["structure", "sex", "age_years", *[f"p{c}_ml" for c in (5, 25, 50, 75, 95)]],
        *["family", "sparse", "drawn_at", "n_used", "note"],
    ],
    "calibration": ["structure", "sex", "method", "centile", "difference_points"],
    "worms": [
        *["structure", "sex", "band", "age_low_years", "age_high_years", "score", "deviation"],
        *["limit", "n_band", "n_used"],
    ],
    "within_between": [
        *["structure", "sex", "model", *_ends("between_pct_per_decade")],
        *[*_ends("within_pct_per_decade"), "within_sd_pct_per_decade", "difference_p_value"],
        *["n_used", "n_subjects", "n_rescanned", "years_between_median", "note"],
    ],
    "site_slopes": [
        *["structure", "sex", "model", "by", *_ends("between_pct_per_decade")],
        *[*_ends("within_pct_per_decade"), *_ends("terms_pct_per_decade")],
        *["p_value", "q_value", "n_used", "n_sites"],
    ],
    "sensitivity": ["structure", "sex", "analysis", "model", *_PCT, "n_used", "n_censored", "note"],
    "missingness": ["structure", "variable", "level", "n_scans", "n_unusable", "unusable_pct"],
    "literature": [
        *["structure", "sex", "model", *_PCT, *_ML, "n_used"],
        *["reference_age_ref_years", "reference_age_low_years", "reference_age_high_years"],
        *["reference_mean_ml", "reference_sd_ml", "reference_slope_ml_per_decade"],
        *["reference_slope_pct_per_decade", "reference_direction", "reference_n"],
        *["ratio", "ratio_ci_low", "ratio_ci_high", "difference_ml_per_decade"],
        *["modality", "evidence", "source", "plotted", "verdict", "note"],
    ],
    "published_centiles": [
        *["structure", "sex", "reference_centile", "reference_ml"],
        *["age_from_years", "age_below_years", "here_ml", "ratio", *_ends("below_pct"), "n_used"],
        *["modality", "evidence", "source", "note"],
    ],
    "tipping": [
        *["structure", "sex", "model", "slope_pct_per_decade", "bias_pct_per_decade"],
        *["bias_ci_pct_per_decade", "bias_over_ages_pct", "dice", "ratio_low", "ratio_high"],
        *["within_dice", "note"],
    ],
    "asymmetry": [
        *["pair", "sex", "asymmetry_mean_pct", *_ends("slope_points_per_decade")],
        *["p_value", "q_value", *_ends("bias_ml"), "limit_low_ml", "limit_high_ml", "n_used"],
    ],
    "suspected": [
        *["structure", "kind", "n", "n_used", "n_both_sides", "n_other_large", "n_beside_other"],
        *["limit_pct", "limit_ml"],
    ],
    "time_of_day": [
        *["structure", "from_h", "to_h", *_ends("difference_pct"), *_ends("difference_ml")],
        *["amplitude_pct", "peak_h", "q_value", "n_used", "note"],
    ],
    "two_models": [
        *["structure", "other_model", "variable", "level", *_ends("difference_mean_pct")],
        *["limit_low_pct", "limit_high_pct", "dice_median", "n_used"],
    ],
}
"""Tables that an analysis may lack: what is drawn from them is then left out."""

VOLUME_COLUMNS = ["scan_id", "structure", "volume_ml"]
SCAN_COLUMNS = ["scan_id", "age_years"]
STATE_COLUMNS = ["state", "reason", "sex"]
"""Of tables that cohortvol did not make: without a state every scan counts as measured."""
PLANTED_COLUMNS = ["structure", "sex", "model", "planted_pct_per_decade"]

PERSON_COLUMNS = [
    *["subject_id", "state", "reason", "qc", "sex", "height_cm", "weight_kg"],
    *["site", "scanner", "field_strength_t", "sequence", "contrast"],
]
QC_COLUMNS = ["qc", "qc_flags", "body_orientation", "usual_scale", "shard"]
PROVENANCE_COLUMNS = ["model", "profile", "segmentation_key", "cohortvol_version", "precision"]
_TEXTS = {name for name, about in (SCANS | COHORT_VOLUMES).items() if about.type == pa.string()}
"""Read from a CSV as they stand there: a key such as ``12e3`` is no number."""


@dataclass(frozen=True)
class Analysis:
    """Everything `analyse` wrote."""

    slopes: pd.DataFrame
    interactions: pd.DataFrame
    correlations: pd.DataFrame
    curves: pd.DataFrame
    summary: pd.DataFrame
    dropped: pd.DataFrame
    table1: pd.DataFrame
    flow: pd.DataFrame
    record: dict[str, Any]
    beside: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    """Tables of `BESIDE_COLUMNS`; one that is not there counts as empty."""

    def table(self, name: str) -> pd.DataFrame:
        """A table of `BESIDE_COLUMNS`, without rows where `analyse` wrote none."""
        found = self.beside.get(name)
        return pd.DataFrame(columns=BESIDE_COLUMNS[name]) if found is None else found

    @property
    def knows_cut(self) -> bool:
        """Whether the volumes table said which organs the field of view cuts."""
        return bool(self.record.get("knows_cut", True))

    @property
    def settings(self) -> dict[str, Any]:
        """The settings `analyse` ran with."""
        return dict(self.record.get("settings", {}))

    @property
    def age_range_years(self) -> tuple[float, float]:
        """Ages outside count as unknown."""
        low, high = self.settings.get("age_range_years", ranges.AGE_RANGE_YEARS)
        return float(low), float(high)

    @property
    def sexes(self) -> list[str]:
        """The sexes that are shown apart: those of which a volume is used, or else that are known
        here; only ``all`` where no sex is known."""
        counts = self.record.get("counts", {})
        known = [sex for sex in ("F", "M") if counts.get(sex, 1) != 0]
        used = set(self.slopes["sex"][self.slopes["n_used"] > 0])
        return [sex for sex in known if sex in used] or known or ["all"]

    @property
    def has_trends(self) -> bool:
        """Whether any slope was estimated."""
        return bool(self.slopes[SLOPE].notna().any())

    @property
    def cannot_say(self) -> list[str]:
        """What this cohort cannot say, and why."""
        said = [str(sentence) for sentence in self.record.get("cannot_say", [])]
        return said or ([] if self.has_trends else ["No slope could be estimated."])

    @property
    def sentences(self) -> list[str]:
        """What `analyse` says must be printed, such as that the cohort is small."""
        return [str(sentence) for sentence in self.record.get("sentences", [])]

    def structures(self, among: Iterable[str] | None = None) -> list[str]:
        """Structures in the order of the slopes table: all of them, or those `among` others."""
        names = dict.fromkeys(self.slopes["structure"])
        chosen = names if among is None else set(among)
        return [name for name in names if name in chosen]

    def published(self) -> pd.DataFrame:
        """Published values that may be drawn: no UNVERIFIED ones, nor of a sex not known here."""
        table = self.table("literature")
        told = table["plotted"].fillna(False).astype(bool) & (table["evidence"] != "UNVERIFIED")
        return table[told & table["sex"].isin(["all", *self.sexes])]


_HINT = "Has the stage before it run?"


def read_columns(
    path: Path, required: list[str], optional: list[str] | None = None
) -> pd.DataFrame:
    """Columns of a CSV or Parquet table; other columns are not read.

    Raises
    ------
    TableError
        If the file is missing, damaged, or lacks a required column.
    """
    try:
        if path.suffix in PARQUET:
            present = pq.read_schema(path).names
        else:
            present = list(read_frame(path, _HINT, nrows=0).columns)
        missing = [name for name in required if name not in present]
        if missing:
            raise TableError(f"{path}: columns missing: {', '.join(missing)}")
        wanted = [*required, *[name for name in optional or [] if name in present]]
        if path.suffix in PARQUET:
            return to_pandas(pq.read_table(path, columns=wanted))
        texts = dict.fromkeys(_TEXTS.intersection(wanted), str)
        return read_frame(path, usecols=wanted, dtype=texts)[wanted]
    except FileNotFoundError as error:
        raise TableError(f"{path}: no such table; has the stage before it run?") from error
    except pa.ArrowInvalid as error:
        raise TableError(f"{path}: damaged table ({error}); delete it and run again") from error


def read_analysis(folder: Path) -> Analysis:
    """All tables of an analyse folder, checked for the columns the report needs."""
    tables = {
        name: read_columns(folder / f"{name}.parquet", columns, ANALYSE_OPTIONAL.get(name))
        for name, columns in ANALYSE_COLUMNS.items()
    }
    beside = {
        name: read_columns(folder / f"{name}.parquet", columns)
        for name, columns in BESIDE_COLUMNS.items()
        if (folder / f"{name}.parquet").is_file()
    }
    record = folder / "analyse.json"
    try:
        return Analysis(**tables, record=json.loads(record.read_text()), beside=beside)
    except FileNotFoundError as error:
        raise TableError(f"{record}: no such file; has `analyse` run?") from error
    except ValueError as error:
        raise TableError(f"{record}: damaged ({error}); run `analyse` again") from error


def read_scans(
    path: Path, age_range_years: Sequence[float] = ranges.AGE_RANGE_YEARS
) -> pd.DataFrame:
    """One row per manifest row, with what the page says about where the numbers come from.

    Ages outside the range are unknown, as they were to `analyse`, which counted them.
    """
    optional = [*STATE_COLUMNS, *PROVENANCE_COLUMNS, *QC_COLUMNS]
    scans = read_columns(path, SCAN_COLUMNS, optional)
    for name, otherwise in (("state", "done"), ("reason", None), ("sex", None)):
        if name not in scans:
            scans[name] = pd.array([otherwise] * len(scans), dtype=object)
    scans["age_years"] = pd.to_numeric(scans["age_years"], errors="coerce").astype(float)
    return ranges.without(scans, ranges.outside(scans, age_range_years))


def read_people(path: Path) -> pd.DataFrame:
    """Who is in the cohort and what a page counts or describes of them, one row per scan."""
    scans = read_columns(path, SCAN_COLUMNS, PERSON_COLUMNS)
    return scans if "sex" in scans else scans.assign(sex=None)


def read_points(volumes: Path, scans: pd.DataFrame, *, keep_cut: bool) -> pd.DataFrame:
    """Volumes that are drawn against age: those of `read_measured` of known age and sex."""
    points = read_measured(volumes, scans, keep_cut=keep_cut)
    return points.dropna(subset=["age_years", "sex"]).reset_index(drop=True)


def read_measured(volumes: Path, scans: pd.DataFrame, *, keep_cut: bool) -> pd.DataFrame:
    """Every volume that can be used: scan_id, structure, sex, age_years, volume_ml.

    The same rows as `analyse` uses: of finished scans, structures found, not excluded by QC, and
    not cut by the field of view unless `keep_cut`. A sex or age that is not known is null; where
    no scan has a sex, all have ``all``.
    """
    table = read_columns(volumes, VOLUME_COLUMNS, ["status", "cut_by_fov", "qc"])
    keep = table["volume_ml"] > 0
    if "status" in table:
        keep &= table["status"].isin(["ok", "cut"] if keep_cut else ["ok"])
    elif "cut_by_fov" in table and not keep_cut:
        keep &= ~table["cut_by_fov"].fillna(False).astype(bool)
    if "qc" in table:
        keep &= table["qc"].fillna("pass") != "exclude"
    usable = scans[scans["state"] == "done"]
    known = scans["sex"].isin(["F", "M"]).any()
    sex = usable["sex"].where(usable["sex"].isin(["F", "M"]), None) if known else "all"
    usable = usable.assign(sex=sex)
    if "qc" in usable:
        usable = usable[usable["qc"].fillna("pass") != "exclude"]
    usable = usable[["scan_id", "age_years", "sex"]]
    points = table.loc[keep.fillna(False), ["scan_id", "structure", "volume_ml"]].merge(
        usable, on="scan_id", validate="m:1"
    )
    return points[["scan_id", "structure", "sex", "age_years", "volume_ml"]]


def read_verdicts(volumes: Path) -> pd.DataFrame:
    """What QC says of each structure: scan_id, structure, qc, qc_flags; sums are left out."""
    table = read_columns(volumes, ["scan_id", "structure", "label", "qc", "qc_flags"])
    return table[table["label"].notna()].drop(columns="label")


def read_previews(folder: Path, scans: pd.DataFrame) -> pd.DataFrame:
    """Pictures of these scans (scan_id, shard), from the tables of their shards alone."""
    tables = [
        read_table(folder / f"{shard}.parquet", PREVIEWS) for shard in sorted(set(scans["shard"]))
    ]
    pictures = pd.concat([append_rows([], PREVIEWS), *tables], ignore_index=True).astype(object)
    wanted = pictures[pictures["scan_id"].isin(scans["scan_id"])]
    return wanted.where(wanted.notna(), None)


def read_planted(path: Path) -> pd.DataFrame:
    """The slopes a simulated cohort was drawn with."""
    return read_columns(path, PLANTED_COLUMNS)


def read_bytes(path: Path) -> bytes:
    """A file as it is, for handing on."""
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise TableError(f"{path}: no such table; has the stage before it run?") from error

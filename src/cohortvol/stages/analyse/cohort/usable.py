"""Which volumes an analysis may use, and why it may not use the others."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from cohortvol import ranges
from cohortvol.errors import ConfigError, TableError, did_you_mean
from cohortvol.stages.analyse.cohort import people, remarks, surgery

log = logging.getLogger(__name__)

SEXES = ("F", "M")
GROUPS = ("all", *SEXES)
"""Whom most tables have a row of; see `Cohort.of_sex`."""
USABLE = ""
NOT_DONE = "scan not done"
SCAN_QC = "scan failed QC"
SCAN_REVIEW = "scan excluded by review"
AGE_MISSING = "age missing"
AGE_IMPLAUSIBLE = "age outside its range"
SEX_MISSING = "sex missing"
NOT_MEASURED = "not measured"
ABSENT = "absent"
SURGERY = "taken by surgery"
FAILED = "failed"
CUT = "cut by the field of view"
FAILED_QC = "failed QC"
REVIEW = "excluded by review"
SIZE_MISSING = "size missing (M2 only)"
SIZE_IMPLAUSIBLE = "size outside its range (M2 only)"
COVARIATE_MISSING = "further covariate missing (M2 only)"
REASONS = (
    NOT_DONE,
    SCAN_QC,
    SCAN_REVIEW,
    AGE_MISSING,
    AGE_IMPLAUSIBLE,
    SEX_MISSING,
    NOT_MEASURED,
    ABSENT,
    SURGERY,
    FAILED,
    CUT,
    FAILED_QC,
    REVIEW,
    SIZE_MISSING,
    SIZE_IMPLAUSIBLE,
    COVARIATE_MISSING,
)
"""Why a scan is not used for a structure: one reason each, the first that holds."""
SIZE_REASONS = (SIZE_MISSING, SIZE_IMPLAUSIBLE, COVARIATE_MISSING)
"""Those for which M2 alone does not use it."""


@dataclass(frozen=True)
class Cohort:
    """Scans with their covariates, and the volumes of every structure beside them."""

    scans: pd.DataFrame
    """One row per scan: ``state, age_years, sex, subject, cluster, height_cm, weight_kg, bmi``,
    and what else the scans table gave. ``subject`` numbers the persons, ``cluster`` those whose
    errors go together: the scans of a person, or of all with one ``cluster_id``."""
    structures: tuple[str, ...]
    volume_ml: np.ndarray
    """(scans, structures); NaN where nothing was measured."""
    reason: np.ndarray
    """(scans, structures) of str: one of `REASONS`, or `USABLE`."""
    accepted: int
    """Volumes that people accepted against automatic QC and that are used."""
    rows_without_scan: int
    """Rows of the volumes table whose scan_id the scans table does not have."""
    segmentation_model: str | None
    """Whose volumes these are; None where the volumes table does not say."""
    doubted: np.ndarray
    """(scans, structures) of bool: QC excludes this volume, whatever else its reason says."""
    sound: np.ndarray
    """(scans, structures) of bool: usable whatever is known of the person."""
    outside: dict[str, np.ndarray]
    """Column of `ranges` to (scans,) of bool: a value that cannot be true, and is null now."""
    knows_cut: bool
    """Whether the volumes table says which organs the field of view cuts."""
    covariates: Mapping[str, str]
    """Further columns of `scans` that M2 adjusts for, and their kind."""
    remarks: tuple[str, ...]
    """What in the tables contradicts itself or is not used, and what was made of it: sentences."""
    time_of_day: bool = False
    """Whether M2 has a harmonic of the time of day: see `hours.decided`."""

    def usable(self, structure: int) -> np.ndarray:
        """(scans,) of bool: the volume of this structure enters correlations, M1 and summary."""
        mask: np.ndarray = self._usable[structure]
        return mask

    @cached_property
    def _usable(self) -> np.ndarray:
        """(structures, scans) of bool."""
        return _kept((self.reason == USABLE).T)

    def lower_bound(self, structure: int) -> np.ndarray:
        """(scans,) of bool: left out as the field of view cuts it, and for nothing else."""
        mask: np.ndarray = (self.reason[:, structure] == CUT) & ~self.doubted[:, structure]
        return mask & (self.volume_ml[:, structure] > 0)

    def by_surgery(self, structure: int) -> np.ndarray:
        """(scans,) of bool: left out as surgery took this structure or a part of it."""
        mask: np.ndarray = self.reason[:, structure] == SURGERY
        return mask

    def knows(self, columns: Sequence[str]) -> np.ndarray:
        """(scans,) of bool: all of some columns are known."""
        mask = np.ones(len(self.scans), dtype=bool)
        for name in columns:
            mask &= self.scans[name].notna().to_numpy(dtype=bool)
        return mask

    @cached_property
    def has_size(self) -> np.ndarray:
        """(scans,) of bool: height and weight are known."""
        return _kept(self.scans["bmi"].notna())

    @cached_property
    def size_outside(self) -> np.ndarray:
        """(scans,) of bool: height, weight or BMI cannot be true, so that size is not known."""
        sizes = [self.outside[name] for name in ("height_cm", "weight_kg", "bmi")]
        return _kept(np.logical_or.reduce(sizes))

    @cached_property
    def knows_sex(self) -> bool:
        """Whether anyone's sex is given; without, all are analysed together."""
        return bool(self.scans["sex"].notna().any())

    @cached_property
    def counted(self) -> np.ndarray:
        """(scans,) of bool: done, and not excluded by the QC of the whole scan."""
        return _kept(_counted(self.scans))

    @cached_property
    def in_trends(self) -> np.ndarray:
        """(scans,) of bool: counted, with known age, and known sex where any is known."""
        known = self.scans["age_years"].notna()
        if self.knows_sex:
            known &= self.scans["sex"].notna()
        return _kept(self.counted & known.to_numpy(dtype=bool))

    def of_sex(self, sex: str) -> np.ndarray:
        """(scans,) of bool: F, M, or ``all`` with those whose sex is not known."""
        return self._of_sex[sex]

    @cached_property
    def _of_sex(self) -> dict[str, np.ndarray]:
        everyone = np.ones(len(self.scans), dtype=bool)
        return {"all": _kept(everyone)} | {sex: _kept(self.scans["sex"] == sex) for sex in SEXES}


def _kept(mask: np.ndarray | pd.Series) -> np.ndarray:
    """A mask that is asked for again and again: nobody may write to it."""
    kept = np.ascontiguousarray(mask, dtype=bool)
    kept.setflags(write=False)
    return kept


def build(
    volumes: pd.DataFrame,
    scans: pd.DataFrame,
    exclude_cut: bool = True,
    segmentation_model: str | None = None,
    age_range_years: Sequence[float] = ranges.AGE_RANGE_YEARS,
    covariates: Mapping[str, str] | None = None,
) -> Cohort:
    """Join volumes to scans, and decide for every scan and structure whether it is used.

    Parameters
    ----------
    volumes, scans : pandas.DataFrame
        As `inputs.read_volumes` and `inputs.read_scans` return them.
    exclude_cut : bool
        Leave out volumes that the field of view cuts: they are lower bounds.
    segmentation_model : str, optional
        Needed where the volumes table holds several.
    age_range_years : (low, high)
        Ages outside count as unknown, as do sizes outside `ranges.SIZES`; both are counted.
    covariates : mapping, optional
        Further columns of `scans`, and their kind.

    Raises
    ------
    ConfigError
        If the volumes table holds several segmentation models and none of them is chosen.
    TableError
        If a scan has a structure twice, or no volume belongs to any scan.
    """
    volumes = _one_model(volumes, segmentation_model)
    volumes = volumes.assign(**{name: None for name in ("qc", "qc_auto") if name not in volumes})
    knows_cut = "status" in volumes or "cut_by_fov" in volumes
    both = remarks.two_sexes(scans)
    said = [
        *remarks.below_zero(volumes),
        *remarks.of_two_sexes(scans, both),
        *remarks.unused(scans),
    ]
    if not knows_cut and exclude_cut:
        said.append(
            "The volumes table does not say which organs the field of view cuts (no column status "
            "or cut_by_fov): none is left out for it."
        )
    if both.any():
        scans = scans.assign(sex=scans["sex"].mask(both, None))
    scans, outside = people.with_defaults(scans, age_range_years)
    done = scans.index[scans["state"] == "done"]
    place = _places(volumes["scan_id"], scans.loc[done, "scan_id"])
    known_anyhow = volumes["scan_id"].isin(scans["scan_id"]).to_numpy(dtype=bool)
    if len(volumes) and not known_anyhow.any():
        raise TableError(
            "no scan_id of the volumes table stands in the scans table\n"
            f"  volumes   {volumes['scan_id'].iloc[0]!r}, ...\n"
            f"  scans     {scans['scan_id'].iloc[0] if len(scans) else 'no rows'!r}, ...\n"
            "  Are the two tables from the same cohort?"
        )

    structures = _in_order(volumes)
    column = _places(volumes["structure"], structures)
    found = place >= 0
    cell = np.where(found, place, 0) * len(structures) + column
    _check_once(volumes[found], cell[found])

    taken, strange = surgery.taken(scans["absent"], structures)
    said += strange
    for remark in said:
        log.warning("%s", remark)
    shape = (len(scans), len(structures))
    volume_ml = np.full(shape, np.nan)
    reason = np.full(shape, NOT_MEASURED, dtype=object)
    doubted = np.zeros(shape, dtype=bool)
    row = np.asarray(done)[place[found]]
    volume_ml[row, column[found]] = volumes["volume_ml"].to_numpy(dtype=float)[found]
    reason[row, column[found]] = _reasons_of_volumes(volumes[found], exclude_cut)
    doubted[row, column[found]] = (volumes["qc"] == "exclude").to_numpy(dtype=bool)[found]
    reason[taken & np.asarray(scans["state"] == "done")[:, None]] = SURGERY
    sound = (reason == USABLE) & _counted(scans)[:, None]
    for holds, why in (  # the last that holds wins: scan before structure, state before all
        (scans["sex"].isna() & scans["sex"].notna().any(), SEX_MISSING),
        (outside["age_years"], AGE_IMPLAUSIBLE),
        (scans["age_years"].isna() & ~outside["age_years"], AGE_MISSING),
        (scans["qc"] == "exclude", SCAN_QC),
        (excluded_by_review(scans), SCAN_REVIEW),
        (scans["state"] != "done", NOT_DONE),
    ):
        reason[holds.to_numpy(dtype=bool)] = why
    used = reason[row, column[found]] == USABLE
    accepted = int((used & accepted_by_review(volumes[found]).to_numpy(dtype=bool)).sum())
    strangers = int((~known_anyhow).sum())
    model = next(iter(volumes["model"].dropna()), None) if "model" in volumes else None
    return Cohort(
        scans,
        structures,
        volume_ml,
        reason,
        accepted,
        strangers,
        model,
        doubted,
        sound,
        {name: rows.to_numpy(dtype=bool) for name, rows in outside.items()},
        knows_cut,
        dict(covariates or {}),
        tuple(said),
    )


def one_scan_each(mask: np.ndarray, subjects: np.ndarray, age_years: np.ndarray) -> np.ndarray:
    """Of the scans in a mask, one per subject: that at the lowest age, the first of equals.

    Parameters
    ----------
    mask : (scans,) bool array
    subjects, age_years : (scans,) arrays
        Scans in the order of their scan_id.

    Returns
    -------
    (subjects in the mask,) int array
        Rows of the scans kept, rising.
    """
    rows = np.flatnonzero(mask)
    by_age = rows[np.argsort(age_years[rows], kind="stable")]
    kept = np.unique(subjects[by_age], return_index=True)[1]
    return np.sort(by_age[kept])


def excluded_by_review(rows: pd.DataFrame) -> pd.Series:
    """Whether people excluded what automatic QC would use; for scans or volumes."""
    return (rows["qc"] == "exclude") & rows["qc_auto"].isin(["pass", "flag"])


def accepted_by_review(rows: pd.DataFrame) -> pd.Series:
    """Whether people accepted what automatic QC excludes; for scans or volumes."""
    return rows["qc"].isin(["pass", "flag"]) & (rows["qc_auto"] == "exclude")


def _one_model(volumes: pd.DataFrame, chosen: str | None) -> pd.DataFrame:
    if "model" not in volumes:
        return volumes
    held = sorted(volumes["model"].dropna().unique())
    if chosen is None:
        if len(held) > 1:
            raise ConfigError(
                f"the volumes table holds {len(held)} segmentation models: {', '.join(held)}\n"
                "  Volumes of different models are not one cohort. Choose one with the setting "
                "segmentation_model."
            )
        return volumes
    if chosen not in held:
        raise ConfigError(
            f"the volumes table holds no segmentation model {chosen!r}" + did_you_mean(chosen, held)
        )
    return volumes[volumes["model"] == chosen]


def _counted(scans: pd.DataFrame) -> np.ndarray:
    mask: np.ndarray = ((scans["state"] == "done") & (scans["qc"] != "exclude")).to_numpy(bool)
    return mask


def _in_order(volumes: pd.DataFrame) -> tuple[str, ...]:
    """Structures by label where labels are given, sums of pairs and unlabelled ones by name."""
    label = volumes["label"] if "label" in volumes else pd.Series(np.nan, index=volumes.index)
    first = label.fillna(np.inf).groupby(volumes["structure"], observed=True).min()
    return tuple(sorted(first.index, key=lambda structure: (first[structure], structure)))


def _places(values: pd.Series, among: Sequence[str] | pd.Series) -> np.ndarray:
    """(n,): where each value stands among others that are all different; -1 of what does not."""
    levels = values.astype("category").cat
    of_level = pd.Index(among).get_indexer(pd.Index(levels.categories, dtype=object))
    places: np.ndarray = np.append(of_level, -1)[levels.codes]
    return places


def _check_once(volumes: pd.DataFrame, cell: np.ndarray) -> None:
    if len(cell) and np.bincount(cell).max() > 1:
        twice = pd.Series(cell).duplicated().to_numpy()
        offenders = volumes.loc[twice, ["scan_id", "structure"]].drop_duplicates().head(5)
        named = ", ".join(f"{scan} {structure}" for scan, structure in offenders.to_numpy())
        raise TableError(
            f"{int(twice.sum())} volumes stand twice in the volumes table: {named}\n"
            "  A scan has one volume per structure and segmentation model."
        )


def _reasons_of_volumes(volumes: pd.DataFrame, exclude_cut: bool) -> np.ndarray:
    size = len(volumes)
    volume_ml = volumes["volume_ml"].to_numpy(dtype=float)
    reason = np.full(size, USABLE, dtype=object)
    reason[~(volume_ml > 0)] = NOT_MEASURED  # a volume of 0 is no volume
    status = volumes["status"] if "status" in volumes else pd.Series(None, index=volumes.index)
    cut = (status == "cut").to_numpy(dtype=bool)
    if "cut_by_fov" in volumes:
        cut = cut | volumes["cut_by_fov"].to_numpy(dtype=bool)
    reason[(volumes["qc"] == "exclude").to_numpy(dtype=bool)] = FAILED_QC
    reason[excluded_by_review(volumes).to_numpy(dtype=bool)] = REVIEW
    if exclude_cut:
        reason[cut] = CUT
    reason[(status == "failed").to_numpy(dtype=bool)] = FAILED
    reason[(status == "absent").to_numpy(dtype=bool)] = ABSENT
    return reason

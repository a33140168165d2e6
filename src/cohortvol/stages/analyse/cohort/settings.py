"""Every setting of the analysis, with its default."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from cohortvol.errors import ConfigError, did_you_mean
from cohortvol.ranges import AGE_RANGE_YEARS
from cohortvol.store.schemas import CONTINUOUS, FACTOR

LEAST = {
    "min_n_per_sex": 1,
    "min_n_fit": 3,
    "suppress_below": 0,
    "min_n_per_level": 2,
    "bootstrap_draws": 100,
    "seed": 0,
    "min_n_centiles": 50,
    "min_n_rescanned": 20,
}
"""Settings that are whole numbers, with the least that makes sense."""
AUTO, ALWAYS, NEVER = "auto", "always", "never"


@dataclass(frozen=True)
class Settings:
    """What a person may decide about the analysis."""

    exclude_cut: bool = True
    """Leave out volumes that the field of view cuts."""
    segmentation_model: str | None = None
    """Which segmentation model, where the volumes table holds several."""
    age_center: float = 50.0
    """Years at which age is 0 in the models; slopes do not depend on it."""
    min_n_per_sex: int = 100
    """Usable subjects per sex below which a slope is marked as descriptive only."""
    min_n_fit: int = 10
    """Usable subjects below which nothing is estimated."""
    fdr: float = 0.05
    """False discovery rate below which a q value is counted as a finding."""
    suppress_below: int = 5
    """Counts of people from 1 to one less than this are not printed in Table 1."""
    top_levels: int = 8
    """Sites, scanners and sequences listed by name in Table 1; the rest are added up."""
    min_n_per_level: int = 2
    """Scans that a site, scanner, sequence or contrast needs for a term of its own in M2."""
    time_of_day: str = AUTO
    """Whether M2 has a harmonic of the time of day: `ALWAYS` where it can, `NEVER`, or `AUTO`."""
    bootstrap_draws: int = 500
    """Draws of subjects behind the interval of the age of a peak."""
    seed: int = 1
    """Of the random draws."""
    min_n_centiles: int = 300
    """Usable subjects per sex below which there are no centiles."""
    min_n_rescanned: int = 200
    """Subjects scanned at several ages below which slopes within people are not estimated."""
    quantile_check: bool = True
    """Fit every centile by quantile regression too, as a check on the family."""
    literature: str | None = None
    """CSV of published volumes to compare with, besides those that come with cohortvol."""
    agreement: str | None = None
    """Table in which `assemble` gathered the comparison with another segmentation model."""
    companions: str | None = None
    """Table in which `assemble` gathered what other images show in the structures."""
    age_range_years: tuple[float, float] = AGE_RANGE_YEARS
    """Ages outside count as unknown."""
    covariates: Mapping[str, str] = field(default_factory=dict)
    """Further columns of the scans table that M2 adjusts for: `CONTINUOUS` or `FACTOR` each."""
    centile_covariates: Sequence[str] = ()
    """Those of `covariates` that the centiles depend on."""

    def shown(self, n: int) -> int | None:
        """A count of people, or None where they are so few that it is not shown."""
        return None if 0 < n < self.suppress_below else n


def checked(settings: dict[str, Any]) -> Settings:
    """Settings by name, unknown names refused.

    Raises
    ------
    ConfigError
        Naming the nearest right setting, or the value that is out of range.
    """
    known = [field.name for field in fields(Settings)]
    for name in settings:
        if name not in known:
            raise ConfigError(f"analyse: unknown setting {name!r}{did_you_mean(name, known)}")
    chosen = Settings(**settings)
    for name, least in LEAST.items():
        if getattr(chosen, name) < least:
            raise ConfigError(
                f"analyse: {name} is {getattr(chosen, name)}; it must be {least} or more"
            )
    if chosen.time_of_day not in (AUTO, ALWAYS, NEVER):
        raise ConfigError(
            f"analyse: time_of_day is {chosen.time_of_day!r}; "
            f"it must be {AUTO}, {ALWAYS} or {NEVER}"
        )
    for name, kind in chosen.covariates.items():
        if kind not in (CONTINUOUS, FACTOR):
            raise ConfigError(
                f"covariates: {name} is {kind!r}; it must be {CONTINUOUS} or {FACTOR}"
            )
    for name in chosen.centile_covariates:
        if name not in chosen.covariates:
            raise ConfigError(
                f"analyse: centile_covariates names {name}, which `covariates` does not"
                + did_you_mean(name, list(chosen.covariates))
            )
    if not 0 < chosen.fdr < 1:
        raise ConfigError(f"analyse: fdr is {chosen.fdr}; it must lie between 0 and 1")
    return chosen

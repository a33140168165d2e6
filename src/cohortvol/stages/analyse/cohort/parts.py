"""Which scans of a structure a model may use, and to which sexes it can be fitted."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cohortvol.stages.analyse.cohort.groups import Model, rows_of
from cohortvol.stages.analyse.cohort.settings import Settings
from cohortvol.stages.analyse.cohort.usable import SEXES, Cohort
from cohortvol.stages.analyse.fits.designs import sexes_pooled, trouble
from cohortvol.stages.analyse.fits.regression import count_subjects


@dataclass(frozen=True)
class Part:
    """The scans of one structure and sex that a model may use."""

    n: int
    subjects: int
    mean_volume_ml: float
    trouble: str
    """Why no age slope can be fitted to these; empty if it can."""

    def note(self, settings: Settings) -> str:
        """Whether there are too few for more than a description."""
        least = settings.min_n_per_sex
        return f"descriptive only: n < {least} per sex" if self.subjects < least else ""


def part(cohort: Cohort, structure: int, mask: np.ndarray, least: int) -> Part:
    """Count, mean and trouble of some scans of one structure."""
    volume_ml = cohort.volume_ml[mask, structure]
    ages = cohort.scans["age_years"].to_numpy(dtype=float)[mask]
    subjects = cohort.scans["subject"].to_numpy()[mask]
    mean = float(volume_ml.mean()) if len(volume_ml) else float("nan")
    why = trouble(ages, volume_ml, subjects, least)
    return Part(len(volume_ml), count_subjects(subjects), mean, why)


class Parts:
    """`Part` of every structure and sex under one model."""

    def __init__(self, cohort: Cohort, model: Model, settings: Settings) -> None:
        self.of_sex: dict[int, dict[str, Part]] = {}
        self.of_all: dict[int, Part] = {}
        self.pooled: dict[int, tuple[str, ...]] = {}
        """Sexes whose scans enter the pooled fit; of every structure."""
        self.joint: dict[int, tuple[str, ...]] = {}
        """Sexes to which slopes of their own can be fitted; of structures that have one."""
        for s in range(len(cohort.structures)):

            def of(*sexes: str, structure: int = s) -> Part:
                rows = rows_of(cohort, structure, model, sexes)
                return part(cohort, structure, rows, settings.min_n_fit)

            parts = self.of_sex[s] = {sex: of(sex) for sex in SEXES}
            self.pooled[s] = sexes_pooled({sex: parts[sex].n for sex in SEXES})
            self.of_all[s] = of(*self.pooled[s])
            if joint := tuple(sex for sex in SEXES if not parts[sex].trouble):
                self.joint[s] = joint

    @property
    def able(self) -> dict[int, tuple[str, ...]]:
        """Structures to which the pooled fit can be made, and the sexes whose scans enter it."""
        return {s: sexes for s, sexes in self.pooled.items() if not self.of_all[s].trouble}

    def of(self, structure: int, sex: str) -> Part:
        """F, M or all."""
        return self.of_all[structure] if sex == "all" else self.of_sex[structure][sex]

    def troubles(self, structure: int) -> tuple[str, ...]:
        """What stands against slopes of their own, with the sex before it."""
        parts = self.of_sex[structure]
        return tuple(f"{sex}: {parts[sex].trouble}" for sex in SEXES if parts[sex].trouble)

"""Structures that share a design, fitted together."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from cohortvol.errors import EstimateError
from cohortvol.stages.analyse.cohort.settings import Settings
from cohortvol.stages.analyse.cohort.usable import Cohort
from cohortvol.stages.analyse.fits import designs
from cohortvol.stages.analyse.fits.batch import fit_many
from cohortvol.stages.analyse.fits.designs import Design, Factor, Lump
from cohortvol.stages.analyse.fits.regression import Fit

LOG, ML = 0, 1
"""Responses of every fit: ln(volume in mL), and volume in mL."""
STRUCTURES_AT_ONCE = 20
"""Structures whose volumes are copied for one call of the core; a limit on memory."""


@dataclass(frozen=True)
class Model:
    """What a design has beside age."""

    name: str
    size: bool = False
    factors: tuple[Factor, ...] = ()
    continuous: tuple[str, ...] = ()
    """Further columns of the scans that hold numbers."""
    time_of_day: bool = False

    def knows(self, cohort: Cohort) -> np.ndarray:
        """(scans,) of bool: what the model needs beside age and sex is known."""
        mask = cohort.knows(self.continuous)
        if self.size:
            mask = mask & cohort.has_size
        if self.time_of_day:
            mask = mask & cohort.knows(["time_of_day_h"])
        return mask


@dataclass(frozen=True)
class Fitted:
    """One structure's fit, and the design it was fitted with."""

    fit: Fit | EstimateError
    design: Design
    rows: np.ndarray
    """Scans of the design, by place in the cohort; of several structures together."""
    given: np.ndarray
    """(rows,) of bool: those of this structure."""


def models_of(cohort: Cohort) -> tuple[str, ...]:
    """``M1``, and ``M2`` where there is anything to adjust for."""
    return tuple(model.name for model in ladder(cohort))


def ladder(cohort: Cohort) -> tuple[Model, ...]:
    """M1, and M2 with body size and fixed effects as far as they are known and differ."""
    size, factors = bool(cohort.has_size.any()), designs.factors_of(cohort)
    continuous = designs.continuous_of(cohort)
    models = [Model("M1")]
    if size or factors or continuous or cohort.time_of_day:
        models.append(Model("M2", size, factors, continuous, cohort.time_of_day))
    return tuple(models)


def rows_of(cohort: Cohort, structure: int, model: Model, sexes: tuple[str, ...]) -> np.ndarray:
    """(scans,) of bool: scans of one structure that a model uses; no sexes, whatever the sex."""
    mask: np.ndarray = cohort.usable(structure) & model.knows(cohort)
    if sexes:
        mask = mask & np.logical_or.reduce([cohort.of_sex(sex) for sex in sexes])
    return mask


def fit_structures(
    cohort: Cohort,
    model: Model,
    sexes_of: Mapping[int, tuple[str, ...]],
    settings: Settings,
    *,
    interaction: bool,
    with_sex: bool = True,
    basis: Callable[[np.ndarray], np.ndarray] = designs.linear,
    divided_by: np.ndarray | None = None,
    size: bool | None = None,
) -> dict[int, Fitted]:
    """One model of every structure.

    Parameters
    ----------
    sexes_of : mapping of int to tuple of str
        Structures to fit, and the sexes whose scans are used; empty for all scans.
    interaction, with_sex : bool
        Whether the terms of age differ between the sexes, and whether there is a term of sex.
    basis : function
        As in `designs.build`.
    divided_by : (scans,) float array, optional
        What the volumes are divided by.
    size : bool, optional
        Whether the design has the terms of body size; as the model says if not given. The rows
        are those of the model in either case.
    """
    masks = {s: rows_of(cohort, s, model, sexes) for s, sexes in sexes_of.items()}
    keys: dict[tuple[tuple[str, ...], tuple[Lump, ...]], list[int]] = {}
    for s, mask in masks.items():
        lumps = tuple(factor.lump(mask, settings.min_n_per_level) for factor in model.factors)
        keys.setdefault((sexes_of[s], lumps), []).append(s)

    def together(sexes: tuple[str, ...], lumps: tuple[Lump, ...], members: list[int]) -> None:
        given = np.column_stack([masks[s] for s in members])
        rows = np.flatnonzero(given.any(axis=1))
        given = given[rows]
        design = designs.build(
            cohort,
            rows,
            center=settings.age_center,
            sexes=sexes if with_sex else (),
            interaction=interaction,
            size=model.size if size is None else size,
            continuous=model.continuous,
            factors=model.factors,
            lumps=lumps,
            least=settings.min_n_per_level,
            time_of_day=model.time_of_day,
            basis=basis,
        )
        subjects = cohort.scans["cluster"].to_numpy()[rows]
        fits: list[Fit | EstimateError] = []
        for start in range(0, len(members), STRUCTURES_AT_ONCE):
            few = slice(start, start + STRUCTURES_AT_ONCE)
            volume = cohort.volume_ml[rows][:, members[few]]
            volume = np.where(given[:, few], volume, np.nan)
            if divided_by is not None:
                volume = volume / divided_by[rows, None]
            responses = np.stack([np.log(volume), volume], axis=2)
            try:
                fits += fit_many(design.columns, responses, subjects, design.names)
            except EstimateError as error:
                fits += [error] * volume.shape[1]
        for place, (s, fitted) in enumerate(zip(members, fits, strict=True)):
            alone = isinstance(fitted, EstimateError) and fitted.reason == "ANA_COLLINEAR"
            if alone and (model.factors or model.time_of_day) and len(members) > 1:
                together(sexes, lumps, [s])  # aliases that only its own rows have
            else:
                found[s] = Fitted(fitted, design, rows, given[:, place])

    found: dict[int, Fitted] = {}
    for (sexes, lumps), members in keys.items():
        together(sexes, lumps, members)
    return found

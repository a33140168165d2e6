"""Which family the centiles of a sample have: LMS, unless the sample speaks against it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from cohortvol.errors import EstimateError
from cohortvol.stages.analyse.fits.centile_model import STARTS, CentileModel, far_out, fit
from cohortvol.stages.analyse.fits.families import FAMILIES

FOLDS = 5
SEEN = (5, 25, 50, 75, 95)
"""Centiles that are compared with the share of the sample below them."""
WRONG = (3.0, 2.0)
"""Points, and sampling errors, by both of which that share is off where a centile is wrong."""
DOUBTFUL = (1.5, 1.5)
"""The same, where another family may be better."""
UNEVEN = (4.0, 3.0)
"""The same, of a quarter of the sample by age."""
FAR, FAR_EXPECTED = 4.0, 6.33e-5
"""A score, and the share of people expected beyond it; with ten times as many, tails are heavy."""
SIMPLEST = "BCCG"
"""Taken where nothing in the sample speaks against it."""
CANDIDATES = (SIMPLEST, "BCT", "SHASH")
"""Else these, and BCCG with others at the ends at which someone is far out; each also with its
first shape a line in age, where that is likelier by `LIKELIER`. Of those that are not wrong, that
with the least quantile loss over subjects left out, in `FOLDS` folds."""
LIKELIER = 2.0
"""Log likelihood that one more parameter must add (AIC: 1) to be looked at."""

Kind = tuple[str, bool]
"""A family, and whether its first shape changes with age."""
Starts = Sequence[float | CentileModel]


@dataclass(frozen=True)
class People:
    """Those whom centiles are fitted to."""

    age_years: np.ndarray
    volume_ml: np.ndarray
    """All above 0."""
    further: np.ndarray | None = None
    """(n, terms): covariates beside age, 0 at the values that charts are drawn for."""

    def __getitem__(self, rows: np.ndarray) -> People:
        further = None if self.further is None else self.further[rows]
        return People(self.age_years[rows], self.volume_ml[rows], further)

    def __len__(self) -> int:
        return len(self.age_years)

    def fitted(self, kind: Kind, starts: Starts = STARTS[:1]) -> CentileModel:
        """`fit` of one kind to them."""
        return fit(self.age_years, self.volume_ml, *kind, starts, self.further)

    def centiles_ml(
        self, model: CentileModel, percents: Iterable[float]
    ) -> dict[float, np.ndarray]:
        """(n,) each: centiles at the age and covariates of each of them."""
        return model.centiles_ml(self.age_years, percents, self.further)

    def z(self, model: CentileModel) -> np.ndarray:
        """(n,): the score of each."""
        return model.z(self.age_years, self.volume_ml, self.further)

    def log_likelihood(self, model: CentileModel) -> float:
        """Of their ln(volume)."""
        ratio = np.log(self.volume_ml / model.median_ml(self.age_years, self.further))
        density = FAMILIES[model.family].log_density(ratio, *model.at(self.age_years))
        return float(np.sum(density))


def choose(people: People) -> CentileModel:
    """The model of one of the `CANDIDATES`.

    Raises
    ------
    EstimateError
        As `fit`; ``ANA_CENTILES`` if none has as many of the sample below its centiles as these
        say.
    """
    first, error = _or_error(people, (SIMPLEST, False))
    if first is not None:
        if not (trouble(first, people, DOUBTFUL) or is_uneven(first, people)):
            if not has_heavy_tails(first, people):
                return first
    elif error is not None and error.reason != "ANA_NOT_CONVERGED":
        raise error
    families = [*CANDIDATES, *_with_far(people)]
    found = {}
    for family in families:
        constant, _ = _or_error(people, (family, False), STARTS)
        changing, _ = _or_error(people, (family, True), [constant] if constant else STARTS)
        if constant is not None:
            found[family, False] = constant
        if changing is not None and not (
            constant is not None
            and people.log_likelihood(changing) < people.log_likelihood(constant) + LIKELIER
        ):
            found[family, True] = changing
    if not found:
        raise EstimateError("ANA_NOT_CONVERGED", "no centiles fit these volumes best")
    right = {kind: model for kind, model in found.items() if not trouble(model, people)}
    if not right:
        why = trouble(next(iter(found.values())), people)
        raise EstimateError("ANA_CENTILES", f"no centiles agree with the sample: {why}")
    losses = {kind: left_out_loss(people, kind, model) for kind, model in right.items()}
    return right[min(losses, key=lambda kind: losses[kind])]


def _with_far(people: People) -> Iterator[str]:
    low, high = far_out(people.age_years, people.volume_ml, people.further)
    if low or high:
        yield f"BCCG_{'both' if low and high else 'low' if low else 'high'}"


def _or_error(
    people: People, kind: Kind, starts: Starts = STARTS[:1]
) -> tuple[CentileModel | None, EstimateError | None]:
    try:
        return people.fitted(kind, starts), None
    except EstimateError as error:
        return None, error


def trouble(model: CentileModel, people: People, limits: tuple[float, float] = WRONG) -> str:
    """Which centile is off by the people that it was fitted to; empty if none is."""
    points, errors = limits
    for percent, centile_ml in people.centiles_ml(model, SEEN).items():
        below = 100 * float(np.mean(people.volume_ml < centile_ml))
        error = np.sqrt(percent * (100 - percent) / len(people))
        if not abs(below - percent) <= max(points, errors * error):
            return f"{below:.1f} % lie below the {percent}th centile"
    return ""


def is_uneven(model: CentileModel, people: People) -> bool:
    """Whether a centile is off by a quarter of the people by age, as where a shape changes."""
    quarters = np.array_split(np.argsort(people.age_years, kind="stable"), 4)
    return any(trouble(model, people[rows], UNEVEN) for rows in quarters)


def has_heavy_tails(model: CentileModel, people: People) -> bool:
    """Whether more people lie far out than a normal score has there."""
    far = int((np.abs(people.z(model)) > FAR).sum())
    return far > max(1.0, 10 * FAR_EXPECTED * len(people))


def left_out_loss(people: People, kind: Kind, model: CentileModel) -> float:
    """Mean quantile loss of ln(volume) at `SEEN`, over subjects that a fit has not seen.

    Every fifth by age is left out at a time; the fits start from that of all. A density would be
    decided by the one most extreme.
    """
    fold = np.empty(len(people), dtype=int)
    fold[np.argsort(people.age_years, kind="stable")] = np.arange(len(people)) % FOLDS
    total = 0.0
    for k in range(FOLDS):
        others = people[fold == k]
        try:
            seen = people[fold != k].fitted(kind, [model])
        except EstimateError:
            return np.inf
        for percent, centile_ml in others.centiles_ml(seen, SEEN).items():
            above = np.log(others.volume_ml / centile_ml)
            total += float(np.sum(np.where(above > 0, percent, percent - 100) * above))
    return total / (100 * len(SEEN) * len(people))

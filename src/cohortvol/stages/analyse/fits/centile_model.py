"""Centiles of volume by age: one of the `families`, its median and spread splines of age.

ln M and ln S are natural cubic splines of age with stated knots, and covariates may add to ln M;
the first shape may be a line in age, the others are one number each. Fitted by maximum likelihood
(gamlss: Rigby and Stasinopoulos 2005), by Newton's method on the observed information, which is
positive definite at a maximum and nowhere else taken for one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import numpy as np
from scipy import special

from cohortvol.errors import EstimateError
from cohortvol.stages.analyse.fits.families import FAMILIES, Family
from cohortvol.stages.analyse.fits.regression import RANK_TOLERANCE, knots_at, natural_spline

MEDIAN_KNOTS = (5.0, 27.5, 50.0, 72.5, 95.0)
SPREAD_KNOTS = (10.0, 50.0, 90.0)
"""Percentiles of age at which the splines of ln M and ln S have their knots."""
AGE_OF_SHAPES = 50.0
"""Years at which the intercept of a shape holds."""
MANY = 20_000
"""People of whom first a few are fitted, about a quarter of this number, to start from."""
MOST_STEPS = 200
CONVERGED = 1e-10
"""Gain in log likelihood still to be had, by the last step, below which it has converged."""
LARGEST_SHAPE = 10.0
"""Beyond which a shape, mostly a logarithm, is on its way to where it changes nothing."""
STEP = 1e-4
"""Of the differences that give derivatives, in units of a predictor's own scale."""
STARTS = (0.0, 1.0, -1.0)
"""Of the power L. Of those after the first the likeliest end counts, where the first reaches no
maximum or the sample speaks against it."""
AWAY = 4.0
"""Scaled median absolute deviations beyond which a volume does not enter the start."""


@dataclass(frozen=True)
class CentileModel:
    """A fitted model of one structure and sex."""

    family: str
    median_knots_years: np.ndarray
    median_coefficients: np.ndarray
    """Of ln M in mL: the intercept, then one per column of `natural_spline`."""
    spread_knots_years: np.ndarray
    spread_coefficients: np.ndarray
    """Of ln S."""
    shapes: tuple[tuple[float, float], ...]
    """Of each shape of the family: at `AGE_OF_SHAPES`, and its change per decade."""
    terms: np.ndarray = field(default_factory=lambda: np.empty(0))
    """Of ln M, one per column of further covariates; all 0 at the values that M is given for."""

    def median_ml(self, age_years: np.ndarray, further: np.ndarray | None = None) -> np.ndarray:
        """M at these ages, mL; of people with these `further` covariates, (n, terms)."""
        log_ml = _basis(age_years, self.median_knots_years) @ self.median_coefficients
        return np.asarray(np.exp(log_ml if further is None else log_ml + further @ self.terms))

    def spread(self, age_years: np.ndarray) -> np.ndarray:
        """S at these ages: about the coefficient of variation."""
        basis = _basis(age_years, self.spread_knots_years)
        return np.asarray(np.exp(basis @ self.spread_coefficients))

    def centile_ml(
        self, age_years: np.ndarray, percent: float, further: np.ndarray | None = None
    ) -> np.ndarray:
        """Volume below which `percent` of the people of these ages lie, mL."""
        return self.centiles_ml(age_years, [percent], further)[percent]

    def centiles_ml(
        self,
        age_years: np.ndarray,
        percents: Iterable[float],
        further: np.ndarray | None = None,
    ) -> dict[float, np.ndarray]:
        """`centile_ml` of several percents."""
        median, at = self.median_ml(age_years, further), list(self.at(age_years))
        ratio = FAMILIES[self.family].ratio
        return {p: median * np.exp(ratio(float(special.ndtri(p / 100)), *at)) for p in percents}

    def z(
        self, age_years: np.ndarray, volume_ml: np.ndarray, further: np.ndarray | None = None
    ) -> np.ndarray:
        """Score of these volumes at these ages, standard normal in the reference."""
        ratio = np.log(volume_ml / self.median_ml(age_years, further))
        return np.asarray(FAMILIES[self.family].z(ratio, *self.at(age_years)))

    def at(self, age_years: np.ndarray) -> Iterator[np.ndarray]:
        """ln S at these ages, then each shape of the family."""
        yield np.log(self.spread(age_years))
        decades = (np.atleast_1d(np.asarray(age_years, dtype=float)) - AGE_OF_SHAPES) / 10
        yield from (at + change * decades for at, change in self.shapes)


def fit(
    age_years: np.ndarray,
    volume_ml: np.ndarray,
    family: str = "BCCG",
    changes: bool = False,
    starts: Sequence[float | CentileModel] = STARTS[:1],
    further: np.ndarray | None = None,
) -> CentileModel:
    """Maximum likelihood of one family; `changes` lets its first shape change with age.

    Parameters
    ----------
    age_years : (n,) float array
    volume_ml : (n,) float array
        All above 0.
    starts : sequence of float or CentileModel
        Of L, for families that have it, with the robust median and spread; or a model of the same
        family, of other people or with a constant shape.
    further : (n, terms) float array, optional
        Further columns of ln M, 0 at the values that M is given for.

    Raises
    ------
    EstimateError
        ``ANA_NO_VARIANCE`` if all ages or volumes are equal, ``ANA_COLLINEAR`` if there are too
        few different ages for the splines or further columns say the same, ``ANA_NOT_CONVERGED``
        if no best fit is found.
    """
    for name, values in (("ages", age_years), ("volumes", volume_ml)):
        if np.ptp(values) == 0:
            raise EstimateError("ANA_NO_VARIANCE", f"all {name} are equal")
    median_knots, spread_knots = (knots_at(age_years, at) for at in (MEDIAN_KNOTS, SPREAD_KNOTS))
    if len(spread_knots) < 2:
        raise EstimateError("ANA_COLLINEAR", "too few different ages for a spline")
    if len(age_years) > MANY and not isinstance(starts[0], CentileModel):
        some = slice(None, None, len(age_years) // (MANY // 4))
        columns = None if further is None else further[some]
        with suppress(EstimateError):
            few = fit(age_years[some], volume_ml[some], family, changes, starts, columns)
            return fit(age_years, volume_ml, family, changes, [few], further)
    kind, log_volume = FAMILIES[family], np.log(volume_ml)
    x_m, back_m = _orthonormal(_median_columns(age_years, further))
    x_s, back_s = _orthonormal(_basis(age_years, spread_knots))
    line = np.column_stack([np.ones(len(age_years)), (age_years - AGE_OF_SHAPES) / 10])
    designs = [x_m, x_s, *(line[:, : 1 + (changes and not n)] for n in range(len(kind.shapes)))]
    beta, left, spread = _start(log_volume, x_m)
    gamma = x_s.T @ np.full(len(left), np.log(spread))
    best: tuple[float, list[np.ndarray]] | None = None
    for start in starts if kind.shapes[0] == "L" else starts[:1]:
        shapes = [np.zeros(design.shape[1]) for design in designs[2:]]
        if isinstance(start, CentileModel):
            at = [
                x_m.T @ np.log(start.median_ml(age_years, further)),
                x_s.T @ np.log(start.spread(age_years)),
                *(
                    np.array(each[: len(zero)])
                    for each, zero in zip(start.shapes, shapes, strict=True)
                ),
            ]
        else:
            for each, value in zip(shapes, (kind.start[0] + start, *kind.start[1:]), strict=True):
                each[0] = value
            at = [beta, gamma, *shapes]
        found = _climbed(kind, log_volume, designs, at)
        if found is not None and (best is None or found[0] > best[0]):
            best = found
    if best is None:
        raise EstimateError("ANA_NOT_CONVERGED", "no centiles fit these volumes best")
    beta, gamma, *shapes = best[1]
    in_all = back_m @ beta
    n_splines = len(in_all) - (0 if further is None else further.shape[1])
    return CentileModel(
        family,
        median_knots,
        in_all[:n_splines],
        spread_knots,
        back_s @ gamma,
        tuple((float(each[0]), float(each[1]) if len(each) > 1 else 0.0) for each in shapes),
        in_all[n_splines:],
    )


def _start(log_volume: np.ndarray, x_m: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """Median of the bulk of the volumes, what it leaves of each, and the spread of the bulk."""
    beta = x_m.T @ log_volume
    for _ in range(3):
        left = log_volume - x_m @ beta
        spread = max(1.4826 * float(np.median(np.abs(left - np.median(left)))), 1e-6)
        near = np.abs(left - np.median(left)) <= AWAY * spread
        beta = np.linalg.lstsq(x_m[near], log_volume[near], rcond=None)[0]
    return beta, log_volume - x_m @ beta, spread


def far_out(
    age_years: np.ndarray, volume_ml: np.ndarray, further: np.ndarray | None = None
) -> tuple[int, int]:
    """How many volumes lie more than `AWAY` spreads of the bulk below and above its median."""
    x_m, _ = _orthonormal(_median_columns(age_years, further))
    _, left, spread = _start(np.log(volume_ml), x_m)
    return int((left < -AWAY * spread).sum()), int((left > AWAY * spread).sum())


def _climbed(
    kind: Family, log_volume: np.ndarray, designs: list[np.ndarray], start: list[np.ndarray]
) -> tuple[float, list[np.ndarray]] | None:
    """Log likelihood and coefficients at the maximum that is reached from a start, if any is.

    A step of Newton's method, the information's eigenvalues taken as positive, is halved until the
    likelihood rises; it is a maximum where they are positive and no step promises a gain.
    """
    sizes = np.cumsum([design.shape[1] for design in designs])[:-1]
    at = np.concatenate(start)

    def predictors(coefficients: np.ndarray) -> list[np.ndarray]:
        parts = np.split(coefficients, sizes)  # a shape without age is one number for all
        both = zip(designs, parts, strict=True)
        return [part if len(part) == 1 else design @ part for design, part in both]

    def likelihood(coefficients: np.ndarray) -> float:
        log_m, *others = predictors(coefficients)
        with np.errstate(all="ignore"):
            value = float(np.sum(kind.log_density(log_volume - log_m, *others)))
        return value if np.isfinite(value) else -np.inf

    value = likelihood(at)
    for _ in range(MOST_STEPS):
        with np.errstate(all="ignore"):
            gradient, information = _slopes(kind, log_volume, designs, predictors(at))
        if not (np.isfinite(gradient).all() and np.isfinite(information).all()):
            return None
        eigenvalues, vectors = np.linalg.eigh(information)
        is_peak = eigenvalues[0] > 0
        usable = np.maximum(np.abs(eigenvalues), 1e-9 * np.abs(eigenvalues).max())
        step = vectors @ ((vectors.T @ gradient) / usable)
        gain = float(step @ gradient)
        if gain < CONVERGED:
            return (value, np.split(at, sizes)) if is_peak else None
        for halving in 0.5 ** np.arange(40):
            better = likelihood(at + halving * step)
            if better > value:
                break
        else:  # the likelihood cannot rise in floating point
            return (value, np.split(at, sizes)) if is_peak and gain < 1e-6 else None
        at, value = at + halving * step, better
        if any(abs(part[0]) > LARGEST_SHAPE for part in np.split(at, sizes)[2:]):
            return None
    return None


def _slopes(
    kind: Family, log_volume: np.ndarray, designs: list[np.ndarray], eta: list[np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Gradient and observed information by the coefficients.

    The density of each volume is differenced by its own predictors: ln M in steps of S, L in steps
    of 1 / S, the others as they are.
    """
    spread = np.exp(eta[1])
    of_shape = [1 / spread if name == "L" else np.ones(1) for name in kind.shapes]
    steps = [STEP * scale for scale in (spread, np.ones(1), *of_shape)]

    def density(*moved: tuple[int, int]) -> np.ndarray:
        log_m, *others = (
            each + sum(sign * steps[n] for which, sign in moved if which == n)
            for n, each in enumerate(eta)
        )
        return kind.log_density(log_volume - log_m, *others)

    here = density()
    up, down = ([density((n, sign)) for n in range(len(eta))] for sign in (1, -1))
    gradient = np.concatenate(
        [x.T @ ((u - d) / (2 * h)) for x, u, d, h in zip(designs, up, down, steps, strict=True)]
    )
    blocks: list[list[np.ndarray]] = [[np.empty(0)] * len(eta) for _ in eta]
    for i, j in _pairs(len(eta)):
        if i == j:
            second = (up[i] - 2 * here + down[i]) / steps[i] ** 2
        else:
            both = density((i, 1), (j, 1)) + density((i, -1), (j, -1))
            second = (both - up[i] - down[i] - up[j] - down[j] + 2 * here) / (
                2 * steps[i] * steps[j]
            )
        blocks[i][j] = -designs[i].T @ (designs[j] * second[:, None])
        blocks[j][i] = blocks[i][j].T
    return gradient, np.block(blocks)


def _pairs(count: int) -> Iterable[tuple[int, int]]:
    return ((i, j) for i in range(count) for j in range(i, count))


def _basis(age_years: np.ndarray, knots: np.ndarray) -> np.ndarray:
    ages = np.atleast_1d(np.asarray(age_years, dtype=float))
    return np.column_stack([np.ones(len(ages)), natural_spline(ages, knots)])


def _median_columns(age_years: np.ndarray, further: np.ndarray | None) -> np.ndarray:
    splines = _basis(age_years, knots_at(age_years, MEDIAN_KNOTS))
    return splines if further is None else np.column_stack([splines, further])


def _orthonormal(columns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Columns of the same span that are orthonormal, and the matrix back to the given ones."""
    why = "too few different ages for a spline, or covariates that tell the same"
    length = np.linalg.norm(columns, axis=0)
    if not length.all():
        raise EstimateError("ANA_COLLINEAR", why)
    q, r = np.linalg.qr(columns / length)
    singular = np.linalg.svd(r, compute_uv=False)
    if singular[-1] <= RANK_TOLERANCE * singular[0]:
        raise EstimateError("ANA_COLLINEAR", why)
    return q, np.linalg.inv(r) / length[:, None]

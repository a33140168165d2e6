"""People, or sites, with levels and slopes of their own, by restricted maximum likelihood."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import optimize

from cohortvol.errors import EstimateError
from cohortvol.stages.analyse.fits.few_clusters import FEW, of_information
from cohortvol.stages.analyse.fits.regression import (
    Estimated,
    cluster_factor,
    orthonormal,
    summed,
)

LEAST_ROWS = 3
"""Of a person, for a slope of the person's own to differ from an error of one row."""
MOST_OF_ONE = 1 - 1e-9
"""Largest share of the variance that may lie between people."""


@dataclass(frozen=True, kw_only=True)
class RandomIntercept(Estimated):
    """y = X b + u(subject) + e, by restricted maximum likelihood; normal intervals."""

    robust: Estimated
    """The same coefficients with cluster-robust covariance, on one less degrees of freedom than
    clusters or, where these are few, as in `few_clusters`: holds where people age at rates of their
    own, which the model does not know."""
    variance_between: float
    """Of u, between people."""
    variance_within: float
    """Of e, within people."""

    @property
    def icc(self) -> float:
        """Share of the variance that lies between people."""
        return self.variance_between / (self.variance_between + self.variance_within)


@dataclass(frozen=True, kw_only=True)
class RandomSlopes(Estimated):
    """y = X b + u0(subject) + u1(subject) z + e; normal intervals."""

    random_covariance: np.ndarray
    """(2, 2) of u0 and u1."""
    variance_within: float
    """Of e."""

    @property
    def slope_sd(self) -> float:
        """Standard deviation of u1, between people."""
        return math.sqrt(self.random_covariance[1, 1])


@dataclass(frozen=True)
class _Start:
    """Least squares, from which both fits set out."""

    q: np.ndarray
    back: np.ndarray
    """From the columns of q to coefficients."""
    first: np.ndarray
    left: np.ndarray
    """What least squares leaves: keeps digits."""

    @classmethod
    def of(cls, design: np.ndarray, response: np.ndarray) -> _Start:
        q, r, length = orthonormal(design)
        first = q.T @ response
        return cls(q, np.linalg.inv(r) / length[:, None], first, response - q @ first)


@dataclass(frozen=True)
class _Profiled:
    """What is best for one relative covariance of the random effects."""

    value: float
    """-2 log restricted likelihood."""
    change: np.ndarray
    inverse: np.ndarray
    within: float

    @classmethod
    def of(cls, products: np.ndarray, n: int, log_determinant: float) -> _Profiled:
        """Of (X, y)' V^-1 (X, y) and ln |V|."""
        terms = len(products) - 1
        inverse = np.linalg.inv(products[:terms, :terms])
        change = inverse @ products[:terms, terms]
        rest = float(products[terms, terms] - products[:terms, terms] @ change)
        value = (n - terms) * math.log(rest) + log_determinant
        value += float(np.linalg.slogdet(products[:terms, :terms])[1])
        return cls(value, change, inverse, rest / (n - terms))

    def coefficients(self, start: _Start) -> np.ndarray:
        """(terms,) of the design."""
        found: np.ndarray = start.back @ (start.first + self.change)
        return found

    def covariance(self, start: _Start) -> np.ndarray:
        """(terms, terms) if the model holds."""
        found: np.ndarray = self.within * start.back @ self.inverse @ start.back.T
        return found


def random_intercept(
    design: np.ndarray,
    response: np.ndarray,
    subjects: np.ndarray,
    clusters: np.ndarray | None = None,
) -> RandomIntercept:
    """Restricted maximum likelihood, of which only the share between people is searched.

    For a given share the rest has a closed form, which needs sums per person only. Agrees with
    lme4 and nlme; ``statsmodels.MixedLM`` fits the same model some thousand times slower.

    Parameters
    ----------
    design : (n, terms) float array
        The intercept included.
    response : (n,) float array
    subjects : (n,) int array
        Who each row belongs to.
    clusters : (n,) int array, optional
        By which the errors of `RandomIntercept.robust` are clustered: subjects if not given.

    Raises
    ------
    EstimateError
        ``ANA_COLLINEAR`` if the design has not full rank, ``ANA_TOO_FEW`` if nobody has two rows
        or there are no more clusters than terms.
    """
    start = _Start.of(design, response)
    members = np.unique(subjects, return_inverse=True)[1]
    sizes = np.bincount(members)
    if sizes.max() < 2:
        raise EstimateError("ANA_TOO_FEW", "nobody was scanned twice")
    at = _of_intercepts(start, members, sizes)

    def criterion(share: float) -> float:
        return at(share).value

    found = optimize.minimize_scalar(
        criterion, bounds=(0.0, MOST_OF_ONE), method="bounded", options={"xatol": 1e-12}
    )
    share = float(found.x) if found.fun < criterion(0.0) else 0.0
    best = at(share)
    whose = np.empty(len(sizes), dtype=int)
    whose[members] = np.unique(subjects if clusters is None else clusters, return_inverse=True)[1]
    return RandomIntercept(
        coefficients=best.coefficients(start),
        covariance=best.covariance(start),
        robust=_robust(start, best, share / (1 - share), members, sizes, whose),
        variance_between=best.within * share / (1 - share),
        variance_within=best.within,
    )


def _robust(
    start: _Start,
    best: _Profiled,
    ratio: float,
    members: np.ndarray,
    sizes: np.ndarray,
    whose: np.ndarray,
) -> Estimated:
    """With errors by clusters, of which `whose` (people,) tells; V = I + ratio 11' per person."""
    q, coefficients = start.q, best.coefficients(start)
    weight = ratio / (1 + sizes * ratio)
    sums = summed(q, members)
    residuals = start.left - q @ best.change
    scores = summed(q * residuals[:, None], members)
    scores -= sums * (weight * np.bincount(members, residuals, minlength=len(sizes)))[:, None]
    scores = summed(scores, whose)
    n, terms, groups = len(q), q.shape[1], int(whose.max()) + 1
    if groups <= terms:
        raise EstimateError("ANA_TOO_FEW", f"{groups} clusters for {terms} terms")
    if groups < FEW:
        of_row, information = whose[members], np.empty((groups, terms, terms))
        for group in range(groups):
            rows, shared = q[of_row == group], sums[whose == group]
            information[group] = rows.T @ rows - (shared.T * weight[whose == group]) @ shared
        adjusted, few = of_information(information)
        pulled = np.einsum("gij,gj->gi", adjusted, scores) @ start.back.T
        few = few.seen_through(start.back)
        return Estimated(coefficients, pulled.T @ pulled, groups - 1, few)
    pulled = scores @ (start.back @ best.inverse).T
    factor = cluster_factor(groups, n, terms)
    return Estimated(coefficients, factor * pulled.T @ pulled, groups - 1)


def _of_intercepts(
    start: _Start, members: np.ndarray, sizes: np.ndarray
) -> Callable[[float], _Profiled]:
    """With t = share / (1 - share) a person with k rows has V = I + t 11' and
    V^-1 = I - t / (1 + k t) 11', so that X'V^-1 X is X'X less weighted products of sums."""
    joined = np.column_stack([start.q, start.left])
    sums = summed(joined, members)
    of_all = joined.T @ joined
    different, counts = np.unique(sizes, return_counts=True)
    of_size = np.stack([sums[sizes == k].T @ sums[sizes == k] for k in different])

    def at(share: float) -> _Profiled:
        t = share / (1 - share)
        products = of_all - np.tensordot(t / (1 + different * t), of_size, 1)
        return _Profiled.of(products, len(joined), float(counts @ np.log1p(different * t)))

    return at


def random_slopes(
    design: np.ndarray, response: np.ndarray, along: np.ndarray, subjects: np.ndarray
) -> RandomSlopes:
    """Restricted maximum likelihood over the three numbers of a covariance of two effects.

    For a given covariance, relative to the variance of e, the rest has a closed form, which needs
    sums per person only. Agrees with lme4's ``(z | subject)``.

    Parameters
    ----------
    design : (n, terms) float array
        The intercept included.
    response, along : (n,) float arrays
        y, and z, along which people have slopes of their own.
    subjects : (n,) int array
        Who each row belongs to.

    Raises
    ------
    EstimateError
        ``ANA_COLLINEAR`` if the design has not full rank; ``ANA_TOO_FEW`` if fewer than two people
        have `LEAST_ROWS` rows; ``ANA_NOT_CONVERGED``.
    """
    start = _Start.of(design, response)
    members = np.unique(subjects, return_inverse=True)[1]
    if (np.bincount(members) >= LEAST_ROWS).sum() < 2:
        raise EstimateError("ANA_TOO_FEW", f"nobody was scanned {LEAST_ROWS} times")
    spread = float(np.sqrt(np.mean(along**2))) or 1.0
    at = _of_slopes(start, along / spread, members)

    def criterion(values: np.ndarray) -> float:
        return at(values).value

    near = optimize.minimize(criterion, (1.0, 0.0, 1.0), method="Nelder-Mead",
                             options={"xatol": 1e-6, "fatol": 1e-8, "maxiter": 4000})  # fmt: skip
    if not near.success:
        raise EstimateError("ANA_NOT_CONVERGED", "slopes of people of their own")
    found = optimize.minimize(criterion, near.x, method="BFGS", jac="3-point")  # two more digits
    best = at(found.x)
    root = _root(found.x) / np.array([[1.0], [spread]])
    return RandomSlopes(
        coefficients=best.coefficients(start),
        covariance=best.covariance(start),
        random_covariance=best.within * root @ root.T,
        variance_within=best.within,
    )


def _root(values: np.ndarray) -> np.ndarray:
    """Lower triangle, so that any three numbers make a covariance."""
    return np.array([[values[0], 0.0], [values[1], values[2]]])


def _of_slopes(
    start: _Start, along: np.ndarray, members: np.ndarray
) -> Callable[[np.ndarray], _Profiled]:
    """At a root L of the relative covariance. With Z a person's rows of (1, z), V = I + Z L L' Z'
    and V^-1 = I - Z L (I + L' Z'Z L)^-1 L' Z', so that sums of Z'Z and Z'X per person suffice."""
    n, terms = start.q.shape
    joined = np.column_stack([start.q, start.left])
    effects = np.column_stack([np.ones(n), along])
    of_all = joined.T @ joined
    crossed = summed((effects[:, :, None] * joined[:, None]).reshape(n, -1), members)
    crossed = crossed.reshape(-1, 2, terms + 1)
    squares = summed((effects[:, :, None] * effects[:, None]).reshape(n, -1), members)
    squares = squares.reshape(-1, 2, 2)

    def at(values: np.ndarray) -> _Profiled:
        root = _root(values)
        inner = np.eye(2) + root.T @ squares @ root
        pulled = root.T @ crossed
        solved = np.linalg.solve(inner, pulled)
        products = of_all - np.einsum("gij,gik->jk", pulled, solved)
        return _Profiled.of(products, n, float(np.linalg.slogdet(inner)[1].sum()))

    return at

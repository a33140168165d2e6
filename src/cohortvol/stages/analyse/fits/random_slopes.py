"""How much people's own slopes differ: random intercepts and slopes, by restricted likelihood."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import optimize

from cohortvol.errors import EstimateError
from cohortvol.stages.analyse.fits.regression import Estimated, orthonormal, summed

LEAST_ROWS = 3
"""Of a person, for a slope of the person's own to differ from an error of one row."""


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
    q, r, length = orthonormal(design)
    members = np.unique(subjects, return_inverse=True)[1]
    if (np.bincount(members) >= LEAST_ROWS).sum() < 2:
        raise EstimateError("ANA_TOO_FEW", f"nobody was scanned {LEAST_ROWS} times")
    first = q.T @ response
    spread = float(np.sqrt(np.mean(along**2))) or 1.0
    at = _profile(q, response - q @ first, along / spread, members)

    def criterion(values: np.ndarray) -> float:
        return at(values)[0]

    near = optimize.minimize(criterion, (1.0, 0.0, 1.0), method="Nelder-Mead",
                             options={"xatol": 1e-6, "fatol": 1e-8, "maxiter": 4000})  # fmt: skip
    if not near.success:
        raise EstimateError("ANA_NOT_CONVERGED", "slopes of people of their own")
    found = optimize.minimize(criterion, near.x, method="BFGS", jac="3-point")  # two more digits
    _, change, inverse, within = at(found.x)
    back = np.linalg.inv(r) / length[:, None]
    root = _root(found.x) / np.array([[1.0], [spread]])
    return RandomSlopes(
        coefficients=back @ (first + change),
        covariance=within * back @ inverse @ back.T,
        random_covariance=within * root @ root.T,
        variance_within=within,
    )


def _root(values: np.ndarray) -> np.ndarray:
    """Lower triangle, so that any three numbers make a covariance."""
    return np.array([[values[0], 0.0], [values[1], values[2]]])


_Profiled = tuple[float, np.ndarray, np.ndarray, float]


def _profile(
    q: np.ndarray, left: np.ndarray, along: np.ndarray, members: np.ndarray
) -> Callable[[np.ndarray], _Profiled]:
    """-2 log restricted likelihood at a root L of the relative covariance, and what belongs to it.

    With Z a person's rows of (1, z), V = I + Z L L' Z' and
    V^-1 = I - Z L (I + L' Z'Z L)^-1 L' Z', so that sums of Z'Z and Z'X per person suffice.
    """
    n, terms = q.shape
    joined = np.column_stack([q, left])
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
        inverse = np.linalg.inv(products[:terms, :terms])
        change = inverse @ products[:terms, terms]
        rest = products[terms, terms] - products[:terms, terms] @ change
        value = (
            (n - terms) * math.log(rest)
            + float(np.linalg.slogdet(inner)[1].sum())
            + float(np.linalg.slogdet(products[:terms, :terms])[1])
        )
        return value, change, inverse, float(rest / (n - terms))

    return at

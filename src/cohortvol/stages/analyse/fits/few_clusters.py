"""Errors of few clusters: bias-reduced (CR2), on Satterthwaite's degrees of freedom.

With many clusters the usual sandwich is enough. With few it is too small, and a t with one degree
of freedom less than clusters too narrow where these are of unlike size or a term differs in few of
them (Bell and McCaffrey 2002, Survey Methodology 28:169; Pustejovsky and Tipton 2018, J Bus Econ
Stat 36:672). As `clubSandwich` in R, for errors that are independent and equal.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

FEW = 50
"""Clusters below which errors are made so."""
DETERMINED = 1e-10
"""What other clusters leave of a direction, below which the cluster alone determines it."""


@dataclass(frozen=True)
class FewClusters:
    """How far a covariance from few clusters can be trusted.

    Estimates are ``back @ sum of columns' (enters e)`` of the errors e of all rows, columns being
    scaled so that ``columns' (enters bends columns)`` is 1. An adjusted row is what a unit of its
    error adds to the cluster's part of the covariance.

    Attributes
    ----------
    own, entered, bent : (clusters, terms, terms) arrays
        Products of a cluster's adjusted rows with themselves, with ``enters columns`` and with
        ``bends columns``.
    meat : (terms, terms) array
        Products of ``enters columns`` with themselves, over all rows.
    back : (coefficients, terms) array
        To coefficients.
    """

    own: np.ndarray
    entered: np.ndarray
    bent: np.ndarray
    meat: np.ndarray
    back: np.ndarray

    def seen_through(self, back: np.ndarray) -> FewClusters:
        """The same of other coefficients, linear in those here."""
        return replace(self, back=back @ self.back)

    def degrees_of_freedom(self, contrast: np.ndarray) -> float:
        """Of one combination of coefficients: twice the squared mean of its variance over the
        variance of that, errors being independent and equal."""
        matrix = self._products(np.atleast_2d(contrast))[0, 0]
        return float(np.trace(matrix) ** 2 / (matrix**2).sum())

    def of_several(self, contrasts: np.ndarray) -> float:
        """Degrees of freedom of the covariance of several combinations, (combinations, terms): of
        the Wishart matrix whose squared distance from its mean is as large (AHT, Tipton and
        Pustejovsky 2015, J Educ Behav Stat 40:604)."""
        products = self._products(contrasts)
        values, vectors = np.linalg.eigh(np.einsum("stii->st", products))
        products = self._products(vectors.T @ contrasts / np.sqrt(values)[:, None])
        same = np.einsum("ssij->sij", products)
        spread = np.einsum("sij,tij->", same, same) + np.einsum("stij,tsij->", products, products)
        count = len(contrasts)
        return float(count * (count + 1) / spread)

    def _products(self, contrasts: np.ndarray) -> np.ndarray:
        """(combinations, combinations, clusters, clusters): products of what a unit error of every
        row adds to two combinations through two clusters."""
        at = contrasts @ self.back
        own = np.einsum("si,gij,tj->stg", at, self.own, at)
        entered = np.einsum("gij,sj->sgi", self.entered, at)
        bent = np.einsum("gij,sj->sgi", self.bent, at)
        crossed = np.einsum("sgi,thi->stgh", entered, bent)
        products: np.ndarray = np.einsum("sgi,ij,thj->stgh", bent, self.meat, bent)
        products -= crossed + crossed.transpose(1, 0, 3, 2)
        clusters = np.arange(own.shape[2])
        products[:, :, clusters, clusters] += own
        return products


def of_rows(
    columns: np.ndarray,
    back: np.ndarray,
    members: np.ndarray,
    enters: np.ndarray | float = 1.0,
    bends: np.ndarray | float = 1.0,
) -> tuple[np.ndarray, FewClusters]:
    """Of a linear model, or of an M-estimate at its solution.

    ``columns' (enters e) = 0`` is solved, and e changes by ``-bends columns`` with the
    coefficients. Least squares has 1 and 1; with sampling weights they are what enters; Huber's
    estimate, e being what is left of a residual, bends where the residual is small.

    Parameters
    ----------
    columns : (n, terms) float array
        Scaled as in `FewClusters`.
    back : (terms, terms) float array
        From them to coefficients.
    members : (n,) int array
        The cluster of each row, numbered from 0 without gaps.
    enters, bends : (n,) float arrays, or one number for all rows

    Returns
    -------
    tuple
        (n, terms): what a unit of e of each row adds to each coefficient, adjusted. Summed over
        clusters their products with e are the covariance.
    """
    n, terms = columns.shape
    entering = columns * np.broadcast_to(enters, n)[:, None]
    bending = columns * np.broadcast_to(bends, n)[:, None]
    alike = np.array_equal(entering, bending)
    meat = entering.T @ entering
    adjusted = np.empty_like(columns)
    parts = []
    for cluster in range(int(members.max()) + 1):
        here = members == cluster
        e, b = entering[here], bending[here]
        q, r = np.linalg.qr(e if alike else np.column_stack([b, e]))
        of_b, of_e = r[:, :terms], r[:, -terms:]
        crossed = of_b @ of_e.T
        left = np.eye(len(r)) + of_b @ meat @ of_b.T - crossed - crossed.T
        rows = e + q @ ((_inverse_root(left) - np.eye(len(r))) @ of_e)
        adjusted[here] = rows
        parts.append((rows.T @ rows, e.T @ rows, b.T @ rows))
    own, entered, bent = (np.stack(part) for part in zip(*parts, strict=True))
    return adjusted @ back.T, FewClusters(own, entered, bent, meat, back)


def of_information(information: np.ndarray) -> tuple[np.ndarray, FewClusters]:
    """Of a likelihood at its maximum, whose scores have the information as their variance.

    With normal errors that are independent and equal this is what `of_rows` gives.

    Parameters
    ----------
    information : (clusters, terms, terms) float array
        Minus the second derivatives of each cluster's log likelihood.

    Returns
    -------
    tuple
        (clusters, terms, terms): by which a cluster's score is multiplied. The products of what
        results are the covariance.
    """
    root = np.linalg.cholesky(information.sum(axis=0)).T
    back = np.linalg.inv(root)
    shares = back.T @ information @ back
    weights = np.stack([_inverse_root(np.eye(len(root)) - share) for share in shares])
    shared = shares @ weights
    few = FewClusters(weights @ shared, shared, shared, np.eye(len(root)), back)
    return back @ weights @ back.T, few


def _inverse_root(matrix: np.ndarray) -> np.ndarray:
    """Of a symmetric matrix; 0 along what the cluster alone determines."""
    values, vectors = np.linalg.eigh(matrix)
    scale = np.where(values > DETERMINED, 1 / np.sqrt(np.maximum(values, DETERMINED)), 0.0)
    root: np.ndarray = (vectors * scale) @ vectors.T
    return root

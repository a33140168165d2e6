"""Errors of few clusters: bias-reduced (CR2), on Satterthwaite's degrees of freedom.

With many clusters the usual sandwich is enough. With few it is too small, and a t with one degree
of freedom less than clusters too narrow where these are of unlike size or a term differs in few of
them (Bell and McCaffrey 2002, Survey Methodology 28:169; Pustejovsky and Tipton 2018, J Bus Econ
Stat 36:672). As `clubSandwich` in R, for a model whose errors are independent and equal.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

FEW = 50
"""Clusters below which errors are made so."""
DETERMINED = 1e-10
"""What other clusters leave of a direction, below which the cluster alone determines it."""


@dataclass(frozen=True)
class FewClusters:
    """What the clusters of one design make of its errors.

    Attributes
    ----------
    weights : (clusters, terms, terms) array
        By which the sums of scores of a cluster are multiplied, in the columns of Q.
    products : (clusters, terms, terms) array
        ``Q' Q`` of the rows of each cluster.
    back : (terms, terms) array
        From the columns of Q to coefficients.
    """

    weights: np.ndarray
    products: np.ndarray
    back: np.ndarray

    @classmethod
    def of(cls, q: np.ndarray, members: np.ndarray, back: np.ndarray) -> FewClusters:
        """Of orthonormal columns (n, terms) and the number of each row's cluster."""
        groups = [q[members == cluster] for cluster in range(int(members.max()) + 1)]
        products = np.stack([rows.T @ rows for rows in groups])
        values, vectors = np.linalg.eigh(products)
        left = 1 - values
        scale = np.where(left > DETERMINED, 1 / np.sqrt(np.maximum(left, DETERMINED)), 0.0)
        weights = np.einsum("gij,gj,gkj->gik", vectors, scale, vectors)
        return cls(weights, products, back)

    def covariance(self, scores: np.ndarray) -> np.ndarray:
        """(terms, terms) of coefficients; `scores` (clusters, terms) is ``Q' e`` of each."""
        adjusted = np.einsum("gij,gj->gi", self.weights, scores) @ self.back.T
        covariance: np.ndarray = adjusted.T @ adjusted
        return covariance

    def degrees_of_freedom(self, contrast: np.ndarray) -> float:
        """Of one combination of coefficients: twice the squared mean of its variance over the
        variance of that, errors being independent and equal."""
        at = self.back.T @ contrast
        pulled = np.einsum("gij,j->gi", self.weights, at)
        own = np.einsum("gi,gij,gj->g", pulled, self.products, pulled)
        shared = np.einsum("gij,gj->gi", self.products, pulled)
        crossed = shared @ shared.T
        matrix = np.diag(own) - crossed
        return float(np.trace(matrix) ** 2 / (matrix**2).sum())

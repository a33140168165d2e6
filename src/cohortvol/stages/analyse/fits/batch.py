"""Least squares of many structures on one design, each with missing values of its own.

One QR of the design serves all structures. With Q its orthonormal columns and w the 0/1 mask of
a structure's rows, ``A = Q' diag(w) Q`` is all that a missing value changes, and A is well
conditioned however badly the design is scaled. A of every structure, the leverages ``q' A^-1 q``
and the HC3 meat ``sum u^2 q q'`` are products of one matrix, the pairwise products of the columns
of Q, with a matrix that has a column per structure: no loop over structures touches the rows.
Rows are taken in blocks, so that the products never stand in memory as a whole.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.linalg import solve_triangular

from cohortvol.errors import EstimateError
from cohortvol.stages.analyse.fits.few_clusters import FEW
from cohortvol.stages.analyse.fits.regression import (
    Fit,
    cluster_factor,
    count_subjects,
    fit,
    orthonormal,
)

BLOCK_ROWS = 4096
LEAST_EIGENVALUE = 1e-6
"""Of A, over its largest: below, the structure's rows say little of some term, and it is fitted
by a QR of its own."""


def fit_many(
    design: np.ndarray,
    responses: np.ndarray,
    subjects: np.ndarray | None = None,
    names: Sequence[str] = (),
) -> list[Fit | EstimateError]:
    """What `regression.fit` gives for each structure on the rows it has.

    Parameters
    ----------
    design : (n, terms) float array
        The intercept included.
    responses : (n, structures) or (n, structures, kinds) float array
        NaN in the first kind marks a row that the structure does not have; the kinds of one
        structure share their rows.
    subjects : (n,) array of whole numbers, optional
        As in `regression.fit`. A structure of which a subject has several rows gets
        cluster-robust errors, others HC3.
    names : sequence of str, optional
        What the columns are called in errors.

    Returns
    -------
    list
        Per structure a `Fit` with a response per kind, or the error that `fit` would raise.

    Raises
    ------
    EstimateError
        ``ANA_COLLINEAR`` if the design has not full rank over all rows that any structure has,
        naming the columns; then none of the structures can be fitted.
    """
    design = np.asarray(design, dtype=float)
    responses = np.asarray(responses, dtype=float)
    responses = responses if responses.ndim == 3 else responses[:, :, None]
    given = ~np.isnan(responses[:, :, 0])
    if not given.all():
        kept = np.flatnonzero(given.any(axis=1))
        if len(kept) < len(given):
            design, responses, given = design[kept], responses[kept], given[kept]
            subjects = None if subjects is None else subjects[kept]
    if len(design) <= design.shape[1]:
        few = EstimateError("ANA_TOO_FEW", f"{len(design)} rows for {design.shape[1]} terms")
        return [few] * responses.shape[1]
    if subjects is not None:
        order = np.argsort(subjects, kind="stable")
        if (np.diff(subjects[order]) == 0).any():
            design, responses, given = design[order], responses[order], given[order]
            subjects = subjects[order]
        else:
            subjects = None
    q, r, length = orthonormal(design, names)
    return _solved(design, q, r * length, responses, given, subjects, names)


def _solved(
    design: np.ndarray,
    q: np.ndarray,
    triangle: np.ndarray,
    responses: np.ndarray,
    given: np.ndarray,
    subjects: np.ndarray | None,
    names: Sequence[str],
) -> list[Fit | EstimateError]:
    n, terms = q.shape
    structures, kinds = responses.shape[1:]
    counts = given.sum(axis=0)
    unmixed = solve_triangular(triangle, np.eye(terms))  # from coefficients in Q to the design's

    a = _symmetric(_accumulated(q, given), terms)
    right = np.zeros((terms, structures, kinds))
    for rows in _blocks(n):
        known = np.where(given[rows, :, None], responses[rows], 0.0)
        right += np.tensordot(q[rows], known, axes=(0, 0))
    eigenvalues = np.linalg.eigvalsh(a)
    weak = (counts <= terms) | (eigenvalues[:, 0] <= LEAST_EIGENVALUE * eigenvalues[:, -1])
    a[weak] = np.eye(terms)
    inverse = np.linalg.inv(a)

    coefficients = np.einsum("ij,sjk,ksm->ism", unmixed, inverse, right)
    correction = np.zeros_like(right)
    for rows in _blocks(n):  # refines once, as `fit` does
        correction += np.tensordot(
            q[rows], _residuals(design[rows], responses[rows], given[rows], coefficients), (0, 0)
        )
    coefficients = coefficients + np.einsum("ij,sjk,ksm->ism", unmixed, inverse, correction)

    several = np.zeros(structures, dtype=bool)
    clusters = counts.copy()
    if subjects is not None:
        starts = np.flatnonzero(np.r_[True, np.diff(subjects) != 0])
        clusters = np.logical_or.reduceat(given, starts, axis=0).sum(axis=0)
        several = clusters < counts
    meat, leverage = _hc3(design, q, responses, given, coefficients, inverse)

    found: list[Fit | EstimateError] = []
    for s in range(structures):
        if counts[s] <= terms:
            found.append(EstimateError("ANA_TOO_FEW", f"{counts[s]} rows for {terms} terms"))
        elif weak[s] or (several[s] and terms < clusters[s] < FEW):
            mask = given[:, s]
            whose = None if subjects is None else subjects[mask]
            found.append(_alone(design[mask], responses[mask, s], whose, names))
        elif leverage[s] > 1 - 1e-10:
            found.append(
                EstimateError("ANA_LEVERAGE", "one scan alone determines a term of the model")
            )
        elif several[s] and clusters[s] <= terms:
            found.append(EstimateError("ANA_TOO_FEW", f"{clusters[s]} subjects for {terms} terms"))
        else:
            pull = unmixed @ inverse[s]
            n_used, kind, freedom, middle = int(counts[s]), "HC3", int(counts[s]) - terms, meat[s]
            if several[s]:
                kind, freedom = "cluster", int(clusters[s]) - 1
                mask = given[:, [s]]
                left = _residuals(design, responses[:, [s]], mask, coefficients[:, [s]])[:, 0]
                middle = _cluster_meat(q, left, starts)
                middle *= cluster_factor(clusters[s], n_used, terms)
            found.append(Fit(coefficients[:, s], pull @ middle @ pull.T, n_used, freedom, kind))
    return found


def _alone(
    design: np.ndarray, responses: np.ndarray, subjects: np.ndarray | None, names: Sequence[str]
) -> Fit | EstimateError:
    """One structure by a QR of its own rows, which says what is wrong with them."""
    if subjects is not None and count_subjects(subjects) == len(subjects):
        subjects = None
    try:
        return fit(design, responses, subjects, names)
    except EstimateError as error:
        return error


def _blocks(n: int) -> list[slice]:
    return [slice(start, start + BLOCK_ROWS) for start in range(0, n, BLOCK_ROWS)]


def _products(q: np.ndarray) -> np.ndarray:
    """(terms (terms + 1) / 2, rows): products of every pair of columns, upper triangle by rows."""
    columns = np.ascontiguousarray(q.T)
    terms = len(columns)
    out = np.empty((terms * (terms + 1) // 2, len(q)))
    at = 0
    for i in range(terms):
        np.multiply(columns[i], columns[i:], out=out[at : at + terms - i])
        at += terms - i
    return out


def _accumulated(q: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """(pairs, structures): ``Q' diag(w) Q`` of each column of weights, packed."""
    terms = q.shape[1]
    total = np.zeros((terms * (terms + 1) // 2, weights.shape[1]))
    for rows in _blocks(len(q)):
        total += _products(q[rows]) @ weights[rows].astype(float)
    return total


def _symmetric(packed: np.ndarray, terms: int) -> np.ndarray:
    """(structures, terms, terms) of (pairs, structures)."""
    first, second = np.triu_indices(terms)
    full = np.empty((packed.shape[1], terms, terms))
    full[:, first, second] = packed.T
    full[:, second, first] = packed.T
    return full


def _residuals(
    design: np.ndarray, responses: np.ndarray, given: np.ndarray, coefficients: np.ndarray
) -> np.ndarray:
    """(rows, structures, kinds); 0 where a structure does not have the row."""
    fitted = np.tensordot(design, coefficients, axes=(1, 0))
    left: np.ndarray = np.where(given[:, :, None], responses - fitted, 0.0)
    return left


def _hc3(
    design: np.ndarray,
    q: np.ndarray,
    responses: np.ndarray,
    given: np.ndarray,
    coefficients: np.ndarray,
    inverse: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Meat in Q, (structures, kinds, terms, terms), and the greatest leverage per structure."""
    n, terms = q.shape
    structures, kinds = responses.shape[1:]
    first, second = np.triu_indices(terms)
    packed = inverse[:, first, second] * np.where(first == second, 1.0, 2.0)
    total = np.zeros((len(first), structures * kinds))
    greatest = np.zeros(structures)
    for rows in _blocks(n):
        products = _products(q[rows])
        leverage = np.where(given[rows], products.T @ packed.T, 0.0)
        greatest = np.maximum(greatest, leverage.max(axis=0))
        left = _residuals(design[rows], responses[rows], given[rows], coefficients)
        spread = (left / np.maximum(1 - leverage, 1e-12)[:, :, None]) ** 2
        total += products @ spread.reshape(len(spread), -1)
    meat = _symmetric(total, terms).reshape(structures, kinds, terms, terms)
    return meat, greatest


def _cluster_meat(q: np.ndarray, residuals: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """(kinds, terms, terms) of residuals (n, kinds), rows of one subject standing together."""
    meat = []
    for left in residuals.T:
        scores = np.add.reduceat(q * left[:, None], starts, axis=0)
        meat.append(scores.T @ scores)
    return np.stack(meat)


def fit_weighted(design: np.ndarray, response: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Coefficients of one response under many sets of weights, such as bootstrap counts.

    Parameters
    ----------
    design : (n, terms) float array
        Of full rank.
    response : (n,) float array
    weights : (n, draws) array, 0 or more

    Returns
    -------
    (draws, terms) float array
        NaN where the weighted rows do not tell the terms apart.
    """
    q, r, length = orthonormal(design)
    n, terms = q.shape
    a = _symmetric(_accumulated(q, weights), terms)
    right = np.zeros((terms, weights.shape[1]))
    for rows in _blocks(n):
        right += q[rows].T @ (weights[rows] * response[rows, None])
    eigenvalues = np.linalg.eigvalsh(a)
    weak = eigenvalues[:, 0] <= LEAST_EIGENVALUE * eigenvalues[:, -1]
    a[weak] = np.eye(terms)
    solved = np.linalg.solve(a, right.T[:, :, None])[:, :, 0]
    coefficients: np.ndarray = solve_triangular(r * length, solved.T).T
    coefficients[weak] = np.nan
    return coefficients

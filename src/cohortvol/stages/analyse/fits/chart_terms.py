"""Covariates of one's own in centiles: terms of ln M, and the values at which a chart is drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from cohortvol.store.schemas import CONTINUOUS

LEAST_OF_LEVEL = 20
"""People a group needs for a term; those of rarer ones are left out of the centiles."""


@dataclass(frozen=True)
class Term:
    """One covariate: a line in ln M, or a step for each group but the commonest."""

    name: str
    at: float | str
    """Where its terms are 0 and charts are drawn: near the median, or the commonest group."""
    groups: tuple[str, ...] = ()
    """The other groups; none of a number."""

    @property
    def n_columns(self) -> int:
        """Columns of the design."""
        return len(self.groups) or 1

    def columns(self, values: pd.Series) -> np.ndarray:
        """(n, columns): NaN of people without a value, or of a group that has no term."""
        if not isinstance(self.at, str):
            numbers = np.asarray(values.to_numpy(dtype=float, na_value=np.nan))
            return numbers[:, None] - self.at
        steps = np.array([(values == group).to_numpy(dtype=float) for group in self.groups]).T
        known = values.isin([self.at, *self.groups]).to_numpy(dtype=bool)
        return np.where(known[:, None], steps, np.nan)

    def said(self) -> str:
        """``waist_cm 94`` or ``smoker no``."""
        return f"{self.name} {self.at if isinstance(self.at, str) else f'{self.at:g}'}"


def terms_of(people: pd.DataFrame, kinds: Mapping[str, str]) -> tuple[Term, ...]:
    """Terms of the covariates that differ between these people.

    Parameters
    ----------
    people : pandas.DataFrame
        One row each, with a column for each covariate.
    kinds : mapping of str to str
        ``continuous`` or ``factor`` by covariate.
    """
    found = []
    for name, kind in kinds.items():
        values = people[name].dropna()
        if kind == CONTINUOUS:
            if values.nunique() > 1:  # two digits, so that it is nobody's
                found.append(Term(name, float(f"{values.astype(float).median():.2g}")))
            continue
        counts = values.astype(str).value_counts().sort_index().sort_values(
            ascending=False, kind="stable"
        )  # fmt: skip
        groups = [str(group) for group, n in counts.items() if n >= LEAST_OF_LEVEL]
        if len(groups) > 1:
            found.append(Term(name, groups[0], tuple(groups[1:])))
    return tuple(found)


def columns_of(terms: Sequence[Term], people: pd.DataFrame) -> np.ndarray | None:
    """(n, terms): the columns of all terms beside each other; None without terms."""
    if not terms:
        return None
    return np.column_stack([term.columns(people[term.name]) for term in terms])

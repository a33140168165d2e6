"""Averages over people and structures, with bootstrap intervals, and tests between models."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import wilcoxon
from statsmodels.stats.multitest import multipletests

from cohortvol.store.tables import append_rows
from cohortvol.tools.evaluate.measures import MISSED
from cohortvol.tools.evaluate.outputs import COMPARISONS, SUMMARY

METRICS = (
    "dice",
    "nsd",
    "hd95_mm",
    "assd_mm",
    "mssd_mm",
    "volume_error_ml",
    "volume_error_pct",
    "absolute_volume_error_ml",
    "absolute_volume_error_pct",
)
COMPARED = ("dice", "nsd", "hd95_mm", "absolute_volume_error_pct")
CORRECTIONS = {"holm": "holm", "bh": "fdr_bh"}
FEW_SUBJECTS = "EVAL_FEW_SUBJECTS"
LEAST_SUBJECTS = 5
"""Fewer people are no group to print (they might be told apart), and no test: a Wilcoxon test of
four cannot give a p below 0.125."""
_CHUNK = 500


class Bootstrap:
    """Draws of people with replacement, the same for every metric and model of a group.

    Parameters
    ----------
    n_subjects : int
        People to draw from, and in each draw.
    n_draws : int
        Number of draws.
    seed : int
        The same seed gives the same draws.
    """

    def __init__(self, n_subjects: int, n_draws: int, seed: int) -> None:
        self.n_subjects = n_subjects
        self.n_draws = n_draws
        self.seed = seed

    def weights(self) -> Iterator[np.ndarray]:
        """How often each person is drawn, (draws, subjects), in chunks that fit into memory."""
        rng = np.random.default_rng([self.seed, self.n_subjects])
        even = np.full(self.n_subjects, 1 / self.n_subjects)
        for start in range(0, self.n_draws, _CHUNK):
            n = min(_CHUNK, self.n_draws - start)
            yield rng.multinomial(self.n_subjects, even, size=n).astype(float)

    def means(self, totals: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, ...]:
        """Means of each column, of the columns' means, and of all values, for each draw.

        Parameters
        ----------
        totals, counts : (subjects, columns) array
            Sum and number of a person's values in each column.

        Returns
        -------
        tuple of (draws, columns), (draws,), (draws,) array
            NaN where a draw holds no value.
        """
        columns, of_columns, of_all = [], [], []
        for drawn in self.weights():
            total, count = drawn @ totals, drawn @ counts
            with np.errstate(invalid="ignore", divide="ignore"):
                mean = total / count
                n_known = np.isfinite(mean).sum(axis=1)
                of_columns.append(np.nansum(mean, axis=1) / n_known)
                of_all.append(total.sum(axis=1) / count.sum(axis=1))
            columns.append(mean)
        return np.concatenate(columns), np.concatenate(of_columns), np.concatenate(of_all)


def interval_95(draws: np.ndarray) -> tuple[float, float]:
    """2.5th and 97.5th percentile of the draws that have a value."""
    known = draws[np.isfinite(draws)]
    if not len(known):
        return float("nan"), float("nan")
    low, high = np.percentile(known, [2.5, 97.5])
    return float(low), float(high)


def summarise(
    pairs: pd.DataFrame, groups: pd.DataFrame, *, n_draws: int, seed: int
) -> pd.DataFrame:
    """Rows of SUMMARY: every structure and both averages, of all scans and of each group.

    Parameters
    ----------
    pairs : pandas.DataFrame
        Rows of PAIRS.
    groups : pandas.DataFrame
        Scans by `scan_id`, one column per way to group them; see `groups.Scans`.
    n_draws, seed : int
        Of the bootstrap over people; one person has no interval.
    """
    rows: list[dict[str, Any]] = []
    usable = pairs[pairs["structure"].notna()]
    for group_by, group, part in _parts(usable, groups):
        for model, of_model in part.groupby("model", sort=False):
            known = {"model": model, "group_by": group_by, "group": group}
            rows += [known | row for row in _of_model(of_model, group_by, n_draws, seed)]
    return append_rows(rows, SUMMARY)


def _parts(
    pairs: pd.DataFrame, groups: pd.DataFrame
) -> Iterator[tuple[str, str | None, pd.DataFrame]]:
    yield "all", None, pairs
    for group_by in groups.columns:
        of_pair = pairs["scan_id"].map(groups[group_by])
        for group in sorted(of_pair.dropna().unique()):
            yield str(group_by), str(group), pairs[of_pair == group]


def _of_model(
    pairs: pd.DataFrame, group_by: str, n_draws: int, seed: int
) -> Iterator[dict[str, Any]]:
    people = pd.Index(sorted(pairs["subject_id"].unique()))
    names = pd.Index(dict.fromkeys(pairs["structure"]))
    at = (people.get_indexer(pairs["subject_id"]), names.get_indexer(pairs["structure"]))
    bootstrap = Bootstrap(len(people), n_draws, seed)
    missed = (pairs["reason"] == MISSED).to_numpy()
    for metric in METRICS:
        values = pairs[metric].to_numpy(dtype=float, na_value=np.nan)
        known = np.isfinite(values)
        totals, counts = np.zeros((len(people), len(names))), np.zeros((len(people), len(names)))
        np.add.at(totals, (at[0][known], at[1][known]), values[known])
        np.add.at(counts, (at[0][known], at[1][known]), 1)
        draws = bootstrap.means(totals, counts) if len(people) > 1 and known.any() else None
        for number, name in enumerate(names):
            here = at[1] == number
            row = _row(values[here & known], (counts[:, number] > 0).sum(), missed[here].sum())
            if draws is not None:
                row["ci_low"], row["ci_high"] = interval_95(draws[0][:, number])
            yield _hidden({"average": "structure", "structure": name, "metric": metric} | row,
                          group_by)  # fmt: skip
        with np.errstate(invalid="ignore", divide="ignore"):
            means = totals.sum(axis=0) / counts.sum(axis=0)
        for average, of in (
            ("class_mean", means[np.isfinite(means)]),
            ("pair_mean", values[known]),
        ):
            row = _row(of, (counts.sum(axis=1) > 0).sum(), missed.sum())
            row["n_pairs"] = int(known.sum())
            if draws is not None:
                row["ci_low"], row["ci_high"] = interval_95(draws[1 + (average == "pair_mean")])
            yield _hidden({"average": average, "metric": metric} | row, group_by)


def _row(values: np.ndarray, n_subjects: int, n_missed: int) -> dict[str, Any]:
    row: dict[str, Any] = {
        "n_subjects": int(n_subjects),
        "n_pairs": len(values),
        "n_missed": int(n_missed),
    }
    if len(values):
        row |= {
            "mean": values.mean(),
            "sd": values.std(ddof=1) if len(values) > 1 else None,
            "median": np.median(values),
            "least": values.min(),
            "greatest": values.max(),
        }
    return row


def _hidden(row: dict[str, Any], group_by: str) -> dict[str, Any]:
    """The row, or in a group of too few people only its name."""
    if group_by == "all" or row["n_subjects"] >= LEAST_SUBJECTS:
        return row
    named = {name: row[name] for name in ("average", "structure", "metric") if name in row}
    return named | {"reason": FEW_SUBJECTS}


def compare(pairs: pd.DataFrame, *, correction: str, n_draws: int, seed: int) -> pd.DataFrame:
    """Rows of COMPARISONS: every two models, on the people of whom both have a value.

    Parameters
    ----------
    pairs : pandas.DataFrame
        Rows of PAIRS.
    correction : str
        Key of `CORRECTIONS`; over the structures and pairs of models of one metric.
    n_draws, seed : int
        Of the bootstrap over people.
    """
    models = list(dict.fromkeys(pairs["model"]))
    usable = pairs[pairs["structure"].notna()]
    rows = []
    for metric in COMPARED:
        values = usable.assign(value=usable[metric].astype(float)).pivot_table(
            index=["subject_id", "scan_id", "structure"], columns="model", values="value"
        )
        of_metric = []
        for model, other in combinations(models, 2):
            if model not in values or other not in values:
                continue
            both = values[[model, other]].dropna()
            difference = both[other] - both[model]
            known = {"model": model, "other_model": other, "metric": metric,
                     "correction": correction}  # fmt: skip
            for structure in dict.fromkeys(usable["structure"]):
                of_one = difference[difference.index.get_level_values("structure") == structure]
                people = of_one.groupby("subject_id").mean().to_numpy()
                of_metric.append(
                    known | {"structure": structure} | _difference(people, n_draws, seed)
                )
            people = difference.groupby("subject_id").mean().to_numpy()
            of_metric.append(known | {"structure": None} | _difference(people, n_draws, seed))
        for is_mean in (False, True):
            tested = [
                row for row in of_metric
                if (row["structure"] is None) == is_mean and row.get("p_value") is not None
            ]  # fmt: skip
            if tested:
                p_values = [row["p_value"] for row in tested]
                corrected = multipletests(p_values, method=CORRECTIONS[correction])[1]
                for row, p_corrected in zip(tested, corrected, strict=True):
                    row["p_corrected"] = float(p_corrected)
        rows += of_metric
    return append_rows(rows, COMPARISONS)


def _difference(people: np.ndarray, n_draws: int, seed: int) -> dict[str, Any]:
    row: dict[str, Any] = {"n_subjects": len(people)}
    if len(people):
        row |= {
            "mean_difference": float(people.mean()),
            "median_difference": float(np.median(people)),
        }
    if len(people) > 1:
        draws = Bootstrap(len(people), n_draws, seed).means(
            people[:, np.newaxis], np.ones((len(people), 1))
        )
        row["ci_low"], row["ci_high"] = interval_95(draws[2])
    if len(people) < LEAST_SUBJECTS:
        return row | {"reason": FEW_SUBJECTS}
    row["p_value"] = float(wilcoxon(people).pvalue) if people.any() else 1.0
    return row

"""Model against two readers beside the readers against each other, on the same scans."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd

from cohortvol.store.tables import append_rows
from cohortvol.tools.evaluate.outputs import READERS
from cohortvol.tools.evaluate.statistics import COMPARED, Bootstrap, interval_95

EXPERT, SECOND = "expert", "second reader"
"""The two readers; the expert is the first."""
AGREEMENTS = ("expert", "second", "readers", "difference")
"""Model with the expert, model with the second reader, the readers with each other; and the mean of
the first two less the third."""
_KEYS = ["scan_id", "subject_id", "structure"]


def compare_readers(
    pairs: pd.DataFrame, reader_pairs: pd.DataFrame, *, n_draws: int, seed: int
) -> pd.DataFrame:
    """Rows of READERS: every model, structure and metric, and the mean over structures.

    Only what both readers drew in a scan is compared, and only where all three comparisons have a
    value, so that the three means are of the same scans.

    Parameters
    ----------
    pairs : pandas.DataFrame
        Rows of PAIRS: models against the expert.
    reader_pairs : pandas.DataFrame
        Rows of READER_PAIRS: models against the second reader, who is one of the models in what
        was compared with the expert.
    n_draws, seed : int
        Of the bootstrap over people; one person has no interval.
    """
    named = reader_pairs[reader_pairs["structure"].notna()]
    readers = named[named["reference"] == EXPERT]
    drawn = readers[["expert_n_voxels", "model_n_voxels"]].notna()
    by_both = readers[drawn.all(axis=1)]
    by_one = readers[drawn.any(axis=1) & ~drawn.all(axis=1)].groupby("structure").size()
    models = named[named["reference"] == SECOND]
    rows: list[dict[str, Any]] = []
    for model in dict.fromkeys(models["model"]):
        for metric in COMPARED:
            values = pd.concat(
                {
                    "expert": _by_key(pairs[pairs["model"] == model], metric),
                    "second": _by_key(models[models["model"] == model], metric),
                    "readers": _by_key(by_both, metric),
                },
                axis=1,
                join="inner",
            ).dropna()
            values["difference"] = values[["expert", "second"]].mean(axis=1) - values["readers"]
            known = {"model": model, "metric": metric}
            rows += [known | row for row in _rows(values, by_one.to_dict(), n_draws, seed)]
    return append_rows(rows, READERS)


def _by_key(part: pd.DataFrame, metric: str) -> pd.Series:
    return part.dropna(subset=["structure"]).set_index(_KEYS)[metric].astype(float)


def _rows(
    values: pd.DataFrame, by_one: Mapping[str, int], n_draws: int, seed: int
) -> Iterator[dict[str, Any]]:
    """One row per structure that a reader drew, and one of the mean over those compared."""
    subjects, structures = (values.index.get_level_values(name) for name in _KEYS[1:])
    people = pd.Index(sorted(subjects.unique()))
    names = pd.Index(dict.fromkeys(structures))
    at = (people.get_indexer(subjects), names.get_indexer(structures))
    counts = np.zeros((len(people), len(names)))
    np.add.at(counts, at, 1)
    rows: dict[str | None, dict[str, Any]] = {
        name: {"structure": name, "n_one_reader": by_one.get(name, 0)}
        for name in (*names, *(name for name in by_one if name not in names))
    }
    for number, name in enumerate(names):
        rows[name] |= {"n_subjects": int((counts[:, number] > 0).sum()),
                       "n_pairs": int(counts[:, number].sum())}  # fmt: skip
    rows[None] = {"structure": None, "n_one_reader": sum(by_one.values()),
                  "n_subjects": len(people), "n_pairs": len(values)}  # fmt: skip
    bootstrap = Bootstrap(len(people), n_draws, seed)
    for agreement in AGREEMENTS if len(values) else ():
        totals = np.zeros_like(counts)
        np.add.at(totals, at, values[agreement].to_numpy())
        means = totals.sum(axis=0) / counts.sum(axis=0)
        of_columns, of_mean, _ = (
            bootstrap.means(totals, counts) if len(people) > 1 else (None, None, None)
        )
        for number, name in enumerate(names):
            rows[name] |= _mean(
                agreement, means[number], None if of_columns is None else of_columns[:, number]
            )
        rows[None] |= _mean(agreement, means.mean(), of_mean)
    yield from rows.values()


def _mean(agreement: str, mean: float, draws: np.ndarray | None) -> dict[str, float]:
    row = {agreement: float(mean)}
    if draws is not None:
        row[f"{agreement}_ci_low"], row[f"{agreement}_ci_high"] = interval_95(draws)
    return row

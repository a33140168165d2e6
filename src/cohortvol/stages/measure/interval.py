"""How sure a volume is: the network's own doubt, put around the volume that was counted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from cohortvol.models.intervals import Calibration, Softmax, interval, weaker

COLUMNS = ("volume_expected_ml", "volume_low_ml", "volume_high_ml", "interval")


def with_intervals(
    volumes: pd.DataFrame, softmax: Softmax, calibration: Calibration | None
) -> pd.DataFrame:
    """Add `COLUMNS` to the structures of one scan.

    Null where a structure was not found or no softmax was kept. A structure that the
    calibration does not know, or any where there is none, gets one spread to either side.

    Parameters
    ----------
    volumes : pandas.DataFrame
        With ``structure``, ``label`` and ``volume_ml``.
    softmax : mapping of int to (float, float)
        Of this scan.
    calibration : Calibration or None
        Of the model in the profile of this scan.
    """
    factors = {} if calibration is None else calibration.structures
    source = "" if calibration is None else calibration.source
    rows: list[tuple[float | str | None, ...]] = []
    for row in volumes[["structure", "label", "volume_ml"]].to_dict("records"):
        ratios = softmax.get(row["label"])
        if ratios is None or pd.isna(row["volume_ml"]):
            rows.append((None,) * len(COLUMNS))
        else:
            factor = factors.get(row["structure"])
            rows.append(interval(row["volume_ml"], *ratios, factor, source))
    return volumes.assign(**pd.DataFrame(rows, columns=list(COLUMNS), index=volumes.index))


def sum_of_intervals(left: Mapping[str, Any], right: Mapping[str, Any]) -> dict[str, Any]:
    """`COLUMNS` of the sum of two structures; empty where either has none.

    Ends are added to ends, as if both sides erred together: wide rather than narrow.
    """
    if any(pd.isna(side.get(name)) for side in (left, right) for name in COLUMNS):
        return {}
    ends: dict[str, Any] = {name: left[name] + right[name] for name in COLUMNS[:-1]}
    return ends | {COLUMNS[-1]: weaker([left[COLUMNS[-1]], right[COLUMNS[-1]]])}
